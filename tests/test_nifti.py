"""NIfTI in and out, against nibabel: data, geometry, timing and headers survive; what cannot be meant is refused."""

from __future__ import annotations

import gzip
import json
import struct
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nibabel.cmdline.diff import get_headers_diff

from medseq import Clip, InputError, MedseqWarning, load_clip, save_clip

# Rotated, anisotropic, left-handed: nothing that a forgotten flip or transpose would leave alone.
AFFINE = np.array([[-1.8, 0.3, 0.4, 12.0], [0.35, 1.9, -0.6, -30.0], [0.2, 0.5, 5.0, 7.0], [0, 0, 0, 1]])
SHAPE = (6, 5, 3, 4)


def content(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def orthogonal() -> np.ndarray:
    left, _, right = np.linalg.svd(AFFINE[:3, :3])
    affine = AFFINE.copy()
    affine[:3, :3] = (left @ right) * [1.8, 2.0, 5.0]
    return affine


def write(
    path: Path,
    dtype: str = "int16",
    shape: tuple[int, ...] = SHAPE,
    scale: tuple[float, float] = (1.0, 0.0),
    unit: str = "sec",
    kind: type = nib.Nifti1Image,
    order: str = "<",
) -> Path:
    """A file as another program would have written it, with nibabel."""
    rng = np.random.default_rng(3)
    stored = rng.integers(0, 200, shape).astype(dtype)
    if np.iscomplexobj(stored):
        stored = (stored + 1j * rng.integers(0, 200, shape)).astype(dtype)
    header = kind.header_class(endianness=order)
    header.set_data_dtype(dtype)
    image = kind(stored, None, header)
    image.header.set_sform(orthogonal(), 1)
    image.header.set_qform(orthogonal(), 1)
    image.header.set_xyzt_units("mm", unit)
    if len(shape) > 3:
        image.header["pixdim"][4] = 0.8 if unit == "sec" else 800 if unit == "msec" else 800_000
    image.header["descrip"] = b"somebody else's"
    image.header["scl_slope"], image.header["scl_inter"] = scale
    image.to_filename(path)
    return path


def patched(path: Path, **fields: object) -> Path:
    """The same NIfTI-1 file with other header fields, written past every check."""
    raw = bytearray(path.read_bytes())
    header = nib.Nifti1Header(bytes(raw[:348]), check=False)
    for name, value in fields.items():
        if name == "interval":
            header["pixdim"][4] = value
        else:
            header[name] = value
    raw[:348] = header.binaryblock
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    "options",
    [
        {"dtype": "uint8"},
        {"dtype": "int16", "scale": (0.1, -3.7)},
        {"dtype": "uint16", "scale": (2.5e-3, 0.0), "order": ">"},
        {"dtype": "int32", "scale": (0.0, 9.0)},  # a slope of zero says: unscaled
        {"dtype": "float32", "kind": nib.Nifti2Image},
        {"dtype": "float64", "order": ">"},
        {"dtype": "complex64", "scale": (0.5, 0.0)},
        {"dtype": "complex128"},
        {"shape": SHAPE[:3]},
        {"shape": SHAPE[:2]},
        {"shape": (*SHAPE[:3], 1, 1)},
        {"unit": "msec"},
        {"unit": "usec", "kind": nib.Nifti2Image},
    ],
    ids=str,
)
def test_load_agrees_with_nibabel_and_saving_gives_the_same_bytes(tmp_path: Path, options: dict, ending: str) -> None:
    path = write(tmp_path / f"theirs{ending}", **options)
    theirs = nib.load(path)
    clip = load_clip(path)
    values = np.asarray(theirs.dataobj).astype("complex64" if "complex" in options.get("dtype", "") else "float32")
    x, y, z, t = (*values.shape, 1, 1)[:4]
    assert clip.data.dtype == (torch.complex64 if np.iscomplexobj(values) else torch.float32)
    np.testing.assert_array_equal(clip.data[:, 0].permute(3, 2, 0, 1).numpy(), values.reshape(x, y, z, t))
    np.testing.assert_array_equal(clip.affine, theirs.affine)
    np.testing.assert_allclose(clip.times, 0.8 * np.arange(t), rtol=1e-6)
    assert clip.period is None
    save_clip(clip, tmp_path / f"ours{ending}", like=path)
    assert content(tmp_path / f"ours{ending}") == content(path)


