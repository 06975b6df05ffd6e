"""The learned prior: EDM preconditioning around a network that knows nothing of physics.

`prior(x, sigma)` is E[x0 | x] for x = x0 + sigma * unit noise, sigma the std of each real channel
(Karras et al., "Elucidating the design space of diffusion-based generative models", arXiv 2206.00364).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from medseq.calibration import Calibration
from medseq.guides import guides, quick_guides
from medseq.mismatch import Expectation

_FAR = 3.0  # times the noise: the bound of what a guide may say; part of what the weights were trained with


class SpreadTable:
    """The prior's measured RMSE (each real channel) against the noise level, interpolated in log-log.

    sigma, rmse: equally long, positive, sigma increasing. Outside the table the nearest slope-one line is used,
    below it (a denoiser errs in proportion to little noise), and the last value above it.
    """

    def __init__(self, sigma: list[float], rmse: list[float]) -> None:
        self.sigma, self.rmse = list(map(float, sigma)), list(map(float, rmse))
        if len(self.sigma) != len(self.rmse) or min(self.sigma + self.rmse) <= 0 or np.diff(self.sigma).min() <= 0:
            raise ValueError("a spread table needs as many positive errors as increasing noise levels")

    def __call__(self, sigma: float) -> float:
        if sigma <= 0:
            return 0.0
        if sigma < self.sigma[0]:
            return self.rmse[0] * sigma / self.sigma[0]
        return float(np.exp(np.interp(np.log(sigma), np.log(self.sigma), np.log(self.rmse))))

    def of_levels(self, sigma: Tensor) -> Tensor:
        """The same for positive levels on any device, without asking it for their values."""
        at, told = (torch.tensor(values, device=sigma.device).log() for values in (self.sigma, self.rmse))
        wanted = sigma.clamp(min=torch.finfo(sigma.dtype).tiny).log()
        after = torch.bucketize(wanted, at).clamp(1, len(self.sigma) - 1)
        share = ((wanted - at[after - 1]) / (at[after] - at[after - 1])).clamp(0, 1)
        inside = told[after - 1] + share * (told[after] - told[after - 1])
        return torch.where(wanted < at[0], told[0] + wanted - at[0], inside).exp()


@dataclass(frozen=True)
class Trust:
    """What simulated series taught about results of this prior. std: by task and kind of result, as "reconstruct image"
    or "denoise draws". expected: by measure of mismatch (`medseq.mismatch`); empty, or every one of them. sha256: of
    the file they come from."""

    std: Mapping[str, Calibration] = field(default_factory=dict)
    expected: Mapping[str, Expectation] = field(default_factory=dict)
    sha256: str = ""


class Prior(nn.Module):
    """A network with EDM preconditioning.

    net: callable (real x (B, 2, T, Y, X), noise (B, T), periodic) -> (B, 2, T, Y, X); one with `guides` is shown
    those as well, and answers with gates (see `VideoUNet`).
    sigma_data: std of each real channel of the training clips (scaled by `series_scale`).
    spread: measured RMSE at each noise level, or None for an untrained prior.
    periodic: whether the last frame is followed by the first; set it for the series at hand.
    autocast: dtype the network computes in (torch.bfloat16), or None for float32. Everything else is float32.
    trust: what is known of the errors of its results; empty when nothing was fitted.
    few: it was trained for the few evaluations of `medseq.few_steps`, and sees the `quick_guides`.
    """

    def __init__(
        self,
        net: nn.Module,
        sigma_data: float,
        spread: SpreadTable | None = None,
        periodic: bool = False,
        autocast: torch.dtype | None = None,
        trust: Trust = Trust(),  # noqa: B008 (frozen)
        few: bool = False,
    ) -> None:
        super().__init__()
        self.few = few
        self.trust = trust
        self.net, self.sigma_data, self.spread = net, float(sigma_data), spread
        self.periodic, self.autocast = periodic, autocast
        self.guided = bool(getattr(net, "guides", 0))

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """E[x0 | x]. x: (B, 1, T, Y, X) complex64. sigma: a number, or a tensor that broadcasts to (B, 1, T, 1, 1):
        a level for each slice or frame. Returns the shape and dtype of x."""
        level = torch.as_tensor(sigma, dtype=torch.float32, device=x.device)
        level = level.reshape((1,) * (5 - level.ndim) + tuple(level.shape)).expand(x.shape[0], 1, x.shape[2], 1, 1)
        total = (level.square() + self.sigma_data**2).sqrt()
        real = _channels(x)
        shown = real / total
        away = self._away(x, level) if self.guided else None
        if away is not None:
            shown = torch.cat([shown, away.flatten(1, 2)], dim=1)
        noise = level[:, 0, :, 0, 0].log() / 4
        if self.autocast is not None:
            shown = shown.to(self.autocast)  # as its first layer would do, after more has been copied
        with nullcontext() if self.autocast is None else torch.autocast(x.device.type, dtype=self.autocast):
            out = self.net(shown, noise, self.periodic).float()
        step = out[:, :2]
        for gate, guide in zip(out[:, 2:, None].unbind(1), () if away is None else away.unbind(1), strict=True):
            step = torch.addcmul(step, gate, guide)
        clean = torch.addcmul(real * (self.sigma_data / total) ** 2, step, level * self.sigma_data / total)
        return torch.view_as_complex(clean.movedim(1, -1).contiguous())[:, None]

    def _away(self, x: Tensor, level: Tensor) -> Tensor:
        """From x to each of its guides, in units of the noise: real (B, guides, 2, T, Y, X).

        Bounded, as what differs by many times the noise has moved, and every error of a gate would cost as much there.
        """
        guesses = quick_guides if self.few else guides
        away = _channels(guesses(x, level, self.periodic) - x).unflatten(1, (-1, 2))
        # On a CPU by frames, which fit into its cache; products rather than powers.
        at_once = 1 if x.device.type == "cpu" else x.shape[2]
        for part, unit in zip(away.split(at_once, dim=3), level[:, :, None].split(at_once, dim=3), strict=True):
            part.div_(unit)
            first, second = part[:, :, :1], part[:, :, 1:]
            power = torch.addcmul(first * first, second, second)
            part.mul_(power.div_(_FAR**2).add_(1).rsqrt_())
        return away

    def weight(self, sigma: Tensor) -> Tensor:
        """The loss weight that makes every noise level count alike (EDM, table 1): 1 / c_out^2."""
        return (sigma.square() + self.sigma_data**2) / (sigma * self.sigma_data).square()


def _channels(x: Tensor) -> Tensor:
    """(B, N, T, Y, X) complex -> (B, 2 N, T, Y, X) real."""
    return torch.view_as_real(x).movedim(-1, 2).flatten(1, 2)


class Windowed:
    """A prior that sees a long series in overlapping windows of `frames` frames, blended with triangular weights.

    The windows see the same noisy x, so the noise of a frame does not depend on them; they are blended before
    data consistency. Between them one pass has no seam: weights fall to almost nothing at a window's ends. A series of
    up to `whole` frames is seen at once (None: of up to `frames`).
    """

    def __init__(
        self,
        prior: Callable[[Tensor, float | Tensor], Tensor],
        frames: int,
        overlap: int,
        whole: int | None = None,
    ) -> None:
        if not 0 <= overlap < frames or (whole is not None and whole < frames):
            raise ValueError(f"windows of {frames} frames cannot overlap by {overlap}, or be whole at {whole}")
        self.prior, self.frames, self.overlap = prior, frames, overlap
        self.whole = frames if whole is None else whole

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """As `Prior.forward`."""
        total = x.shape[2]
        if total <= self.whole:
            return self.prior(x, sigma)
        ramp = torch.arange(1, self.frames + 1, device=x.device, dtype=torch.float32)
        weight = torch.minimum(ramp, ramp.flip(0)).clamp(max=self.overlap + 1)[:, None, None]
        out, mass = torch.zeros_like(x), torch.zeros(total, 1, 1, device=x.device)
        for start in self._starts(total):
            window = slice(start, start + self.frames)
            level = (
                sigma[:, :, window] if isinstance(sigma, Tensor) and sigma.ndim == 5 and sigma.shape[2] > 1 else sigma
            )
            out[:, :, window] += weight * self.prior(x[:, :, window], level)
            mass[window] += weight
        return out.div_(mass)

    def _starts(self, total: int) -> list[int]:
        """Evenly spread starts, so that the last window ends on the last frame and none overlaps less than asked."""
        step = self.frames - self.overlap
        count = -(-(total - self.frames) // step) + 1
        return [round(i * (total - self.frames) / (count - 1)) for i in range(count)]
