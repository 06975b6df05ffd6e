"""Real hearts: medseq beside the classical methods, all of them tuned on the reference, in one command.

    MEDSEQ_DATA=... python pipelines/benchmark.py -o runs/benchmark [--tables reconstruction ...] [--prior PATH]

Every row is appended to `rows.jsonl` as soon as it is known, with weights, seconds, version and time of day; a killed
run goes on where it stood, and medseq's rows are made anew when its prior or its code changes. The classical methods
get the weights that are best for the heart region of the very case; medseq runs with its one fixed setting and is told
nothing. All figures are at fixed scale against the noise-free series, apart from the hyperpolarized cases, whose
reference is noisy.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from benchmark_cases import (
    Case,
    Scores,
    heart_case,
    human_cine,
    hyperpolarized_case,
    on_new_lines,
    radial_case,
    rat_cine,
    scores,
    still_case,
    with_phase,
)
from benchmark_methods import Method, denoisers, interpolations, reconstructions, tuned
from torch import Tensor

import medseq
from medseq import Clip
from medseq.io.weights import weights_path
from medseq.metrics import dynamic_region
from medseq.noise import unit_noise

Row = dict[str, float | str | list[float]]


@dataclass(frozen=True)
class Problem:
    """One case of a table: how the classical methods and medseq solve it, and how both are scored."""

    table: str
    case: str
    rivals: Callable[[], list[Method]]
    ours: Callable[[], medseq.Restored]
    score: Callable[[Tensor], Scores]
    goal: str = "PSNR heart"  # what the classical methods are tuned for


class Bench:
    """Runs problems and keeps their rows in `folder`."""

    def __init__(self, folder: Path, prior: str | None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "rows.jsonl"
        root = Path(medseq.__file__).parent
        numerics = [*root.glob("*.py"), *root.glob("baselines/*.py")]
        self.ours = _version([weights_path(prior), *numerics])
        self.classical = _version([*root.glob("baselines/*.py"), root / "operators.py", root / "solve.py"])
        self.rows: list[Row] = []
        if self.path.exists():
            self.rows = [json.loads(line) for line in self.path.read_text("utf-8").splitlines()]

    def solve(self, problem: Problem, *, classical: bool, ours: bool) -> None:
        if classical:
            for method in problem.rivals():
                if not self._known(problem, method.name, self.classical):
                    method = self._warmed(problem, method)
                    best = tuned(method, lambda image: problem.score(image)[problem.goal])
                    row: Row = {"weights": list(best.weights), "seconds": best.seconds}
                    self._keep(problem, method.name, self.classical, problem.score(best.image), row)
        if ours and not self._known(problem, "medseq", self.ours):
            began = time.perf_counter()
            result = problem.ours()
            about: Row = {"seconds": time.perf_counter() - began, "evaluations": result.info["steps"]}
            self._keep(problem, "medseq", self.ours, problem.score(result.clip.data), about)

    def _warmed(self, problem: Problem, method: Method) -> Method:
        """The search begins at the best weights of the same case with another seed or version, where there are any."""
        alike = (problem.table, problem.case.split(", seed")[0], method.name)
        for row in reversed(self.rows):
            weights = row.get("weights")
            same = (row["table"], str(row["case"]).split(", seed")[0], row["method"]) == alike
            if same and isinstance(weights, list) and weights:
                return replace(method, start=tuple(weights))
        return method

    def _known(self, problem: Problem, method: str, version: str) -> bool:
        key = (problem.table, problem.case, method, version)
        return any((row["table"], row["case"], row["method"], row["version"]) == key for row in self.rows)

    def _keep(self, problem: Problem, method: str, version: str, found: Scores, about: Row) -> None:
        row: Row = {"table": problem.table, "case": problem.case, "method": method, "version": version}
        row |= {**found, **about, "threads": torch.get_num_threads(), "when": time.strftime("%Y-%m-%dT%H:%M:%S")}
        self.rows.append(row)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{problem.case:60s} {method:24s} {found[problem.goal]:7.2f} {found['PSNR whole']:7.2f}", flush=True)

    def current(self, table: str) -> list[Row]:
        return [r for r in self.rows if r["table"] == table and r["version"] in (self.classical, self.ours)]


def _version(files: list[Path]) -> str:
    """Hash of the weights and the code behind a row: rows of another version are not shown, but made anew."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(files))).hexdigest()[:12]


def reconstruction(table: str, case: Case, prior: str | None, *, equispaced: bool = False) -> Problem:
    return Problem(
        table,
        case.name,
        lambda: reconstructions(case.kspace, equispaced=equispaced),
        lambda: medseq.reconstruct(case.kspace, prior=prior),
        case.score,
    )


