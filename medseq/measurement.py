"""What was measured, and how an estimate is made consistent with it.

`Measurement` holds y = A x + sigma n with n of unit std in each real channel. Given the belief that x is
N(clean, spread^2) in each real channel, `solve` is the mean of what the measurement leaves of it and `draw` one
sample of it: perturb both the belief and the data, then solve (Papandreou & Yuille, NIPS 2010: Gaussian sampling by
perturbation). No gradient of the prior is ever taken, and noisy data are never enforced exactly.
"""

from __future__ import annotations

from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from medseq.errors import UsageError
from medseq.noise import unit_noise
from medseq.operators import LinearOp
from medseq.solve import cg

Spread = float | Tensor
T = TypeVar("T", float, Tensor, Spread)


class Measurement:
    """y = A x + sigma * noise.

    y: what was measured, in the shape A gives. A: a LinearOp on (B, 1, T, Y, X). sigma: std of each real channel of
    y, a positive number or a tensor that broadcasts to y. iterations, tolerance: of the conjugate gradients.
    chunk: how many frames are solved at a time, where A treats frames apart; the result does not depend on it.

    Raises UsageError when sigma is not positive: hard consistency with noisy data is never right.
    """

    def __init__(
        self,
        y: Tensor,
        A: LinearOp,
        sigma: float | Tensor,
        *,
        iterations: int = 12,
        tolerance: float = 1e-3,
        chunk: int = 16,
    ) -> None:
        if not (bool((sigma > 0).all()) if isinstance(sigma, Tensor) else sigma > 0):
            raise UsageError("the noise level of a measurement must be positive")
        self.y, self.A, self.sigma = y, A, sigma
        self.iterations, self.tolerance = iterations, tolerance
        self.chunk = chunk if A.separable else 0

    def solve(self, clean: Tensor, spread: Spread) -> Tensor:
        """The mean of x given y, when x ~ N(clean, spread^2): (B, 1, T, Y, X). spread: a number or (B, 1, T, 1, 1)."""
        return self._each_chunk(clean, spread, perturbed=False, generator=None)

    def draw(self, clean: Tensor, spread: Spread, generator: torch.Generator | None = None) -> Tensor:
        """One sample of x given y, when x ~ N(clean, spread^2). Shapes as in `solve`.

        The noise is drawn frame by frame, so that it does not depend on the chunks.
        """
        return self._each_chunk(clean, spread, perturbed=True, generator=generator)

    def _each_chunk(
        self, clean: Tensor, spread: Spread, *, perturbed: bool, generator: torch.Generator | None
    ) -> Tensor:
        frames = clean.shape[2]
        step = self.chunk or frames
        parts = []
        for first in range(0, frames, step):
            chunk = slice(first, first + step) if self.chunk else slice(None)
            operator = self.A.frames(chunk) if self.chunk else self.A
            sigma, width = _of_frames(self.sigma, chunk), _of_frames(spread, chunk)
            x, back = clean[:, :, chunk], self._back_projection[:, :, chunk]
            if perturbed:
                y: Tensor = _of_frames(self.y, chunk)
                of_x, of_y = _noise_by_frame(x, y, generator)
                x, back = x + width * of_x, back + operator.adjoint(of_y / sigma)
            parts.append(self._correct(x, back, operator, sigma, width))
        return torch.cat(parts, dim=2)

    @cached_property
    def _back_projection(self) -> Tensor:
        """A^H sigma^-2 y, which no belief changes."""
        return self.A.adjoint(self.y / self.sigma**2)

    def _correct(self, x: Tensor, back: Tensor, operator: LinearOp, sigma: Spread, spread: Spread) -> Tensor:
        """x + spread d, where (1 + spread A^H sigma^-2 A spread) d = spread (back - A^H sigma^-2 A x).

        With the spread on both sides the system is symmetric also when it differs between frames.
        """
        whiten = 1 / sigma**2

        def information(d: Tensor) -> Tensor:
            if isinstance(whiten, Tensor):
                return operator.adjoint(whiten * operator(d))
            return whiten * operator.normal(d)

        b = spread * (back - information(x))
        d = cg(lambda d: d + spread * information(spread * d), b, None, self.iterations, self.tolerance)
        return x + spread * d


def _of_frames(value: T, chunk: slice) -> T:
    """The frames in `chunk` of a number, or of a tensor that may be constant over time."""
    if isinstance(value, Tensor) and value.ndim == 5 and value.shape[2] > 1:
        return value[:, :, chunk]
    return value


def _noise_by_frame(x: Tensor, y: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Noise like x and like y, frame by frame in turn, so that it is the same however frames are chunked."""
    if x.shape[2] != y.shape[2]:  # an operator that mixes frames, which is never chunked
        return unit_noise(x, generator), unit_noise(y, generator)
    pairs = [
        (unit_noise(a, generator), unit_noise(b, generator)) for a, b in zip(x.unbind(2), y.unbind(2), strict=True)
    ]
    return torch.stack([a for a, _ in pairs], dim=2), torch.stack([b for _, b in pairs], dim=2)
