"""Frames as they arrive: each is reconstructed from itself and its past, with bounded memory and bounded work."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from medseq.acquisition import average_image, prepared
from medseq.clip import KSpace
from medseq.coils import mixed_coils
from medseq.errors import UsageError
from medseq.gathering import SMALLEST_SIGMA, SPREAD_FACTOR, checked_scale
from medseq.measurement import Measurement
from medseq.operators import Coils, Fourier
from medseq.prior import Prior
from medseq.runtime import Engine
from medseq.warmstart import sense_operator

WINDOW = 8  # frames that the network sees at once
ITERATIONS = 6  # of conjugate gradients for each frame
REMEMBERED = 0.9  # of what is known of the prediction's error at each line, from one frame to the next


@dataclass(frozen=True)
class Calibrated:
    """What is known before the first frame is reconstructed.

    maps: (1, C, 1, Y, X) of unit root-sum-of-squares. sigma: noise std of each real channel, and scale: of the series,
    both in units of the k-space. average: the time-averaged image (1, 1, 1, Y, X) in the same units. mixing: measured
    coils to the C of the maps (C, measured), or None where they stay. gain: (1, 1, 1, Y, X) or all ones, to be divided
    out of every image.
    """

    maps: Tensor
    sigma: float
    scale: float
    average: Tensor
    mixing: Tensor | None
    gain: Tensor


def calibrated(kspace: KSpace) -> Calibrated:
    """From the first frames of one slice, which together hold the centre of k-space, or their calibration scan.

    Raises InputError when noise, maps or scale can't be found in them, UsageError for several slices or a trajectory.
    """
    if kspace.data.shape[0] != 1 or kspace.trajectory is not None:
        raise UsageError("frames are reconstructed as they arrive one slice at a time, on a Cartesian grid")
    ready = prepared(kspace)
    average = average_image(ready.average)
    assert ready.average.maps is not None
    return Calibrated(ready.average.maps, ready.level, checked_scale(average), average, ready.mixing, ready.gain)


class CausalReconstruction:
    """Reconstructs one frame after the other. The result for a frame depends on it and on those before, never on later
    ones.

    prior: a Prior, a name or path, or None for the shipped one. frames: how many the network sees at once, the newest
    among them. device, precision: as of `reconstruct`. Raises UsageError for impossible options.
    """

    def __init__(
        self,
        prior: Prior | str | Path | None,
        calibrated: Calibrated,
        *,
        frames: int = WINDOW,
        device: str = "auto",
        precision: str = "auto",
    ) -> None:
        if frames < 2:
            raise UsageError(f"a frame and its past are at least 2 frames, got {frames}")
        self._engine = engine = Engine(
            prior,
            frames=frames,
            periodic=False,
            device=device,
            precision=precision,
            seed=0,
            samples=1,
            steps=1,
            progress=None,
        )
        self.calibrated, scale = calibrated, calibrated.scale
        self.maps = calibrated.maps.to(engine.device)
        self._mixing = None if calibrated.mixing is None else calibrated.mixing.to(engine.device)
        self.sigma = max(calibrated.sigma / scale, 1e-6)
        self._full = Fourier() @ Coils(self.maps)
        average = (calibrated.average / scale).to(engine.device)
        self._images = average.repeat(1, 1, frames, 1, 1)
        self._levels = torch.full((1, 1, frames, 1, 1), 0.1, device=engine.device)
        # Power of the prediction's error at each line, and how much of it was measured rather than guessed.
        lines = average.shape[-2]
        self._power = torch.full((lines,), 0.01, device=engine.device)
        self._known = torch.full((lines,), 1e-3, device=engine.device)

    def frame(self, y: Tensor, keep: Tensor) -> Tensor:
        """The image (1, 1, 1, Y, X) of a new frame, complex, on the CPU, in the units of the k-space.

        y: (1, C, 1, Y, X) k-space, keep: bool (1, 1, 1, Y, 1), which of its lines are measured.
        """
        with torch.no_grad():
            image = self._step(*self._taken(y, keep))
        return image.cpu() * self.calibrated.scale / self.calibrated.gain

    def missed(self, count: int = 1) -> None:
        """`count` frames never came: what was known is less sure now."""
        self._levels[:, :, -1:] *= (1 + count) ** 0.5

    def _taken(self, y: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        y, keep = y.to(self._engine.device), keep.to(self._engine.device)
        if self._mixing is not None:
            y = mixed_coils(self._mixing, y)
        return torch.where(keep, y, 0) / self.calibrated.scale, keep

    def _step(self, y: Tensor, keep: Tensor) -> Tensor:
        predicted = self._images[:, :, -1:]
        level = self._innovation(predicted, y, keep)
        measurement = Measurement(y, sense_operator(keep, self.maps), self.sigma, iterations=ITERATIONS)
        first = measurement.solve(predicted, level)
        left = self._left(keep)
        images = torch.cat([self._images[:, :, 1:], first], 2)
        levels = torch.cat([self._levels[:, :, 1:], left], 2)
        clean = self._engine.prior(images, levels)[:, :, -1:]
        solved = measurement.solve(clean, SPREAD_FACTOR * self._spread(left))
        # What the network made of a frame is no start for the next: it would be sharpened again and again.
        self._images, self._levels = images, levels
        return solved

    def _innovation(self, predicted: Tensor, y: Tensor, keep: Tensor) -> Tensor:
        """The RMSE of the prediction (1, 1, 1, 1, 1), from what it gets wrong of the lines that were measured."""
        miss = torch.where(keep, self._full(predicted) - y, 0)
        power = torch.view_as_real(miss).square().mean((2, 4, 5)).sum((0, 1)) - y.shape[1] * self.sigma**2
        keep = keep.flatten()
        fresh = REMEMBERED * self._known
        total = fresh + keep
        self._power = torch.where(keep, (fresh * self._power + power.clamp(min=0)) / total, self._power)
        self._known = total
        return self._power.mean().sqrt().clamp(min=SMALLEST_SIGMA).reshape(1, 1, 1, 1, 1)

    def _left(self, keep: Tensor) -> Tensor:
        """The RMSE once the measured lines have come in."""
        power = torch.where(keep.flatten(), self.sigma**2, self._power)
        return power.mean().sqrt().clamp(min=SMALLEST_SIGMA).reshape(1, 1, 1, 1, 1)

    def _spread(self, level: Tensor) -> Tensor:
        table = self._engine.spread
        values = [table(s) for s in level.flatten().tolist()]
        return torch.tensor(values, device=level.device).reshape(level.shape)