def main_cases(data: Path, prior: str | None) -> Iterator[Problem]:
    for seed in range(3):
        for acceleration in (4, 8, 12):
            yield reconstruction("reconstruction", heart_case(data, "human", acceleration, seed), prior)


def other_masks(data: Path, prior: str | None) -> Iterator[Problem]:
    for family in ("equispaced", "pseudo-radial"):
        case = heart_case(data, "human", 8, 0, family)
        yield reconstruction("masks", case, prior, equispaced=family == "equispaced")


def exact_maps(data: Path, prior: str | None) -> Iterator[Problem]:
    for acceleration in (4, 8, 12):
        case = heart_case(data, "human", acceleration, 0, exact=True)
        yield reconstruction("exact maps", case, prior)


def other_subjects(data: Path, prior: str | None) -> Iterator[Problem]:
    """A rat's heart, and real k-space of a decaying hyperpolarized signal from one coil."""
    for acceleration in (4, 8):
        yield reconstruction("other subjects", heart_case(data, "rat", acceleration, 0), prior)
    for nucleus in ("lactate", "urea"):
        yield reconstruction("other subjects", hyperpolarized_case(data, nucleus, 2.5, 0), prior)


def new_lines(data: Path, prior: str | None) -> Iterator[Problem]:
    """The same real k-space, scored on the lines that were left out, for which the classical methods are tuned, too."""
    for nucleus in ("lactate", "urea"):
        for seed in range(3):
            case = hyperpolarized_case(data, nucleus, 2.5, seed)
            problem = reconstruction("new lines", case, prior)
            yield replace(problem, score=partial(on_new_lines, case), goal="new lines")


def one_frame(data: Path, prior: str | None) -> Iterator[Problem]:
    for seed in range(3):
        yield reconstruction("one frame", still_case(data, 4, seed), prior)


def radial(data: Path, prior: str | None) -> Iterator[Problem]:
    """Golden-angle spokes, 16 a frame; beside L+S what is usual there, TV in time (GRASP), all with one operator."""
    for subject in ("human", "rat"):
        case = radial_case(data, subject, 16, 0)
        yield replace(reconstruction("radial", case, prior), rivals=partial(_of_spokes, case))


def _of_spokes(case: Case) -> list[Method]:
    return [m for m in reconstructions(case.kspace) if m.name in ("time average, frozen", "TV in time", "L+S")]


def denoising(data: Path, prior: str | None) -> Iterator[Problem]:
    """3, 5 and 10 % of the largest value as noise, complex and in magnitudes (Rician); the level is known to nobody."""
    for subject, magnitude in (("human", human_cine(data)), ("rat", rat_cine(data))):
        truth = with_phase(magnitude)
        region = dynamic_region(truth.data)
        for share in (0.03, 0.05, 0.1):
            noise = share * unit_noise(truth.data, torch.Generator().manual_seed(1))
            noisy = truth.with_data(truth.data + noise)
            for kind, clip in (("complex", noisy), ("Rician", noisy.with_data(noisy.data.abs()))):
                yield Problem(
                    "denoising",
                    f"{subject}, {kind}, {share:.0%}",
                    partial(denoisers, clip),
                    partial(medseq.denoise, clip, prior=prior),
                    partial(scores, truth=truth.data, region=region),
                )


def interpolation(data: Path, prior: str | None) -> Iterator[Problem]:
    """Frames removed: every second one, or three of four (there the first 29 frames, not closed). These are scored."""
    for subject, magnitude in (("human", human_cine(data)), ("rat", rat_cine(data))):
        whole = with_phase(magnitude).with_data(magnitude)
        region = dynamic_region(magnitude)
        yield _interpolation(f"{subject}, x2", whole, 2, region, prior)
        if subject == "human":
            part = replace(whole, data=whole.data[:, :, :29], times=whole.times[:29], period=None)
            yield _interpolation(f"{subject}, x4", part, 4, region, prior)


def _interpolation(name: str, truth: Clip, factor: int, region: Tensor, prior: str | None) -> Problem:
    known = replace(truth, data=truth.data[:, :, ::factor], times=truth.times[::factor])
    missing = torch.arange(truth.frames) % factor != 0

    def ours() -> medseq.Restored:
        result = medseq.interpolate(known, factor, prior=prior)
        times = torch.from_numpy(result.clip.times.copy())
        nearest = (times[:, None] - torch.from_numpy(truth.times.copy())[missing]).abs().argmin(0)
        clip = replace(result.clip, data=result.clip.data[:, :, nearest], times=result.clip.times[nearest])
        return replace(result, clip=clip)

    wanted = torch.from_numpy(truth.times.copy())[missing]
    return Problem(
        "interpolation",
        name,
        lambda: interpolations(known, wanted),
        ours,
        lambda image: scores(image, truth.data[:, :, missing], region),
    )


