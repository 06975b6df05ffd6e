"""BART in and out: BART itself transforms, reconstructs and judges."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_examples import GUESSED, example, random_image, refused

from medseq import Fourier, InputError, KSpace, MedseqWarning, ResourceError, load_kspace, save_kspace
from medseq.patterns import variable_density
from medseq.phantoms.cine import beating_heart
from medseq.simulate import coil_maps


def bart(folder: Path, *words: object) -> str:
    """Run BART in the folder."""
    if shutil.which("bart") is None:
        pytest.skip("BART is not installed (Debian: apt-get install bart)")
    done = subprocess.run(["bart", *map(str, words)], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_cfl(path: Path, array: np.ndarray) -> None:
    """As BART's own python/cfl.py does it."""
    path.with_suffix(".hdr").write_text(f"# Dimensions\n{' '.join(map(str, array.shape))} \n")
    array.astype(np.complex64).T.tofile(path)


def read_cfl(path: Path) -> np.ndarray:
    sizes = path.with_suffix(".hdr").read_text().splitlines()[1].split()
    return np.fromfile(path, np.complex64).reshape([int(size) for size in sizes], order="F")


def in_bart(image: np.ndarray) -> np.ndarray:
    """(B, C, T, Y, X) in BART's 16 dimensions: READ 0, PHS1 1, COIL 3, TIME 10, SLICE 13."""
    b, c, t, y, x = image.shape
    return image.transpose(4, 3, 1, 2, 0).reshape(x, y, 1, c, 1, 1, 1, 1, 1, 1, t, 1, 1, b, 1, 1)


@GUESSED
def test_bart_and_medseq_see_the_same_image(tmp_path: Path) -> None:
    image = random_image(2, 3, 4, 25, 32)
    write_cfl(tmp_path / "image.cfl", in_bart(image))
    bart(tmp_path, "fft", "-u", 3, "image", "kspace")
    kspace = load_kspace(tmp_path / "kspace.cfl")
    np.testing.assert_allclose(Fourier().adjoint(kspace.data).numpy(), image, atol=1e-5)
    assert kspace.keep.shape == (2, 1, 4, 25, 1) and bool(kspace.keep.all())
    save_kspace(kspace, tmp_path / "ours.cfl")
    bart(tmp_path, "fft", "-u", "-i", 3, "ours", "back")
    np.testing.assert_allclose(read_cfl(tmp_path / "back.cfl"), in_bart(image), atol=1e-5)


@GUESSED
def test_bart_reconstructs_what_medseq_wrote(tmp_path: Path) -> None:
    """Undersampled k-space of several frames, by BART's own maps and solver, judged by `bart nrmse`."""
    truth = beating_heart((48, 40), 3, torch.Generator().manual_seed(2))[None, None].to(torch.complex64)
    keep = variable_density(3, 48, 2, centre=16)
    data = Fourier()(coil_maps(6, (48, 40)) * truth)
    save_kspace(KSpace(data * keep, keep.expand(1, 1, -1, -1, 1)), tmp_path / "raw.cfl")
    bart(tmp_path, "slice", 10, 0, "raw", "first")
    bart(tmp_path, "ecalib", "-m1", "-c0", "first", "maps")
    bart(tmp_path, "pics", "-S", "-i30", "raw", "maps", "result")
    write_cfl(tmp_path / "truth.cfl", in_bart(truth.numpy()))
    bart(tmp_path, "flip", 2, "truth", "flipped")
    bart(tmp_path, "cabs", "result", "magnitude")
    bart(tmp_path, "cabs", "truth", "truth")
    assert float(bart(tmp_path, "nrmse", "-s", "truth", "magnitude").split()[-1]) < 0.1
    assert float(bart(tmp_path, "nrmse", "-s", "flipped", "magnitude").split()[-1]) > 0.2


@GUESSED
def test_barts_own_phantom_and_its_commands_in_the_header_are_read(tmp_path: Path) -> None:
    bart(tmp_path, "phantom", "-k", "-x", 32, "-s", 4, "kspace")
    assert "# Command" in (tmp_path / "kspace.hdr").read_text()
    bart(tmp_path, "fft", "-u", "-i", 3, "kspace", "image")
    kspace = load_kspace(tmp_path / "kspace.cfl")
    ours = in_bart(Fourier().adjoint(kspace.data).numpy())
    theirs = read_cfl(tmp_path / "image.cfl")
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


@GUESSED
def test_a_header_in_no_known_encoding_is_read(tmp_path: Path) -> None:
    """BART notes the names of files, in which any byte may stand."""
    write_cfl(tmp_path / "raw.cfl", random_image(8, 6))
    (tmp_path / "raw.hdr").write_bytes(b"# Dimensions\n8 6\n# Command\nfft -u 3 /data/m\xfcller k\n")
    assert load_kspace(tmp_path / "raw.cfl").data.shape == (1, 1, 1, 6, 8)


