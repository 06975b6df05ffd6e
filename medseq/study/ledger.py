"""The ledger: one small JSON a unit, written atomically, that says what became of it and of what exactly.

A finished unit carries the same record inside its folder, so that result and record appear in one rename and neither
can be without the other. A unit is done when that record has the key of what is asked for now: SHA-256 of its inputs,
options, model and the version of medseq. Sizes and times of files only save hashing them again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from medseq import __version__
from medseq.errors import InputError, ResourceError
from medseq.io.files import atomic_write
from medseq.provenance import sha256
from medseq.study.manifest import Unit

SEAL = "unit.json"
# A failure that may pass is met with this many attempts in one run.
MOST_ATTEMPTS = 3

State = Literal["running", "done", "failed"]


class Content(BaseModel):
    """What the inputs of a unit are. looks: their names, sizes and times, cheap to compare. sha256: of the content."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    looks: str
    sha256: str


class Entry(BaseModel):
    """What is known of one unit.

    run: which run of the study wrote it. attempts: in that run. exit_code: of the command, negative for a signal, None
    when a limit stopped it. reason: of a failure, in one line without folders. may_pass: the same may well succeed
    another time. seconds, memory_mb: what it took. limits: (seconds, MiB) it had. outputs: bytes of each file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    unit: str
    state: State
    key: str
    run: str
    attempts: int = 1
    content: Content | None = None
    started: str = ""
    seconds: float = 0.0
    memory_mb: int = 0
    limits: tuple[int, int] | None = None
    exit_code: int | None = None
    reason: str | None = None
    may_pass: bool = False
    outputs: dict[str, int] = {}


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def entry_path(study: Path, unit: str) -> Path:
    return study / "ledger" / f"{unit}.json"


def read_entry(path: Path) -> Entry | None:
    """The entry in a file; None where there is none, or one that makes no sense, which is as good as none."""
    try:
        return Entry.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def write_entry(study: Path, entry: Entry) -> None:
    """Raises ResourceError when it cannot be written."""
    path = entry_path(study, entry.unit)
    path.parent.mkdir(exist_ok=True)
    save_entry(entry, path)


def save_entry(entry: Entry, path: Path) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(entry.model_dump_json(indent=1) + "\n", "utf-8")


def key_of(unit: Unit, content: Content, model: str) -> str:
    """Of all that a result depends on. model: SHA-256 of the weights that the unit may use."""
    told = [__version__, unit.task.model_dump(mode="json"), unit.format, unit.input.series, content.sha256, model]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def content_of(unit: Unit, source: Path, before: Content | None) -> Content:
    """Hash the inputs of a unit, unless they look as `before`. Raises InputError when one is missing or unreadable.

    The hash of a single file is the file's; of several, that of the hashes in their order.
    """
    looks = looks_of(unit, source)
    if before is not None and before.looks == looks:
        return before
    hashes = [sha256(source / each) for each in unit.input.paths]
    whole = hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()
    return Content(looks=looks, sha256=whole)


def looks_of(unit: Unit, source: Path) -> str:
    """SHA-256 of the names, sizes and times of a unit's inputs. Raises InputError when one is missing or unreadable."""
    digest = hashlib.sha256()
    for path in (source / each for each in unit.input.paths):
        try:
            files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
            for file in files:
                told = file.stat()
                digest.update(f"{file}\0{told.st_size}\0{told.st_mtime_ns}\n".encode(errors="surrogateescape"))
        except FileNotFoundError:
            raise InputError(f"{path}: no such file; check the source, or plan anew") from None
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    return digest.hexdigest()


def sealed(folder: Path, key: str) -> Entry | None:
    """The record inside a unit's results when these are what `key` stands for, and all there."""
    entry = read_entry(folder / SEAL)
    if entry is None or entry.state != "done" or entry.key != key or sizes(folder) != entry.outputs:
        return None
    return entry


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of every file below a folder, by relative path, the seal aside."""
    return {
        name: path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and (name := path.relative_to(folder).as_posix()) != SEAL
    }


@contextmanager
def only_run(study: Path) -> Iterator[None]:
    """Hold the lock of a study. Raises ResourceError when another run does.

    The kernel keeps the lock and drops it with the process, however that ends: none is ever left over, and none has to
    be guessed from process ids. What stands in the file is for people.
    """
    with _opened(study / ".lock", os.O_RDWR | os.O_CREAT) as lock:
        if not _locked(lock, study):
            holder = os.pread(lock, 200, 0).decode(errors="replace").strip()
            raise ResourceError(f"{study}: another run is working on it ({holder}); wait for it, or stop it")
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"process {os.getpid()} on {os.uname().nodename} since {now()}\n".encode(), 0)
        yield
        os.ftruncate(lock, 0)


def is_running(study: Path) -> bool:
    """Whether a run holds the lock of the study."""
    if not (study / ".lock").exists():
        return False
    with _opened(study / ".lock", os.O_RDONLY) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextmanager
def only_worker(study: Path, unit: str) -> Iterator[bool]:
    """Hold a unit, or yield False when another process does: an orphan of an earlier run, on whatever machine."""
    with _opened(study / "ledger" / f".{unit}.lock", os.O_RDWR | os.O_CREAT) as lock:
        yield _locked(lock, study)


def _locked(lock: int, study: Path) -> bool:
    """Take the lock unless somebody keeps it; whoever only looks at it (`is_running`) is gone in a moment."""
    for pause in (0.0, 0.1, 0.3):
        time.sleep(pause)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            continue
        except OSError as error:
            raise ResourceError(f"{study}: its file system has no locks ({error.strerror}); use one that has") from None
    return False


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    """A lock file; never what a link in a study that somebody else made leads to, as its content is overwritten."""
    try:
        path.parent.mkdir(exist_ok=True)
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise ResourceError(f"{path}: cannot be opened ({error.strerror}); check the rights of the study") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)
