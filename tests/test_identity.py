"""Nothing that tells who was scanned gets into what medseq says, logs or reports, with every attribute planted.

Three things are meant to be told: names of files and folders to whoever gave them, the description of a series to
whoever asks for it with `info`, and all of the patient in a DICOM result that was not asked to be without.
"""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import pytest
from cli_shelf import noisy_scan
from dicom_files import element
from pydicom import dcmread
from test_deidentify import DATES, IDENTITIES, NAME, TIMES, UIDS, plant

from medseq.cli import main

UID_ROOT = "2.999.31337"  # of examples (ITU-T X.660), followed by what tells files apart
# The words also stand in private and unknown attributes.
TRACES = [*NAME.lower().split("^"), "19871231", "112233", UID_ROOT, "1.2.4711", "087y", "87.6543", "1.87654"]
FOLDER = "harvey"  # a user may well call a folder by the patient's name


@pytest.fixture(scope="module")
def exam(tmp_path_factory) -> Path:
    """A DICOM series of somebody."""
    folder = tmp_path_factory.mktemp("scans") / FOLDER
    noisy_scan(folder, "ge", slices=1, frames=6, number=5)
    for path in folder.iterdir():
        dataset = dcmread(path)
        plant(dataset)
        for number, keyword in enumerate(UIDS, 1):
            setattr(dataset, keyword, f"{UID_ROOT}.{number}")
        dataset.SOPInstanceUID = f"{UID_ROOT}.5.{dataset.InstanceNumber}"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.save_as(path, enforce_file_format=True)
    return folder


def test_everything_that_is_looked_for_is_planted(exam: Path) -> None:
    file = next(exam.iterdir())
    content = file.read_bytes().lower()
    assert [trace for trace in TRACES if trace.encode() not in content] == []
    dataset = dcmread(file)
    assert all(keyword in dataset for keyword in [*IDENTITIES, *DATES, *TIMES, *UIDS])


class Said:
    """Runs commands and keeps what they print, on both streams."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self._capfd = capfd
        self.texts: dict[str, str] = {}

    def __call__(self, *words: object, code: int = 0) -> str:
        self._capfd.readouterr()
        found = main([str(word) for word in (*words, "--debug")])
        out, error = self._capfd.readouterr()
        assert found == code, error
        self.texts[" ".join(map(str, words[:2]))] = out + error
        return out + error


@pytest.fixture
def said(capfd) -> Said:
    return Said(capfd)


def written(folder: Path, *, dicom: bool = False) -> dict[str, str]:
    """The content of every file; of DICOM only where it was to be without its patient."""
    files = [path for path in folder.rglob("*") if path.is_file() and (dicom or path.suffix != ".dcm")]
    packed = {path: gzip.decompress if path.name.endswith(".gz") else bytes for path in files}
    return {str(path): unpack(path.read_bytes()).decode("latin-1") for path, unpack in packed.items()}


def check(texts: dict[str, str], *more: str) -> None:
    assert texts
    traces = [*TRACES, *more]
    found = {(name, trace) for name, text in texts.items() for trace in traces if trace in text.lower()}
    assert found == set()


def test_results_without_dicom_tell_nothing(exam: Path, shelf: Path, tmp_path: Path, said: Said) -> None:
    prior = ("--prior", shelf / "tiny.safetensors")
    said("denoise", exam, "-o", tmp_path / "n.nii.gz", *prior, "--report", "--samples", 2, "--steps", 2)
    said("interpolate", exam, "-o", tmp_path / "i.nii.gz", *prior)
    said("convert", exam, "-o", tmp_path / "c.nii.gz")
    said("evaluate", tmp_path / "n.nii.gz", "--reference", exam, "-o", tmp_path / "judged")
    said("denoise", exam, "-o", tmp_path / "dicom", *prior)
    check(said.texts)
    check(written(tmp_path / "judged"))  # which names what it compares as the user did
    shutil.rmtree(tmp_path / "judged")
    check(written(tmp_path), FOLDER)


def test_deidentified_results_do_not_even_tell_names_of_files(
    exam: Path, shelf: Path, tmp_path: Path, said: Said
) -> None:
    options = ("--prior", shelf / "tiny.safetensors", "--deidentify")
    said("denoise", exam, "-o", tmp_path / "dicom", "--report", *options, "--samples", 2, "--steps", 2)
    said("interpolate", exam, "-o", tmp_path / "n.nii.gz", *options)
    assert list((tmp_path / "dicom").glob("*.dcm"))
    check(said.texts | written(tmp_path, dicom=True), FOLDER)


def test_info_tells_a_description_and_no_more(exam: Path, said: Said) -> None:
    lines = said("info", exam).splitlines()
    (description,) = [line for line in lines if line.split()[0] == "description"]
    assert "Quux" in description
    check({"info": "\n".join(line for line in lines if line != description)})


@pytest.mark.parametrize("fault", ["number", "series", "uid", "short", "pixels", "none", "twins"])
def test_failures_do_not_quote_what_they_stumble_over(exam: Path, tmp_path: Path, said: Said, fault: str) -> None:
    folder = tmp_path / "scan"
    shutil.copytree(exam, folder)
    words: tuple[object, ...] = ()
    for path in sorted(folder.iterdir()):
        dataset = dcmread(path)
        if fault == "number":
            spoilt = path.read_bytes().replace(element(0x00280100, "US", b"\x10\0"), element(0x00280100, "DS", b"Quux"))
            path.write_bytes(spoilt)
            continue
        if fault == "short":
            path.write_bytes(path.read_bytes()[:-100])
            continue
        if fault == "uid":
            uid = f"{UID_ROOT}.2".encode()
            path.write_bytes(path.read_bytes().replace(uid, b"../Quux".ljust(len(uid), b"x")))
            continue
        if fault == "pixels":
            dataset.PixelData = bytes(len(dataset.PixelData))
        if fault == "none":
            del dataset.PixelData
        if fault == "twins":
            dataset.SeriesInstanceUID = f"{UID_ROOT}.9"
            dataset.SeriesNumber, dataset.SOPInstanceUID = 9, f"{UID_ROOT}.8.{dataset.InstanceNumber}"
            dataset.save_as(path.with_suffix(".second"))
            continue
        dataset.save_as(path)
    if fault == "series":
        words = ("--series", 77)
    said("denoise", folder, "-o", tmp_path / "n.nii.gz", *words, code=2 if fault == "series" else 4)
    check(said.texts)
    assert not (tmp_path / "n.nii.gz").exists()


def test_studies_tell_nothing(exam: Path, shelf: Path, tmp_path: Path, said: Said) -> None:
    source, study = tmp_path / "scans", tmp_path / "night"
    shutil.copytree(exam, source / FOLDER)
    shutil.copytree(exam, source / "broken")
    for path in (source / "broken").iterdir():
        dataset = dcmread(path)
        dataset.PixelData = bytes(len(dataset.PixelData))
        dataset.SeriesInstanceUID = f"{UID_ROOT}.9"
        dataset.save_as(path)
    said("study", "plan", source, "-o", study, "--prior", shelf / "tiny.safetensors", "--nifti")
    said("study", "run", study, "--device", "cpu", code=3)
    said("study", "status", study)
    said("study", "collect", study)
    check(said.texts | written(study))
    places = written(study / "ledger") | written(study / "collected") | written(study / "results")
    assert len(places) > 6
    assert len(list((study / "results").iterdir())) == 1  # the other one failed
    check({path.removeprefix(str(tmp_path)): text for path, text in places.items()}, FOLDER, str(tmp_path))
