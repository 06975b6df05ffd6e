"""What simulated series with known truth teach about the errors of a prior's results: its trust table, in one command.

    python pipelines/calibrate.py --stills FOLDER -o runs/calibrate [--prior NAME] [--cases 64] [--draw-cases 12]

Fits, for every task, the std of the single image and of several draws (`medseq.calibration`), and what is to be
expected of held-out lines and residuals (`medseq.mismatch`). Held-out stills in motion and phantoms only
(`calibration_cases.py`). Every case is kept in the output folder as soon as it is known, so a killed run goes on; the
table, `NAME.trust.json`, is written there, to be put beside the weights. Coverage is told for cases left out of a fit.
A prior of few evaluations is fitted for what it is made for, the single image of a k-space series.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from calibration_cases import SIZE, SMALL, Scenario, acquisition, held_out, scenario
from torch import Tensor

import medseq
from medseq.calibration import SHARES, Calibration, Case, coverage, fit
from medseq.io.weights import save_trust, weights_path
from medseq.metrics import dynamic_region, rank_correlation
from medseq.mismatch import Expectation, expectation
from medseq.noise import unit_noise
from medseq.phantoms.phases import Stills
from medseq.phantoms.scenes import chance, uniform
from medseq.prior import Prior, Trust

VOXELS = 1500  # of a case that are fitted to, half of them where it moves
DRAWS = 4  # more take the longer, and their std is no other
IMAGE, DRAWN = ("change", "bending", "edges"), ("change", "bending", "edges", "draws")
FACTS = {
    "gain": ("log_start_over_noise", "one_frame"),
    "unexplained": ("log_acceleration", "log_noise", "one_frame"),
    "unevenness": ("log_noise", "magnitude"),
}


@dataclass(frozen=True)
class Listening(Calibration):
    """Stands in for a calibration that is still to be fitted: keeps what it is asked."""

    heard: list[tuple[dict[str, Tensor], float]] = field(default_factory=list)

    def std(self, found, acceleration: float = 1.0) -> Tensor:
        self.heard.append((dict(found), acceleration))
        return found["expected"]


@dataclass(frozen=True)
class Watching(Expectation):
    """Likewise for an expectation."""

    seen: list[tuple[float, dict[str, float]]] = field(default_factory=list)

    def surprise(self, value: float, facts) -> float:
        self.seen.append((value, dict(facts)))
        return 0.0


class Bench:
    """A prior that is listened to, and the folder its cases are kept in."""

    def __init__(self, prior: Prior, folder: Path) -> None:
        self.folder = folder
        self.prior = prior
        self.listening = Listening({}, 0.0, 0.0, (1.0,) * len(SHARES), 0)
        self.watching = {name: Watching(0.0, {}, 1.0) for name in FACTS}
        std = {f"{task} {kind}": self.listening for task in TASKS for kind in ("image", "draws")}
        prior.trust = Trust(cast(dict[str, Calibration], std), cast(dict[str, Expectation], self.watching))

    def case(self, task: str, number: int, stills: Stills, samples: int) -> dict:
        """What is found on one case: voxels with their evidence and error, steps, and the measures of mismatch."""
        path = self.folder / f"{task}-{'draws' if samples > 1 else 'image'}-{number}.pt"
        if not path.is_file():
            size = SIZE if task in ("reconstruct", "one frame") and samples == 1 else SMALL
            torch.save(self._made(task, scenario(number, stills, size), samples), path)
            print(path.stem, flush=True)
        return cast(dict, torch.load(path, weights_only=True))

    def _made(self, task: str, scene: Scenario, samples: int) -> dict:
        self.listening.heard.clear()
        for watching in self.watching.values():
            watching.seen.clear()
        result, truth = TASKS[task](scene, self.prior, samples)
        [(found, acceleration)] = self.listening.heard or [({}, 1.0)]
        seen = {name: watching.seen[0] for name, watching in self.watching.items() if watching.seen}
        error = (result.clip.data.abs() - truth.abs()) / result.info["scale"]
        kept = {"steps": result.info["steps"], "acceleration": acceleration, "seen": seen, "kind": scene.kind}
        relative = float(error.square().mean().sqrt() / truth.abs().square().mean().sqrt()) * result.info["scale"]
        return {**kept, "nrmse": relative, **(_voxels(found, error, truth, scene.g) if found else {})}


def _voxels(found: dict[str, Tensor], error: Tensor, truth: Tensor, g: torch.Generator) -> dict:
    """Some voxels where things move, as many elsewhere in the body, and how well ranks agree where they move."""
    moving = dynamic_region(truth).expand(error.shape)
    body = (truth.abs() > 0.05 * truth.abs().max()) & ~moving
    chosen = torch.cat([_some(where, VOXELS // 2, g) for where in (moving, body) if where.any()])
    flat = {name: value.flatten()[chosen].contiguous() for name, value in found.items()}
    return {"found": flat, "error": error.flatten()[chosen].contiguous(), "moving": moving.flatten()[chosen]}


def _some(where: Tensor, count: int, g: torch.Generator) -> Tensor:
    places = where.flatten().nonzero()[:, 0]
    return places[torch.randint(len(places), (count,), generator=g)]


def reconstructed(scene: Scenario, prior: Prior, samples: int) -> tuple[medseq.Restored, Tensor]:
    return medseq.reconstruct(acquisition(scene)[0], prior=prior, samples=samples), scene.truth.data


def one_frame(scene: Scenario, prior: Prior, samples: int) -> tuple[medseq.Restored, Tensor]:
    """The first frame alone, at half the acceleration that series take."""
    single = replace(scene, truth=medseq.Clip(scene.truth.data[:, :, :1], scene.truth.affine))
    return medseq.reconstruct(acquisition(single)[0], prior=prior), single.truth.data


def denoised(scene: Scenario, prior: Prior, samples: int) -> tuple[medseq.Restored, Tensor]:
    """Noise of 1 to 15 % of the scale, in complex values or, half of the time, in magnitudes."""
    g, truth = scene.g, scene.truth
    sigma = math.exp(uniform(g, math.log(0.01), math.log(0.15)))
    noisy = truth.data + sigma * unit_noise(truth.data, g)
    noisy = noisy.abs() if chance(g, 0.5) else noisy
    return medseq.denoise(truth.with_data(noisy), prior=prior, samples=samples), truth.data


def interpolated(scene: Scenario, prior: Prior, samples: int) -> tuple[medseq.Restored, Tensor]:
    """Every second frame of twice as many is left out; the known ones carry noise of 0.5 to 3 %."""
    g, truth = scene.g, scene.truth
    frames = truth.frames // 2 * 2
    whole = replace(truth, data=truth.data[:, :, :frames], times=truth.times[:frames], period=None)
    sigma = math.exp(uniform(g, math.log(0.005), math.log(0.03)))
    seen = whole.data.abs() if chance(g, 0.5) else whole.data
    seen = seen + sigma * (unit_noise(seen, g) if seen.is_complex() else torch.randn(seen.shape, generator=g))
    known = replace(whole, data=seen[:, :, ::2].contiguous(), times=whole.times[::2])
    wanted = whole.times[: frames - 1]
    result = medseq.interpolate(known, times=np.array(wanted), prior=prior, samples=samples)
    return result, whole.data[:, :, : frames - 1]


TASKS: dict[str, Callable[[Scenario, Prior, int], tuple[medseq.Restored, Tensor]]] = {
    "reconstruct": reconstructed,
    "denoise": denoised,
    "interpolate": interpolated,
}


def as_cases(kept: list[dict]) -> list[Case]:
    return [Case(one["found"], one["error"], one["acceleration"]) for one in kept]


def cross_coverage(kept: list[dict], names: tuple[str, ...]) -> tuple[list[list[float]], list[float]]:
    """Coverage and Spearman's correlation where things move, of each case under a fit that did not see it (4-fold)."""
    covered, ranks = [], []
    for part in range(4):
        model = fit(as_cases([one for i, one in enumerate(kept) if i % 4 != part]), names, 0)
        for one in kept[part::4]:
            inside = {name: value[one["moving"]] for name, value in one["found"].items()}
            case = Case(inside, one["error"][one["moving"]], one["acceleration"])
            covered.append(coverage(model, case))
            ranks.append(rank_correlation(model.std(case.found, case.acceleration), case.error.abs()))
    return covered, ranks


