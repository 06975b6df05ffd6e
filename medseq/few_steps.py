"""The best image in two evaluations of a network that was trained for them.

A prior of many levels is trained on every level alike, and asked for a dozen. Here the network learns the few
evaluations that it is used for, from the very start that it will have and through the data consistency that follows
each of them, towards the truth. It is told the same thing as ever, a series and its level, and its weights go on from
those of the prior of many levels (in the family of consistency models, Song 2023, arXiv 2303.01469, whose few steps are
learnt as well; as an unrolled network with data consistency, Schlemper 2018, its steps share their weights).
"""

from __future__ import annotations

from torch import Tensor

from medseq.errors import UsageError
from medseq.measurement import Measurement
from medseq.posterior import Denoiser, Level, Samples, best_images

# All of it is part of what the weights were trained with.
LEVELS = (1.5, 0.75)  # told in each evaluation, times the error of the start
SPREAD = 0.4  # of the answer about the truth, over the level told
ITERATIONS = 3  # of conjugate gradients after each evaluation


FEWEST_FRAMES = 8  # of a series that it was trained on: a shorter one has too little repetition


def checked_steps(steps: int | None, samples: int, frames: int) -> int:
    """The number of evaluations. Raises UsageError for anything that these few are not made for."""
    remedy = "take a prior of many levels, as heart-3"
    if samples > 1:
        raise UsageError(f"a prior of few evaluations gives one best image, not {samples} draws; {remedy}")
    if steps not in (None, len(LEVELS)):
        raise UsageError(f"this prior was trained for {len(LEVELS)} evaluations, not {steps}; {remedy}")
    if frames < FEWEST_FRAMES:
        raise UsageError(f"a prior of few evaluations needs {FEWEST_FRAMES} frames, here are {frames}; {remedy}")
    return len(LEVELS)


class Remembering:
    """A denoiser that does not think twice about the question it was asked first: the start, which tells the mismatch
    as well."""

    def __init__(self, denoiser: Denoiser) -> None:
        self._denoiser = denoiser
        self._first: tuple[Tensor, Tensor] | None = None

    def __call__(self, x: Tensor, sigma: Level) -> Tensor:
        """As `Prior.forward`."""
        if self._first is None:
            self._first = x, self._denoiser(x, sigma)
        elif x is not self._first[0]:
            return self._denoiser(x, sigma)
        return self._first[1]


def levels_of(error: Level) -> list[Level]:
    """The level of each evaluation, and 0. error: of the start, a number or (B, 1, 1, 1, 1)."""
    return [*(share * error for share in LEVELS), 0.0]


def few_step_image(prior: Denoiser, measurement: Measurement, error: float, start: Tensor) -> Samples:
    """The single best image from `start` (B, 1, T, Y, X) of the given `error`: yields every estimate.

    measurement: with `ITERATIONS` of conjugate gradients. Nothing is random and nothing is added between evaluations.
    """
    return best_images(
        prior,
        measurement,
        levels_of(error),
        start,
        spread=lambda level: SPREAD * level,
        refine=lambda image: image,
    )


def unrolled(prior: Denoiser, measurement: Measurement, error: float, start: Tensor) -> list[Tensor]:
    """As `few_step_image`, all estimates at once and with gradients, for training."""
    estimates: list[Tensor] = []
    for level in levels_of(error)[:-1]:
        clean = prior(estimates[-1] if estimates else start, level)
        estimates.append(measurement.solve(clean, SPREAD * level))
    return estimates
