"""One evaluation (`medseq.few_steps`) beside 4 and 12 of a prior of many levels, the start alone, and tuned L+S.

    MEDSEQ_DATA=... python pipelines/few_steps_check.py -o runs/few_steps [--prior NAME] [--stills FOLDER]

PSNR where the heart moves: real hearts in simulated acquisitions (`benchmark_cases.py`), L+S tuned on the reference of
the very case; with --stills held-out stills in motion as well. How long it takes beside L+S:
`python pipelines/benchmark.py -o DIR --tables timing --prior NAME`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

from benchmark import Row, markdown
from benchmark_cases import Case, heart_case
from benchmark_methods import reconstructions, tuned
from calibration_cases import acquisition, held_out, scenario
from torch import Tensor

import medseq
from medseq.acquisition import whitened
from medseq.metrics import dynamic_region
from medseq.warmstart import warm_start

STILLS = 12  # cases


def cases(data: Path, stills: Path | None) -> Iterator[Case]:
    for acceleration in (4, 8, 12):
        yield heart_case(data, "human", acceleration, 0)
    for family in ("equispaced", "pseudo-radial"):
        yield heart_case(data, "human", 8, 0, family)
    yield heart_case(data, "rat", 4, 0)
    if stills is not None:
        shown = held_out(stills)
        for number in range(5000, 5000 + STILLS):
            scene = scenario(number, shown)
            kspace, name = acquisition(scene)
            yield Case(f"{scene.name}, {name}", scene.truth, kspace, dynamic_region(scene.truth.data))


def start_alone(case: Case) -> Tensor:
    """The quick start, with the lines left out taken in by one more round, and estimated maps."""
    kspace, sigma, gain = whitened(case.kspace)
    assert kspace.maps is not None
    start = warm_start(kspace.data, kspace.keep, kspace.maps, sigma, 0, periodic=kspace.period is not None, quick=True)
    assert start.go_on is not None
    return start.go_on(start.image, 1) / gain


def compared(case: Case, prior: str) -> Row:
    """PSNR of magnitudes where the heart moves."""

    def score(image: Tensor) -> float:
        return case.score(image)["PSNR heart"]

    low_rank = next(method for method in reconstructions(case.kspace) if method.name == "L+S")
    few = score(medseq.reconstruct(case.kspace, prior=prior).clip.data)
    many = score(medseq.reconstruct(case.kspace, steps=12).clip.data)
    return {
        "case": case.name,
        "L+S, tuned": tuned(low_rank, score).score,
        "start alone": score(start_alone(case)),
        "few": few,
        "4 evaluations": score(medseq.reconstruct(case.kspace).clip.data),
        "12 evaluations": many,
        "few - 12": few - many,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--prior", default="heart-fast-2")
    parser.add_argument("--stills", type=Path, help="folder of still frames, of which the held-out ones are animated")
    chosen = parser.parse_args()
    if "MEDSEQ_DATA" not in os.environ:
        raise SystemExit("set MEDSEQ_DATA to the folder that holds cine_acdc, cine_rat and coils")
    data = Path(os.environ["MEDSEQ_DATA"])
    chosen.output.mkdir(parents=True, exist_ok=True)
    rows = []
    for case in cases(data, chosen.stills):
        rows.append(compared(case, chosen.prior))
        print(rows[-1], flush=True)
    table = markdown(rows, list(rows[0]))
    (chosen.output / "few_steps.md").write_text(table + "\n", "utf-8")
    print(table)


if __name__ == "__main__":
    main()
