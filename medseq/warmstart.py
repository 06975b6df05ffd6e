"""A classical reconstruction to start from, and its error, estimated without the truth.

Some measured lines are left out, the reconstruction is made without them, and what it says about them is compared
with what was measured there (cross-validation; Ward, Int. J. Imaging Syst. Technol. 2007, for compressed sensing).
"""

from __future__ import annotations

import torch
from torch import Tensor

from medseq.baselines import low_rank_sparse
from medseq.operators import Coils, Fourier, LinearOp, Mask

# Fewer leave low-rank plus sparse unconverged, which costs the result 0.5 dB; more gain nothing (docs/measurements.md).
ITERATIONS = 50


def sense_operator(keep: Tensor, maps: Tensor) -> LinearOp:
    """A = Mask . Fourier . Coils."""
    return Mask(keep) @ Fourier() @ Coils(maps)


def warm_start(y: Tensor, keep: Tensor, maps: Tensor, sigma: float, seed: int) -> tuple[Tensor, float]:
    """The low-rank plus sparse reconstruction of `y` and its estimated RMSE in each real channel.

    y: (B, C, T, Y, X) k-space; keep: bool, broadcastable; maps: (B, C, 1, Y, X); sigma: noise std of y.
    """
    image = low_rank_sparse(y, sense_operator(keep, maps), iterations=ITERATIONS)
    return image, left_out_error(y, keep, maps, sigma, seed)


def left_out_error(y: Tensor, keep: Tensor, maps: Tensor, sigma: float, seed: int, *, share: float = 0.1) -> float:
    """RMSE (each real channel) of the low-rank plus sparse image, from a share of the measured lines left out.

    Lines that are measured in all frames (the calibration region) stay in. By Parseval and unit root-sum-of-squares
    maps the squared image error is the k-space error summed over the coils, averaged over k-space. Every line
    position counts by the share of frames in which it is missing, and with the noise in the others; one that could not
    be tested counts as the mean.
    With nothing to leave out (fully sampled, or one frame) the error is that of the noise alone.
    """
    measured = keep.any(dim=1, keepdim=True).any(dim=-1, keepdim=True)
    measured = measured.expand(-1, -1, y.shape[2], y.shape[3], -1)
    coverage = measured.float().mean(dim=2, keepdim=True)
    g = torch.Generator().manual_seed(seed)
    chosen = torch.rand(measured.shape, generator=g).to(y.device) < share
    out = measured & chosen & (coverage < 1)
    noise = sigma**2
    if not bool(out.any()):
        return noise**0.5
    image = low_rank_sparse(torch.where(out, 0, y), sense_operator(keep & ~out, maps), iterations=ITERATIONS)
    wrong = torch.where(out & keep, (Fourier() @ Coils(maps))(image) - y, 0)
    squared = torch.view_as_real(wrong).square().mean(-1).sum(dim=(1, 2, 4)).sum(0)  # by line, over all coils
    tested = out.float().sum(dim=(0, 1, 2, 4)) * y.shape[4]
    by_line = (squared / tested.clamp(min=1) - y.shape[1] * noise).clamp(min=0)
    by_line = torch.where(tested > 0, by_line, by_line[tested > 0].mean())
    missing = (1 - coverage).mean(dim=(0, 1, 2, 4))
    return float((missing * by_line + (1 - missing) * noise).mean()) ** 0.5