def differing_fields(a: Path, b: Path) -> set[str]:
    """Names of the header fields in which `nib-diff`, which is nibabel's, finds two files different."""
    return set(get_headers_diff([nib.load(a).header, nib.load(b).header]))


@pytest.mark.parametrize("dtype", ["int16", "uint8", "float32"])
def test_a_result_inherits_the_header(tmp_path: Path, dtype: str) -> None:
    source = write(tmp_path / "source.nii", dtype, scale=(1.0, 0.0))
    clip = load_clip(source)
    result = clip.with_data(clip.data * 1.0001 + 0.3)
    save_clip(result, tmp_path / "result.nii", like=source)
    allowed = {"datatype", "bitpix", "scl_slope", "scl_inter"}
    assert differing_fields(source, tmp_path / "result.nii") <= allowed
    assert torch.equal(load_clip(tmp_path / "result.nii").data, result.data)
    # The judge sees what it must: another repetition time.
    assert "pixdim" in differing_fields(source, patched(write(tmp_path / "other.nii", dtype), pixdim=[1] * 8))


@pytest.mark.parametrize("source_dtype", ["int16", "float32", "complex64"])
@pytest.mark.parametrize("result_dtype", [torch.float32, torch.complex64])
def test_real_stays_real_and_complex_stays_complex(
    tmp_path: Path, source_dtype: str, result_dtype: torch.dtype
) -> None:
    source = write(tmp_path / "source.nii", source_dtype, scale=(2.0, 0.0))
    values = torch.randn(load_clip(source).data.shape, dtype=result_dtype, generator=torch.Generator().manual_seed(1))
    for like in (source, None):
        clip = Clip(values, load_clip(source).affine, load_clip(source).times)
        save_clip(clip, tmp_path / "result.nii", like=like)
        again = load_clip(tmp_path / "result.nii")
        assert again.data.dtype == result_dtype
        assert torch.equal(again.data, values)


@pytest.mark.parametrize("frames", [1, 2, 7])
def test_without_a_source_geometry_and_timing_are_written_in_full(tmp_path: Path, frames: int) -> None:
    clip = Clip(torch.rand(3, 1, frames, 5, 6), orthogonal(), 1.5 + 0.04 * np.arange(frames))
    save_clip(clip, tmp_path / "result.nii.gz")
    header = nib.load(tmp_path / "result.nii.gz").header
    for form in (header.get_sform(coded=True), header.get_qform(coded=True)):
        np.testing.assert_allclose(form[0], clip.affine, atol=1e-5)
        assert form[1] == 1
    assert header.get_xyzt_units() == ("mm", "sec")
    assert header.get_data_shape() == ((6, 5, 3, frames) if frames > 1 else (6, 5, 3))
    np.testing.assert_allclose(header.get_zooms()[:3], [1.8, 2.0, 5.0], rtol=1e-6)
    again = load_clip(tmp_path / "result.nii.gz")
    assert torch.equal(again.data, clip.data)
    np.testing.assert_allclose(again.affine, clip.affine, atol=1e-5)
    np.testing.assert_allclose(again.times, clip.times, rtol=1e-6)


def test_a_sheared_affine_and_a_long_axis_are_kept(tmp_path: Path) -> None:
    clip = Clip(torch.rand(2, 1, 1, 3, 40_000), AFFINE)
    save_clip(clip, tmp_path / "result.nii")
    image = nib.load(tmp_path / "result.nii")
    assert isinstance(image, nib.Nifti2Image)
    assert image.header.get_qform(coded=True) == (None, 0)
    np.testing.assert_allclose(load_clip(tmp_path / "result.nii").affine, AFFINE, rtol=1e-12)


