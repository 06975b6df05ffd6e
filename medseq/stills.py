"""Still frames from a folder, with those that show one slice in two phases found and registered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage.color import rgb2gray
from skimage.filters import gaussian
from skimage.registration import optical_flow_tvl1
from skimage.transform import warp

from medseq.errors import InputError
from medseq.phantoms.phases import Stills

SAME_SLICE = 0.9  # least correlation of two phases of one slice


def load_stills(folder: Path, pairs: bool = True, last: float = 1.0) -> Stills:
    """Every PNG of a folder, searched to any depth, in the order of its path.

    pairs: register frames that show one slice in two phases (about half a second a pair). last: only this share of the
    files, from the end. Raises InputError when there is no PNG, one is broken or a mask, or the frames differ in size.
    """
    files = sorted(folder.rglob("*.png"))
    files = files[len(files) - int(last * len(files)) :]
    if not files:
        raise InputError(f"{folder}: no PNG files there; correct `stills` or leave it out")
    frames = [_frame(file) for file in files]
    if len({frame.shape for frame in frames}) > 1:
        raise InputError(f"{folder}: the still frames differ in size; bring them to one size")
    images = np.stack(frames)
    partner, flow = np.arange(len(images)), np.zeros((*images.shape, 2), np.float16)
    for one, other in phase_pairs(images) if pairs else ():
        partner[one], partner[other] = other, one
        flow[one] = _register(images[one], images[other])
        flow[other] = _inverse(flow[one])
    return Stills(torch.from_numpy(images), torch.from_numpy(partner), torch.from_numpy(flow))


def phase_pairs(images: np.ndarray) -> list[tuple[int, int]]:
    """Indices (n, m), n < m, of frames (N, Y, X) that are each other's nearest by correlation, and near enough.

    Two phases of one slice differ in the heart alone, so no other slice or person comes as near.
    """
    flat = images[:, ::2, ::2].reshape(len(images), -1).astype(np.float64)
    flat -= flat.mean(1, keepdims=True)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)
    likeness = flat @ flat.T
    np.fill_diagonal(likeness, -1.0)
    nearest = likeness.argmax(1)
    return [(n, int(m)) for n, m in enumerate(nearest) if n < m and nearest[m] == n and likeness[n, m] >= SAME_SLICE]


def _register(image: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Flow (Y, X, 2) in pixels, smoothed by one pixel: other(r + flow) is near image(r)."""
    peak = max(float(np.quantile(image, 0.999)), 1e-6)
    flow = optical_flow_tvl1(image / peak, other / peak, attachment=40)
    return np.stack([gaussian(part, 1.0) for part in flow], axis=-1).astype(np.float16)


def _inverse(flow: np.ndarray) -> np.ndarray:
    """The flow the other way: u(r) = -flow(r + u(r)), by a few fixed-point steps."""
    grid = np.stack(np.meshgrid(*map(np.arange, flow.shape[:2]), indexing="ij"), axis=-1)
    back = -flow.astype(np.float32)
    for _ in range(6):
        place = np.moveaxis(grid + back, -1, 0)
        back = -np.stack([warp(flow[..., i].astype(np.float32), place, order=1, mode="edge") for i in (0, 1)], axis=-1)
    return back.astype(np.float16)


def _frame(file: Path) -> np.ndarray:
    """A still frame, grey. Data sets keep masks beside their images, and these would be learnt as well."""
    frame = _grey(_read(file))
    if len(np.unique(frame)) <= 2:
        raise InputError(f"{file}: two values only, a mask and no still frame; give the folder of the images alone")
    return frame


def _read(file: Path) -> np.ndarray:
    """The pixels of a PNG. Nothing else is tried: Pillow would tell formats by content, and run programs for some."""
    try:
        with Image.open(file, formats=("PNG",)) as image:
            return np.asarray(image.convert("RGB") if image.mode == "P" else image)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{file}: no PNG, or a broken one; correct or remove it") from error


def _grey(image: np.ndarray) -> np.ndarray:
    grey = rgb2gray(image[..., :3]) if image.ndim == 3 else image
    return np.ascontiguousarray(grey, dtype=np.float32)
