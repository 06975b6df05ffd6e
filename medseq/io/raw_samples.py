"""The samples of an ISMRMRD file: readouts onto the grid, noise scans into a covariance."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medseq.io.raw_checks import check_grid, check_memory
from medseq.io.raw_plan import Plan, ReadoutAxis
from medseq.io.raw_scan import Scan
from medseq.noise import noise_covariance

# Readouts are read this many at a time: few enough to fit, many enough for one Fourier transform to pay.
_BATCH = 256
# Cutting the field of view of a partial echo smears its missing samples over the measured ones next to them. Four
# samples (of the final grid) further in, the error is a few per cent of the sample, and about 0.1 % of the peak.
_GUARD = 4


def grid_samples(acquisitions: Any, scan: Scan, plan: Plan) -> tuple[Tensor, Tensor]:
    """(data (B, C, T, Y, X) complex64, count (B, 1, T, Y, X)): the mean of all readouts of a sample, and how many.

    acquisitions: the file's readouts as the ismrmrd library gives them; slicing it reads them from the disk.
    """
    slices, coils, frames, height, width = plan.shape
    there = coils * int(scan.lines["number_of_samples"].sum(dtype=np.int64))
    check_grid((*plan.shape[:4], max(width, plan.axis.encoded)), there, scan.path)
    check_memory(plan.shape)
    data = np.zeros(plan.shape, np.complex64)
    count = np.zeros((slices, 1, frames, height, width), np.int32)
    for chosen, samples in _batches(acquisitions, scan, plan):
        with np.errstate(invalid="ignore", over="ignore"):  # samples that are not finite are found afterwards
            _add(data, count, samples, plan, chosen)
    with np.errstate(invalid="ignore"):
        np.divide(data, np.maximum(count, 1, dtype=np.float32), out=data)
    return torch.from_numpy(data), torch.from_numpy(count)


def _add(data: np.ndarray, count: np.ndarray, samples: list[np.ndarray], plan: Plan, chosen: np.ndarray) -> None:
    """Add the readouts `chosen` to the sums and counts of the grid."""
    rows, measured = _onto_axis(samples, plan, chosen)
    for one, row, known in zip(chosen, rows, measured, strict=True):
        if plan.rows[one] >= 0:
            place = plan.slices[one], slice(None), plan.frames[one], plan.rows[one]
            data[place] += row * known
            count[place] += known


def _batches(acquisitions: Any, scan: Scan, plan: Plan) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """(ranks among the image readouts, their samples (C, n) trimmed and flipped), in the order of the file."""
    for low in range(0, len(scan.heads), _BATCH):
        chosen = np.flatnonzero((scan.image >= low) & (scan.image < low + _BATCH))
        if not len(chosen):
            continue
        batch = acquisitions[low : low + _BATCH]
        samples = []
        for one in chosen:
            stored = batch[scan.image[one] - low].data
            line = stored[:, ::-1] if plan.window.flip[one] else stored
            samples.append(line[:, plan.window.first[one] : plan.window.last[one]])
        yield chosen, samples


def _onto_axis(samples: list[np.ndarray], plan: Plan, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rows (n, C, X) complex64, measured (n, X) bool) of readouts on the final readout axis."""
    axis = plan.axis
    rows = np.zeros((len(samples), plan.shape[1], axis.encoded), np.complex64)
    measured = np.zeros((len(samples), axis.final), dtype=bool)
    for index, (line, start) in enumerate(zip(samples, plan.window.start[chosen], strict=True)):
        rows[index, :, start : start + line.shape[1]] = line
        measured[index] = _measured(axis, int(start), int(start) + line.shape[1])
    if axis.cropped != axis.encoded:
        rows = cut_field_of_view(rows, axis.cropped)
    return centred(rows, axis.final), measured


def _measured(axis: ReadoutAxis, start: int, stop: int) -> np.ndarray:
    """Which samples of the final axis are known from the encoded samples [start, stop)."""
    ratio, guard = axis.cropped / axis.encoded, 0 if axis.cropped == axis.encoded else _GUARD
    frequency = np.arange(axis.final) - axis.final // 2
    cropped = (frequency >= -(axis.cropped // 2)) & (frequency < axis.cropped - axis.cropped // 2)
    low = (start - axis.encoded // 2) * ratio + guard if start > 0 else -np.inf
    high = (stop - 1 - axis.encoded // 2) * ratio - guard if stop < axis.encoded else np.inf
    return cropped & (frequency >= low) & (frequency <= high)


def cut_field_of_view(rows: np.ndarray, size: int) -> np.ndarray:
    """The k-space (..., size) of the central part of the image of k-space rows (..., n).

    Orthonormal both ways, so that white noise keeps its std.
    """
    image = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(rows, axes=-1), norm="ortho"), axes=-1)
    part = np.fft.fft(np.fft.ifftshift(centred(image, size), axes=-1), norm="ortho")
    return np.fft.fftshift(part, axes=-1).astype(np.complex64, copy=False)


def centred(rows: np.ndarray, size: int) -> np.ndarray:
    """Rows (..., n) cut or zero-filled to (..., size), index n // 2 becoming size // 2."""
    have = rows.shape[-1]
    shift = size // 2 - have // 2
    low, high = max(0, -shift), min(have, size - shift)
    if (low, high, have) == (0, size, size):
        return rows
    placed = np.zeros((*rows.shape[:-1], size), rows.dtype)
    placed[..., low + shift : high + shift] = rows[..., low:high]
    return placed


def measured_noise(acquisitions: Any, scan: Scan) -> Tensor | None:
    """Covariance E[n n^H] / 2 (C, C) complex64 that the noise scans predict for one image readout; None without any.

    Noise is white, so its variance goes with the bandwidth, 1 / dwell time. Noise scans see the whole receiver band,
    whose edges the filter dampens: their mean power relative to the middle is the relativeReceiverNoiseBandwidth
    (Kellman and McVeigh, Magn Reson Med 54:1439, 2005).
    """
    if not len(scan.noise):
        return None
    scans = []
    for index in scan.noise:
        head = scan.heads[index]
        last = int(head["number_of_samples"]) - int(head["discard_post"])
        scans.append(np.asarray(acquisitions[int(index)].data)[:, int(head["discard_pre"]) : last])
    samples = torch.from_numpy(np.concatenate(scans, axis=1).astype(np.complex128))
    if samples.shape[1] <= 2 * samples.shape[0]:
        scan.assume(f"{samples.shape[1]} noise samples are too few for {samples.shape[0]} coils; they are left aside")
        return None
    return (noise_covariance(samples) * _bandwidth_ratio(scan)).to(torch.complex64)


def _bandwidth_ratio(scan: Scan) -> float:
    """Noise variance in the image readouts over that in the noise scans."""
    noise, image = (float(np.median(scan.heads["sample_time_us"][part])) for part in (scan.noise, scan.image))
    if not (np.isfinite([noise, image]).all() and min(noise, image) > 0):
        scan.assume("noise scans or image readouts have no dwell time; both are taken to have the same")
        noise = image = 1.0
    system = scan.header.acquisitionSystemInformation
    bandwidth = (system.relativeReceiverNoiseBandwidth if system else None) or 1.0
    return noise / image / bandwidth
