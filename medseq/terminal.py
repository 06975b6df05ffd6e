"""What a person at the terminal sees of a command: a bar with time left, and one line for whatever goes wrong."""

from __future__ import annotations

import errno
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, NoReturn

from medseq.errors import MedseqError, ResourceError

if TYPE_CHECKING:
    from medseq.survey import Series

Progress = Callable[[int, int], None]

SOME_FAILED = 3  # exit code of a batch of which a part was done
_OUT_OF_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EFBIG, errno.EROFS}


class Terminated(BaseException):
    """SIGTERM, raised like KeyboardInterrupt so that no half-written output survives it."""


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Turn SIGTERM into `Terminated` inside the block; in threads, which hear no signals, this does nothing."""

    def terminate(number: int, frame: object) -> NoReturn:
        raise Terminated

    try:
        before = signal.signal(signal.SIGTERM, terminate)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def exit_code(error: Exception) -> int:
    """What the command line exits with after `error`."""
    if isinstance(error, MedseqError):
        return error.exit_code
    return ResourceError.exit_code if _ran_out(error) else 1


def exit_code_of_many(failures: Sequence[int], *, some_done: bool) -> int:
    """Of a batch with the exit codes of its failures, in order: 0 when there are none, 3 when something was done all
    the same, else that of the first."""
    if not failures:
        return 0
    return SOME_FAILED if some_done else failures[0]


def explained(error: Exception) -> str:
    """What people are told of `error`, in one line."""
    if isinstance(error, MedseqError):
        return f"error: {error}"
    if _ran_out(error):
        return f"error: out of memory or disk ({error or type(error).__name__}); free some, or give a smaller series"
    return f"internal error: {type(error).__name__}: {error}; run again with --debug and report what it prints"


def _ran_out(error: Exception) -> bool:
    """Whether memory or disk ran out."""
    if isinstance(error, OSError):
        return error.errno in _OUT_OF_ROOM
    if "torch" not in sys.modules:  # which would take a second to load
        return isinstance(error, MemoryError)
    from medseq.tiling import out_of_memory

    return out_of_memory(error)


def say(message: object) -> None:
    """Print `message` to stderr as exactly one line."""
    print("medseq:", printable(message), file=sys.stderr, flush=True)


def printable(text: object) -> str:
    """The text in one line, with what a terminal would obey, or cannot show, as `\\x1b`: files have any names."""
    line = " ".join(str(text).split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def warn(message: str) -> None:
    """Print a warning to stderr as exactly one line."""
    say(f"warning: {message}")


@contextmanager
def progress(title: str) -> Iterator[Progress]:
    """A progress bar on stderr, driven by calling what this yields with (done, total); nothing off a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(
        *columns,
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    ) as bars:
        task = bars.add_task(title, total=None)

        def advance(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total)

        yield advance


@contextmanager
def live() -> Iterator[Callable[[str], None]]:
    """A line on stderr that is always the newest text this yields with was called with; nothing off a terminal."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(stderr=True)
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    with Live(console=console, refresh_per_second=4, transient=True) as shown:
        yield lambda text: shown.update(Text(printable(text), no_wrap=True, overflow="ellipsis"))


_COLUMNS = (
    "number",
    "kind",
    "vendor",
    "matrix",
    "frames",
    "data",
    "voxel",
    "interval",
    "period",
    "description",
    "path",
)
_UNITS = {"trajectory": "(readouts x samples of each)", "voxel": "mm", "interval": "s", "duration": "s", "period": "s"}


def print_series(found: Sequence[Series]) -> None:
    """Print what `survey` found: one series as a block of lines, several as a table with their problems below."""
    if len(found) == 1:
        _print_block(found[0])
        return
    _print_series_table(found)
    for row, series in enumerate(found, start=1):
        for problem in [*series.problems, *([f"cannot be used: {series.error}"] if series.error else [])]:
            print(f"{row}: {printable(problem)}")


def _print_block(series: Series) -> None:
    print(f"{printable(series.path)}: {series.kind}")
    for name, value in asdict(series).items():
        if name in ("path", "kind", "problems") or value is None:
            continue
        print(f"  {name:<13}{printable(_shown(value))} {_UNITS.get(name, '')}".rstrip())
    for problem in series.problems:
        print(f"  problem      {printable(problem)}")


def _print_series_table(found: Sequence[Series]) -> None:
    columns = [name for name in _COLUMNS if any(getattr(series, name) is not None for series in found)]
    titles = ["", *(f"{name} ({_UNITS[name]})" if name in _UNITS else name for name in columns)]
    rows = [[str(row), *(_shown(getattr(each, name)) for name in columns)] for row, each in enumerate(found, start=1)]
    print_table(titles, rows)


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows below their titles, in columns as wide as they need."""
    lines = [titles, *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for cells in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " x ".join(map(str, value)) if isinstance(value, tuple) else str(value)
