"""Where files are written: under the name that was asked for, with the usual rights, through no link of another's."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from cli_shelf import command, fails
from dicom_scanner import scan
from study_shelf import Shelf

from medseq.archive import connect, put, send
from medseq.errors import InputError, ResourceError
from medseq.provenance import staged
from medseq.study.ledger import only_run
from medseq.study.run import run_study
from medseq.terminal import printable, say

PRIOR = "--prior tiny.safetensors"


def rights(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_link_at_the_name_of_an_output_is_replaced_and_not_followed(here: Path) -> None:
    (here / "precious").write_text("mine")
    for name in ("clean.nii.gz", "clean.run.json", "clean.html"):
        (here / name).symlink_to(here / "precious")
    assert command(f"denoise cine.nii.gz -o clean.nii.gz --report {PRIOR}") == 0
    assert (here / "precious").read_text() == "mine"
    assert not any((here / name).is_symlink() for name in ("clean.nii.gz", "clean.run.json", "clean.html"))


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_no_new_folder_for_dicom(here: Path, capsys, there: bool) -> None:
    if there:
        (here / "elsewhere").mkdir()
    (here / "out").symlink_to(here / "elsewhere")
    fails(capsys, f"denoise study -o out {PRIOR}", 2, "out", "exists")
    assert not there or not list((here / "elsewhere").iterdir())


def test_outputs_have_the_rights_that_the_user_gives_and_no_others(here: Path) -> None:
    for mask, file, folder in ((0o022, 0o644, 0o755), (0o077, 0o600, 0o700)):
        before = os.umask(mask)
        try:
            assert command(f"denoise study -o dicom{mask} {PRIOR}") == 0
            assert command(f"convert cine.nii.gz -o deep{mask}/c.nii.gz") == 0
        finally:
            os.umask(before)
        for path in [*(here / f"dicom{mask}").iterdir(), *(here / f"deep{mask}").iterdir()]:
            assert rights(path) == file, path
        assert rights(here / f"dicom{mask}") == rights(here / f"deep{mask}") == folder


def test_unfinished_results_are_for_nobody_else(tmp_path: Path) -> None:
    with staged(tmp_path) as folder:
        assert rights(folder) == 0o700 and folder.parent == tmp_path


@pytest.mark.parametrize("name", [".lock", "ledger/.a.lock"])
def test_a_study_of_somebody_else_cannot_make_its_locks_overwrite_our_files(tmp_path: Path, name: str) -> None:
    shelf = Shelf(tmp_path, {"a": "fine"})
    (tmp_path / "precious").write_text("mine")
    (shelf.study / name).parent.mkdir(exist_ok=True)
    (shelf.study / name).symlink_to(tmp_path / "precious")
    if name == ".lock":
        with pytest.raises(ResourceError, match="lock"), only_run(shelf.study):
            pass
    else:
        assert run_study(shelf.study, shelf.settings(), lambda _: None).failed
    assert (tmp_path / "precious").read_text() == "mine"


def test_an_outbox_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who owns it could read the images, and say where they and our credentials go."""
    scan(tmp_path / "scan", slices=1, frames=1)
    peer, images, outbox = (
        connect("https://archive/dicom-web"),
        list((tmp_path / "scan").iterdir()),
        tmp_path / "outbox",
    )
    put(images, peer, outbox)
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    for use in (lambda: put(images, peer, outbox), lambda: send(outbox)):
        with pytest.raises(InputError, match="another user"):
            use()


def test_the_lock_of_an_outbox_is_no_link(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "outbox").mkdir()
    (tmp_path / "outbox" / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(ResourceError, match="outbox"):
        send(tmp_path / "outbox")
    assert (tmp_path / "precious").read_text() == "mine"


HOSTILE = [
    "../../x",
    "/etc/x",
    "a/b",
    "..",
    ".hidden",
    "x" * 300,
    "1.2.3\n4",
    "\u202egnp.exe",
    "CON",
    "a\\..\\b",
    "-rf",
]


@pytest.mark.parametrize("names", [HOSTILE[:6], HOSTILE[5:]])
def test_what_a_series_is_called_in_dicom_names_no_file(here: Path, names: list[str]) -> None:
    import pydicom

    words = ("SeriesDescription", "ProtocolName", "PatientID", "StudyID", "StudyDescription", "SequenceName")
    files = sorted((here / "study").resolve().iterdir())
    (here / "hostile").mkdir()
    for file in files:
        dataset = pydicom.dcmread(file)
        dataset.SpecificCharacterSet = "ISO_IR 192"
        for word, text in zip(words, names, strict=True):
            vr = pydicom.datadict.dictionary_VR(word)
            dataset[word] = pydicom.DataElement(word, vr, text, validation_mode=0)
        dataset.save_as(here / "hostile" / file.name)
    before = {path for path in here.parent.rglob("*")}
    assert command(f"denoise hostile -o out/dicom {PRIOR}") == 0
    made = {path for path in here.parent.rglob("*")} - before
    images = {f"out/dicom/IM{number:05d}.dcm" for number in range(1, len(files) + 1)}
    assert {path.relative_to(here).as_posix() for path in made} == {"out", "out/dicom", "out/dicom/run.json"} | images


def test_nothing_that_is_told_commands_the_terminal(here: Path, capsys) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\u202e\udcff\r"
    assert printable(evil) == r"\x1b]0;owned\x07\x1b[2J\u202e\udcff"
    say(f"{evil} and\nmore")
    assert capsys.readouterr().err == "medseq: \\x1b]0;owned\\x07\\x1b[2J\\u202e\\udcff and more\n"
    fails(capsys, "denoise \x1b[31mred.nii.gz -o clean.nii.gz", 4)
    import pydicom

    for file in (here / "study").resolve().iterdir():
        dataset = pydicom.dcmread(file)
        dataset.add_new(0x0008103E, "LO", "heart\x1b[31m")
        (here / "coloured").mkdir(exist_ok=True)
        dataset.save_as(here / "coloured" / file.name)
    assert command("info coloured") == 0 and command("info .") in (0, 3)
    told = capsys.readouterr()
    assert "heart" in told.out and "\x1b" not in told.out + told.err
