"""What is no file, or has a name that is no text: pipes, devices, sockets, loops, control characters."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

from bad_case import DICOM, NIFTI, RAW, Case, Make, content
from bad_dicom import series
from bad_texts import CENSORED, FILTER, OUTBOX, RECIPE, SECRET, STUDY, TIMES
from bad_weights import PRIOR

# A good example of each: where it is no file, and how it is given.
PLACES = {
    "bad.nii": NIFTI,
    "bad.nii.gz": NIFTI,
    "bad.dcm": DICOM,
    "bad.h5": RAW,
    "bad.cfl": RAW,
    "bad.mat": RAW,
    "bad.dat": RAW,
    "bad.safetensors": PRIOR,
    "bad.yaml": RECIPE,
    "bad.txt": (*TIMES, *CENSORED),
    "bad.key": SECRET,
    "bad.json": FILTER,
}


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


KINDS: dict[str, Make] = {
    "that is a pipe": os.mkfifo,
    "that is a link to an endless device": lambda path: path.symlink_to("/dev/zero"),
    "that is a link to itself": lambda path: path.symlink_to(path.name),
    "that is a link to nothing": lambda path: path.symlink_to("nowhere"),
    "that is a folder": Path.mkdir,
    "that is a socket": _socket,
    "that is not there": lambda path: None,
}

NAMES = {
    "a line feed": "two\nlines.nii",
    "an escape that clears the screen": "bad\x1b[2J\x1b[31m.nii",
    "a title for the terminal": "bad\x1b]0;owned\x07.nii",
    "a bell and a backspace": "bad\x07\x08.nii",
    "a carriage return": "good\rbad.nii",
    "no text": os.fsdecode(b"bad\xff\xfe.nii"),
    "a direction to the left": "bad\u202efdp.nii",
    "250 letters": "b" * 250 + ".nii",
    "blanks": " bad name .nii",
    "a percent and braces": "bad%s{0}.nii",
    "markup": "[bold]bad[red].nii",
}


def cases() -> Iterator[Case]:
    for name, commands in PLACES.items():
        for fault, make in KINDS.items():
            if (name, fault) == ("bad.nii", "that is not there"):
                continue
            yield Case("places", f"{name} {fault}", name, make, "", commands)
    for fault, name in NAMES.items():
        yield Case("names", f"a name with {fault}", name, content("not a series"), "", NIFTI)
    for fault, make in _folders():
        yield Case("places", fault, "study", make, "no MR image series", DICOM[:4])
    for fault, make in {"a study that is a file": content("x"), "no study": KINDS["that is not there"]}.items():
        yield Case("places", fault, "night", make, "", STUDY)
    for fault, make in {"an outbox that is a file": content("x"), "no outbox": KINDS["that is not there"]}.items():
        yield Case("places", fault, "outbox", make, "", OUTBOX)
    pipe = lambda folder: (folder.mkdir(), os.mkfifo(folder / "study.yaml"))  # noqa: E731
    yield Case("places", "a manifest that is a pipe", "night", pipe, "pipe", STUDY)


def _folders() -> Iterator[tuple[str, Make]]:
    yield "a folder of pipes and devices", _pipes
    yield "a folder that holds itself", _loop
    yield "a folder of hidden files", _hidden
    yield "an index of media and nothing else", _index


def _pipes(folder: Path) -> None:
    folder.mkdir()
    os.mkfifo(folder / "a.dcm")
    (folder / "b.dcm").symlink_to("/dev/zero")
    (folder / "c.dcm").symlink_to("c.dcm")


def _loop(folder: Path) -> None:
    folder.mkdir()
    (folder / "again").symlink_to("..")
    (folder / "self").symlink_to(".")


def _hidden(folder: Path) -> None:
    for path in series(folder):
        path.rename(path.with_name(f".{path.name}"))


def _index(folder: Path) -> None:
    folder.mkdir()
    (folder / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM" + b"..\\..\\SECRET")
