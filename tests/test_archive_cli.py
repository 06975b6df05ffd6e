"""`medseq archive` against a real archive, as people type it; what fails is one line and loses nothing."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest
from dicom_scanner import scan
from orthanc import Orthanc, running_orthanc
from test_cli import examples

from medseq.cli import main


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with one series of four `.dcm` files in `result`."""
    scan(tmp_path / "result", "ge", slices=2, frames=2)
    for file in (tmp_path / "result").iterdir():
        file.rename(file.with_suffix(".dcm"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("medseq.archive.transfer.WAITS", (0.01, 0.01))
    return tmp_path


def study_of(folder: Path) -> str:
    return str(pydicom.dcmread(next(folder.iterdir())).StudyInstanceUID)


def test_a_result_is_stored_found_and_fetched(here: Path, tmp_path_factory, capsys) -> None:
    with running_orthanc(tmp_path_factory.mktemp("orthanc")) as archive:
        for address in (archive.web, archive.network):
            archive.clear()
            assert main(["archive", "store", "result", address]) == 0
            assert "4 images are in the archive, 4 of them new" in capsys.readouterr().out
            assert main(["archive", "store", "result", address]) == 0
            assert "4 images are in the archive, 0 of them new" in capsys.readouterr().out
            study = study_of(here / "result")
            assert main(["archive", "find", address, "--study", study]) == 0
            titles, row = capsys.readouterr().out.splitlines()
            assert titles.split() == ["date", "modality", "number", "description", "study", "series"]
            assert study in row and "MR" in row
            assert main(["archive", "fetch", address, study, "-o", f"back-{address[0]}"]) == 0
            assert len(list((here / f"back-{address[0]}").iterdir())) == 4


def test_a_result_waits_for_an_archive_that_is_down(here: Path, tmp_path_factory, capsys) -> None:
    archive = Orthanc(tmp_path_factory.mktemp("orthanc"))
    assert main(["archive", "store", "result", archive.web]) == 5
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "medseq archive send" in error
    with running_orthanc(tmp_path_factory.mktemp("other")) as other:
        # The same address comes up: what waited goes there.
        for waiting in (here / "medseq_outbox").glob("*/to.json"):
            waiting.write_text(waiting.read_text().replace(archive.web, other.web))
        assert main(["archive", "send"]) == 0
        assert "4 images are in the archive, 4 of them new" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["find", "nonsense"], 2),
        (["find", "http://127.0.0.1:9/dicom-web"], 2),  # asks for everything
        (["find", "http://127.0.0.1:9/dicom-web", "--patient", "1"], 5),
        (["fetch", "http://127.0.0.1:9/dicom-web", "../..", "--series", "1.2", "-o", "out"], 2),
        (["store", "missing", "http://127.0.0.1:9/dicom-web"], 4),
        (["send", "--outbox", "missing"], 4),
    ],
)
def test_faults_are_one_line(here: Path, capsys, words: list[str], code: int) -> None:
    before = sorted(here.rglob("*"))
    assert main(["archive", *words]) == code
    assert capsys.readouterr().err.count("\n") == 1
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize("name", ["find", "fetch", "store", "send"])
def test_help_has_examples(name: str, capsys) -> None:
    assert main(["archive", name, "--help"]) == 0
    assert all(words[:2] == ["archive", name] for words in examples(capsys.readouterr().out))
