"""Small lesions put into a real heart before it is measured: what is kept of them, and what is made up elsewhere.

    MEDSEQ_DATA=... python pipelines/hallucination.py -o runs/hallucination [--acceleration 8] [--layouts 3]

Lesions are blobs of 3 voxels (FWHM) in the magnitude of the human cine: brighter or darker by a fifth of the series'
scale, or a dropout that leaves a tenth of the signal. They lie still, move by 4 voxels with the heartbeat, or are there
for 8 frames alone. A layout holds up to 18, half of them where the heart moves, 18 voxels or more apart; each has a
mask and noise of its own, and is measured with and without the lesions (the same noise, to within the lesions' own
share of the scale).

How to read the columns, means over lesions. kept: what f(x + a) - f(x) has of the inserted change a, sum of their
product over the sum of a^2. as read: contrast of the lesion's middle with a ring around it in the result, less that in
the truth without it, over what it should be: includes what the method changed anyway. found: share of lesions that a
blob detector sees in the difference from the truth without them. false: share of places of 9 x 9 voxels in the body,
without a lesion, in which the same detector sees one in any frame, and in one frame; it fires at half of a lesion's
response.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from benchmark import markdown
from heart_runs import HeartRuns
from scipy.ndimage import gaussian_laplace, maximum_filter
from torch import Tensor

from medseq.clip import series_scale
from medseq.metrics import dynamic_region

WIDTH = 3.0  # voxels, FWHM
CONTRAST = 0.2  # of the series' scale
LEFT = 0.1  # of the signal in a dropout
MOTION, BRIEF = 4.0, 8.0  # voxels; frames, FWHM
APART, EDGE, PLACE = 18, 12, 9  # voxels
PER_LAYOUT = 18
_STD = WIDTH / math.sqrt(8 * math.log(2))
_KINDS = ("bright", "dark", "dropout")
_WAYS = ("still", "moving", "brief")
_TISSUE = 0.25  # of the scale: darker places have nothing to lose


@dataclass(frozen=True)
class Lesion:
    """kind: what it does to the signal. way: how it is in time. where: row and column. towards: radians."""

    kind: str
    way: str
    row: int
    column: int
    towards: float
    heart: bool

    def shape(self, frames: int, size: tuple[int, int]) -> Tensor:
        """Weights in [0, 1], (T, Y, X)."""
        phase = 2 * math.pi * torch.arange(frames) / frames
        away = MOTION * (1 - torch.cos(phase)) / 2 if self.way == "moving" else torch.zeros(frames)
        y = torch.arange(size[0]).view(1, -1, 1) - (self.row + away * math.sin(self.towards)).view(-1, 1, 1)
        x = torch.arange(size[1]) - (self.column + away * math.cos(self.towards)).view(-1, 1, 1)
        blob = torch.exp(-(y.square() + x.square()) / (2 * _STD**2))
        if self.way == "brief":
            from_middle = torch.arange(frames) - frames / 2
            blob = blob * torch.exp(-4 * math.log(2) * (from_middle / BRIEF).square()).view(-1, 1, 1)
        return blob

    def change(self, truth: Tensor, scale: float) -> Tensor:
        """What it adds to a series (T, Y, X), which stays 0 or more."""
        shape = self.shape(truth.shape[0], (truth.shape[1], truth.shape[2]))
        if self.kind == "dropout":
            return -(1 - LEFT) * shape * truth
        sign = 1 if self.kind == "bright" else -1
        return (truth + sign * CONTRAST * scale * shape).clamp(min=0) - truth


@dataclass(frozen=True)
class Reading:
    """What became of one lesion."""

    lesion: Lesion
    kept: float
    as_read: float
    found: bool


def layout(truth: Tensor, scale: float, seed: int) -> list[Lesion]:
    """Lesions at random places, kinds and ways in turn; the first half where the heart moves."""
    rng = np.random.default_rng(seed)
    region = dynamic_region(truth[None, None])[0, 0, 0].numpy()
    tissue = truth.mean(0).numpy() > _TISSUE * scale
    inside = np.zeros_like(tissue)
    inside[EDGE:-EDGE, EDGE:-EDGE] = True
    lesions: list[Lesion] = []
    for heart, wanted in ((True, PER_LAYOUT // 2), (False, PER_LAYOUT)):
        places = np.argwhere(tissue & inside & (region == heart))
        for row, column in rng.permutation(places):
            near = (math.hypot(row - lesion.row, column - lesion.column) < APART for lesion in lesions)
            if len(lesions) == wanted:
                break
            if not any(near):
                kind, way = _KINDS[len(lesions) % 3], _WAYS[len(lesions) // 3 % 3]
                towards = 2 * math.pi * rng.random()
                lesions.append(Lesion(kind, way, int(row), int(column), towards, heart))
    return lesions


def readings(
    lesions: Sequence[Lesion], truth: Tensor, scale: float, with_lesions: Tensor, without: Tensor
) -> Iterator[Reading]:
    """Of every lesion, from results with and without all of them, (T, Y, X) each."""
    all_changes = sum((lesion.change(truth, scale) for lesion in lesions), start=torch.zeros_like(truth))
    seen = detections(with_lesions - truth, scale)
    for lesion in lesions:
        change = lesion.change(truth, scale)
        kept = ((with_lesions - without) * change).sum() / change.square().sum()
        there = contrast(lesion, with_lesions) - contrast(lesion, truth)
        wanted = contrast(lesion, truth + all_changes) - contrast(lesion, truth)
        hit = seen[0 if lesion.kind == "bright" else 1] & (lesion.shape(*_sizes(truth)) > 0.5)
        yield Reading(lesion, float(kept), float(there / wanted), bool(hit.any()))


def contrast(lesion: Lesion, series: Tensor) -> Tensor:
    """The lesion's middle less a ring around it, mean over the frames that it is in."""
    shape = lesion.shape(*_sizes(series))
    strength = shape.amax((1, 2))
    distance = _STD * (-2 * (shape / strength.view(-1, 1, 1)).clamp(min=1e-30).log()).sqrt()
    middle, ring = distance <= WIDTH / 2, (distance > 1.2 * WIDTH) & (distance <= 1.9 * WIDTH)
    inside, around = ((series * part).sum((1, 2)) / part.sum((1, 2)) for part in (middle, ring))
    return ((inside - around) * strength).sum() / strength.sum()


