"""The best image in one evaluation of a network that was trained for it.

A prior of many levels is trained on every level alike, and asked for a dozen. Here the network learns the one
evaluation that it is used for, from the very start that it will have, towards the truth. It is told the same thing as
ever, a series and its level, and its weights go on from those of the prior of many levels (in the family of consistency
models, Song 2023, arXiv 2303.01469, which take a series at any level to the truth in one step). What was measured comes
in before and after: the iterations of the start go on from the answer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medseq.errors import UsageError
from medseq.posterior import Denoiser, Level, Samples
from medseq.warmstart import Start

STEPS = 1
AFTERWARDS = 1  # round of the start after the evaluation, with all lines
FEWEST_FRAMES = 8  # of a series that it was trained on: a shorter one has too little repetition


def checked_steps(steps: int | None, samples: int, frames: int) -> int:
    """The number of evaluations. Raises UsageError for anything that these few are not made for."""
    remedy = "take a prior of many levels, as heart-3"
    if samples > 1:
        raise UsageError(f"a prior of few evaluations gives one best image, not {samples} draws; {remedy}")
    if steps not in (None, STEPS):
        raise UsageError(f"this prior was trained for {STEPS} evaluation, not {steps}; {remedy}")
    if frames < FEWEST_FRAMES:
        raise UsageError(f"a prior of few evaluations needs {FEWEST_FRAMES} frames, here are {frames}; {remedy}")
    return STEPS


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


def few_step_image(prior: Denoiser, start: Start) -> Samples:
    """The single best image from the quick `start` (`warm_start`): yields the one estimate, and returns it.

    The prior is told the error of the start as its level. Nothing is random, and no noise is added.
    """
    with torch.no_grad():
        image = prior(start.image, start.error)
        if start.go_on is not None:
            image = start.go_on(image, AFTERWARDS)
    yield image
    return image