def test_interpolated_frames_get_their_own_interval_in_the_unit_of_the_source(tmp_path: Path) -> None:
    source = write(tmp_path / "source.nii", unit="msec")
    clip = load_clip(source)
    twice = Clip(clip.data.repeat(1, 1, 2, 1, 1), clip.affine, 0.4 * np.arange(8) + 0.1)
    save_clip(twice, tmp_path / "result.nii", like=source)
    header = nib.load(tmp_path / "result.nii").header
    assert header.get_xyzt_units() == ("mm", "msec")
    assert header.get_zooms()[3] == pytest.approx(400)
    assert float(header["toffset"]) == pytest.approx(100)
    np.testing.assert_allclose(load_clip(tmp_path / "result.nii").times, twice.times, rtol=1e-6)
    assert differing_fields(source, tmp_path / "result.nii") == {"dim", "pixdim", "toffset"}


def test_a_moved_result_keeps_codes_and_unit_of_length(tmp_path: Path) -> None:
    metres = {f"srow_{axis}": orthogonal()[row] / 1000 for row, axis in enumerate("xyz")}
    source = patched(write(tmp_path / "source.nii"), xyzt_units=1 | 8, sform_code=4, qform_code=0, **metres)
    clip = load_clip(source)
    np.testing.assert_allclose(clip.affine, orthogonal(), atol=1e-4)
    moved = Clip(clip.data, clip.affine + np.diag([0.5, 0, 0, 0]), clip.times)
    save_clip(moved, tmp_path / "result.nii", like=source)
    header = nib.load(tmp_path / "result.nii").header
    assert header.get_xyzt_units() == ("meter", "sec") and int(header["sform_code"]) == 4
    np.testing.assert_allclose(load_clip(tmp_path / "result.nii").affine, moved.affine, atol=1e-4)


def test_periods_and_uneven_times_survive_in_the_header(tmp_path: Path) -> None:
    clip = Clip(torch.rand(1, 1, 3, 4, 4), times=[0.0, 0.1, 0.4], period=0.9)
    with pytest.warns(MedseqWarning, match="uneven"):
        save_clip(clip, tmp_path / "result.nii")
    again = load_clip(tmp_path / "result.nii")
    np.testing.assert_array_equal(again.times, clip.times)
    assert again.period == 0.9
    assert nib.load(tmp_path / "result.nii").header.get_zooms()[3] == pytest.approx(0.2)
    # A tool that leaves out frames, and knows nothing of the note, makes it void.
    nib.load(tmp_path / "result.nii").slicer[..., :2].to_filename(tmp_path / "shorter.nii")
    with pytest.warns(MedseqWarning, match="no longer fits"):
        assert load_clip(tmp_path / "shorter.nii").period is None
    # A result without a period does not inherit one.
    save_clip(Clip(torch.rand(1, 1, 2, 4, 4), times=[0, 0.5]), tmp_path / "open.nii", like=tmp_path / "result.nii")
    assert load_clip(tmp_path / "open.nii").period is None
    assert len(nib.load(tmp_path / "open.nii").header.extensions) == 0


def test_foreign_extensions_are_kept(tmp_path: Path) -> None:
    image = nib.load(write(tmp_path / "plain.nii"))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("afni", b"<AFNI_attributes/>"))
    image.to_filename(tmp_path / "source.nii")
    clip = load_clip(tmp_path / "source.nii")
    save_clip(replace(clip, period=4.0), tmp_path / "result.nii", like=tmp_path / "source.nii")
    codes = [extension.get_code() for extension in nib.load(tmp_path / "result.nii").header.extensions]
    assert codes == [4, 6]
    assert load_clip(tmp_path / "result.nii").period == 4.0


