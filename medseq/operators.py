"""Linear measurement operators, `y = A x`: every task is one product of these with factors left out.

Images are `(B, 1, T, Y, X)`, measurements `(B, C, T, Y, X)`. Operators hold no state beyond the tensors
they were built from, and those must lie on the device of the data. All of them are linear over the complex
numbers (`Resample` and `Mask` work on real data too) and broadcast over the batch.

    A = Mask(keep) @ Fourier() @ Coils(maps)        # parallel imaging, Pruessmann 1999 (SENSE)
    A(x), A.adjoint(y), A.normal(x), A.H, A.frames(slice(0, 8))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property

import torch
from torch import Tensor

from medseq.arithmetic import centred, dft, prime_factors, shift, unshift, weighted_sum
from medseq.arithmetic import interpolation_matrix as interpolation_matrix
from medseq.errors import UsageError

_FRAME_AXIS = 2
_LARGE = 2**17  # elements: smaller series fit into a cache as a whole
_LARGE_IMAGE = 2**13  # voxels: what is spared in smaller ones is less than what a loop over frames and coils costs


class LinearOp:
    """A linear map between image series and measurements.

    A new operator defines `forward` and `adjoint`; `normal` (adjoint of forward) is overridden where it is cheaper
    than the two, and `frames` where the operator holds something that varies over time. `separable` says whether
    every frame is measured on its own, so that the operator can be restricted to a chunk of frames.
    """

    separable: bool = True

    def forward(self, x: Tensor) -> Tensor:
        """A x."""
        raise NotImplementedError

    def adjoint(self, y: Tensor) -> Tensor:
        """A^H y, the operator for which <A x, y> = <x, A^H y>."""
        raise NotImplementedError

    def normal(self, x: Tensor) -> Tensor:
        """A^H A x."""
        return self.adjoint(self.forward(x))

    def frames(self, chunk: slice) -> LinearOp:
        """The operator that measures only the frames in `chunk`; UsageError if frames are not separable."""
        if not self.separable:
            raise UsageError(f"{type(self).__name__} mixes frames: it cannot be restricted to some of them")
        return self

    def __call__(self, x: Tensor) -> Tensor:
        return self.forward(x)

    def __matmul__(self, other: LinearOp) -> LinearOp:
        return _product((*_factors(self), *_factors(other)))

    @property
    def H(self) -> LinearOp:
        """The adjoint as an operator of its own."""
        return _Adjoint(self)


class Identity(LinearOp):
    """Every voxel is measured as it is: the operator of denoising."""

    def forward(self, x: Tensor) -> Tensor:
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        return y

    def normal(self, x: Tensor) -> Tensor:
        return x


class Mask(LinearOp):
    """Zeros what was not measured; the shape stays (so it is an orthogonal projection).

    keep: bool tensor of 5 axes, broadcastable to the data (B, C, T, Y, X), True where measured; or False when
        nothing was measured at all (generation).

    Raises UsageError for anything else.
    """

    def __init__(self, keep: Tensor | bool) -> None:
        if isinstance(keep, Tensor):
            if keep.dtype != torch.bool or keep.ndim != 5:
                raise UsageError(f"a mask must be bool with 5 axes, got {keep.dtype} of shape {tuple(keep.shape)}")
        elif keep is not False:
            raise UsageError("a mask is a bool tensor, or False when nothing is measured")
        self.keep = keep

    def forward(self, x: Tensor) -> Tensor:
        # where(), not a product: whatever stands at unmeasured places, NaN included, must not get through
        return torch.where(self.keep, x, 0) if isinstance(self.keep, Tensor) else torch.zeros_like(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.forward(y)

    def normal(self, x: Tensor) -> Tensor:
        return self.forward(x)

    def frames(self, chunk: slice) -> Mask:
        return Mask(_sliced(self.keep, chunk)) if isinstance(self.keep, Tensor) else self


class Fourier(LinearOp):
    """Centred orthonormal 2-D discrete Fourier transform over (Y, X); DC and the image centre lie at index N // 2.

    Unitary, so the adjoint is the inverse and the noise of image and k-space have the same std.
    """

    def forward(self, x: Tensor) -> Tensor:
        return shift(torch.fft.fft2(unshift(x), norm="ortho"))

    def adjoint(self, y: Tensor) -> Tensor:
        return shift(torch.fft.ifft2(unshift(y), norm="ortho"))

    def normal(self, x: Tensor) -> Tensor:
        return x


class Coils(LinearOp):
    """What each coil sees: image (B, 1, T, Y, X) -> (B, C, T, Y, X).

    maps: complex coil sensitivities (B or 1, C, T or 1, Y, X). With unit root-sum-of-squares the norm of this
        operator is 1 (Pruessmann 1999, Roemer 1990).
    """

    def __init__(self, maps: Tensor) -> None:
        if maps.ndim != 5:
            raise UsageError(f"coil maps need the shape (B, C, 1, Y, X), got {tuple(maps.shape)}")
        self.maps = maps

    def forward(self, x: Tensor) -> Tensor:
        return self.maps * x

    def adjoint(self, y: Tensor) -> Tensor:
        return weighted_sum(self.conjugate.split(1, dim=1), y.split(1, dim=1))

    def normal(self, x: Tensor) -> Tensor:
        return self.maps.abs().square().sum(1, keepdim=True) * x

    @cached_property
    def conjugate(self) -> Tensor:
        """The conjugate maps, in memory: to conjugate on the fly in every product takes as long as the product."""
        return self.maps.conj().resolve_conj()

    def frames(self, chunk: slice) -> Coils:
        return self if self.maps.shape[_FRAME_AXIS] == 1 else Coils(_sliced(self.maps, chunk))


class Resample(LinearOp):
    """Values at other times as weighted sums of frames: (B, C, T_in, Y, X) -> (B, C, T_out, Y, X).

    matrix: real (T_out, T_in) interpolation weights.
    """

    separable = False

    def __init__(self, matrix: Tensor) -> None:
        if matrix.ndim != 2 or not matrix.is_floating_point():
            raise UsageError(f"resampling needs a real (T_out, T_in) matrix, got {tuple(matrix.shape)} {matrix.dtype}")
        self.matrix = matrix

    def forward(self, x: Tensor) -> Tensor:
        return _along_time(self.matrix, x)

    def adjoint(self, y: Tensor) -> Tensor:
        return _along_time(self.matrix.T, y)


class _Adjoint(LinearOp):
    def __init__(self, operator: LinearOp) -> None:
        self.operator = operator
        self.separable = operator.separable

    def forward(self, x: Tensor) -> Tensor:
        return self.operator.adjoint(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.operator.forward(y)

    def frames(self, chunk: slice) -> LinearOp:
        return _Adjoint(self.operator.frames(chunk))

    @property
    def H(self) -> LinearOp:
        return self.operator


class _Product(LinearOp):
    """Factors applied from the last to the first, frame by frame where that is faster."""

    def __init__(self, factors: tuple[LinearOp, ...]) -> None:
        self.factors = factors
        self.separable = all(factor.separable for factor in factors)

    def forward(self, x: Tensor) -> Tensor:
        return self._each_frame(x, lambda part, frame: part._forward(frame))

    def adjoint(self, y: Tensor) -> Tensor:
        return self._each_frame(y, lambda part, frame: part._adjoint(frame))

    def normal(self, x: Tensor) -> Tensor:
        return self._each_frame(x, lambda part, frame: part._normal(frame))

    def frames(self, chunk: slice) -> _Product:
        return _product(tuple(factor.frames(chunk) for factor in self.factors))

    def _each_frame(self, x: Tensor, apply: Callable[[_Product, Tensor], Tensor]) -> Tensor:
        """All coils of one frame fit into a processor's cache, all frames do not: twice as fast on a CPU."""
        if not self.separable or x.shape[2] == 1 or self._at_once(x):
            return apply(self, x)
        out = None
        for frame in (slice(t, t + 1) for t in range(x.shape[2])):
            part = apply(self.frames(frame), x[:, :, frame])
            if out is None:  # filled as it comes: put together at the end, it would be there twice
                out = part.new_empty(*part.shape[:2], x.shape[2], *part.shape[3:])
            out[:, :, frame] = part
        assert out is not None
        return out

    def _at_once(self, x: Tensor) -> bool:
        return x.device.type != "cpu" or x.numel() < _LARGE

    def _forward(self, x: Tensor) -> Tensor:
        for factor in reversed(self.factors):
            x = factor(x)
        return x

    def _adjoint(self, y: Tensor) -> Tensor:
        for factor in self.factors:
            y = factor.adjoint(y)
        return y

    def _normal(self, x: Tensor) -> Tensor:
        first, *others = self.factors
        for factor in reversed(others):
            x = factor(x)
        x = first.normal(x)
        for factor in others:
            x = factor.adjoint(x)
        return x


