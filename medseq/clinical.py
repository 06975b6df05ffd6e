"""Numbers that clinicians read from a series: cavity areas and volumes, ejection fraction, perfusion up-slope.

Series are (B, 1, T, Y, X), magnitudes (of complex ones the magnitude is taken); regions and masks are bool and
broadcastable to them. B slices are taken as parallel and adjacent, as in `Clip`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from medseq.errors import UsageError
from medseq.metrics import fitted


def region_curve(series: Tensor, region: Tensor) -> Tensor:
    """Mean magnitude in a region over time: (T,) float64. The region may move from frame to frame.

    Raises UsageError for a region that does not fit, or is empty in some frame.
    """
    inside = fitted(region, series)
    count = inside.sum((0, 1, 3, 4))
    if not bool((count > 0).all()):
        raise UsageError("the region is empty")
    return torch.where(inside, series.abs().double(), 0).sum((0, 1, 3, 4)) / count


def blood_threshold(series: Tensor, region: Tensor) -> float:
    """What is brighter is blood: Otsu's threshold of the magnitudes in the region, over all frames and slices at once.

    One number a series, as a threshold of each frame would follow its noise. Raises UsageError for a region that does
    not fit, is empty, or holds one value alone.
    """
    from skimage.filters import threshold_otsu

    values = series.abs()[fitted(region, series)].double()
    if not values.numel() or bool(values.min() == values.max()):
        raise UsageError("no blood can be told from its wall: the region is empty or holds one value alone")
    return float(threshold_otsu(values.cpu().numpy()))


def cavity(series: Tensor, region: Tensor, threshold: float) -> Tensor:
    """The ventricle's blood in each frame and slice: bool (B, 1, T, Y, X).

    The rule: (1) voxels of the region above `threshold` (`blood_threshold`); (2) of their 4-connected pieces the
    largest, which leaves noise and other vessels out; (3) its holes filled, so that papillary muscles inside count as
    blood, as the consensus on volumes allows (Schulz-Menger 2020); muscles that touch the wall do not. The region has
    to hold the ventricle in all frames, and no larger pool of blood.
    """
    bright = ((series.abs() > threshold) & fitted(region, series)).cpu().numpy()
    found = np.zeros_like(bright)
    for place in np.ndindex(bright.shape[:3]):
        found[place] = _largest_filled(bright[place])
    return torch.from_numpy(found).to(series.device)


def area_curve(mask: Tensor, affine: np.ndarray) -> Tensor:
    """Area of a mask (B, 1, T, Y, X) in mm^2, by slice and frame: (B, T) float64. affine: that of `Clip`."""
    pixel = float(np.linalg.norm(np.cross(affine[:3, 0], affine[:3, 1])))
    return pixel * mask.double().sum((1, 3, 4))


def volume_curve(mask: Tensor, affine: np.ndarray) -> Tensor:
    """Volume of a mask (B, 1, T, Y, X) in ml over time, slices times their distance: (T,) float64."""
    voxel = abs(float(np.linalg.det(affine[:3, :3])))
    return voxel / 1000 * mask.double().sum((0, 1, 3, 4))


def ejection_fraction(curve: Tensor) -> float:
    """Share of the largest area or volume (T,) that is gone at the smallest; noise in the curve raises it.

    Raises UsageError for a curve without any blood.
    """
    largest = float(curve.max())
    if not largest > 0:
        raise UsageError("no blood was found in any frame")
    return 1 - float(curve.min()) / largest


def upslope(curve: Tensor, times: np.ndarray, points: int = 5) -> float:
    """The steepest rise of a first-pass perfusion curve (T,), in its units a second (Jerosch-Herold 2010).

    The largest slope of the straight lines fitted to every `points` frames in a row; times (T,) are seconds. To compare
    patients, divide by that of the blood of the left ventricle. Raises UsageError for fewer frames.
    """
    if not 2 <= points <= len(curve):
        raise UsageError(f"an up-slope over {points} frames needs as many, got {len(curve)}")
    t = torch.from_numpy(np.array(times, dtype=np.float64)).unfold(0, points, 1)
    values = curve.double().cpu().unfold(0, points, 1)
    t = t - t.mean(1, keepdim=True)
    return float(((t * values).sum(1) / t.square().sum(1)).max())


def _largest_filled(bright: np.ndarray) -> np.ndarray:
    from scipy.ndimage import binary_fill_holes
    from skimage.measure import label

    pieces = label(bright, connectivity=1)
    if pieces.max() == 0:
        return bright
    return binary_fill_holes(pieces == 1 + np.bincount(pieces.ravel())[1:].argmax())
