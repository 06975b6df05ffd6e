"""What the std, the support map and the mismatch score are worth, on series that no fit has seen, in one command.

    MEDSEQ_DATA=... python pipelines/uncertainty_check.py -o runs/uncertainty [--prior PATH] [--tables std mismatch ...]

`std`: the real heart `cine_acdc` (simulated acquisition, noise of 1 %), R = 4, 8, 12: how many voxels of the heart the
intervals cover, and how well std ranks the error beside what is to be had for nothing. `draws`: likewise, 8 draws.
`mismatch`: real and simulated hearts, phantoms, and a real brain, and how the score goes with the error. Rows are
appended to `rows.jsonl`; a killed run goes on. Pictures of R = 8, error beside std and support, are left there too.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from benchmark_cases import Case, heart_case
from calibration_cases import SMALL, acquisition, held_out, scenario
from skimage.data import shepp_logan_phantom
from skimage.transform import resize
from torch import Tensor

import medseq
from medseq import Clip, KSpace
from medseq.metrics import nrmse, rank_correlation
from medseq.patterns import variable_density
from medseq.phantoms.phases import Stills
from medseq.simulate import acquire

Row = dict[str, float | str]
FRAMES = 14
SHARES = ("50%", "80%", "90%")


def std_row(case: Case, prior: str | None, samples: int, folder: Path) -> Row:
    """Coverage of the intervals in the heart, and Spearman's correlation with |error| of std and of its rivals."""
    restored = medseq.reconstruct(
        case.kspace, prior=prior, samples=samples, support=samples == 1 and "R = 8" in case.name
    )
    assert restored.std is not None
    std, error = restored.std.data, (restored.clip.data.abs() - case.truth.data.abs()).abs()
    row: Row = {}
    for share in SHARES:
        within = error <= restored.info["interval_factors"][share] * std
        row[share] = float(within[case.region.expand_as(within)].float().mean())
        row[f"{share} whole"] = float(within.float().mean())
    magnitude = restored.clip.data.abs()
    slope = torch.hypot(*torch.gradient(magnitude, dim=(-2, -1)))
    still = magnitude.std(2, keepdim=True).expand_as(magnitude).contiguous()
    for name, rival in (("std", std), ("gradient", slope), ("temporal std", still)):
        row[f"rank of {name}"] = rank_correlation(rival, error, case.region)
    row["RMSE over std"] = float((error.square()[case.region.expand_as(error)].mean()).sqrt())
    row["RMSE over std"] /= float(std.square()[case.region.expand_as(std)].mean().sqrt())
    row |= {"mismatch": max(restored.info["mismatch"]), "error": nrmse(magnitude, case.truth.data.abs())}
    picture(restored, error, case, folder / f"{case.name.split(', ')[2].replace(' ', '')}-{samples}.png")
    return row


def picture(restored: medseq.Restored, error: Tensor, case: Case, path: Path) -> None:
    assert restored.std is not None
    frame, top = 8, float(error[:, :, 8].quantile(0.998))
    shown = [
        ("result", restored.clip.data.abs()[0, 0, frame], 1.0, "gray"),
        ("|error|", error[0, 0, frame], top, "magma"),
    ]
    shown.append(("std", restored.std.data[0, 0, frame], top, "magma"))
    if "support" in restored.maps:
        shown.append(("support", restored.maps["support"].data[0, 0, 0], 1.0, "viridis"))
    figure, axes = plt.subplots(1, len(shown), figsize=(4.5 * len(shown), 3.8), layout="constrained")
    for axis, (title, image, most, colours) in zip(axes, shown, strict=True):
        drawn = axis.imshow(image, cmap=colours, vmin=0, vmax=most)
        axis.contour(case.region[0, 0, 0].float(), [0.5], colors="white", linewidths=0.5)
        axis.set(title=title, xticks=[], yticks=[])
        figure.colorbar(drawn, ax=axis, shrink=0.8)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def score_row(make: Callable[[], tuple[KSpace, Tensor | None]], prior: str | None) -> Row:
    kspace, truth = make()
    restored = medseq.reconstruct(kspace, prior=prior)
    row: Row = {"mismatch": max(restored.info["mismatch"])}
    return row if truth is None else {**row, "error": nrmse(restored.clip.data.abs(), truth.abs())}


def brain(data: Path) -> tuple[KSpace, None]:
    """Real, static, one frame; nobody knows the truth."""
    measured = torch.from_numpy(np.load(data / "coils" / "cartesian_ksp.npy").astype(np.complex64))[None, :, None]
    keep = measured.abs().sum(1, keepdim=True) > 0
    return KSpace(measured / measured.abs().max(), keep), None


def simulated(number: int, stills: Stills) -> tuple[KSpace, Tensor]:
    scene = scenario(number, stills, SMALL)
    return acquisition(scene)[0], scene.truth.data


