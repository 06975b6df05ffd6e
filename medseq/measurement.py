"""What was measured, and how an estimate is made consistent with it.

`Measurement` holds y = A x + sigma n with n of unit std in each real channel. Given the belief that x is
N(clean, spread^2) in each real channel, `solve` is the mean of what the measurement leaves of it and `draw` one
sample of it: perturb both the belief and the data, then solve (Papandreou & Yuille, NIPS 2010: Gaussian sampling by
perturbation). No gradient of the prior is ever taken, and noisy data are never enforced exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import TypeVar

import torch
from torch import Tensor

from medseq.errors import UsageError
from medseq.noise import unit_noise
from medseq.operators import LinearOp
from medseq.solve import cg

Spread = float | Tensor
T = TypeVar("T", float, Tensor, Spread)
CHUNK = 16  # frames worked on at a time, where they are apart
LONG = 96  # frames: what is as large as a longer series, and quickly made anew, is not held


class ByFrames:
    """What was measured, (B, C, T, Y, X), made chunk by chunk of frames whenever it is asked for.

    A scaled or whitened copy of all coils would take as much memory as the input. make: a slice of frames -> those
    frames, on `device`.
    """

    def __init__(self, shape: tuple[int, ...], device: torch.device, make: Callable[[slice], Tensor]) -> None:
        self.shape, self.device, self.frames = tuple(shape), device, make


Measured = Tensor | ByFrames


def chunks(y: Measured) -> list[slice]:
    """Consecutive frames of (B, C, T, Y, X), few at a time."""
    return [slice(first, min(first + CHUNK, y.shape[2])) for first in range(0, y.shape[2], CHUNK)]


def frames_of(y: Measured, chunk: slice) -> Tensor:
    """The frames in `chunk` of what was measured."""
    return y.frames(chunk) if isinstance(y, ByFrames) else y[:, :, chunk]


def held(y: Measured) -> Measured:
    """What was measured as one tensor, so that it is made but once; not of a long series."""
    return y.frames(slice(0, y.shape[2])) if isinstance(y, ByFrames) and y.shape[2] <= LONG else y


def back_projection(y: Measured, A: LinearOp, sigma: float | Tensor = 1.0) -> Tensor:
    """A^H sigma^-2 y, (B, 1, T, Y, X), without more than a chunk of frames of all coils at a time."""
    if not A.separable:
        assert isinstance(y, Tensor)
        return A.adjoint(_over_power(y, sigma))
    found = None
    for chunk in chunks(y):
        part = A.frames(chunk).adjoint(_over_power(frames_of(y, chunk), _of_frames(sigma, chunk)))
        if found is None:
            found = part.new_empty(*part.shape[:2], y.shape[2], *part.shape[3:])
        found[:, :, chunk] = part
    assert found is not None
    return found


def projection(y: Measured, A: LinearOp, sigma: float | Tensor = 1.0) -> Callable[[], Tensor]:
    """What gives the `back_projection`: the same one every time, unless the series is long."""
    return made_once(partial(back_projection, y, A, sigma), y.shape[2])


def made_once(make: Callable[[], Tensor], frames: int) -> Callable[[], Tensor]:
    """What gives a series of so many frames: made anew every time if that is long."""
    return make if frames > LONG else cache(make)


class Measurement:
    """y = A x + sigma * noise.

    y: what was measured, in the shape A gives. A: a LinearOp on (B, 1, T, Y, X). sigma: std of each real channel of
    y, a positive number or a tensor that broadcasts to y. iterations, tolerance: of the conjugate gradients, for which
    every frame is a system of its own where A treats frames apart. chunk: how many of those are solved at a time; the
    result does not depend on it.

    Raises UsageError when sigma is not positive: hard consistency with noisy data is never right.
    """

    def __init__(
        self,
        y: Measured,
        A: LinearOp,
        sigma: float | Tensor,
        *,
        iterations: int = 12,
        tolerance: float = 1e-3,
        chunk: int = CHUNK,
    ) -> None:
        if not (bool((sigma > 0).all()) if isinstance(sigma, Tensor) else sigma > 0):
            raise UsageError("the noise level of a measurement must be positive")
        self.y, self.A, self.sigma = y, A, sigma
        self.iterations, self.tolerance = iterations, tolerance
        self.chunk = chunk if A.separable else 0
        self._projection = projection(y, A, sigma)

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
        solved = torch.empty_like(clean)
        for first in range(0, frames, step):
            chunk = slice(first, first + step) if self.chunk else slice(None)
            operator = self.A.frames(chunk) if self.chunk else self.A
            sigma, width = _of_frames(self.sigma, chunk), _of_frames(spread, chunk)
            x, back = clean[:, :, chunk], self._back_projection(chunk, operator)
            if perturbed:
                y = frames_of(self.y, chunk)
                of_x, of_y = _noise_by_frame(x, y, generator)
                x, back = x + width * of_x, back + operator.adjoint(of_y / sigma)
            solved[:, :, chunk] = self._correct(x, back, operator, sigma, width)
        return solved

    def _back_projection(self, chunk: slice, operator: LinearOp) -> Tensor:
        """The frames in `chunk` of A^H sigma^-2 y, which no belief changes."""
        if self.chunk and self.y.shape[2] > LONG:
            return operator.adjoint(_over_power(frames_of(self.y, chunk), _of_frames(self.sigma, chunk)))
        return self._projection()[:, :, chunk]

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
        apart = (0, 2) if self.chunk else (0,)
        d = cg(lambda d: d + spread * information(spread * d), b, None, self.iterations, self.tolerance, apart)
        return x + spread * d


def _over_power(y: Tensor, sigma: Spread) -> Tensor:
    """sigma^-2 y, without a copy where that is y."""
    return y if isinstance(sigma, float) and sigma == 1 else y / sigma**2


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
