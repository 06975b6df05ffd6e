"""DICOM files of every encoding open to the same dataset; what is not DICOM is told apart, cheaply and by its bytes."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dicom_files import body, head, meta, mr_image, picture, save
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from medseq.errors import InputError
from medseq.io.dicom import values
from medseq.io.dicom.opening import candidates, open_header
from medseq.io.dicom.pixels import PixelReader


def _part10(syntax: str) -> Callable[[Dataset, Path], None]:
    return lambda dataset, path: save(dataset, path, syntax) and None


def _bare(implicit: bool) -> Callable[[Dataset, Path], None]:
    return lambda dataset, path: path.write_bytes(body(dataset, implicit)) and None


def _big_endian(dataset: Dataset, path: Path) -> None:
    path.write_bytes(head(ExplicitVRBigEndian))
    with path.open("ab") as stream:
        stream.write(_swapped(dataset))


def _bare_big_endian(dataset: Dataset, path: Path) -> None:
    path.write_bytes(_swapped(dataset))


def _swapped(dataset: Dataset) -> bytes:
    dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()  # pydicom leaves them alone
    return body(dataset, little=False)


def _without_preamble(dataset: Dataset, path: Path) -> None:
    path.write_bytes(head()[132:] + body(dataset))


def _without_meta(dataset: Dataset, path: Path) -> None:
    path.write_bytes(bytes(128) + b"DICM" + body(dataset, implicit=True))


def _gzipped(dataset: Dataset, path: Path) -> None:
    path.write_bytes(gzip.compress(head() + body(dataset)))


def _deflated_and_gzipped(dataset: Dataset, path: Path) -> None:
    machine = zlib.compressobj(wbits=-15)
    packed = machine.compress(body(dataset)) + machine.flush()
    path.write_bytes(gzip.compress(head(DeflatedExplicitVRLittleEndian) + packed))


def _with_a_lying_meta(dataset: Dataset, path: Path) -> None:
    path.write_bytes(head(ExplicitVRLittleEndian) + body(dataset, implicit=True))


def _padded(dataset: Dataset, path: Path) -> None:
    dataset.PixelData += bytes(100)
    save(dataset, path)


WRITERS = {
    "explicit": _part10(ExplicitVRLittleEndian),
    "implicit": _part10(ImplicitVRLittleEndian),
    "big endian": _big_endian,
    "deflated": _part10(DeflatedExplicitVRLittleEndian),
    "bare explicit": _bare(implicit=False),
    "bare implicit": _bare(implicit=True),
    "bare big endian": _bare_big_endian,
    "no preamble": _without_preamble,
    "no meta": _without_meta,
    "gzip": _gzipped,
    "deflated and gzip": _deflated_and_gzipped,
    "implicit called explicit": _with_a_lying_meta,
    "padded": _padded,
}


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS.keys())
def test_every_encoding_opens_to_the_same(writer: Callable[[Dataset, Path], None], tmp_path: Path) -> None:
    path = tmp_path / "IM0001"
    stored = np.stack([picture(), picture()[::-1], picture()[:, ::-1]])
    writer(mr_image(stored), path)
    header = open_header(path)
    assert header is not None
    assert values.numbers(header, "PixelSpacing", 2) == (1.5, 2.0)
    assert values.uid(header, "SeriesInstanceUID") == "1.2.3"
    assert "PixelData" not in header
    with PixelReader() as reader:
        assert np.array_equal(reader.read(path, header, [2, 0]), stored[[2, 0]])
        assert np.array_equal(reader.read(path, None, [1]), stored[[1]])


NOT_DICOM = {
    "empty": b"",
    "short": b"\x08\0\x05",
    "text": b"0008 0005 is how a DICOM file may begin, and a description of it" * 10,
    "json": json.dumps({"00080005": {"vr": "CS"}}).encode() * 10,
    "nifti": b"\x5c\x01\0\0" + bytes(400),
    "zeros": bytes(500),
    "group 8 by chance": b"\x08\0\x01\0" + b"\xff" * 500,
    "an array of small numbers": np.arange(2, 500, dtype="<u2").tobytes(),
    "a group length and nothing": b"\x08\0\0\0\x04\0\0\0\0\0\0\0",
    "gzip of text": gzip.compress(b"text" * 100),
}


@pytest.mark.parametrize("content", NOT_DICOM.values(), ids=NOT_DICOM.keys())
def test_what_is_not_dicom_is_told_apart(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(content)
    assert open_header(path) is None


def test_only_the_header_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten megabytes of pixels cost as much as none: the file is read for a buffer or two."""
    path = save(mr_image(np.zeros((20, 512, 512), np.uint16)), tmp_path / "a.dcm")
    before = _bytes_read()
    open_header(path)
    assert _bytes_read() - before < 100_000


def _bytes_read() -> int:
    counters = Path("/proc/self/io")
    if not counters.exists():
        pytest.skip("this system does not count what a process reads")
    return int(counters.read_text().split()[1])