def phantom(frames: Callable[[torch.Generator], Tensor], acceleration: float) -> tuple[KSpace, Tensor]:
    g = torch.Generator().manual_seed(3)
    images = frames(g).to(torch.complex64)[None, None]
    clip = Clip(images, np.eye(4), np.arange(FRAMES) * 0.05, FRAMES * 0.05)
    return acquire(
        clip, acceleration=acceleration, centre=6, keep=variable_density(FRAMES, SMALL[0], acceleration, 6)
    ), images


def discs(g: torch.Generator) -> Tensor:
    """Overlapping discs, each on its own ellipse."""
    y, x, out = torch.arange(SMALL[0])[:, None], torch.arange(SMALL[1]), torch.zeros(FRAMES, *SMALL)
    for _ in range(40):
        cy, cx, radius, value, dy, dx, phase = torch.rand(7, generator=g).tolist()
        for t in range(FRAMES):
            angle = 2 * math.pi * (t / FRAMES + phase)
            away_y, away_x = (
                y - cy * SMALL[0] - 16 * dy * math.sin(angle),
                x - cx * SMALL[1] - 16 * dx * math.cos(angle),
            )
            out[t][away_y.square() + away_x.square() < (3 + 10 * radius) ** 2] = value
    return out


def shepp_logan(g: torch.Generator, moving: float = 0.1) -> Tensor:
    """The head phantom, growing and shrinking."""
    out = torch.zeros(FRAMES, *SMALL)
    for t in range(FRAMES):
        side = round(84 * (1 + moving * math.sin(2 * math.pi * t / FRAMES)))
        top, left = (SMALL[0] - side) // 2, (SMALL[1] - side) // 2
        out[t, top : top + side, left : left + side] = torch.from_numpy(
            resize(shepp_logan_phantom(), (side, side), anti_aliasing=True)
        )
    return out


def speckle(g: torch.Generator) -> Tensor:
    """Frames that know nothing of each other."""
    return 0.2 + 0.5 * torch.rand(FRAMES, *SMALL, generator=g)


def texture(g: torch.Generator) -> Tensor:
    """Filtered noise that stands still."""
    noise = torch.nn.functional.avg_pool2d(torch.randn(1, 1, *SMALL, generator=g), 3, 1, 1)[0]
    return ((noise - noise.min()) / (noise.max() - noise.min())).expand(FRAMES, -1, -1).clone()


def rows(data: Path, prior: str | None, folder: Path, tables: list[str]) -> Iterator[tuple[str, Callable[[], Row]]]:
    if "mismatch" in tables:
        stills = held_out(data / "sunnybrook_png" / "Train" / "Images")
        yield "mismatch: brain", partial(score_row, partial(brain, data), prior)
        for frames in (discs, shepp_logan, speckle, texture):
            for acceleration in (4.0, 8.0):
                name = f"mismatch: {frames.__name__}, R = {acceleration:g}"
                yield name, partial(score_row, partial(phantom, frames, acceleration), prior)
        for number in range(1000, 1012):
            name = f"mismatch: simulated {'phantom' if number % 4 == 3 else 'heart'} {number}"
            yield name, partial(score_row, partial(simulated, number, stills), prior)
    for table, samples in (("std", 1), ("draws", 8)):
        for acceleration in (8, 4, 12) if table in tables else ():
            case = heart_case(data, "human", acceleration, 0)
            yield f"{table}: human, R = {acceleration}", partial(std_row, case, prior, samples, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--prior")
    parser.add_argument("--tables", nargs="*", default=["mismatch", "std", "draws"])
    chosen = parser.parse_args()
    if "MEDSEQ_DATA" not in os.environ:
        raise SystemExit("set MEDSEQ_DATA to the folder that holds cine_acdc, coils and sunnybrook_png")
    chosen.output.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore", medseq.MedseqWarning)
    kept = chosen.output / "rows.jsonl"
    known = {row["name"]: row for row in map(json.loads, kept.read_text("utf-8").splitlines())} if kept.exists() else {}
    for name, make in rows(Path(os.environ["MEDSEQ_DATA"]), chosen.prior, chosen.output, chosen.tables):
        if name not in known:
            known[name] = {"name": name, **make()}
            with kept.open("a", encoding="utf-8") as file:
                file.write(json.dumps(known[name]) + "\n")
        print(name, {k: round(v, 3) for k, v in known[name].items() if k != "name"}, flush=True)
    told = [row for row in known.values() if "error" in row and "mismatch" in row]
    if len(told) > 2:
        score, error = (torch.tensor([row[key] for row in told]).double() for key in ("mismatch", "error"))
        print(f"score and error (NRMSE) over {len(told)} series: Spearman {rank_correlation(score, error):.2f}")


if __name__ == "__main__":
    main()
