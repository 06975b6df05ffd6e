"""The Fourier transform at any places of k-space: radial and spiral acquisitions (NUFFT, Fessler 2003; Barnett 2019).

finufft does the transform itself on a CPU, cufinufft on a GPU. The normal operator needs neither: it is a convolution
with the point spread function of the places, done by FFT on a grid twice as large (Toeplitz embedding: Wajer and
Pruessmann 2001; Fessler 2005).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from medseq.clip import Trajectory
from medseq.errors import ResourceError, UsageError
from medseq.operators import LinearOp

# Of the transform, which is done in double precision: points and phases in single precision lose about 1e-5.
_PRECISION = {torch.complex64: 1e-8, torch.complex128: 1e-13}
_TO_SAMPLES, _TO_IMAGE = 2, 1  # what finufft calls its transforms
# The norm of an operator comes from this many power iterations on some frames, and may be that much too low.
_POWER_ITERATIONS, _SOME_FRAMES, _MARGIN = 20, 4, 1.05


class NonUniform(LinearOp):
    """Samples of the centred orthonormal Fourier transform: (B, C, T, Y, X) -> (B, C, T, S, N).

    At the points of a grid it equals `Fourier`: sample i is sum_r x(r) exp(-2 pi i k_i . (r - N // 2)) / sqrt(Y X),
    with k_i in cycles per voxel.

    trajectory: the points; those of one frame serve all frames. weights: bool or real, (B or 1, C or 1, T or 1, S or 1,
        N or 1), what each sample is multiplied by, in forward and adjoint alike; a bool mask says what was measured.
    kernel: gives `kernel` where it is known already.

    Raises UsageError for weights that do not fit, and when it is applied ResourceError where the library is missing.
    """

    def __init__(
        self, trajectory: Trajectory, weights: Tensor | None = None, kernel: Callable[[], Tensor] | None = None
    ) -> None:
        shape = trajectory.points.shape[:3]
        if weights is not None and (
            weights.ndim != 5
            or weights.is_complex()
            or any(have not in (1, want) for have, want in zip(weights.shape[3:], shape[1:], strict=True))
            or (shape[0] > 1 and weights.shape[2] not in (1, shape[0]))
        ):
            raise UsageError(f"weights {tuple(weights.shape)} do not fit a trajectory of {tuple(shape)}")
        self.trajectory, self.weights = trajectory, weights
        self._known_kernel = kernel

    def forward(self, x: Tensor) -> Tensor:
        height, width = self.trajectory.size
        if tuple(x.shape[-2:]) != (height, width):
            raise UsageError(f"an image of {tuple(x.shape[-2:])} does not fit a trajectory for {height} x {width}")
        return self._weighted(_transformed(x, self.trajectory, _TO_SAMPLES))

    def adjoint(self, y: Tensor) -> Tensor:
        return _transformed(self._weighted(y), self.trajectory, _TO_IMAGE)

    def normal(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        spectrum = torch.fft.fft2(x, s=(2 * height, 2 * width))
        return torch.fft.ifft2(spectrum.mul_(self.kernel.to(x.real.dtype)))[..., :height, :width]

    def frames(self, chunk: slice) -> NonUniform:
        weights = self.weights
        if weights is not None and weights.shape[2] > 1:
            weights = weights[:, :, chunk]

        def kernel() -> Tensor:
            whole = self.kernel  # computed once, for all chunks
            return whole if whole.shape[2] == 1 else whole[:, :, chunk]

        return NonUniform(self.trajectory.frames(chunk), weights, kernel)

    @cached_property
    def kernel(self) -> Tensor:
        """(B or 1, C or 1, T or 1, 2 Y, 2 X) real: the spectrum of the point spread function."""
        return self._computed_kernel() if self._known_kernel is None else self._known_kernel()

    def _computed_kernel(self) -> Tensor:
        points = self.trajectory.points
        power = torch.ones(1, 1, 1, 1, 1) if self.weights is None else self.weights
        power = power.to(points).square()  # as precise as the points
        power = power.expand(*power.shape[:2], max(power.shape[2], points.shape[0]), *points.shape[1:3])
        # frame by frame: the point spread functions of all take several times the memory of their spectra
        each = (
            _spread_spectrum(self.trajectory.frames(slice(t, t + 1)), part)
            for t, part in enumerate(power.split(1, dim=2))
        )
        return torch.cat(list(each), dim=2)

    def _weighted(self, y: Tensor) -> Tensor:
        if self.weights is None:
            return y
        # where(), not a product alone: whatever stands at unmeasured places, NaN included, must not get through
        measured = torch.where(self.weights != 0, y, 0)
        return measured if self.weights.dtype == torch.bool else measured * self.weights


def density_weights(trajectory: Trajectory, keep: Tensor) -> Tensor:
    """The area of k-space that each sample stands for, (1, 1, T or 1, S, N), in grid places and at most 1.

    A sample alone in its place counts 1, as on a grid; n samples in one place count 1 together. keep: bool (1, 1, T or
    1, S or 1, N or 1); what was not measured gets 0. The first iteration of Pipe and Menon 1999, whose kernel is here
    the squared overlap of what two samples measure: w_i = 1 / sum_j |<a_i, a_j>|^2.
    """
    points, (height, width) = trajectory.points, trajectory.size
    frames = max(points.shape[0], keep.shape[2])
    measured = keep.to(points.device).expand(1, 1, frames, *points.shape[1:3])
    doubled = replace(trajectory, size=(2 * height, 2 * width))
    # the kernel's Fourier transform: how many pairs of voxels lie at each distance
    triangle = [1 - (torch.arange(2 * n, device=points.device) - n).abs() / n for n in (height, width)]
    pairs = 4 * triangle[0][:, None] * triangle[1]
    image = pairs * _transformed(measured.to(torch.complex64), doubled, _TO_IMAGE)
    crowd = _transformed(image, doubled, _TO_SAMPLES).real.clamp(min=1)
    return torch.where(measured, 1 / crowd, 0)


def balanced(trajectory: Trajectory, keep: Tensor) -> Tensor:
    """Weights (1, 1, T or 1, S, N) under which `NonUniform` has the norm 1 and hardly a sample counts twice.

    The square root of `density_weights`, divided by the norm that is left: a gradient step then goes as far at the edge
    of k-space as at its crowded centre, which it takes otherwise hundreds of iterations to make up for.
    """
    weights = density_weights(trajectory, keep).sqrt()
    frames = weights.shape[2]
    some = slice(0, frames, max(1, frames // _SOME_FRAMES))
    A = NonUniform(trajectory.frames(some), weights[:, :, some])
    x = torch.randn(
        1, 1, len(range(*some.indices(frames))), *trajectory.size, generator=torch.Generator().manual_seed(0)
    )
    image = x.to(weights.device, torch.complex64)
    norm = torch.ones(1, 1, 1, 1, 1, device=weights.device)
    for _ in range(_POWER_ITERATIONS):
        image = A.normal(image / norm)
        norm = image.abs().square().sum(dim=(3, 4), keepdim=True).sqrt()
    return weights / (_MARGIN * norm.max()).sqrt()


def _spread_spectrum(trajectory: Trajectory, power: Tensor) -> Tensor:
    """That of one frame, whose samples count by `power` (B, C, 1, S, N): (B, C, 1, 2 Y, 2 X) real."""
    height, width = trajectory.size
    doubled = replace(trajectory, size=(2 * height, 2 * width))
    spread = _transformed(torch.complex(power, torch.zeros_like(power)), doubled, _TO_IMAGE)
    # Real but for shifts by -Y and -X, which have no opposite here, and no two voxels are so far apart.
    spectrum = torch.fft.fft2(torch.fft.ifftshift(spread, dim=(-2, -1))).real
    # The transform is orthonormal on the doubled grid: half of what it is on the image's.
    return spectrum * (2 / math.sqrt(height * width))


class _Transform(torch.autograd.Function):
    """The transform and its adjoint, each the derivative of the other."""

    @staticmethod
    def forward(ctx: Any, data: Tensor, trajectory: Trajectory, kind: int) -> Tensor:
        ctx.trajectory, ctx.kind = trajectory, kind
        return _run(data, trajectory, kind)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        other = _TO_IMAGE if ctx.kind == _TO_SAMPLES else _TO_SAMPLES
        return _transformed(gradient, ctx.trajectory, other), None, None


def _transformed(data: Tensor, trajectory: Trajectory, kind: int) -> Tensor:
    return _Transform.apply(data, trajectory, kind)


def _run(data: Tensor, trajectory: Trajectory, kind: int) -> Tensor:
    """Each frame at its own points; one set of points serves all frames at once."""
    dtype = torch.promote_types(data.dtype, torch.complex64)
    angles = (2 * math.pi * trajectory.points.double()).flatten(1, 2)  # radians per voxel
    if len(angles) not in (1, data.shape[2]):
        raise UsageError(f"{data.shape[2]} frames do not fit a trajectory of {len(angles)}")
    readouts = tuple(trajectory.points.shape[1:3])
    parts = data.split(1 if len(angles) > 1 else data.shape[2], dim=2)
    results = []
    for part, places in zip(parts, angles, strict=True):
        whole = (part.flatten(3) if kind == _TO_IMAGE else part).to(torch.complex128)
        result = _planned(
            whole.flatten(0, 2).contiguous().resolve_conj(), places, trajectory.size, kind, _PRECISION[dtype]
        )
        shape = trajectory.size if kind == _TO_IMAGE else readouts
        results.append((result.view(*part.shape[:3], *shape) / math.sqrt(math.prod(trajectory.size))).to(dtype))
    return torch.cat(results, dim=2)


def _planned(data: Tensor, places: Tensor, size: tuple[int, int], kind: int, precision: float) -> Tensor:
    """(n, Y, X) -> (n, M) at `places` (M, 2), or back."""
    y, x = places[:, 0].contiguous(), places[:, 1].contiguous()
    plan = _library(data.device).Plan(
        kind, size, len(data), precision, isign=-1 if kind == _TO_SAMPLES else 1, dtype="complex128", **_threads(data)
    )
    if data.device.type == "cuda":
        plan.setpts(y, x)
        return plan.execute(data)
    plan.setpts(y.numpy(), x.numpy())
    return torch.from_numpy(plan.execute(data.numpy()))


def _threads(data: Tensor) -> dict[str, int]:
    return {} if data.device.type == "cuda" else {"nthreads": torch.get_num_threads()}


def _library(device: torch.device) -> Any:
    """finufft on a CPU, cufinufft on a GPU. Raises ResourceError, with the remedy, where it is not installed."""
    try:
        if device.type == "cuda":
            import cufinufft as library
        else:
            import finufft as library
    except ImportError:
        remedy = "pip install medseq[nonuniform]"
        if device.type == "cuda":
            remedy = "pip install medseq[nonuniform-cuda], or use --device cpu"
        raise ResourceError(f"radial and spiral k-space needs another package: {remedy}") from None
    return library