def test_candidates_are_sorted_and_leave_out_what_cannot_be_an_image(tmp_path: Path) -> None:
    for name in ("b/2", "b/1.dcm", "a", ".hidden", ".folder/c", "DICOMDIR", "b/dicomdir", "z.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [str(path.relative_to(tmp_path)) for path in candidates(tmp_path)] == ["a", "b/1.dcm", "b/2", "z.txt"]
    assert candidates(tmp_path / "b" / "2") == [tmp_path / "b" / "2"]
    with pytest.raises(InputError, match="no such file or folder"):
        candidates(tmp_path / "c")


def test_every_truncation_is_a_clean_read_or_one_line(tmp_path: Path) -> None:
    """A file cut off anywhere, plain, deflated or gzipped."""
    for name in ("explicit", "implicit", "deflated", "gzip"):
        WRITERS[name](mr_image(picture(4, 4)), tmp_path / "whole")
        content = (tmp_path / "whole").read_bytes()
        outcomes = [_outcome(tmp_path / "cut", content[:length]) for length in range(1, len(content), 3)]
        assert outcomes[-1] == "refused", name  # its last pixels are missing
        assert _outcome(tmp_path / "cut", content) == "read"


def test_random_damage_is_a_clean_read_or_one_line(tmp_path: Path) -> None:
    content = np.frombuffer(head() + body(mr_image(picture(4, 4))), np.uint8)
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(500):
        damaged = content.copy()
        damaged[rng.integers(132, len(content), 3)] = rng.integers(0, 256, 3)
        outcomes.add(_outcome(tmp_path / "damaged", damaged.tobytes()))
    assert outcomes >= {"read", "refused"}


def _outcome(path: Path, content: bytes) -> str:
    """Anything raised but one InputError of one line that names the file fails the test."""
    path.write_bytes(content)
    try:
        header = open_header(path)
        if header is None:
            return "not DICOM"
        with PixelReader() as reader:
            reader.read(path, header, [0])
        return "read"
    except InputError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
        return "refused"


def test_a_header_is_what_pydicom_reads(real_data: Path) -> None:
    folder = real_data / "badinput" / "pydicom_test_files"
    paths = [path for path in candidates(folder) if path.name.startswith("MR_") and path.suffix == ".dcm"]
    assert len(paths) > 3
    for path in paths:
        if "truncated" in path.name:
            continue
        header, whole = open_header(path), dcmread(path, stop_before_pixels=True)
        assert header is not None and header == whole and header.file_meta == whole.file_meta


class TestValues:
    """Attributes that cannot be meant."""

    dataset = mr_image()

    def test_absent_and_empty_are_none(self) -> None:
        dataset = Dataset()
        dataset.PatientName, dataset.EchoTime, dataset.ImageType = "", None, []
        dataset.SliceThickness, dataset.PatientID = "", "  "
        for key in ("PatientName", "PatientID", "StudyID", 0x00091001):
            assert values.text(dataset, key) is None
        for key in ("EchoTime", "SliceThickness", "RepetitionTime"):
            assert values.number(dataset, key) is None and values.whole(dataset, key) is None
        assert values.words(dataset, "ImageType") == () and values.items(dataset, "SourceImageSequence") == []

    def test_a_value_of_another_kind_is_named_and_not_quoted(self, tmp_path: Path) -> None:
        path = tmp_path / "a.dcm"
        path.write_bytes(head() + body(mr_image()).replace(b"1.5\\2.0 ", b"Doe^Jane"))
        header = open_header_unchecked(path)
        with pytest.raises(InputError, match="PixelSpacing") as refused:
            values.numbers(header, "PixelSpacing", 2)
        assert "Jane" not in str(refused.value)

    def test_counts_and_fractions(self) -> None:
        with pytest.raises(InputError, match="has 2 values instead of 1"):
            values.number(self.dataset, "PixelSpacing")
        with pytest.raises(InputError, match="not a whole number"):
            values.whole(_with("SliceThickness", "2.5"), "SliceThickness")
        with pytest.raises(InputError, match="not a sequence"):
            values.items(self.dataset, "Modality")

    def test_faults_are_named_once(self, tmp_path: Path) -> None:
        for fault in (InputError("x"), InputError(f"{tmp_path}: x"), ValueError("x"), RecursionError(), KeyError("a")):
            with pytest.raises(InputError) as refused, values.dicom_faults_named(tmp_path):
                raise fault
            assert str(refused.value).startswith(f"{tmp_path}: ") and str(refused.value).count(str(tmp_path)) == 1


def open_header_unchecked(path: Path) -> Dataset:
    return dcmread(path, stop_before_pixels=True)


def _with(keyword: str, value: str) -> Dataset:
    dataset = Dataset()
    setattr(dataset, keyword, value)
    return dataset


def test_the_transfer_syntax_is_always_known(tmp_path: Path) -> None:
    for name, syntax in {"bare explicit": ExplicitVRLittleEndian, "bare big endian": ExplicitVRBigEndian}.items():
        WRITERS[name](mr_image(), tmp_path / "a")
        header = open_header(tmp_path / "a")
        assert header is not None and header.file_meta.TransferSyntaxUID == syntax
    assert meta().TransferSyntaxUID == ExplicitVRLittleEndian
