"""Frames between frames by classical means, to start from: the best mixture that the known frames themselves tell.

Every second known frame is left out and predicted from the others by several methods; the weights that predict it best
(stacked regression, Breiman, Machine Learning 1996) then mix the methods' answers at the wanted times.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from medseq.baselines import cubic_interpolation, linear_interpolation, optical_flow_interpolation

METHODS = (linear_interpolation, cubic_interpolation, optical_flow_interpolation)
FEWEST = 5  # known frames: with fewer there is nothing to learn weights from, and straight lines it is
# Leaving frames out doubles the spacing: four times the error where motion is smooth, less where it is not.
_SPACING_GAIN = 0.35


def between(known: Tensor, times: np.ndarray, wanted: np.ndarray, period: float | None) -> tuple[Tensor, float]:
    """Frames at `wanted` seconds (B, 1, W, Y, X), real or complex as `known` (B, 1, T, Y, X), and their RMSE.

    times: (T,) seconds of the known frames; period: seconds of a cycle or None, and then nothing is wanted beyond them.
    The RMSE is that expected of frames that are not known, in each real channel.
    """
    at = torch.from_numpy(np.array(times))
    inside = wanted if period is not None else np.clip(wanted, times[0], times[-1])
    places = torch.from_numpy(np.array(inside))
    if len(times) < FEWEST:
        return linear_interpolation(known, at, places, period), _rms(known[:, :, 1:] - known[:, :, :-1]) / 2
    out = torch.arange(1, len(times) - (period is None), 2)
    kept = torch.ones(len(times), dtype=torch.bool)
    kept[out] = False
    errors = [method(known[:, :, kept], at[kept], at[out], period) - known[:, :, out] for method in METHODS]
    weights = stacked(errors)
    mixture = sum(w * error for w, error in zip(weights, errors, strict=True))
    assert isinstance(mixture, Tensor)
    answers = (w * method(known, at, places, period) for w, method in zip(weights, METHODS, strict=True) if w > 0)
    image = sum(answers, torch.zeros_like(known[:, :, :1]))
    return image, _SPACING_GAIN * _rms(mixture)


def stacked(errors: list[Tensor]) -> list[float]:
    """Weights, none negative and of sum 1, for which the weighted sum of the errors has the least power."""
    flat = torch.stack([torch.view_as_real(e).flatten() if e.is_complex() else e.flatten() for e in errors]).double()
    gram = (flat @ flat.T).cpu().numpy()
    best, least = [1.0] + [0.0] * (len(errors) - 1), float(gram[0, 0])
    for size in range(1, len(errors) + 1):
        for chosen in map(list, combinations(range(len(errors)), size)):
            share = np.linalg.lstsq(gram[np.ix_(chosen, chosen)], np.ones(size), rcond=None)[0]
            if share.min() < 0 or not share.sum() > 0:
                continue
            weights = np.zeros(len(errors))
            weights[chosen] = share / share.sum()
            power = float(weights @ gram @ weights)
            if power < least:
                best, least = weights.tolist(), power
    return best


def _rms(error: Tensor) -> float:
    return float(error.abs().square().mean() / (2 if error.is_complex() else 1)) ** 0.5
