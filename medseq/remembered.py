"""What a reconstruction of frames as they arrive keeps of the past, in a fixed amount of memory.

A heart does nearly the same in every beat. So the frame that is most like the new one, a beat or two ago, tells what
the new one looks like, and those that followed it tell what comes next, all without an electrocardiogram (self-gating
by the centre of k-space: Larson, Magn. Reson. Med. 2004). Nothing here asks the host for a value: a GPU never waits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medseq.operators import Coils, Fourier

CENTRE = 16  # lines about the centre of k-space by which frames are told apart
TOO_NEAR = 3  # frames before the newest that are no other beat
FADING = 0.9  # of what is known about a line, from one frame to the next
REACH = 2.0  # lines, over which the error of neighbouring lines is alike
FIRST_LEVEL = 0.08  # of the scale: how far a moving heart is from its time average, until its own frames tell
LEAST_LEVEL = 0.004  # below it the prior was hardly trained


class Memory:
    """The last `frames` images (1, 1, N, Y, X), their levels (1, 1, N, 1, 1) and the centres of their k-space.

    At first all of them are `average`, (1, 1, 1, Y, X). What is taken out of it are `ahead` frames that follow a match.
    """

    def __init__(self, average: Tensor, maps: Tensor, frames: int, ahead: int) -> None:
        self._full = Fourier() @ Coils(maps)
        self._ahead = ahead
        middle = average.shape[-2] // 2
        self._centre = slice(max(0, middle - CENTRE // 2), middle + CENTRE // 2)
        self.images = average.repeat(1, 1, frames, 1, 1)
        self.levels = torch.full((1, 1, frames, 1, 1), FIRST_LEVEL, device=average.device)
        self._centres = self._seen(average).repeat(1, 1, frames, 1, 1)

    def match(self, y: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        """The images before, at and after the frame most like a new one (1, 1, 2 + ahead, Y, X), and their levels.

        y: (1, C, 1, Y, X), keep: (1, 1, 1, Y, 1), its lines. Alike are the frames themselves, by the lines that were
        measured, if any, and those before them: contraction and relaxation pass through the same shapes.
        """
        kept = keep[..., self._centre, :]
        now = torch.where(kept, self._centres[:, :, 1:] - y[..., self._centre, :], 0)
        before = self._centres[:, :, :-1] - self._centres[:, :, -1:]
        unlike = _power(now) / kept.sum().clamp(min=1) + _power(before) / before.shape[-2]
        place = unlike[: len(unlike) - self._ahead - TOO_NEAR].argmin()
        index = place + torch.arange(2 + self._ahead, device=y.device)
        return self.images.index_select(2, index), self.levels.index_select(2, index)

    def add(self, images: Tensor, levels: Tensor) -> None:
        """The newest frame, the last of `images`, and those before it anew; the oldest frame is forgotten."""
        kept = slice(1, self.images.shape[2] - images.shape[2] + 1)
        # In place, as a captured graph wants its memory where it was.
        self.images.copy_(torch.cat([self.images[:, :, kept], images], 2))
        self.levels.copy_(torch.cat([self.levels[:, :, kept], levels], 2))
        self._centres.copy_(torch.cat([self._centres[:, :, kept], self._seen(images)], 2))

    def _seen(self, images: Tensor) -> Tensor:
        return self._full(images)[..., self._centre, :]


class LineErrors:
    """How far predictions are off at each line of k-space, learnt from the lines that are measured: the innovations of
    a Kalman filter.

    By Parseval and maps of unit root-sum-of-squares the mean over the lines is the squared error of the image. A line
    seldom measured is taken to be like those beside it. sigma: noise std of the measurement.
    """

    def __init__(self, lines: int, sigma: float, device: torch.device) -> None:
        self._sigma = sigma
        self._power = torch.full((lines,), FIRST_LEVEL**2, device=device)
        self._known = torch.full((lines,), 1e-3, device=device)
        line = torch.arange(lines, device=device)
        self._alike = torch.exp(-(line[:, None] - line).abs() / REACH)

    def missed(self, seen: Tensor, y: Tensor, keep: Tensor) -> Tensor:
        """Squared errors (T, Y) at the lines measured, zero elsewhere. seen: (1, C, T, Y, X), what T predictions make
        of the measurement y (1, C, 1, Y, X); what the noise of y adds is taken away."""
        wrong = torch.view_as_real(torch.where(keep, seen - y, 0)).square().mean((4, 5)).sum((0, 1))
        return (wrong - y.shape[1] * self._sigma**2).clamp(min=0) * keep.flatten()

    def learn(self, missed: Tensor, keep: Tensor) -> None:
        """Take in the squared errors (Y,) of a prediction."""
        measured, faded = keep.flatten().float(), FADING * self._known
        known = faded + measured
        self._power.copy_(torch.where(measured > 0, (faded * self._power + missed) / known, self._power))
        self._known.copy_(known)

    def level(self, keep: Tensor | None = None) -> Tensor:
        """RMSE (1, 1, 1, 1, 1) of a prediction in each real channel; keep: once these lines are known up to noise."""
        power = self._alike @ (self._known * self._power) / (self._alike @ self._known)
        if keep is not None:
            power = torch.where(keep.flatten(), self._sigma**2, power)
        return power.mean().sqrt().clamp(min=LEAST_LEVEL).reshape(1, 1, 1, 1, 1)


def _power(series: Tensor) -> Tensor:
    """Of each frame, (T,)."""
    return torch.view_as_real(series).square().sum((0, 1, 3, 4, 5))
