"""Frames between frames without any training: splines, Fourier series and optical flow, each as `linear_interpolation`.

All take known frames (B, 1, T, Y, X), real or complex, at `times` (T,) seconds, increasing, and give those at `wanted`
(W,) seconds, (B, 1, W, Y, X). With `period`, the seconds of a cycle, the last frame goes over into the first; without,
wanted times beyond the known ones raise UsageError, as times that do not increase do. Known times give known frames.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from medseq.errors import UsageError
from medseq.operators import Resample, interpolation_matrix

_SHARE = 1e-6  # smaller ones are rounding errors of times
_TOLERANCE = 0.01  # of a frame interval: times closer than this to a uniform grid are on it


def cubic_interpolation(known: Tensor, times: Tensor, wanted: Tensor, period: float | None = None) -> Tensor:
    """The cubic spline through every voxel's values: periodic with a period, else not-a-knot (de Boor 1978, ch. 4).

    Arguments, result and errors: as at the top of this module.
    """
    from scipy.interpolate import CubicSpline

    interpolation_matrix(times, wanted, period)  # refuses what linear interpolation refuses
    knots, values, places = (t.detach().cpu().double().numpy() for t in (times, torch.eye(len(times)), wanted))
    if len(knots) == 1:
        return known.expand(-1, -1, len(places), -1, -1).clone()
    if period is not None:
        knots, values = np.append(knots, knots[0] + period), np.concatenate([values, values[:1]])
        places = knots[0] + (places - knots[0]) % period
    weights = CubicSpline(knots, values, bc_type="not-a-knot" if period is None else "periodic")(places)
    return Resample(torch.from_numpy(weights).to(known.device))(known)


def fourier_interpolation(known: Tensor, times: Tensor, wanted: Tensor, period: float | None = None) -> Tensor:
    """The Fourier series of one cycle: zero-filling along temporal frequency, at free times.

    Exact for motion of fewer than T / 2 harmonics. For even T the highest frequency counts half as often on either
    side, so that real frames stay real. Arguments and result: as at the top of this module. Raises UsageError without
    a period and for frames that are not T equal parts of it.
    """
    if period is None:
        raise UsageError("Fourier interpolation needs a period; the series has none")
    interpolation_matrix(times, wanted, period)
    times, wanted = times.double(), wanted.double()
    frames = len(times)
    even = times[0] + period / frames * torch.arange(frames, dtype=times.dtype, device=times.device)
    if bool(((times - even).abs() > _TOLERANCE * period / frames).any()):
        raise UsageError("Fourier interpolation needs frames at equal intervals over the whole period")
    grid, places = ((t - times[0]) / period for t in (even, wanted))
    weights = _harmonics(places, frames) @ _harmonics(grid, frames).T
    return Resample((weights / frames).to(known.device))(known)


def _harmonics(turns: Tensor, count: int) -> Tensor:
    """`count` real harmonics of unit mean square at times in cycles (N,): (N, count)."""
    angle = 2 * math.pi * turns[:, None] * torch.arange(1, count // 2 + 1, device=turns.device)
    below = (count - 1) // 2  # all but the highest of an even count, of which only the cosine is seen
    cosine, sine = math.sqrt(2) * angle[:, :below].cos(), math.sqrt(2) * angle[:, :below].sin()
    return torch.cat([torch.ones_like(turns)[:, None], cosine, sine, angle[:, below:].cos()], 1)


def optical_flow_interpolation(known: Tensor, times: Tensor, wanted: Tensor, period: float | None = None) -> Tensor:
    """Both neighbouring frames warped along the motion between them, and blended by time.

    The motion is the TV-L1 optical flow of the magnitudes both ways (Zach 2007, of scikit-image), carried to the time
    between by the linear model of Jiang 2018 (Super SloMo, eq. 4); complex frames move as they are, and their blend is
    that of complex values. Arguments, result and errors: as at the top of this module. Runs on the CPU, about a second
    for each interval and 128 x 128 voxels.
    """
    weights = interpolation_matrix(times, wanted, period)
    frames = known.detach().cpu()
    series = [_flowing(item[0], weights.cpu(), _brightness(item)) for item in frames]
    return torch.stack(series)[:, None].to(known.device)


def _flowing(frames: Tensor, weights: Tensor, brightness: float) -> Tensor:
    """(T, Y, X) -> (W, Y, X): each row of the linear weights (W, T) names two neighbours and the time between them."""
    flows: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
    images = []
    for row in weights:
        before, after, share = _neighbours(row)
        if share == 0:
            images.append(frames[before])
            continue
        if (before, after) not in flows:
            pair = (frames[before].abs() / brightness, frames[after].abs() / brightness)
            flows[before, after] = _flow(*pair), _flow(*pair[::-1])
        forth, back = flows[before, after]
        to_before = -share * (1 - share) * forth + share**2 * back
        to_after = (1 - share) ** 2 * forth - share * (1 - share) * back
        images.append((1 - share) * _moved(frames[before], to_before) + share * _moved(frames[after], to_after))
    return torch.stack(images)


def _brightness(item: Tensor) -> float:
    """The 99th percentile of the magnitudes, by which the flow's weights are those of images from 0 to 1."""
    magnitudes = item.abs().flatten()  # kthvalue, as quantile refuses more than 2^24 elements
    top = float(magnitudes.kthvalue(max(1, int(0.99 * magnitudes.numel()))).values)
    return top if top > 0 else 1.0


def _neighbours(row: Tensor) -> tuple[int, int, float]:
    """Frame before, frame after, and the share of the way to the latter, from one row of linear weights."""
    chosen = (row > _SHARE).nonzero().flatten().tolist()
    if len(chosen) == 1:
        return chosen[0], chosen[0], 0.0
    first, second = chosen
    if second - first > 1:  # from the last frame to the first
        first, second = second, first
    return first, second, float(row[second])


def _flow(fixed: Tensor, moving: Tensor) -> Tensor:
    """Displacement (2, Y, X) in voxels with moving(r + displacement) = fixed(r)."""
    from skimage.registration import optical_flow_tvl1

    return torch.from_numpy(optical_flow_tvl1(fixed.numpy(), moving.numpy()))


def _moved(image: Tensor, displacement: Tensor) -> Tensor:
    """image (Y, X) at r + displacement, cubic splines, repeated beyond the edge."""
    from skimage.transform import warp

    place = np.indices(image.shape) + displacement.numpy()
    parts = torch.view_as_real(image).movedim(-1, 0) if image.is_complex() else image[None]
    moved = [warp(part.numpy(), place, order=3, mode="edge", preserve_range=True, clip=False) for part in parts]
    result = torch.from_numpy(np.stack(moved)).to(parts.dtype)
    return torch.complex(result[0], result[1]) if image.is_complex() else result[0]
