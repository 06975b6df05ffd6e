"""Few evaluations (`medseq.few_steps`) beside many, the start alone, and tuned L+S: error and time.

    MEDSEQ_DATA=... python pipelines/fast_check.py -o runs/fast [--prior NAME] [--stills FOLDER]

Real hearts in simulated acquisitions (`benchmark_cases.py`), L+S tuned on the reference of the very case, and with
--stills held-out stills in motion as well. Times are taken on the human heart (30 x 184 x 256, 8 coils, R = 8), in
turns in one run with the same threads, once with the maps given and once from the k-space alone, to both alike.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from benchmark import markdown
from benchmark_cases import Case, heart_case
from benchmark_methods import reconstructions, tuned
from calibration_cases import acquisition, held_out, scenario

import medseq
from medseq.acquisition import prepared
from medseq.baselines import kt_continuation, low_rank_sparse, time_average
from medseq.metrics import dynamic_region
from medseq.warmstart import classical_problem

STILLS = 12  # cases
ROUNDS = 3


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


def start_alone(case: Case) -> torch.Tensor:
    """`kt_continuation` from all lines, with estimated maps."""
    kspace = case.kspace
    maps = medseq.estimate_maps(kspace) if kspace.maps is None else kspace.maps
    y, A = classical_problem(kspace.data, kspace.keep, maps, kspace.trajectory)
    still = time_average(y, A, iterations=6)
    return kt_continuation(A.adjoint(y), A, still.expand(-1, -1, kspace.frames, -1, -1))


def compared(case: Case, prior: str) -> dict[str, float | str | list[float]]:
    """PSNR of magnitudes where the heart moves."""

    def ours(**options: object) -> float:
        return case.score(medseq.reconstruct(case.kspace, **options).clip.data)["PSNR heart"]  # type: ignore[arg-type]

    methods = {method.name: method for method in reconstructions(case.kspace)}
    best = tuned(methods["L+S"], lambda image: case.score(image)["PSNR heart"])
    row: dict[str, float | str | list[float]] = {"case": case.name, "L+S, tuned": best.score}
    row["start alone"] = case.score(start_alone(case))["PSNR heart"]
    row |= {"fast": ours(prior=prior), "4 evaluations": ours(), "12 evaluations": ours(steps=12)}
    row["fast - 12"] = float(row["fast"]) - float(row["12 evaluations"])  # type: ignore[arg-type]
    return row


def timed(data: Path, prior: str) -> list[dict[str, float | str | list[float]]]:
    """Seconds and CPU seconds, the best of some rounds, of every method in turn."""
    exact, plain = (heart_case(data, "human", 8, 0, exact=exact) for exact in (True, False))

    def low_rank(kspace: medseq.KSpace) -> None:
        ready = prepared(kspace)
        assert ready.average.maps is not None
        y, A = classical_problem(kspace.data, kspace.keep, ready.average.maps, None)
        low_rank_sparse(y, A, iterations=50)

    runs: dict[str, Callable[[medseq.KSpace], object]] = {
        "L+S, 50 iterations": low_rank,
        "fast": lambda kspace: medseq.reconstruct(kspace, prior=prior),
        "4 evaluations": medseq.reconstruct,
    }
    rows: list[dict[str, float | str | list[float]]] = []
    for maps, case in (("given", exact), ("estimated", plain)):
        spent: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
        for _ in range(ROUNDS):
            for name, run in runs.items():
                wall, cpu = time.perf_counter(), time.process_time()
                run(replace(case.kspace))
                spent[name].append((time.perf_counter() - wall, time.process_time() - cpu))
        reference = min(spent["L+S, 50 iterations"])
        for name, found in spent.items():
            wall, cpu = min(found)
            frames = case.truth.frames
            rows.append(
                {
                    "maps": maps,
                    "method": name,
                    "threads": f"{torch.get_num_threads()}",
                    "seconds": wall,
                    "CPU seconds": cpu,
                    "frames a second": frames / wall,
                    "ratio to L+S": wall / reference[0],
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--prior", default="heart-fast-1")
    parser.add_argument("--stills", type=Path, help="folder of still frames, of which the held-out ones are animated")
    parser.add_argument("--only", choices=("time", "error"), help="leave the other out")
    chosen = parser.parse_args()
    if "MEDSEQ_DATA" not in os.environ:
        raise SystemExit("set MEDSEQ_DATA to the folder that holds cine_acdc, cine_rat and coils")
    data = Path(os.environ["MEDSEQ_DATA"])
    chosen.output.mkdir(parents=True, exist_ok=True)
    text = []
    if chosen.only != "error":
        rows = timed(data, chosen.prior)
        text.append(markdown(rows, list(rows[0])))
        print(text[-1], flush=True)
    if chosen.only != "time":
        rows = []
        for case in cases(data, chosen.stills):
            rows.append(compared(case, chosen.prior))
            print(rows[-1], flush=True)
        text.append(markdown(rows, list(rows[0])))
        print(text[-1])
    (chosen.output / "fast.md").write_text("\n\n".join(text) + "\n", "utf-8")


if __name__ == "__main__":
    main()
