"""Lines that were not measured, as weighted sums of their neighbours in all coils: GRAPPA and TGRAPPA.

For equispaced lines, as `patterns.equispaced` makes them: every R-th one, from frame to frame shifted or not, and
optionally some successive lines in the middle on top. y: (B, C, T, Y, X); keep: bool, broadcastable to y; maps: (B or
1, C, 1, Y, X) of unit root-sum-of-squares, which combine the coils once all lines are there. The default regularization
was chosen on the simulated beating heart alone, at 2 to 8 times undersampling and 1 % noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medseq.errors import UsageError
from medseq.operators import Coils, Fourier

# Lines about the middle that TGRAPPA learns from: beyond them there is more noise than signal.
_MOST_LINES = 32


@dataclass(frozen=True)
class _Pattern:
    """Lines of equal distance. measured: bool (T, Y) on the CPU; first: for every frame, its first such line."""

    measured: Tensor
    step: int
    first: Tensor


def grappa(
    y: Tensor,
    keep: Tensor,
    maps: Tensor,
    *,
    kernel: tuple[int, int] = (4, 5),
    regularization: float = 1e-2,
    calibration: Tensor | None = None,
) -> Tensor:
    """Every frame on its own, with weights learnt from its own central lines (GRAPPA, Griswold 2002).

    kernel: (lines, samples) that a sum reaches over, so many measured lines and successive samples. regularization:
    Tikhonov's, relative to the mean eigenvalue of the normal equations. calibration: successive, fully sampled lines
    (B, C, T or 1, L, X) to learn from in place of each frame's own. Returns the image series (B, 1, T, Y, X).

    Raises UsageError for lines that are not equispaced, for a kernel without lines above and below or without a middle
    sample, and where nothing is there to learn from.
    """
    pattern = _equispaced(keep, y)
    _check_kernel(kernel, y)
    if pattern.step == 1:
        return _combined(y, maps)
    if calibration is None:
        weights = _own_weights(y, pattern, kernel, regularization)
    else:
        weights = _weights(calibration, pattern.step, kernel, regularization)
    return _combined(_filled(y, pattern, weights, kernel), maps)


def tgrappa(
    y: Tensor,
    keep: Tensor,
    maps: Tensor,
    *,
    kernel: tuple[int, int] = (4, 5),
    regularization: float = 1e-2,
    window: int | None = None,
) -> Tensor:
    """GRAPPA with weights learnt from the average of neighbouring frames, which together hold all lines (Breuer 2005).

    window: frames averaged, about each frame or as near as the ends allow; as many as the acceleration unless given.
    kernel, regularization: see `grappa`. Returns the image series (B, 1, T, Y, X).

    Raises UsageError for lines that are not equispaced, for a kernel without lines above and below or without a middle
    sample, and for frames that are too few or not shifted, so that their average is not complete.
    """
    pattern = _equispaced(keep, y)
    _check_kernel(kernel, y)
    if pattern.step == 1:
        return _combined(y, maps)
    average = _sliding_average(y, pattern, pattern.step if window is None else window)
    lines = min(average.shape[-2], max(_MOST_LINES, 2 * _span(pattern.step, kernel)))
    average = average.narrow(-2, average.shape[-2] // 2 - lines // 2, lines)
    weights = _weights(average, pattern.step, kernel, regularization)
    return _combined(_filled(y, pattern, weights, kernel), maps)


def _combined(y: Tensor, maps: Tensor) -> Tensor:
    return Coils(maps).adjoint(Fourier().adjoint(y))


def _check_kernel(kernel: tuple[int, int], y: Tensor) -> None:
    lines, samples = kernel
    if lines < 2 or lines % 2 or samples < 1 or samples % 2 == 0 or samples > y.shape[-1]:
        raise UsageError(f"a GRAPPA kernel has an even number of lines and an odd one of samples, got {kernel}")


def _equispaced(keep: Tensor, y: Tensor) -> _Pattern:
    """The pattern of `keep`, looked at on the CPU, once; UsageError if it is not one of equispaced lines."""
    keep = keep.cpu()
    lines = keep.all(4).all(1).all(0)
    if keep.ndim != 5 or not torch.equal(lines, keep.any(4).any(1).any(0)):
        raise UsageError("GRAPPA needs whole lines of k-space, the same in all coils and slices")
    lines = lines.expand(y.shape[2], y.shape[3])
    for step in range(1, lines.shape[1] // 2 + 1):
        first = _first_lines(lines, step)
        if first is not None:
            return _Pattern(lines, step, first)
    raise UsageError("GRAPPA needs equispaced lines in every frame (patterns.equispaced), this pattern is another")


def _first_lines(lines: Tensor, step: int) -> Tensor | None:
    """Where the lattice of every frame begins (T,), or None if one has none, or lines beside it and a centre."""
    frames, count = lines.shape
    residue = torch.arange(count) % step
    # A lattice is there when none of its lines is missing.
    missing = torch.zeros(frames, step, dtype=torch.long).index_add_(1, residue, (~lines).long())
    first = missing.argmin(1)
    extra = lines & (residue != first[:, None])
    # The lines between the first and the last beside the lattice: all measured if they are one central block.
    block = (extra.long().cumsum(1) > 0) & (extra.flip(1).long().cumsum(1).flip(1) > 0)
    whole = bool((missing.amin(1) == 0).all()) and bool((lines | ~block).all())
    return first if whole else None


def _span(step: int, kernel: tuple[int, int]) -> int:
    """Lines from the first to the last that a kernel reads."""
    return (kernel[0] - 1) * step + 1


def _own_weights(y: Tensor, pattern: _Pattern, kernel: tuple[int, int], regularization: float) -> Tensor:
    """Weights of every frame from wherever it measured a line and all those that predict it: (B, T, R - 1, U, C)."""
    frames = []
    for t, measured in enumerate(pattern.measured):
        sets = [_bases(measured, pattern.step, kernel, offset) for offset in range(1, pattern.step)]
        if not all(len(bases) for bases in sets):
            raise UsageError(
                f"frame {t} has no central lines that GRAPPA could learn from at acceleration {pattern.step}; measure "
                "about 20, pass `calibration`, or use tgrappa"
            )
        frame, fits = y[:, :, t], []
        for offset, bases in enumerate(sets, 1):
            sources = _sources(frame, bases, pattern.step, kernel)
            fits.append(_fit(sources, _targets(frame, bases + offset, kernel), regularization))
        frames.append(torch.stack(fits, 1))
    return torch.stack(frames, 1)


def _weights(calibration: Tensor, step: int, kernel: tuple[int, int], regularization: float) -> Tensor:
    """Weights from complete lines (B, C, T, L, X): (B, T, R - 1, U, C)."""
    everything = torch.ones(calibration.shape[-2], dtype=torch.bool)
    bases = _bases(everything, step, kernel, 1)
    if not len(bases):
        raise UsageError(
            f"{len(everything)} calibration lines are fewer than the {_span(step, kernel)} that a kernel of "
            f"{kernel[0]} lines spans at acceleration {step}"
        )
    frames = []
    for frame in calibration.unbind(2):
        targets = [_targets(frame, bases + offset, kernel) for offset in range(1, step)]
        fit = _fit(_sources(frame, bases, step, kernel), torch.cat(targets, -1), regularization)
        frames.append(fit.unflatten(-1, (step - 1, -1)).movedim(-2, 1))
    return torch.stack(frames, 1)


def _bases(measured: Tensor, step: int, kernel: tuple[int, int], offset: int) -> Tensor:
    """Lines s of `measured` (L,) for which the target s + offset and all its sources are there."""
    above, below = _reach(step, kernel)
    bases = torch.arange(above, max(above, len(measured) - below))
    sources = measured[_source_lines(bases, step, kernel)].all(1)
    return bases[sources & measured[bases + offset]]


def _reach(step: int, kernel: tuple[int, int]) -> tuple[int, int]:
    """How far the sources lie above and below the line s just above the target."""
    return (kernel[0] // 2 - 1) * step, kernel[0] // 2 * step


def _source_lines(bases: Tensor, step: int, kernel: tuple[int, int]) -> Tensor:
    """(S,) -> (S, lines)."""
    return bases[:, None] - _reach(step, kernel)[0] + step * torch.arange(kernel[0])


def _sources(frame: Tensor, bases: Tensor, step: int, kernel: tuple[int, int]) -> Tensor:
    """What predicts the lines below `bases` (S,): (B, C, L, X) -> (B, N, U), U of coils, lines and samples."""
    patches = frame[:, :, _source_lines(bases, step, kernel)].unfold(-1, kernel[1], 1)
    return patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def _targets(frame: Tensor, lines: Tensor, kernel: tuple[int, int]) -> Tensor:
    """The samples to be predicted: (B, C, L, X) -> (B, N, C), in the order of `_sources`."""
    edge = kernel[1] // 2
    return frame[:, :, lines, edge : frame.shape[-1] - edge].permute(0, 2, 3, 1).flatten(1, 2)


def _fit(sources: Tensor, targets: Tensor, regularization: float) -> Tensor:
    """Least squares with Tikhonov's term: (B, N, U), (B, N, K) -> (B, U, K)."""
    # Normal equations square the condition of data whose middle is thousands of times as strong as its edge.
    wide = sources.to(torch.complex128)
    gram = wide.mH @ wide
    mean = gram.diagonal(dim1=-2, dim2=-1).real.mean(-1).clamp(min=torch.finfo(torch.float64).tiny)
    ridge = (regularization * mean)[:, None, None] * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    return torch.linalg.solve(gram + ridge, wide.mH @ targets.to(wide.dtype)).to(sources.dtype)


