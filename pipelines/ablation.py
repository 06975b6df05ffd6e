"""What each part of the prior is worth: small networks trained alike but for one thing, on held-out animated stills.

    python pipelines/ablation.py --stills FOLDER -o runs/ablation [--steps 500] [--only NAME ...]

Every figure is the RMSE of the network over the level that it was told (1: nothing gained), so less is better. The
networks are small and hardly trained: the order tells, the sizes do not. A variant that has its row is not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from medseq.corruption import aliased, noisy, skipped
from medseq.network import TimeMix
from medseq.phantoms.phases import Stills
from medseq.prior import Prior
from medseq.recipe import Recipe
from medseq.stills import load_stills
from medseq.train import start, training

BASE = Recipe(
    width=(16, 40, 80),
    blocks=1,
    learning_rate=2e-3,
    frames=(1, 12, 12, 24),
    frames_per_batch=24,
    still_share=0.6,
    aliased_share=0.25,
    skipped_share=0.15,
)
VARIANTS = {
    "as it is": BASE,
    "no guides": replace(BASE, guided=False),
    "frames apart": replace(BASE, guided=False),
    "no animated stills": replace(BASE, still_share=0.0),
    "no single frames": replace(BASE, frames=(12, 12, 24)),
    "white noise alone": replace(BASE, aliased_share=0.0, skipped_share=0.0),
    "noise log-uniform": replace(BASE, log_sigma=(-1.6, 3.0)),
    "twice as wide": replace(BASE, width=(32, 80, 160)),
}
Corruption = Callable[[Tensor, bool, torch.Generator], tuple[Tensor, Tensor]]


def white(level: float) -> Corruption:
    def corrupt(clean: Tensor, periodic: bool, g: torch.Generator) -> tuple[Tensor, Tensor]:
        sigma = torch.full((clean.shape[0], 1, clean.shape[2], 1, 1), level)
        return noisy(clean, sigma, g), sigma

    return corrupt


TESTS: dict[str, tuple[int, Corruption]] = {
    "noise 0.05": (24, white(0.05)),
    "noise 0.2": (24, white(0.2)),
    "one frame, noise 0.1": (1, white(0.1)),
    "undersampled": (24, lambda clean, periodic, g: aliased(clean, g)),
    "frames missing": (24, skipped),
}


@torch.no_grad()
def figures(prior: Prior, stills: Stills, batches: int) -> dict[str, float]:
    """RMSE over the told level of every test; the same clips and errors for every prior."""
    result = {}
    for name, (frames, corrupt) in TESTS.items():
        test = replace(BASE, frames=(frames,), still_share=1.0)
        source, total = test.source(stills, torch.device("cpu"), held_out=True), 0.0
        for number in range(batches):
            clean, prior.periodic = source.batch(number)
            image, level = corrupt(clean, prior.periodic, torch.Generator().manual_seed(number))
            error = torch.view_as_real(prior(image, level) - clean) / level[..., None]
            total += float(error.square().mean()) / batches
        result[name] = math.sqrt(total)
    return result


@contextmanager
def mixing_over_time(wanted: bool) -> Iterator[None]:
    """The network as it is, or one whose blocks treat every frame apart."""
    mix = TimeMix.forward
    if not wanted:
        TimeMix.forward = lambda self, x, frames, periodic: torch.zeros_like(x)  # type: ignore[method-assign]
    try:
        yield
    finally:
        TimeMix.forward = mix  # type: ignore[method-assign]


def trained(recipe: Recipe, stills: Stills) -> tuple[Prior, float]:
    """The averaged prior of a recipe, and the seconds of a step."""
    device = torch.device("cpu")
    state, began = start(recipe, device), time.perf_counter()
    for _ in training(recipe, state, recipe.lessons(stills, device)):
        pass
    return state.average.eval(), (time.perf_counter() - began) / recipe.steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stills", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--only", nargs="*", choices=VARIANTS, default=[*VARIANTS])
    chosen = parser.parse_args()
    chosen.output.mkdir(parents=True, exist_ok=True)
    stills = load_stills(chosen.stills)
    for name in chosen.only:
        path = chosen.output / f"{name.replace(' ', '_')}.json"
        if path.exists():
            continue
        with mixing_over_time(name != "frames apart"):
            prior, seconds = trained(replace(VARIANTS[name], steps=chosen.steps), stills)
            row = {"parameters": sum(p.numel() for p in prior.net.parameters()), "seconds": seconds}
            path.write_text(json.dumps(row | figures(prior, stills, chosen.batches)), "utf-8")
    print("| variant | " + " | ".join(TESTS) + " | parameters | s a step |\n|" + "---|" * (len(TESTS) + 3))
    for name in VARIANTS:
        path = chosen.output / f"{name.replace(' ', '_')}.json"
        if path.exists():
            row = json.loads(path.read_text("utf-8"))
            cells = [f"{row[test]:.2f}" for test in TESTS] + [f"{row['parameters']:,}", f"{row['seconds']:.2f}"]
            print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
