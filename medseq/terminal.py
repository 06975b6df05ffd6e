"""What a person at the terminal sees while a command runs: one line for every message, and a bar with time left."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medseq.survey import Series


def say(message: object) -> None:
    """Print `message` to stderr as exactly one line."""
    print("medseq:", " ".join(str(message).split()), file=sys.stderr, flush=True)


def warn(message: str) -> None:
    """Print a warning to stderr as exactly one line."""
    say(f"warning: {message}")


@contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None]]:
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


_UNITS = {"voxel": "mm", "interval": "s", "duration": "s", "period": "s"}


def print_series(found: Sequence[Series]) -> None:
    """Print what `survey` found: a block of lines for each series, problems and errors last."""
    for number, series in enumerate(found):
        print(("\n" if number else "") + f"{series.path}: {series.kind}")
        for name, value in asdict(series).items():
            if name in ("path", "kind", "problems") or value is None:
                continue
            shown = " x ".join(map(str, value)) if isinstance(value, tuple) else value
            print(f"  {name:<13}{shown} {_UNITS.get(name, '')}".rstrip())
        for problem in series.problems:
            print(f"  problem      {problem}")
