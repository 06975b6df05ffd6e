"""fastMRI in and out, against NumPy's transform of a known image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ismrmrd import xsd
from raw_examples import GUESSED, assert_same, example, random_image, refused, to_kspace
from scanner import Scanner

from medseq import Fourier, MedseqWarning, load_kspace, save_kspace


def write_fastmri(path: Path, kspace: np.ndarray, scanner: Scanner | None = None, **arrays: Any) -> Path:
    """kspace: (slices, coils, x, y) or (slices, x, y), as the data set stores it."""
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace
        if scanner is not None:
            file["ismrmrd_header"] = xsd.ToXML(scanner.xml())
        for name, array in arrays.items():
            file[name] = array
        file.attrs["acquisition"], file.attrs["patient_id"] = "CORPD_FBK", "0f8a"
    return path


KNEE = Scanner(encoded=(64, 24), encoded_fov=(640.0, 264.0), recon=(32, 24), recon_fov=(320.0, 240.0), thickness=4.5)


@pytest.mark.parametrize("coils", [None, 3])
def test_a_fastmri_image_is_its_centre_cut_out(tmp_path: Path, coils: int | None) -> None:
    """As fastMRI makes its reference: inverse transform, then the centre of the readout (stored second to last)."""
    image = random_image(2, *([] if coils is None else [coils]), 64, 24)
    path = write_fastmri(tmp_path / "knee.h5", to_kspace(image), KNEE)
    with pytest.warns(MedseqWarning, match="voxels of 10 x 11 x 4.5 mm") as caught:
        kspace = load_kspace(path)
    assert len(caught) == 1 and "0f8a" not in str(caught[0].message)
    ours = Fourier().adjoint(kspace.data)[:, :, 0].numpy()
    wanted = image[..., 16:48, :].swapaxes(-1, -2).reshape(2, coils or 1, 24, 32)
    np.testing.assert_allclose(ours, wanted, atol=1e-5)
    np.testing.assert_array_equal(kspace.affine, np.diag([10, 11, 4.5, 1]))


@GUESSED
def test_fastmri_lines_are_those_that_are_not_zero_and_that_the_mask_names(tmp_path: Path) -> None:
    samples = to_kspace(random_image(2, 3, 64, 24))
    samples[..., 20:] = 0  # zero-filled, as where fewer lines were encoded
    mask = np.arange(24) % 2 == 0
    kspace = load_kspace(write_fastmri(tmp_path / "test.h5", samples, KNEE, mask=mask))
    assert kspace.keep.shape == (2, 1, 1, 24, 1)
    assert kspace.keep[0].flatten().nonzero().flatten().tolist() == list(range(0, 20, 2))
    assert not bool((kspace.data * ~kspace.keep).any())


@GUESSED
def test_fastmri_without_a_header_or_with_another_matrix_is_read_with_a_warning(tmp_path: Path) -> None:
    image = random_image(1, 2, 64, 20)
    with pytest.warns(MedseqWarning, match="announces 64 x 24, the array is 64 x 20"):
        kspace = load_kspace(write_fastmri(tmp_path / "other.h5", to_kspace(image), KNEE))
    np.testing.assert_allclose(np.diag(kspace.affine), [10, 264 / 20, 4.5, 1])
    with pytest.warns(MedseqWarning, match="voxels of 1 x 1 x 1 mm"):
        kspace = load_kspace(write_fastmri(tmp_path / "bare.h5", to_kspace(image)))
    assert kspace.data.shape == (1, 2, 1, 20, 64)


def test_a_written_fastmri_file_is_laid_out_as_the_data_set_is(tmp_path: Path) -> None:
    kspace = example(frames=1)
    save_kspace(kspace, tmp_path / "ours.fastmri.h5")
    with h5py.File(tmp_path / "ours.fastmri.h5") as file:
        stored, mask = file["kspace"][:], file["mask"][:]
        header = xsd.CreateFromDocument(file["ismrmrd_header"][()])
    np.testing.assert_array_equal(stored, kspace.data[:, :, 0].swapaxes(-1, -2))
    np.testing.assert_array_equal(mask, kspace.keep[0, 0, 0, :, 0])
    space = header.encoding[0].encodedSpace.matrixSize
    assert (space.x, space.y) == (32, 25)
    assert_same(load_kspace(tmp_path / "ours.fastmri.h5"), kspace)


@pytest.mark.parametrize(
    ("kspace", "arrays", "message"),
    [
        (np.ones((2, 8, 6), np.float32), {}, "must be complex"),
        (np.ones((8, 6), np.complex64), {}, "must be complex"),
        (np.zeros((2, 8, 6), np.complex64), {}, "every sample is zero"),
        (np.full((2, 8, 6), np.nan + 0j, np.complex64), {}, "not finite"),
        (np.ones((2, 8, 6), np.complex64), {"mask": np.ones(5)}, "a mask of (5,) for 6 lines"),
        (np.ones((2, 8, 6), np.complex64), {"mask": np.zeros(6)}, "every sample is zero"),
        (np.ones((2, 8, 6), np.complex64), {"ismrmrd_header": "<html/>"}, "broken or not fastMRI"),
        (np.ones((2, 8, 6), np.complex64), {"ismrmrd_header": "<ismrmrdHeader"}, "broken or not fastMRI"),
    ],
)
@GUESSED
def test_fastmri_that_cannot_be_used_is_refused(
    tmp_path: Path, kspace: np.ndarray, arrays: dict[str, Any], message: str
) -> None:
    refused(write_fastmri(tmp_path / "bad.h5", kspace, **arrays), message)


def test_a_fastmri_header_of_impossible_sizes_is_refused(tmp_path: Path) -> None:
    scanner = replace(KNEE, recon_fov=(900.0, 240.0))
    refused(write_fastmri(tmp_path / "bad.h5", to_kspace(random_image(1, 64, 24)), scanner), "impossible matrix")
