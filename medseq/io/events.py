"""BIDS events files (`*_events.tsv`): when which stimulus was shown."""

from __future__ import annotations

import csv
from pathlib import Path

import torch

from medseq.activation import Stimuli
from medseq.errors import InputError
from medseq.io.faults import faults_named, reason

_NO_TYPE = "task"  # what all stimuli are called in a file without the column `trial_type`


def load_events(path: str | Path) -> dict[str, Stimuli]:
    """The stimuli of each `trial_type`, in the order in which the types appear; rows without one (n/a) are left out.

    Raises InputError when the file is missing, lacks the columns `onset` and `duration`, has no rows, or holds anything
    but seconds there (a duration is 0 or more).
    """
    path = Path(path)
    seconds: dict[str, list[tuple[float, float]]] = {}
    with faults_named(path, _broken), path.open(encoding="utf-8-sig", newline="") as stream:
        rows = csv.DictReader(stream, delimiter="\t")
        if not {"onset", "duration"} <= set(rows.fieldnames or ()):
            raise InputError(f"{path}: lacks the columns onset and duration, apart by tabs; give BIDS events")
        for row in rows:
            kind = row.get("trial_type", _NO_TYPE) or "n/a"
            if kind != "n/a":
                seconds.setdefault(kind, []).append(_times(path, rows.line_num, row))
    if not seconds:
        raise InputError(f"{path}: holds no event; give one with onsets")
    return {kind: Stimuli(*torch.tensor(times, dtype=torch.float32).T) for kind, times in seconds.items()}


def _broken(error: Exception) -> str:
    return f"no BIDS events ({reason(error)}); give a table of tabs with a header"


def _times(path: Path, line: int, row: dict[str, str]) -> tuple[float, float]:
    onset, duration = float(row["onset"]), float(row["duration"])
    if not (abs(onset) < float("inf") and 0 <= duration < float("inf")):
        raise InputError(f"{path}: line {line} has an onset or duration that is no time; correct it")
    return onset, duration