class _MaskedFourier(_Product):
    """`Mask @ Fourier` with a cheaper normal operator.

    F^H M F is a circular convolution, which commutes with the shifts that centre the image: only the mask is shifted.
    """

    def __init__(self, mask: Mask, fourier: Fourier) -> None:
        super().__init__((mask, fourier))
        self.mask = mask
        self.whole_readouts = isinstance(mask.keep, Tensor) and mask.keep.shape[-1] == 1

    def _normal(self, x: Tensor) -> Tensor:
        if not isinstance(self.mask.keep, Tensor):
            return self.mask.normal(x)
        # In place, and along the readout too where it would cancel: both are faster than the strided transform.
        spectrum = torch.fft.fft2(x, norm="ortho").mul_(unshift(self.mask.keep))
        return torch.fft.ifft2(spectrum, norm="ortho")

    def frames(self, chunk: slice) -> _MaskedFourier:
        return _MaskedFourier(self.mask.frames(chunk), Fourier())


class _LineSense(_Product):
    """`Mask @ Fourier @ Coils` of whole readouts: along them the transforms of the normal operator cancel.

    Images are turned, so that the transform which is left runs along memory: 2.5 times as fast on a CPU.
    """

    def __init__(self, masked: _MaskedFourier, coils: Coils, turned: tuple[Tensor, Coils] | None = None) -> None:
        super().__init__((masked, coils))
        self.masked, self.coils = masked, coils
        if turned is None:
            assert isinstance(masked.mask.keep, Tensor)
            turned = unshift(masked.mask.keep).mT.contiguous(), Coils(coils.maps.mT.contiguous())
        self.turned = turned

    def _normal(self, x: Tensor) -> Tensor:
        lines, coils = self.turned
        spectrum = torch.fft.fft(coils(x.mT.contiguous())).mul_(lines)
        return coils.adjoint(torch.fft.ifft(spectrum)).mT

    def frames(self, chunk: slice) -> _LineSense:
        lines, coils = self.turned
        turned = _sliced(lines, chunk), coils.frames(chunk)
        return _LineSense(self.masked.frames(chunk), self.coils.frames(chunk), turned)


