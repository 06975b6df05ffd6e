"""Where a study stands, by its ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medseq.study.ledger import Entry, entry_path, is_running, read_entry
from medseq.study.manifest import Manifest, Unit, load_manifest

State = Literal["waiting", "running", "interrupted", "done", "failed"]
STATES: tuple[State, ...] = ("done", "failed", "running", "interrupted", "waiting")


@dataclass(frozen=True)
class Standing:
    """One unit. reason: of a failure. seconds, memory_mb: what its last attempt took, None before it ended."""

    unit: str
    task: str
    state: State
    attempts: int = 0
    seconds: float | None = None
    memory_mb: int | None = None
    exit_code: int | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Status:
    """A study. refused: what was found in its source and is no unit. seconds_left: on one worker, if known."""

    running: bool
    units: Sequence[Standing]
    refused: Sequence[str]
    seconds_left: float | None

    @property
    def counts(self) -> dict[State, int]:
        found = Counter(unit.state for unit in self.units)
        return {state: found[state] for state in STATES}


def read_status(folder: Path) -> Status:
    """Where the study in `folder` stands. Raises InputError for a manifest that is none.

    What is told is the last word of the ledger; whether inputs have changed since, the next run finds out.
    """
    manifest = load_manifest(folder)
    running = is_running(folder)
    entries = {unit.name: read_entry(entry_path(folder, unit.name)) for unit in manifest.units}
    units = [_standing(unit, entries[unit.name], running) for unit in manifest.units]
    return Status(running, units, manifest.refused, _seconds_left(manifest, units))


def _standing(unit: Unit, entry: Entry | None, running: bool) -> Standing:
    task = unit.task.command
    if entry is None:
        return Standing(unit.name, task, "waiting")
    if entry.state == "running":
        return Standing(unit.name, task, "running" if running else "interrupted", entry.attempts)
    told = (entry.attempts, entry.seconds, entry.memory_mb, entry.exit_code, entry.reason)
    return Standing(unit.name, task, entry.state, *told)


def _seconds_left(manifest: Manifest, units: Sequence[Standing]) -> float | None:
    """What the plan estimated of the rest, corrected by what it was wrong about in the units that are done."""
    expected = {unit.name: unit.estimate.seconds for unit in manifest.units}
    done = [each for each in units if each.state == "done" and each.seconds and expected[each.unit]]
    if not done:
        return None
    pace = sum(each.seconds or 0 for each in done) / sum(expected[each.unit] for each in done)
    return round(pace * sum(expected[each.unit] for each in units if each.state not in ("done", "failed")), 1)
