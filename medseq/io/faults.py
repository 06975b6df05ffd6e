"""Whatever a format's library raises on a broken file, as one InputError that names the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from medseq.errors import InputError, MedseqError


@contextmanager
def faults_named(path: str | Path, broken: Callable[[Exception], str]) -> Iterator[None]:
    """Wrap everything that looks into one file: its faults leave as InputError, in one line that begins with its path.

    broken: what is wrong and what to do, of an exception that can only mean a broken file. What medseq itself raises,
    MemoryError and what is no Exception pass through.
    """
    try:
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


def reason(error: Exception) -> str:
    """What a library says of a fault, short and in one line."""
    return " ".join(plain(str(error)).split())[:200] or type(error).__name__


def plain(text: str) -> str:
    """Text that may quote a file, without what ends a line or drives a terminal."""
    return "".join(each if each.isprintable() else " " for each in text)