@GUESSED
def test_what_bart_does_not_hand_on_is_assumed_and_said(tmp_path: Path) -> None:
    """BART reads a file with the note of 32 coils, which is longer than what it reads of a header, and drops it."""
    kspace = example(coils=32)
    save_kspace(kspace, tmp_path / "ours.cfl")
    assert (tmp_path / "ours.hdr").stat().st_size > 4096
    bart(tmp_path, "copy", "ours", "copied")
    with pytest.warns(MedseqWarning, match="voxels of 1 x 1 x 1 mm.*1 s apart"):
        copied = load_kspace(tmp_path / "copied.cfl")
    assert torch.equal(copied.data, kspace.data) and copied.noise is None and copied.period is None


def test_the_second_time_dimension_is_time_too(tmp_path: Path) -> None:
    write_cfl(tmp_path / "raw.cfl", np.moveaxis(in_bart(random_image(1, 2, 5, 6, 8)), 10, 11))
    with pytest.warns(MedseqWarning, match="no position"):
        assert load_kspace(tmp_path / "raw.cfl").data.shape == (1, 2, 5, 6, 8)


BAD_HEADERS = {
    "# Dimensions\n8 6 4 2\n": "PHS2 4",
    "# Dimensions\n1 64 32 2\n": "along a trajectory",
    "# Dimensions\n8 6 1 2 2\n": "MAPS 2",
    "# Dimensions\n8 6 1 1 1 3\n": "TE 3",
    "# Dimensions\n8 6 1 1 1 1 1 1 1 1 2 2\n": "two time dimensions",
    "# Dimensions\n" + "1 " * 16 + "2\n": "beyond the 16th",
    "# Dimensions\n8 6 1 0\n": "dimension of 0",
    "# Dimensions\n8 -6\n": "no list of dimensions",
    "# Dimensions\n8 six\n": "no list of dimensions",
    "# Dimensions\n": "no list of dimensions",
    "": "no list of dimensions",
    "# Dimensions\n8 6 1 3\n": "truncated",
    "# Dimensions\n8 6\n": "longer than that",
}


@pytest.mark.parametrize("header", BAD_HEADERS)
def test_what_bart_means_otherwise_is_refused_by_name(tmp_path: Path, header: str) -> None:
    write_cfl(tmp_path / "raw.cfl", random_image(8, 6, 1, 2))
    (tmp_path / "raw.hdr").write_text(header)
    refused(tmp_path / "raw.cfl", BAD_HEADERS[header])


def test_a_header_of_absurd_sizes_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    write_cfl(tmp_path / "raw.cfl", random_image(8, 6))
    (tmp_path / "raw.hdr").write_text("# Dimensions\n99999999999 99999999999\n")
    with pytest.raises(InputError, match="its .hdr promises"):
        load_kspace(tmp_path / "raw.cfl")


@pytest.mark.parametrize("missing", ["raw.hdr", "raw.cfl"])
def test_half_of_a_pair_is_refused_with_the_name_of_the_other(tmp_path: Path, missing: str) -> None:
    write_cfl(tmp_path / "raw.cfl", random_image(8, 6))
    (tmp_path / missing).unlink()
    with pytest.raises(InputError, match=f"{missing}: no such file"):
        load_kspace(tmp_path / "raw.cfl")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(alphabet='#\n 0123456789DimensonMdq{}[]":,e-\x00é', max_size=80))
@GUESSED
@pytest.mark.filterwarnings("ignore:.*no longer fits:medseq.errors.MedseqWarning")
def test_any_header_gives_kspace_or_a_refusal(tmp_path: Path, text: str) -> None:
    write_cfl(tmp_path / "raw.cfl", random_image(8, 6))
    (tmp_path / "raw.hdr").write_text(f"# Dimensions\n8 6\n# Medseq\n{text}")
    try:
        load_kspace(tmp_path / "raw.cfl")
    except (InputError, ResourceError) as error:
        assert str(tmp_path) in str(error)


@pytest.mark.parametrize(
    "note",
    [
        '{"affine": [[1]], "times": [0], "period": null, "noise": null}',
        '{"affine": [[1,0,0,0],[0,1,0,0],[0,0,1,0],[0,0,0,1]], "times": [0, 1], "period": null, "noise": null}',
        '{"affine": [[1,0,0,0],[0,1,0,0],[0,0,1,0],[0,0,0,1]], "times": [0], "period": null, "noise": [[[1, 0]]]}',
        '{"affine": [[1,0,0,0],[0,1,0,0],[0,0,1,0],[0,0,0,1]], "times": [0], "period": null, "noise": NaN}',
        '{"affine": null, "times": [0], "period": "x", "noise": "loud"}',
        "[" * 100_000,
        "[]",
        "{}",
    ],
)
def test_a_note_that_does_not_fit_is_left_aside(tmp_path: Path, note: str) -> None:
    write_cfl(tmp_path / "raw.cfl", random_image(8, 6, 1, 2))
    (tmp_path / "raw.hdr").write_text(f"# Dimensions\n8 6 1 2\n# Medseq\n{note}\n")
    with pytest.warns(MedseqWarning) as caught:
        kspace = load_kspace(tmp_path / "raw.cfl")
    assert [("no longer fits" in str(w.message), "no position" in str(w.message)) for w in caught] == [
        (True, False),
        (False, True),
    ]
    np.testing.assert_array_equal(kspace.affine, np.eye(4))