def test_the_same_clip_gives_the_same_bytes_and_no_other_file(tmp_path: Path) -> None:
    clip = Clip(torch.rand(2, 1, 3, 4, 5), orthogonal(), np.arange(3.0))
    save_clip(clip, tmp_path / "a.nii.gz")
    save_clip(clip, tmp_path / "b.nii.gz")
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2
    broken = clip.with_data(torch.full_like(clip.data, torch.nan))
    with pytest.raises(InputError, match="not finite"):
        save_clip(broken, tmp_path / "c.nii.gz")
    assert len(list(tmp_path.iterdir())) == 2


ASSUMED = {
    "neither qform nor sform": {"qform_code": 0, "sform_code": 0},
    "qform and sform disagree": {"srow_x": [2.0, 0, 0, 5]},
    "no unit of time; 0.8 is taken as s": {"xyzt_units": 2},
    "no unit of time; 2000 is taken as ms": {"xyzt_units": 2, "interval": 2000},
    "no frame interval": {"interval": 0},
    "is its unit of time wrong": {"interval": 2000},
}


@pytest.mark.parametrize("message", ASSUMED)
def test_every_assumption_is_warned_of(tmp_path: Path, message: str) -> None:
    path = patched(write(tmp_path / "odd.nii"), **ASSUMED[message])
    with pytest.warns(MedseqWarning, match=message) as caught:
        load_clip(path)
    assert any(str(path) in str(each.message) for each in caught)


def test_the_sform_wins_then_the_qform_then_the_voxel_size(tmp_path: Path) -> None:
    path = write(tmp_path / "forms.nii")
    other = orthogonal() @ np.diag([1, 1, 1.5, 1])
    rows = {f"srow_{axis}": other[row] for row, axis in enumerate("xyz")}
    with pytest.warns(MedseqWarning, match="disagree"):
        np.testing.assert_allclose(load_clip(patched(path, **rows)).affine, other, atol=1e-5)
    np.testing.assert_allclose(load_clip(patched(path, sform_code=0)).affine, orthogonal(), atol=1e-5)
    with pytest.warns(MedseqWarning, match="neither"):
        np.testing.assert_allclose(load_clip(patched(path, qform_code=0)).affine, np.diag([1.8, 2, 5, 1]), rtol=1e-6)


def test_a_sidecar_supplies_or_contradicts_the_repetition_time(tmp_path: Path) -> None:
    path = write(tmp_path / "series.nii")
    sidecar = tmp_path / "series.json"
    sidecar.write_text(json.dumps({"RepetitionTime": 0.8}))
    load_clip(path)
    sidecar.write_text(json.dumps({"RepetitionTime": 2}))
    with pytest.warns(MedseqWarning, match="RepetitionTime is 2 s"):
        assert load_clip(path).times[1] == pytest.approx(0.8)
    with pytest.warns(MedseqWarning, match="no frame interval"):
        assert load_clip(patched(path, interval=0)).times[1] == 2
    sidecar.write_text('{"RepetitionTime": ')
    with pytest.warns(MedseqWarning, match="not readable as a BIDS sidecar"):
        load_clip(write(path))


