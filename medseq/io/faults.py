"""Whatever a format's library raises on a broken file, as one InputError that names the file."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from medseq.errors import InputError, MedseqError, ResourceError


@contextmanager
def faults_named(path: str | Path, broken: Callable[[Exception], str]) -> Iterator[None]:
    """Wrap everything that looks into one file: its faults leave as InputError, in one line that begins with its path.

    broken: what is wrong and what to do, of an exception that can only mean a broken file. What medseq itself raises,
    MemoryError and what is no Exception pass through.
    """
    try:
        check_is_file(path)
        yield
    except InputError as error:
        text = str(error)
        told = plain(text) if str(path) in text else f"{path}: {plain(text)}"
        raise error if told == text else InputError(told) from error
    except (MedseqError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; check the path") from error
    except IsADirectoryError as error:
        raise InputError(f"{path}: this is a folder; give a file") from error
    except PermissionError as error:
        raise InputError(f"{path}: no right to read it; check its permissions") from error
    except Exception as error:  # noqa: BLE001 - these libraries' faults share no base class
        raise InputError(f"{path}: {broken(error)}") from error


def check_is_file(path: str | Path) -> None:
    """Raise InputError for a pipe, a socket or a device, which would keep us waiting for ever, or never end.

    What is a folder or is not there is found by opening it.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError(f"{path}: not a file but a pipe, socket or device; give a file")


def machine_memory() -> int:
    """Bytes of memory that this machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check_fits_memory(path: str | Path, needed: int) -> None:
    """Raise ResourceError when what is read of a file takes more bytes than this machine has."""
    if needed > machine_memory():
        raise ResourceError(
            f"{path}: needs {needed / 2**30:.0f} GiB of memory, this machine has {machine_memory() / 2**30:.0f} GiB; "
            "split the series, or take a larger machine"
        )


def reason(error: Exception) -> str:
    """What a library says of a fault, short and in one line."""
    return " ".join(plain(str(error)).split())[:200] or type(error).__name__


def plain(text: str) -> str:
    """Text that may quote a file, without what ends a line or drives a terminal."""
    return "".join(each if each.isprintable() else " " for each in text)
