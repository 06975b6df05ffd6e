"""What a command leaves behind: outputs that appear only when complete, and the `run.json` that explains them."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import math
import os
import platform
import secrets
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from medseq import __version__
from medseq.errors import InputError, MedseqError, MedseqWarning, ResourceError, UsageError
from medseq.io.faults import check_fits_memory, check_is_file
from medseq.io.files import uninterrupted

# Their versions can change the last digits of a result.
_PACKAGES = ("torch", "numpy", "nibabel", "h5py", "ismrmrd")
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


def stem(path: Path) -> str:
    """The file name without its ending, `.nii.gz` counting as one: `out/x.nii.gz` -> `x`."""
    ending = path.suffix
    if ending.lower() == ".gz":
        ending = path.with_suffix("").suffix + ending
    return path.name.removesuffix(ending)


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, or of a folder's files and their names in sorted order.

    Raises InputError when something is missing, unreadable or no file, ResourceError when one is larger than memory.
    """
    try:
        if path.is_dir():
            digest = hashlib.sha256()
            for file in sorted(file for file in path.rglob("*") if file.is_file()):
                digest.update(f"{file.relative_to(path).as_posix()}\0{sha256(file)}\n".encode())
            return digest.hexdigest()
        check_is_file(path)
        check_fits_memory(path, path.stat().st_size)  # said before hours are spent on the hash
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the name") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error


@contextmanager
def collected_warnings(show: Callable[[str], None]) -> Iterator[list[str]]:
    """Gather each different MedseqWarning of the block once, in order, and `show` it as it comes."""
    messages: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("always", MedseqWarning)
        show_other = warnings.showwarning

        def hear(message, category, filename, lineno, file=None, line=None):
            if not issubclass(category, MedseqWarning):
                show_other(message, category, filename, lineno, file, line)
            elif (text := " ".join(str(message).split())) not in messages:
                messages.append(text)
                show(text)

        warnings.showwarning = hear
        yield messages


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A hidden folder inside `folder`; what is put there moves into `folder` once the block has ended well.

    Missing parents are made. When the block fails or is interrupted nothing stays behind, not even those parents, and
    older files of the same names are untouched; an interruption while things move waits until all have. Of two
    processes that write the same names at once, the last leaves all of its own, the record (`run.json`) last.
    Raises UsageError when `folder` or a parent is a file or an output's name is taken by a folder, ResourceError when
    `folder` cannot be written.
    """
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    scratch = folder / f".medseq-{secrets.token_hex(6)}"
    try:
        _make(scratch)
        yield scratch
        with uninterrupted(), _one_mover(folder):
            _move(scratch, folder)
            made = []
    except MedseqError as error:
        # The user asked for `folder` and knows nothing of a hidden one in it.
        raise type(error)(str(error).replace(str(scratch), str(folder))) from error
    except OSError as error:
        if not _about_writing(error, scratch):
            raise
        place = str(error.filename or folder).replace(str(scratch), str(folder))
        raise ResourceError(
            f"{place}: cannot be written ({error.strerror}); check the folder, its rights and free space"
        ) from error
    finally:
        with uninterrupted():
            shutil.rmtree(scratch, ignore_errors=True)
            for parent in made:
                with suppress(OSError):
                    parent.rmdir()


def _make(scratch: Path) -> None:
    folder = scratch.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch.mkdir(mode=0o700)
    except (FileExistsError, NotADirectoryError):
        raise UsageError(f"{folder}: is, or lies in, a file; choose another folder for the output") from None
    except OSError as error:
        raise ResourceError(
            f"{folder}: cannot be written ({error.strerror}); choose a folder that can, or change its permissions"
        ) from None


def _move(scratch: Path, folder: Path) -> None:
    outputs = sorted(scratch.iterdir(), key=lambda path: (path.name.endswith("run.json"), path.name))
    for path in outputs:
        if (folder / path.name).is_dir() and not path.is_dir():
            raise UsageError(f"{folder / path.name}: is a folder; choose another name for the output")
    for path in outputs:
        os.replace(path, folder / path.name)


@contextmanager
def _one_mover(folder: Path) -> Iterator[None]:
    """Wait until no other process moves its outputs into `folder`; file systems without such locks go without."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _about_writing(error: OSError, scratch: Path) -> bool:
    """Whether an output could not be written, or something else went wrong while it was made."""
    return error.errno in _NO_ROOM or scratch.name in str(error.filename)


@dataclass
class RunRecord:
    """Everything `run.json` says about one command: enough to repeat it, nothing about who ran it or where.

    Files are named without their folders, which often hold a user's name or are called by a patient's, and hashed
    instead. anonymous: not even by their own names.
    """

    command: str
    options: Mapping[str, Any]
    anonymous: bool = False
    warnings: list[str] = field(default_factory=list)
    result: Mapping[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    model: dict[str, str] | None = None
    _inputs: list[Path] = field(default_factory=list)
    _hashes: list[str] = field(default_factory=list)
    _started: datetime = field(default_factory=lambda: datetime.now(UTC))
    _start: float = field(default_factory=time.perf_counter)

    def add_input(self, path: Path) -> None:
        """Hash an input file or folder before it is used. Raises InputError when it is missing or unreadable."""
        self._hashes.append(sha256(path))
        self._inputs.append(path)

    def add_model(self, path: Path) -> None:
        """Hash the weights in use. Raises InputError when they are missing or unreadable."""
        self.model = {"name": stem(path), "sha256": sha256(path)}

    @property
    def elapsed(self) -> float:
        """Seconds since the command began."""
        return round(time.perf_counter() - self._start, 3)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the seconds that the block takes to `stage`."""
        start = time.perf_counter()
        yield
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.perf_counter() - start, 3)

    def save(self, path: Path) -> None:
        """Write everything known so far as JSON."""
        path.write_text(json.dumps(self.content(), indent=2, allow_nan=False) + "\n", encoding="utf-8")

    def content(self) -> dict[str, Any]:
        """What `run.json` says, as far as it is known."""
        return {
            "medseq": __version__,
            "command": self.command,
            "options": plain(self.options),
            "inputs": [
                {"name": self._name(path), "sha256": digest}
                for path, digest in zip(self._inputs, self._hashes, strict=True)
            ],
            "model": self.model,
            "result": plain(self.result),
            "warnings": [self._without_folders(text) for text in self.warnings],
            "started": self._started.isoformat(timespec="seconds"),
            "seconds": {**self.seconds, "total": self.elapsed},
            "software": {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES},
        }

    def _name(self, path: Path) -> str:
        return f"input {self._inputs.index(path) + 1}" if self.anonymous or path.is_dir() else path.name

    def _without_folders(self, text: str) -> str:
        for path in self._inputs:
            name = self._name(path)
            text = text.replace(str(path.resolve()), name).replace(str(path), name)
        return text


def plain(value: Any) -> Any:
    """What JSON can hold; numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, Path):
        return value.name
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