def detections(difference: Tensor, scale: float) -> Tensor:
    """Where a detector sees a bright blob and where a dark one, (2, T, Y, X) bool.

    Extrema, among the 8 neighbours, of the Laplacian of a Gaussian of the lesion's own width (Lindeberg 1998), of more
    than half of what a lesion of full contrast has there.
    """
    grid = np.hypot(*(np.indices((33, 33)) - 16))
    lesion = CONTRAST * scale * np.exp(-(grid**2) / (2 * _STD**2))
    level = 0.5 * float(-gaussian_laplace(lesion, _STD)[16, 16])
    response = np.stack([-gaussian_laplace(frame, _STD) for frame in difference.numpy().astype(np.float64)])
    seen = [(r > level) & (r == maximum_filter(r, size=(1, 3, 3))) for r in (response, -response)]
    return torch.from_numpy(np.stack(seen))


def false_places(
    difference: Tensor, truth: Tensor, scale: float, lesions: Sequence[Lesion] = ()
) -> tuple[int, float, int]:
    """Places of the body that show a blob that is not there: in any frame, in the mean frame, and how many there are.

    Those of lesions are left out.
    """
    seen = detections(difference, scale).any(0)
    body = truth.mean(0) > _TISSUE / 2 * scale
    for lesion in lesions:
        rows, columns = (slice(max(0, at - EDGE), at + EDGE + 1) for at in (lesion.row, lesion.column))
        body[rows, columns] = False
    places = body.unfold(0, PLACE, PLACE).unfold(1, PLACE, PLACE).flatten(2).float().mean(2) > 0.5
    blobs = (seen & body).unfold(1, PLACE, PLACE).unfold(2, PLACE, PLACE).flatten(3).any(3) & places
    return int(blobs.any(0).sum()), float(blobs.sum((1, 2)).double().mean()), int(places.sum())


def judged(runs: HeartRuns, method: str, layouts: int) -> dict[str, object]:
    """All figures of a method: readings of every lesion, false lesions of every result."""
    truth = runs.truth
    scale = float(series_scale(truth.mean(0)))
    found: list[Reading] = []
    false: list[tuple[int, float, int]] = []
    for seed in range(layouts):
        lesions = layout(truth, scale, seed)
        lesioned = truth + sum((lesion.change(truth, scale) for lesion in lesions), start=torch.zeros_like(truth))
        without = runs.result(method, seed, truth)
        with_lesions = runs.result(method, seed, lesioned)
        found += readings(lesions, truth, scale, with_lesions, without)
        false.append(false_places(without - truth, truth, scale))
        false.append(false_places(with_lesions - lesioned, truth, scale, lesions))
    return {"method": method, "readings": [asdict(reading) for reading in found], "false": false}


def row(result: dict, lesions: list[dict]) -> dict[str, float | str]:
    ever, a_frame, places = (sum(counts[k] for counts in result["false"]) for k in range(3))
    kept = np.array([reading["kept"] for reading in lesions])
    return {
        "method": result["method"],
        "lesions": f"{len(lesions)}",
        "kept %": 100 * float(kept.mean()),
        "worst tenth %": 100 * float(np.quantile(kept, 0.1)),
        "as read %": 100 * float(np.mean([reading["as_read"] for reading in lesions])),
        "found %": 100 * float(np.mean([reading["found"] for reading in lesions])),
        "false %": 100 * ever / places,
        "false a frame %": 100 * a_frame / places,
    }


def tables(results: Sequence[dict]) -> str:
    """All lesions, then those of each kind, each way in time, and of the heart and elsewhere: contrast kept."""
    everything = [row(result, result["readings"]) for result in results]
    groups = [("kind", kind) for kind in _KINDS] + [("way", way) for way in _WAYS] + [("heart", True), ("heart", False)]
    names = {("heart", True): "in the heart", ("heart", False): "elsewhere"}
    parts = []
    for result in results:
        line: dict[str, float | str] = {"method": result["method"]}
        for key, value in groups:
            kept = [reading["kept"] for reading in result["readings"] if reading["lesion"][key] == value]
            line[names.get((key, value), str(value))] = 100 * float(np.mean(kept))
        parts.append(line)
    return f"{markdown(everything, list(everything[0]))}\n\nKept, in %:\n\n{markdown(parts, list(parts[0]))}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--acceleration", type=float, default=8)
    parser.add_argument("--layouts", type=int, default=3)
    chosen = parser.parse_args()
    if "MEDSEQ_DATA" not in os.environ:
        raise SystemExit("set MEDSEQ_DATA to the folder that holds cine_acdc and coils")
    runs = HeartRuns(chosen.output, Path(os.environ["MEDSEQ_DATA"]), chosen.acceleration)
    results = [judged(runs, method, chosen.layouts) for method in runs.methods]
    (chosen.output / "hallucination.json").write_text(json.dumps(results, indent=1), "utf-8")
    text = tables(results)
    (chosen.output / "hallucination.md").write_text(text + "\n", "utf-8")
    print(text)


def _sizes(series: Tensor) -> tuple[int, tuple[int, int]]:
    return series.shape[0], (series.shape[1], series.shape[2])


if __name__ == "__main__":
    main()