def _sliding_average(y: Tensor, pattern: _Pattern, window: int) -> Tensor:
    """For every frame the average of those around it that measured each line: (B, C, T, Y, X)."""
    frames = y.shape[2]
    if not 1 <= window <= frames:
        raise UsageError(f"{frames} frames can't be averaged over {window}; TGRAPPA needs as many as the acceleration")
    counts = pattern.measured.long().unfold(0, window, 1).sum(-1)
    if not bool((counts > 0).all()):
        raise UsageError(f"{window} successive frames don't hold every line: shift the lines from frame to frame")
    data = torch.where(pattern.measured[:, :, None].to(y.device), y, 0)
    averages = data.unfold(2, window, 1).sum(-1) / counts[:, :, None].to(y.device)
    nearest = (torch.arange(frames) - window // 2).clamp(0, frames - window)
    return averages[:, :, nearest]


def _filled(y: Tensor, pattern: _Pattern, weights: Tensor, kernel: tuple[int, int]) -> Tensor:
    """All lines (B, C, T, Y, X): the measured ones as they are, the others predicted; zeros beyond the edges."""
    frames, height, width = y.shape[2:]
    step, (lines, samples) = pattern.step, kernel
    above, _ = _reach(step, kernel)
    # In every frame the lattice is followed from one line before the image to at least one after it.
    groups = -(-height // step) + 1
    start = (pattern.first - step)[:, None]
    lattice = start - above + step * torch.arange(groups + lines - 1)
    front, edge = above + step, samples // 2
    back = max(0, int(lattice.max()) + 1 - height)
    padded = torch.nn.functional.pad(y, (edge, edge, front, back))
    every = torch.arange(frames)[:, None]
    sources = padded[:, :, every, lattice + front]
    taps = weights.unflatten(3, (y.shape[1], lines, samples)).expand(-1, frames, *[-1] * 5)
    predicted = y.new_zeros(*y.shape[:3], groups, step, width)
    for line in range(lines):
        for sample in range(samples):
            part = sources[..., line : line + groups, sample : sample + width]
            predicted[..., 1:, :] += torch.einsum("btrcd,bctgx->bdtgrx", taps[:, :, :, :, line, sample], part)
    # A group is one measured line and the step - 1 below it, so that all lines follow each other from `start` on.
    complete = predicted.flatten(3, 4)[:, :, every, torch.arange(height) - start]
    return torch.where(pattern.measured[:, :, None].to(y.device), y, complete)
