"""BOLD series from undersampled k-space, as a task beside the others. Nothing is smoothed over time, no prior asked.

What stands still is told by all frames together. What is left of each frame's lines is small, and unfolded by the coil
maps alone (SENSE, Pruessmann 1999), so that errors of the maps act on the few per cent that change, not on the image:

    series = average + SENSE(lines - average's lines)

Averages first and differences after are those of TSENSE and k-t SENSE (Kellman 2001, Tsao 2003), without their filters
in time: frames stay independent, which the statistics of fMRI rely on.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from medseq.acquisition import slice_of, whitened
from medseq.bold import tissue_mask
from medseq.bold_task import restore_bold
from medseq.clip import Clip, KSpace
from medseq.coils import average_frames
from medseq.errors import InputError, MedseqWarning, UsageError
from medseq.gathering import Restored
from medseq.operators import Coils, Fourier
from medseq.runtime import Progress, choose_device
from medseq.unfolding import Unfolded, spanned, unfold
from medseq.volumes import fill_volumes

# Voxels brighter than this part of the brightest may change alike; darker ones less, air hardly.
_BRIGHT, _LEAST_WEIGHT = 0.2, 0.05
_NEIGHBOURS = 5  # voxels along each axis, over which brightness is averaged
_LEAST_KEPT = 0.97
_LEAST_DAMPING = 1e-5  # of the average, which has little noise
_FEWEST_FRAMES = 8  # of each line, for an average that hardly holds what changes


def reconstruct_bold(
    kspace: KSpace,
    *,
    denoise: bool = False,
    samples: int = 1,
    device: str = "auto",
    progress: Progress | None = None,
) -> Restored:
    """The complex series of undersampled BOLD k-space, and its noise, voxel by voxel; in the units of the k-space.

    Lines may be the same in every frame, or shift. denoise: take away what cannot be a response, too
    (`medseq.bold.denoise_bold`, which is told the noise). Frames without lines are filled in and listed in `info`.
    maps: `noise`, the std of each real channel; `g_factor`, by how much that exceeds the noise of as many lines without
    folding; and those of `restore_bold` with `denoise`.
    Raises InputError for masks that are not of whole lines, lines measured in fewer than 8 frames, and when noise, maps
    or tissue can't be found; UsageError for several samples, as the method is deterministic; ResourceError when the
    device is not there. Warns with MedseqWarning where lines are too few for the coils, which costs amplitude.
    """
    if samples > 1:
        raise UsageError("BOLD reconstruction is deterministic: there are no samples to draw; leave --samples out")
    _check(kspace)
    where = choose_device(device)
    white, level, gain = whitened(kspace)
    slices = range(white.data.shape[0])
    still = torch.cat([_still(slice_of(white, b, where)).cpu() for b in slices])
    tissue, weights = tissue_mask(still), _weights(still)
    found = []
    for b in slices:
        found.append(_changes(slice_of(white, b, where), weights[b, 0, 0].to(where), tissue[b, 0, 0].to(where)))
        if progress:
            progress(b + 1, len(slices))
    image, noise, kept = (torch.cat([getattr(one, name).cpu() for one in found]) for name in ("image", "noise", "kept"))
    _warn_of_loss(kept[tissue])
    there = white.keep[..., 0].any(3)[:, 0].expand(len(slices), white.frames)
    series = torch.where(there[:, None, :, None, None], still + image, 0) / gain
    clip = Clip(series, kspace.affine, kspace.times, kspace.period, present=None if bool(there.all()) else there)
    share = float(white.keep.float().mean())
    folding = noise * share**0.5
    info = {
        "method": "bold",
        "coils": white.coils,
        "acceleration": 1 / share,
        "noise": float((level * noise / gain)[tissue].median()),
        "g_factor": float(folding[tissue].median()),
        "amplitude_kept": float(kept[tissue].median()),
        "filled_volumes": (~there.all(0)).nonzero()[:, 0].add(1).tolist(),
        "device": str(where),
    }
    return _finished(clip, level * noise / gain, folding, info, denoise)


def _check(kspace: KSpace) -> None:
    if kspace.trajectory is not None:
        raise InputError("BOLD is reconstructed from lines of a grid, not along a trajectory; say --kind cine")
    keep = kspace.keep
    if not bool((keep == keep[:, :1, :, :, :1]).all()):
        raise InputError("BOLD is reconstructed from whole lines, the same in all coils; this mask has others")
    often = keep[..., 0].expand(-1, -1, kspace.frames, -1).sum(2)
    fewest = int(often[often > 0].min())
    if fewest < _FEWEST_FRAMES:
        raise InputError(
            f"a line of k-space was measured in {fewest} frames only, and BOLD needs {_FEWEST_FRAMES} to tell what "
            "stands still; measure longer, or say --kind cine"
        )


def _warn_of_loss(kept: Tensor) -> None:
    lowest = float(kept.kthvalue(max(1, kept.numel() // 20)).values)
    if lowest < _LEAST_KEPT:
        warnings.warn(
            "the coils cannot unfold so few lines: 5 % of the tissue keep less than "
            f"{100 * lowest:.0f} % of the amplitude",
            MedseqWarning,
            stacklevel=3,
        )


def _still(part: KSpace) -> Tensor:
    """The image (1, 1, 1, Y, X) of the averaged lines, unfolded only where no frame measured some of them."""
    assert part.maps is not None
    average, measured = average_frames(part)
    lines = measured[0, 0, 0, :, 0].expand(average.shape[3])
    if not bool((spanned(lines) & ~lines).any()):
        return Coils(part.maps).adjoint(Fourier().adjoint(average))
    weights = torch.ones(average.shape[-2:], device=average.device)
    everywhere = weights.bool()
    for _ in range(2):  # what is dark, the first tells, need not be unfolded by the second
        image = unfold(average, measured, part.maps, weights, everywhere, least=_LEAST_DAMPING).image
        weights = _weights(image)[0, 0, 0]
    return image


def _weights(still: Tensor) -> Tensor:
    """How much every voxel may change, (B, 1, 1, Y, X), relative to tissue: changes are a share of the signal."""
    near = torch.nn.functional.avg_pool2d(still.abs()[:, 0], _NEIGHBOURS, 1, _NEIGHBOURS // 2)[:, None]
    flat = near.flatten()
    brightest = flat.kthvalue(max(1, int(0.98 * flat.numel()))).values
    return (near / (_BRIGHT * brightest)).clamp(_LEAST_WEIGHT, 1)


def _changes(part: KSpace, weights: Tensor, tissue: Tensor) -> Unfolded:
    """What each frame of a slice adds to the average; weights, tissue: (Y, X)."""
    assert part.maps is not None
    left = torch.where(part.keep, part.data - average_frames(part)[0], 0)
    return unfold(left, part.keep, part.maps, weights, tissue if bool(tissue.any()) else torch.ones_like(tissue))


def _finished(clip: Clip, noise: Tensor, folding: Tensor, info: dict[str, Any], denoise: bool) -> Restored:
    maps = {"noise": noise, "g_factor": folding}
    known = {name: Clip(values, clip.affine, clip.times[:1]) for name, values in maps.items()}
    if not denoise:
        return Restored(fill_volumes(clip), info=info, maps=known)
    clean = restore_bold(clip, sigma=noise)
    return Restored(clean.clip, info={**info, "denoised": clean.info}, maps={**known, **clean.maps})
