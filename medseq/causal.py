"""Frames as they arrive: each is reconstructed from itself and its past, with bounded memory and bounded work.

A new frame is first predicted: from the last one, from the frame most like it a heartbeat ago, and from the last one
moved on as that one did. Each prediction counts by how well it tells the lines that were measured, which also says how
far off it is. Then the new frame stands in a window between those before it and those that followed a heartbeat ago,
which the classical iterations and the network see as a series like any other, each frame at a noise level of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from medseq.acquisition import average_image, prepared
from medseq.baselines import cyclic_descent
from medseq.clip import KSpace
from medseq.coils import mixed_coils
from medseq.errors import UsageError
from medseq.few_steps import FEWEST_FRAMES, few_step_image
from medseq.gathering import SPREAD_FACTOR, checked_scale
from medseq.measurement import Measurement, projection
from medseq.operators import Coils, Fourier
from medseq.prior import Prior
from medseq.remembered import LEAST_LEVEL, LineErrors, Memory
from medseq.runtime import Engine
from medseq.warmstart import sense_operator, warm_start

# Chosen on animated stills and phantoms (docs/measurements.md), then fixed.
WINDOW = 8  # frames that the network sees at once: half of them past, the new one, and what followed a beat ago
REMEMBERED = 64  # frames: two beats of a resting heart at 30 frames a beat
ROUNDS = 1  # of three iterations of the classical method, for every frame
ITERATIONS = 6  # of conjugate gradients
PREFERENCE = 1.5  # power of a prediction's squared error by which it counts less
LEARNT = 0.5  # share of the network in what is remembered: of its own results it would make ever sharper ones


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
    """Reconstructs one frame after the other. A result depends on the frames so far, never on later ones, but for those
    that were held back (`first`).

    prior: a Prior, a name or path, or None for the shipped one. frames: how many the network sees at once. device,
    precision: as of `reconstruct`. From the first frame on all work is of the same shapes, and no value is asked of the
    device by what stands here. Raises UsageError for impossible options, ResourceError when the device is not there.
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
        if not 2 <= frames <= REMEMBERED // 2:
            raise UsageError(f"the network sees 2 to {REMEMBERED // 2} frames of a stream at once, not {frames}")
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
        self._past = frames // 2
        self._ahead = frames - self._past - 1
        self._calibrated = calibrated
        self._maps = calibrated.maps.to(engine.device)
        self._mixing = None if calibrated.mixing is None else calibrated.mixing.to(engine.device)
        self._sigma = calibrated.sigma / calibrated.scale
        self._full = Fourier() @ Coils(self._maps)
        average = (calibrated.average / calibrated.scale).to(engine.device)
        self._memory = Memory(average, self._maps, REMEMBERED, self._ahead)
        self._errors = LineErrors(average.shape[-2], self._sigma, engine.device)
        # What was measured in the frames of the past that the window holds; of those that follow nothing is known.
        shape = (1, self._maps.shape[1], frames, *average.shape[-2:])
        self._y = torch.zeros(shape, dtype=average.dtype, device=engine.device)
        self._keep = torch.zeros(1, 1, frames, average.shape[-2], 1, dtype=torch.bool, device=engine.device)
        self._shares = torch.full((3,), 1 / 3, device=engine.device)

    def frame(self, y: Tensor, keep: Tensor) -> Tensor:
        """The image (1, 1, 1, Y, X) of a new frame, complex, on the CPU, in the units of the k-space.

        y: (1, C, 1, Y, X) k-space, keep: bool (1, 1, 1, Y, 1), which of its lines are measured. Raises UsageError for
        other shapes.
        """
        self._check(y, keep, 1)
        device = self._engine.device
        with torch.no_grad():
            image = self._step(y.to(device), keep.to(device))
        return image.cpu() * self._calibrated.scale / self._calibrated.gain

    def first(self, y: Tensor, keep: Tensor) -> Tensor:
        """The images (1, 1, T, Y, X) of frames that were held back, all at once: what comes later has them as its past.

        y: (1, C, T, Y, X) k-space, keep: bool (1, 1, T, Y, 1). They begin with the quick start of whole series and one
        evaluation of the prior; too few for that are taken one after the other. Raises UsageError for other shapes.
        """
        frames = y.shape[2]
        if frames < FEWEST_FRAMES:
            return torch.cat([self.frame(y[:, :, t : t + 1], keep[:, :, t : t + 1]) for t in range(frames)], 2)
        self._check(y, keep, frames)
        device = self._engine.device
        with torch.no_grad():
            images = self._together(self._scaled(y.to(device), keep.to(device)), keep.to(device))
        return images.cpu() * self._calibrated.scale / self._calibrated.gain

    def missed(self, count: int = 1) -> None:
        """`count` frames never came: what the last beat predicts stands in for them, and time goes on."""
        with torch.no_grad():
            for _ in range(min(count, REMEMBERED)):
                self._stand_in()

    def _check(self, y: Tensor, keep: Tensor, frames: int) -> None:
        coils = self._maps.shape[1] if self._mixing is None else self._mixing.shape[1]
        height, width = self._maps.shape[-2:]
        if (
            y.shape != (1, coils, frames, height, width)
            or keep.shape != (1, 1, frames, height, 1)
            or keep.dtype != torch.bool
        ):
            raise UsageError(
                f"frames of k-space have the shape {(1, coils, frames, height, width)} and a bool mask of its "
                f"{height} lines, got {tuple(y.shape)} and {tuple(keep.shape)}"
            )

    def _scaled(self, y: Tensor, keep: Tensor) -> Tensor:
        mixed = y if self._mixing is None else mixed_coils(self._mixing, y)
        return torch.where(keep, mixed, 0) / self._calibrated.scale

    def _together(self, y: Tensor, keep: Tensor) -> Tensor:
        """As one series, which then is remembered as if its frames had come one by one."""
        start = warm_start(y, keep, self._maps, self._sigma, 0, quick=True)
        images = self._engine.last(few_step_image(self._engine.denoiser, start))
        spread = SPREAD_FACTOR * self._engine.spread(start.error)
        level = torch.full((1, 1, 1, 1, 1), max(spread, LEAST_LEVEL), device=images.device)
        before = None
        for image, measured, lines in zip(*(part.split(1, dim=2) for part in (images, y, keep)), strict=True):
            if before is not None:  # as good a prediction as any
                self._errors.learn(self._errors.missed(self._full(before), measured, lines)[0], lines)
            self._measured(measured, lines)
            self._memory.add(image, level)
            before = image
        return images

    def _step(self, y: Tensor, keep: Tensor) -> Tensor:
        y = self._scaled(y, keep)
        found, found_levels = self._memory.match(y, keep)
        predictions = self._predictions(found)
        missed = self._errors.missed(self._full(predictions), y, keep)
        self._shares.copy_(_shares(missed.sum(1) / keep.sum().clamp(min=1)))
        predicted = _mixed(self._shares, predictions)
        wrong = self._errors.missed(self._full(predicted), y, keep)
        self._errors.learn(wrong[0], keep)
        self._measured(y, keep)
        # Of what followed a beat ago nobody knows more than how far the frame most like this one is from it.
        unlike = self._errors.level().square() * missed[1].sum() / wrong.sum().clamp(min=torch.finfo(wrong.dtype).tiny)
        levels = torch.cat(
            [
                self._memory.levels[:, :, -self._past :],
                self._errors.level(keep),
                (found_levels[:, :, 2:].square() + unlike).sqrt(),
            ],
            2,
        )
        start = self._solved(slice(self._past, self._past + 1), predicted, self._errors.level())
        window = torch.cat([self._memory.images[:, :, -self._past :], start, found[:, :, 2:]], 2)
        return self._restored(window, levels)

    def _predictions(self, found: Tensor) -> Tensor:
        """As the last frame, as a beat ago, and as the last frame moved on: (1, 1, 3, Y, X)."""
        last, before, then = self._memory.images[:, :, -1:], found[:, :, :1], found[:, :, 1:2]
        return torch.cat([last, then, last + then - before], 2)

    def _restored(self, window: Tensor, levels: Tensor) -> Tensor:
        """The newest frame of a window (1, 1, W, Y, X), which with those before it goes into the memory."""
        known = slice(0, self._past + 1)
        A = sense_operator(self._keep, self._maps)
        project = projection(self._y, A)
        window = cyclic_descent(project())(project, A, window, ROUNDS)
        clean = self._engine.prior(window, levels)
        spread = SPREAD_FACTOR * self._engine.spread.of_levels(levels)
        solved = self._solved(known, clean[:, :, known], spread[:, :, known])
        kept = LEARNT * solved + (1 - LEARNT) * window[:, :, known]
        self._memory.add(kept, spread[:, :, known].clamp(min=LEAST_LEVEL))
        return solved[:, :, -1:]

    def _solved(self, frames: slice, clean: Tensor, spread: Tensor) -> Tensor:
        A = sense_operator(self._keep[:, :, frames], self._maps)
        return Measurement(self._y[:, :, frames], A, self._sigma, iterations=ITERATIONS).solve(clean, spread)

    def _measured(self, y: Tensor, keep: Tensor) -> None:
        """Move the measurements of the window on by one frame."""
        kept, beyond = slice(1, self._past + 1), slice(self._past + 1, None)
        self._y.copy_(torch.cat([self._y[:, :, kept], y, self._y[:, :, beyond]], 2))
        self._keep.copy_(torch.cat([self._keep[:, :, kept], keep, self._keep[:, :, beyond]], 2))

    def _stand_in(self) -> None:
        y, keep = torch.zeros_like(self._y[:, :, :1]), torch.zeros_like(self._keep[:, :, :1])
        found, _ = self._memory.match(y, keep)
        self._measured(y, keep)
        self._memory.add(_mixed(self._shares, self._predictions(found)), self._errors.level())


def _shares(power: Tensor) -> Tensor:
    """How much predictions count, by their squared errors (N,)."""
    weight = (power + LEAST_LEVEL**2).pow(-PREFERENCE)
    return weight / weight.sum()


def _mixed(shares: Tensor, images: Tensor) -> Tensor:
    """(N,) times the frames of (1, 1, N, Y, X): (1, 1, 1, Y, X)."""
    return (shares[:, None, None] * images).sum(2, keepdim=True)