def fitted(bench: Bench, stills: Stills, cases: int, draw_cases: int) -> Iterator[tuple[str, Calibration, list[dict]]]:
    tasks = ["reconstruct"] if bench.prior.few else list(TASKS)
    for kind, samples, count, names in (("image", 1, cases, IMAGE), ("draws", DRAWS, draw_cases, DRAWN)):
        for task in tasks if count else ():
            share = count if task == "reconstruct" or kind == "draws" else max(1, count // 4)
            kept = [bench.case(task, number, stills, samples) for number in range(share)]
            about = f"{share} simulated series (held-out stills in motion, phantoms)"
            yield f"{task} {kind}", fit(as_cases(kept), names, kept[0]["steps"], about), kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--stills", type=Path, required=True)
    parser.add_argument("--prior")
    parser.add_argument("--cases", type=int, default=64)
    parser.add_argument("--draw-cases", type=int, default=12, help="0: no draws, whose std then stays uncalibrated")
    chosen = parser.parse_args()
    chosen.output.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore", medseq.MedseqWarning)
    weights = weights_path(chosen.prior)
    stills, bench = held_out(chosen.stills), Bench(medseq.load_prior(chosen.prior), chosen.output)
    draw_cases = 0 if bench.prior.few else chosen.draw_cases
    std, seen, report = {}, [], {}
    for name, calibration, kept in fitted(bench, stills, chosen.cases, draw_cases):
        std[name] = calibration
        seen += kept if name.endswith("image") else []
        covered, ranks = cross_coverage(kept, tuple(calibration.weights))
        table = torch.tensor(covered)
        report[name] = {
            "coverage": dict(zip(map(str, SHARES), table.mean(0).tolist(), strict=True)),
            "std of the 90 % coverage over cases": float(table[:, -1].std()),
            "Spearman": sum(ranks) / len(ranks),
        }
        print(name, calibration, report[name], flush=True)
    if not bench.prior.few:
        TASKS["one frame"] = one_frame
        seen += [bench.case("one frame", number, stills, 1) for number in range(chosen.cases // 4)]
    expected = {}
    for measure, names in FACTS.items():
        pairs = [one["seen"][measure] for one in seen if measure in one["seen"] and one["kind"] == "still"]
        if not pairs:  # of a task that this prior is not made for
            continue
        expected[measure] = expectation([value for value, _ in pairs], [facts for _, facts in pairs], names)
        print(measure, expected[measure], flush=True)
    about = {
        "fitted on": "simulated series only: the held-out tenth of the public-domain stills, in motion, and phantoms",
        "command": "pipelines/calibrate.py",
        "where it moves, cases left out of the fit": report,
    }
    beside = chosen.output / weights.name
    for ending in (".safetensors", ".json"):
        shutil.copy(weights.with_suffix(ending), beside.with_suffix(ending))
    print(save_trust(Trust(std, expected), beside, about))
    (chosen.output / "report.json").write_text(json.dumps(report, indent=1), "utf-8")


if __name__ == "__main__":
    main()
