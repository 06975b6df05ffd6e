"""Do generated clips move like training clips? Beside them, frames that know nothing of each other.

    python pipelines/generation_check.py -o runs/generation [--prior PATH] [--count 8]

Clips of 64 x 64 x 16 frames, the size that priors are trained on; all of them one cycle. The training clips are held
out (another seed) and procedural: still frames that a prior may have been trained on beside them are not among them.
The negative control is every frame generated on its own, with the same prior. Figures are those of
`medseq.temporal_statistics`, mean and std over the clips; smoothness of the pictures themselves is not judged.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from torch import Tensor

from medseq import generate, temporal_statistics
from medseq.recipe import Recipe
from medseq.report.sheet import contact_sheet

FRAMES, SIZE = 16, 64
FIGURES = ("flicker", "correlation", "motion", "fast")
SHOWN = 3  # clips of each kind on the contact sheet


def training_clips(count: int) -> Tensor:
    """Held-out periodic clips (count, 1, T, Y, X) of the training source."""
    source = Recipe(frames=(FRAMES,), frames_per_batch=FRAMES, window=SIZE).source(
        None, torch.device("cpu"), held_out=True
    )
    found: list[Tensor] = []
    number = 0
    while len(found) < count:
        clips, periodic = source.batch(number)
        number += 1
        if periodic:
            found += list(clips.split(1))
    return torch.cat(found[:count])


def generated_clips(count: int, prior: str | None, steps: int, seed: int) -> Tensor:
    """Clips (count, 1, T, Y, X) of the prior."""
    return generate(FRAMES, (SIZE, SIZE), count=count, prior=prior, steps=steps, seed=seed).clip.data


def independent_frames(count: int, prior: str | None, steps: int, seed: int) -> Tensor:
    """The same, but every frame is a clip of its own."""
    single = generate(1, (SIZE, SIZE), count=count * FRAMES, prior=prior, steps=steps, seed=seed).clip.data
    return single.reshape(count, FRAMES, SIZE, SIZE)[:, None]


def row(name: str, clips: Tensor) -> dict[str, str | float | list[float]]:
    """The figures of one kind of clip, and its brightness: the mean and the 99th percentile of the magnitude."""
    found = temporal_statistics(clips, periodic=True)
    result: dict[str, str | float | list[float]] = {"clips": name}
    for figure in FIGURES:
        values: Tensor = getattr(found, figure)
        result[figure] = float(values.mean())
        result[f"{figure} std"] = float(values.std())
    result["mean"] = float(clips.abs().mean())
    result["99th percentile"] = float(torch.stack([clip.abs().quantile(0.99) for clip in clips]).mean())
    result["spectrum"] = found.spectrum.mean(0).tolist()
    return result


def markdown(rows: list[dict[str, str | float | list[float]]]) -> str:
    """A table of the figures with their std over the clips; the spectrum stands in the JSON file only."""
    lines = ["| clips | " + " | ".join(FIGURES) + " | mean | 99th percentile |", "|---|" + "---|" * (len(FIGURES) + 2)]
    for entry in rows:
        cells = [f"{entry[f]:.3f} ({entry[f + ' std']:.3f})" for f in FIGURES]
        cells += [f"{entry['mean']:.3f}", f"{entry['99th percentile']:.3f}"]
        lines.append(f"| {entry['clips']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--prior")
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    if chosen.count < 2:
        parser.error("--count: at least 2 clips, or there is no std")
    chosen.output.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    options = (chosen.count, chosen.prior, chosen.steps, chosen.seed)
    kinds = {
        "training, held out": training_clips(chosen.count),
        "generated": generated_clips(*options),
        "generated, every frame on its own": independent_frames(*options),
    }
    rows = [row(name, clips) for name, clips in kinds.items()]
    pictures = [
        (f"{name} {i + 1}", clips[i, 0].abs().numpy())
        for name, clips in kinds.items()
        for i in range(min(SHOWN, chosen.count))
    ]
    contact_sheet(pictures, chosen.output / "generation.png", white=1.2)
    text = markdown(rows)
    (chosen.output / "generation.md").write_text(text + "\n", "utf-8")
    (chosen.output / "generation.json").write_text(json.dumps(rows, indent=1), "utf-8")
    print(f"{text}\n\n{chosen.count} clips each, {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
