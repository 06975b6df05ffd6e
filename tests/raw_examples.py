"""What the tests of raw data formats have in common: k-space of which everything is known, and judges of a result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from medseq import InputError, KSpace, load_kspace

AFFINE = np.array([[1.2, 0.1, 0.0, 3.0], [-0.1, 1.3, 0.2, 4.0], [0.0, 0.1, 5.0, -7.0], [0.0, 0.0, 0.0, 1.0]])
GUESSED = pytest.mark.filterwarnings("ignore:.*no position or orientation:medseq.errors.MedseqWarning")


def random_image(*shape: int) -> np.ndarray:
    rng = np.random.default_rng(sum(shape))
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


def to_kspace(image: np.ndarray) -> np.ndarray:
    """The centred orthonormal transform over the last two axes, by NumPy."""
    axes = (-2, -1)
    return np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image, axes), norm="ortho"), axes).astype(np.complex64)


def example(slices: int = 2, coils: int = 3, frames: int = 4, height: int = 25, width: int = 32) -> KSpace:
    """Undersampled k-space of odd and even sizes, with all that medseq knows of it."""
    keep = torch.from_numpy(np.random.default_rng(1).random((1, 1, frames, height, 1)) > 0.5)
    keep[..., 10:15, :] = True
    data = torch.from_numpy(random_image(slices, coils, frames, height, width)) * keep
    noise = torch.eye(coils) + 0.1j * torch.triu(torch.ones(coils, coils), 1)
    times = np.array([0.0, 0.1, 0.25, 0.3])[:frames]
    return KSpace(data, keep, None, (noise + noise.mH) / 2, AFFINE, times, 0.5)


def assert_same(one: KSpace, other: KSpace, affine: float = 0.0) -> None:
    """Every bit; the affine to `affine` mm."""
    assert torch.equal(one.data, other.data)
    assert torch.equal(one.keep.expand_as(one.data), other.keep.expand_as(other.data))
    np.testing.assert_allclose(one.affine, other.affine, rtol=0, atol=affine)
    np.testing.assert_array_equal(one.times, other.times)
    assert one.period == other.period
    if isinstance(one.noise, torch.Tensor):
        assert isinstance(other.noise, torch.Tensor) and torch.equal(one.noise, other.noise)
    else:
        assert one.noise == other.noise


def refused(path: Path, message: str) -> None:
    """One line that names the file (either of a pair) and says `message`."""
    with pytest.raises(InputError) as caught:
        load_kspace(path)
    text = str(caught.value)
    assert message in text and "\n" not in text and text.startswith(str(path.with_suffix("")).removesuffix(".fastmri"))