TABLES = {
    "reconstruction": main_cases,
    "masks": other_masks,
    "exact maps": exact_maps,
    "other subjects": other_subjects,
    "new lines": new_lines,
    "one frame": one_frame,
    "radial": radial,
    "denoising": denoising,
    "interpolation": interpolation,
}


def timing(data: Path, prior: str | None) -> list[Row]:
    """Reconstruction of 30 x 184 x 256 with 8 coils beside one run of L+S of 50 iterations, in turns, R = 8."""
    case = heart_case(data, "human", 8, 0, exact=True)
    methods = {m.name: m for m in reconstructions(case.kspace)}
    runs: dict[str, Callable[[], object]] = {
        "L+S, 50 iterations": lambda: methods["L+S"].run(*methods["L+S"].start),
        "k-t sparse, 50 iterations": lambda: methods["k-t sparse"].run(*methods["k-t sparse"].start),
        "medseq": lambda: medseq.reconstruct(case.kspace, prior=prior),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(3):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    least = min(seconds["L+S, 50 iterations"])
    return [
        {
            "method": name,
            "seconds, best of 3": min(s),
            "ratio to L+S": min(s) / least,
            "threads": f"{torch.get_num_threads()}",
        }
        for name, s in seconds.items()
    ]


def markdown(rows: list[Row], columns: list[str]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = [row.get(c, "") for c in columns]
        lines.append("| " + " | ".join(f"{c:.3f}" if isinstance(c, float) else str(c) for c in cells) + " |")
    return "\n".join(lines)


def summary(rows: list[Row], goal: str = "PSNR heart") -> str:
    """One line a case: the best classical method by what they were tuned for, medseq, and the difference."""
    lines = []
    for case in dict.fromkeys(str(row["case"]) for row in rows):
        of_case = {str(row["method"]): row for row in rows if row["case"] == case}
        ours = of_case.pop("medseq", None)
        if ours is None or not of_case:
            continue
        name, best = max(of_case.items(), key=lambda item: _figure(item[1], goal))
        heart, whole, similarity = (
            _figure(ours, key) - _figure(best, key) for key in ("PSNR heart", "PSNR whole", "SSIM heart")
        )
        lines.append(
            f"- {case}: {name} {_figure(best, 'PSNR heart'):.2f} dB, medseq {_figure(ours, 'PSNR heart'):.2f} "
            f"({heart:+.2f} heart, {whole:+.2f} whole; SSIM {similarity:+.3f})"
        )
    return "\n".join(lines)


def _figure(row: Row, key: str) -> float:
    value = row[key]
    assert isinstance(value, float)
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--tables", nargs="*", default=[*TABLES, "timing"])
    parser.add_argument("--only", choices=("classical", "medseq"), help="leave the other out")
    parser.add_argument("--prior")
    chosen = parser.parse_args()
    if "MEDSEQ_DATA" not in os.environ:
        raise SystemExit("set MEDSEQ_DATA to the folder that holds cine_acdc, cine_rat, hp_kspace and coils")
    data, bench = Path(os.environ["MEDSEQ_DATA"]), Bench(chosen.output, chosen.prior)
    columns = ["case", "method", "PSNR heart", "PSNR whole", "NRMSE heart", "SSIM heart", "temporal spectrum error"]
    text = []
    for name in chosen.tables:
        if name == "timing":
            rows = timing(data, chosen.prior)
            text.append(f"### timing\n\n{markdown(rows, list(rows[0]))}")
            continue
        for problem in TABLES[name](data, chosen.prior):
            bench.solve(problem, classical=chosen.only != "medseq", ours=chosen.only != "classical")
        rows = bench.current(name)
        goal = "new lines" if name == "new lines" else "PSNR heart"
        extra = [goal] if goal not in columns else []
        table = markdown(rows, [*columns, *extra, "weights", "evaluations", "seconds"])
        text.append(f"### {name}\n\n{summary(rows, goal)}\n\n{table}")
    (chosen.output / "benchmark.md").write_text("\n\n".join(text) + "\n", "utf-8")
    (chosen.output / "benchmark.json").write_text(json.dumps(bench.rows, indent=1), "utf-8")
    print("\n\n".join(text))


if __name__ == "__main__":
    main()
