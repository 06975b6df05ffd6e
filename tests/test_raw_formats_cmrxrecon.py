"""CMRxRecon in and out, against NumPy's transform of a known image, SciPy's MATLAB files, and one of MATLAB's own."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from raw_examples import GUESSED, random_image, refused, to_kspace

from medseq import Fourier, load_kspace, save_kspace

PAIR = np.dtype([("real", "<f8"), ("imag", "<f8")])


def write_matlab_hdf5(path: Path, dtype: np.dtype = PAIR, **arrays: np.ndarray) -> Path:
    """Arrays as MATLAB's `save -v7.3` puts them into HDF5; shapes are MATLAB's."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            pairs = np.empty(array.T.shape, dtype)
            pairs["real"], pairs["imag"] = array.T.real, array.T.imag
            file[name] = pairs
            file[name].attrs["MATLAB_class"] = np.bytes_("double")
    return path


def in_matlab(image: np.ndarray) -> np.ndarray:
    """K-space (nx, ny, coils, slices, frames) of an image (B, C, T, Y, X)."""
    return to_kspace(image).transpose(4, 3, 1, 0, 2)


@pytest.mark.parametrize(
    ("name", "old"), [("kspace_full", True), ("kspace_full", False), ("kspace_sub04", False), ("kus", False)]
)
@GUESSED
def test_a_cmrxrecon_image_is_the_one_that_was_measured(tmp_path: Path, name: str, old: bool) -> None:
    image = random_image(2, 3, 4, 25, 32)
    samples = in_matlab(image)
    path = tmp_path / "cine_sax.mat"
    if old:
        scipy.io.savemat(path, {name: samples, "scan": "sax"}, do_compression=True)
    else:
        write_matlab_hdf5(path, **{name: samples})
    kspace = load_kspace(path)
    np.testing.assert_allclose(Fourier().adjoint(kspace.data).numpy(), image, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "shape", "expected", "old"),
    [
        ("kspace_single_full", (8, 6, 2, 5), (2, 1, 5, 6, 8), False),  # no coils
        ("kspace_single_sub10", (8, 6, 2), (2, 1, 1, 6, 8), True),
        ("kspace", (8, 6, 3, 2), (2, 3, 1, 6, 8), False),  # no frames, as in black-blood images
        ("kspace", (8, 6), (1, 1, 1, 6, 8), False),
    ],
)
@GUESSED
def test_cmrxrecon_dimensions_that_matlab_drops_are_one(
    tmp_path: Path, name: str, shape: tuple[int, ...], expected: tuple[int, ...], old: bool
) -> None:
    samples = random_image(*shape)
    path = tmp_path / "raw.mat"
    if old:
        scipy.io.savemat(path, {name: samples})
    else:
        write_matlab_hdf5(path, **{name: samples})
    assert load_kspace(path).data.shape == expected


@GUESSED
def test_a_mask_that_varies_along_x_is_found_from_the_zeros(tmp_path: Path) -> None:
    """Pseudo-radial undersampling of 2024 and 2025."""
    samples = random_image(8, 6, 3, 1, 4)
    mask = np.random.default_rng(0).random((8, 6, 1, 1, 4)) > 0.4
    kspace = load_kspace(write_matlab_hdf5(tmp_path / "cine_kus_ktRadial8.mat", kus=samples * mask))
    np.testing.assert_array_equal(kspace.keep[0, 0].numpy(), mask[:, :, 0, 0].transpose(2, 1, 0))


