"""The area of the left ventricle over the heartbeat, from undersampled data: how wrong it is, method by method.

    MEDSEQ_DATA=... python pipelines/lv_curve.py -o runs/hallucination [--acceleration 8] [--seeds 3]

The human cine, measured as in `benchmark.py`; the folder may be that of `hallucination.py`, whose reconstructions are
used. Blood is what lies above one threshold (Otsu's, of the reference) in a circle around the ventricle, the largest
piece, holes filled (`medseq.clinical.cavity`). The circle was drawn on the reference.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
from benchmark import markdown
from benchmark_cases import with_phase
from heart_runs import HeartRuns

from medseq.evaluate import Evaluation, evaluate_series

CENTRE, RADIUS = (100, 122), 27  # row and column; voxels
COLUMNS = ("LV area error, rms", "LV area error, largest", "LV area change", "LV area, largest", "LV area, smallest")


def judged(runs: HeartRuns, seed: int) -> Evaluation:
    """All methods on the acquisition with mask and noise of `seed`."""
    clip = with_phase(runs.truth[None, None])
    truth = clip.with_data(runs.truth[None, None])
    results = {m: clip.with_data(runs.result(m, seed, runs.truth)[None, None]) for m in runs.methods}
    rows, columns = torch.meshgrid(*(torch.arange(n) for n in runs.truth.shape[1:]), indexing="ij")
    circle = (rows - CENTRE[0]).square() + (columns - CENTRE[1]).square() <= RADIUS**2
    return evaluate_series(results, truth, case=f"seed {seed}", ventricle=circle[None, None, None])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--acceleration", type=float, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    chosen = parser.parse_args()
    if "MEDSEQ_DATA" not in os.environ:
        raise SystemExit("set MEDSEQ_DATA to the folder that holds cine_acdc and coils")
    runs = HeartRuns(chosen.output, Path(os.environ["MEDSEQ_DATA"]), chosen.acceleration)
    figures = [figure for seed in range(chosen.seeds) for figure in judged(runs, seed).figures]
    rows: list[dict] = []
    for case in dict.fromkeys(figure.case for figure in figures):
        for method in dict.fromkeys(figure.method for figure in figures):
            told = {f.metric: f.value for f in figures if (f.case, f.method) == (case, method)}
            rows.append({"case": case, "method": method} | {name: told[name] for name in COLUMNS if name in told})
    text = markdown(rows, ["case", "method", *COLUMNS])
    (chosen.output / "lv_curve.md").write_text(text + "\n", "utf-8")
    print(text)


if __name__ == "__main__":
    main()