NAN, INF = float("nan"), float("inf")
FAULTS: dict[str, Callable[[Path], object]] = {
    "no such file": lambda path: path.unlink(),
    "not finite, absurd or singular": lambda path: patched(path, srow_x=[0, 0, 0, 0]),
    "the sform in the header is not finite, absurd": lambda path: patched(path, srow_z=[1e30, 0, 1, 0]),
    "the sform in the header is not finite": lambda path: patched(path, srow_y=[1, NAN, 0, 0]),
    "qform in the header is not a rotation": lambda path: patched(path, sform_code=0, quatern_b=3),
    "impossible voxel size": lambda path: patched(path, pixdim=[1, NAN, 2, 5, 0.8, 0, 0, 0]),
    "impossible frame interval": lambda path: patched(path, interval=NAN),
    "impossible frame interval -": lambda path: patched(path, interval=-1),
    "offset nan": lambda path: patched(path, toffset=NAN),
    "scl_slope is nan": lambda path: patched(path, scl_slope=NAN),
    "scl_slope is inf": lambda path: patched(path, scl_slope=INF),
    "scl_inter nan": lambda path: patched(path, scl_inter=NAN),
    "5-D": lambda path: patched(path, dim=[5, 6, 5, 3, 2, 2, 1, 1]),
    "impossible array size": lambda path: patched(path, dim=[4, 6, 5, -3, 4, 1, 1, 1]),
    "not time": lambda path: patched(path, xyzt_units=2 | 32),
    "unit of length": lambda path: patched(path, xyzt_units=5 | 8),
    "RGB": lambda path: patched(path, datatype=128, bitpix=24),
    "unknown data type": lambda path: patched(path, datatype=77),
    "the header says it is 0 bytes long": lambda path: patched(path, sizeof_hdr=0),
    "a header without its image": lambda path: patched(path, magic=b"ni1"),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "promises": lambda path: patched(path, dim=[4, 32000, 32000, 32000, 4, 1, 1, 1]),
    "every value is zero": lambda path: path.write_bytes(path.read_bytes()[:352].ljust(path.stat().st_size, b"\0")),
    "not a NIfTI file": lambda path: path.write_bytes(b"x" * 1000),
    "not a NIfTI file; convert": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("message", FAULTS)
def test_faults_are_refused_in_one_line_that_names_the_file(tmp_path: Path, message: str) -> None:
    path = write(tmp_path / "bad.nii")
    load_clip(path)
    FAULTS[message](path)
    with pytest.raises(InputError) as caught:
        load_clip(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "bad.nii", "float32")
    raw = path.read_bytes()
    path.write_bytes(raw[:-4] + struct.pack("<f", NAN))
    with pytest.raises(InputError, match="not finite"):
        load_clip(path)


def test_a_broken_gzip_is_refused_though_nibabel_accepts_it(tmp_path: Path) -> None:
    path = write(tmp_path / "bad.nii.gz")
    raw = path.read_bytes()
    path.write_bytes(raw[:-8] + bytes([raw[-8] ^ 1]) + raw[-7:])
    assert np.asarray(nib.load(path).dataobj).any()
    for fault in (path.read_bytes(), raw[:-3], raw[: len(raw) // 2], b"not compressed"):
        path.write_bytes(fault)
        with pytest.raises(InputError, match="broken or not NIfTI"):
            load_clip(path)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), min_size=1, max_size=4), st.booleans())
def test_any_damaged_header_gives_a_clip_or_an_input_error(
    tmp_path: Path, damage: list[tuple[int, int]], second: bool
) -> None:
    raw = bytearray(write(tmp_path / "fuzz.nii", kind=nib.Nifti2Image if second else nib.Nifti1Image).read_bytes())
    for place, value in damage:
        raw[place] = value
    (tmp_path / "fuzz.nii").write_bytes(raw)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MedseqWarning)
        try:
            clip = load_clip(tmp_path / "fuzz.nii")
        except InputError:
            return
        save_clip(clip, tmp_path / "again.nii", like=tmp_path / "fuzz.nii")
        assert torch.equal(load_clip(tmp_path / "again.nii").data, clip.data)


def test_a_real_series_survives_bit_for_bit_and_lends_its_header(real_data: Path, tmp_path: Path) -> None:
    [source] = (real_data / "fmri_rest").rglob("*_bold.nii.gz")
    clip = load_clip(source)
    theirs = nib.load(source)
    np.testing.assert_array_equal(clip.affine, theirs.affine)
    assert clip.data.shape == (24, 1, 75, 96, 96)
    np.testing.assert_allclose(clip.times[1], theirs.header.get_zooms()[3])
    save_clip(clip, tmp_path / "same.nii.gz", like=source)
    assert content(tmp_path / "same.nii.gz") == content(source)
    save_clip(clip.with_data(clip.data * 0.9), tmp_path / "result.nii.gz", like=source)
    assert differing_fields(source, tmp_path / "result.nii.gz") <= {"datatype", "bitpix", "scl_slope", "scl_inter"}