@GUESSED
def test_a_real_matlab_file_has_the_layout_that_is_read_and_written(tmp_path: Path, real_data: Path) -> None:
    """Real coil maps of MATLAB 7.3 stand in for k-space: they are read as stored, and ours is laid out like them."""
    source = real_data / "coils" / "sens.mat"
    with h5py.File(source) as file:
        stored, dtype = file["sens"][:], file["sens"].dtype
        kind = file["sens"].attrs.get_id("MATLAB_class").dtype
        userblock = file.userblock_size
    values = (stored["real"] + 1j * stored["imag"]).T
    kspace = load_kspace(write_matlab_hdf5(tmp_path / "real.mat", dtype, kspace=values.transpose(0, 1, 3, 2)))
    np.testing.assert_array_equal(kspace.data[0, :, 0], values.T[:, 0].astype(np.complex64))
    save_kspace(kspace, tmp_path / "ours.mat")
    head, ours = source.read_bytes()[:128], (tmp_path / "ours.mat").read_bytes()[:128]
    assert head[:19] == ours[:19] == b"MATLAB 7.3 MAT-file" and head[116:] == ours[116:]
    with h5py.File(tmp_path / "ours.mat") as file:
        assert file.userblock_size == userblock == 512
        assert file["kspace"].dtype.names == dtype.names
        assert file["kspace"].attrs.get_id("MATLAB_class").dtype.kind == kind.kind == "S"
    # The superblock's base address, where HDF5 begins (HDF5 file format, version 0 of the superblock).
    assert [int.from_bytes(file.read_bytes()[536:544], "little") for file in (source, tmp_path / "ours.mat")] == [
        512
    ] * 2
    with (tmp_path / "ours.mat").open("rb") as stream:
        assert scipy.io.matlab.matfile_version(stream) == (2, 0)


@GUESSED
def test_real_dynamic_kspace_of_an_old_matlab_file(tmp_path: Path, real_data: Path) -> None:
    """Hyperpolarised 13C of a rat, 140 x 70 x 20 frames, one coil: the image by NumPy's transform."""
    stored = scipy.io.loadmat(real_data / "hp_kspace" / "t2mapping_lactate_retrospective_data.mat")["data"]
    scipy.io.savemat(tmp_path / "raw.mat", {"kspace_single_full": stored.astype(complex)[:, :, None]})
    kspace = load_kspace(tmp_path / "raw.mat")
    assert kspace.data.shape == (1, 1, 20, 70, 140)
    axes = (0, 1)
    image = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(stored, axes), axes=axes, norm="ortho"), axes)
    ours = Fourier().adjoint(kspace.data)[0, 0].numpy()
    np.testing.assert_allclose(ours, image.transpose(2, 1, 0), atol=1e-5 * np.abs(image).max())


TWO = {"kspace_full": np.ones((8, 6), complex), "kus": np.ones((8, 6), complex)}


@pytest.mark.parametrize(
    ("arrays", "message", "old"),
    [
        ({"mask04": np.ones((8, 6), complex)}, "no k-space among mask04", True),
        ({"mask04": np.ones((8, 6), complex)}, "no k-space among mask04", False),
        (TWO, "several arrays of k-space", False),
        ({"kspace": np.ones((8, 6, 1, 1, 1, 2), complex)}, "it must have 2 to 5", True),
        ({"kspace": np.ones((8, 6, 1, 1, 1, 2), complex)}, "it must have 2 to 5", False),
        ({"kspace_single_full": np.ones((8, 6, 1, 1, 2), complex)}, "it must have 2 to 4", False),
        ({"kspace": np.zeros((8, 6), complex)}, "every sample is zero", False),
        ({"kspace": np.full((8, 6), complex(np.nan, 0))}, "not finite", False),
    ],
)
def test_matlab_files_without_usable_kspace_are_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], message: str, old: bool
) -> None:
    path = tmp_path / "bad.mat"
    if old:
        scipy.io.savemat(path, arrays)
    else:
        write_matlab_hdf5(path, **arrays)
    refused(path, message)


@pytest.mark.parametrize("old", [False, True])
def test_magnitudes_are_not_kspace(tmp_path: Path, old: bool) -> None:
    path = tmp_path / "bad.mat"
    if old:
        scipy.io.savemat(path, {"kspace": np.ones((8, 6))})
    else:
        with h5py.File(path, "w") as file:
            file["kspace"] = np.ones((6, 8))
    refused(path, "not complex")


def test_a_file_that_crashes_scipy_is_refused(tmp_path: Path) -> None:
    """A data type that is none: SciPy's reader looks it up beyond its table, and a segmentation fault ends it."""
    path = tmp_path / "bad.mat"
    scipy.io.savemat(path, {"kspace": random_image(8, 6)})
    single_type = (7).to_bytes(4, "little") + (8 * 6 * 4).to_bytes(4, "little")
    content = path.read_bytes()
    assert content.count(single_type) == 2  # the real and the imaginary part
    path.write_bytes(content.replace(single_type, b"\xff\x30\0\0" + single_type[4:]))
    refused(path, "broken or no MATLAB file")