class _FewLineSense(_Product):
    """As `_LineSense`, on a CPU and with so few lines a frame that only those are computed, by rows of the DFT matrix.

    One frame and one coil after the other, so that what is worked on stays in a processor's cache.
    """

    def __init__(self, masked: _MaskedFourier, coils: Coils, keep: Tensor, dft: Tensor) -> None:
        """keep: of the mask, the same for all items and coils; dft: (Y, Y), as of `arithmetic.dft`."""
        super().__init__((masked, coils))
        self.masked, self.coils, self.keep, self.dft = masked, coils, keep, dft

    def frames(self, chunk: slice) -> _FewLineSense:
        keep = _sliced(self.keep, chunk)
        return _FewLineSense(self.masked.frames(chunk), self.coils.frames(chunk), keep, self.dft)

    def _at_once(self, x: Tensor) -> bool:
        return False

    def _forward(self, x: Tensor) -> Tensor:
        lines, rows = self._lines(x)
        seen = [torch.stack([rows @ (coil * image) for coil in maps]) for image, maps, _ in self._items(x)]
        zeros = seen[0].new_zeros(len(seen), len(seen[0]), 1, *x.shape[3:])
        return zeros.index_copy_(3, lines, centred(torch.fft.fft, torch.stack(seen)[:, :, None]))

    def _adjoint(self, y: Tensor) -> Tensor:
        lines, rows = self._lines(y)
        measured = centred(torch.fft.ifft, y.index_select(3, lines)).to(rows.dtype)
        back = rows.mH
        images = [
            weighted_sum(conjugates, (back @ part for part in parts[:, 0]))
            for parts, (_, _, conjugates) in zip(measured, self._items(y), strict=True)
        ]
        return torch.stack(images)[:, None, None]

    def _normal(self, x: Tensor) -> Tensor:
        _, rows = self._lines(x)
        back = rows.mH
        images = [
            weighted_sum(conjugates, (back @ (rows @ (coil * image)) for coil in maps))
            for image, maps, conjugates in self._items(x)
        ]
        return torch.stack(images)[:, None, None]

    def _lines(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Indices (M,) of the measured lines of the one frame that is left, and their rows of the DFT, (M, Y)."""
        lines = self.keep.flatten().nonzero()[:, 0]
        return lines, self.dft[lines].to(torch.result_type(self.coils.maps, x))

    def _items(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Of each item of the batch: its one frame of the first coil, (Y, X); the maps and the conjugate maps, (C, Y,
        X). Products of plain matrices are faster than those of a batch of one."""
        maps, conjugates = (
            part.expand(len(x), *part.shape[1:])[:, :, 0] for part in (self.coils.maps, self.coils.conjugate)
        )
        return zip(x[:, 0, 0], maps, conjugates, strict=True)


def _factors(operator: LinearOp) -> tuple[LinearOp, ...]:
    return operator.factors if isinstance(operator, _Product) else (operator,)


def _product(factors: tuple[LinearOp, ...]) -> _Product:
    match factors:
        case (Mask() as mask, Fourier() as fourier, *others):
            return _product((_MaskedFourier(mask, fourier), *others)) if others else _MaskedFourier(mask, fourier)
        case (_MaskedFourier() as masked, Coils() as coils) if masked.whole_readouts:
            keep = masked.mask.keep
            if isinstance(keep, Tensor) and _few_lines_serve(keep, coils.maps):
                return _FewLineSense(masked, coils, keep, dft(keep.shape[3]))
            return _LineSense(masked, coils)
    return _Product(factors)


def _few_lines_serve(keep: Tensor, maps: Tensor) -> bool:
    """Whether frames are large and have few lines, the same for all items and coils. No GPU is asked, it waits."""
    if keep.device.type != "cpu" or keep.shape[:2] != (1, 1) or keep.shape[3] != maps.shape[3]:
        return False
    if maps.shape[3] * maps.shape[4] < _LARGE_IMAGE:
        return False
    return int(keep.sum(3).max()) <= sum(prime_factors(keep.shape[3]))


def _sliced(tensor: Tensor, chunk: slice) -> Tensor:
    """The frames in `chunk` of something that may be constant over time."""
    return tensor if tensor.shape[_FRAME_AXIS] == 1 else tensor[:, :, chunk]


def _along_time(matrix: Tensor, x: Tensor) -> Tensor:
    return torch.einsum("st,bctyx->bcsyx", matrix.to(x.dtype), x)
