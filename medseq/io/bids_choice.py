"""Which runs of a BIDS dataset are meant: by participant, session and task, and by a filter file as of fMRIPrep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseq.errors import InputError, UsageError
from medseq.io.bids import Run
from medseq.io.bids_names import LONG_NAMES
from medseq.io.bids_sidecar import read_json

_OURS = ("bold", "cine", "kspace")
# Queries of fMRIPrep's for files that medseq does not restore: one filter file serves both.
_THEIRS = ("asl", "dwi", "flair", "fmap", "pet", "roi", "sbref", "t1w", "t2w")
_ANY, _NONE = ("*", "Query.ANY"), (None, "Query.NONE")

Filters = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Choice:
    """Runs to restore; everything that is empty leaves the choice open.

    participants, sessions, tasks: labels, with or without `sub-`, `ses-`, `task-`. A task chooses functional series
    only, as a heart has none. filters: by suffix (bold, cine, kspace), long names of entities and their labels.
    """

    participants: Sequence[str] = ()
    sessions: Sequence[str] = ()
    tasks: Sequence[str] = ()
    filters: Filters = field(default_factory=dict)


def read_filters(path: Path) -> Filters:
    """A filter file: `{"bold": {"session": "01", "run": [1, 2], "acquisition": null}}`; null: the entity is absent.

    Raises InputError when it is unreadable or no such object, UsageError for unknown queries or entities.
    """
    content = read_json(path)
    for query, wanted in content.items():
        if query not in (*_OURS, *_THEIRS):
            raise UsageError(f"{path}: no query {query!r}; medseq restores {', '.join(_OURS)}")
        if not isinstance(wanted, dict):
            raise InputError(f"{path}: {query} must be an object of entities and labels; correct the file")
        unknown = wanted.keys() - LONG_NAMES.keys() - {"datatype", "suffix", "extension"}
        if query in _OURS and unknown:
            raise UsageError(f"{path}: {query}: no entity {min(unknown)!r}; medseq knows {', '.join(LONG_NAMES)}")
    return content


def choose(runs: Sequence[Run], choice: Choice) -> list[Run]:
    """The runs that are meant, in their order. Raises InputError when a label is nowhere in them, or none is left."""
    wanted = {"sub": choice.participants, "ses": choice.sessions, "task": choice.tasks}
    labels = {entity: {label.removeprefix(f"{entity}-") for label in each} for entity, each in wanted.items() if each}
    for entity, each in labels.items():
        there = {run.name.entities.get(entity) for run in runs}
        if missing := sorted(each - there):
            raise InputError(f"{entity}-{missing[0]}: no such series in the dataset; check the label")
    chosen = [
        run
        for run in runs
        if all(run.name.entities.get(entity) in each for entity, each in labels.items())
        and _passes(run, choice.filters.get(run.name.suffix, {}))
    ]
    if not chosen:
        raise InputError("no series of the dataset is left by the given labels and filters; widen them")
    return chosen


def _passes(run: Run, wanted: Mapping[str, Any]) -> bool:
    about = {"datatype": run.folder.name, "suffix": run.name.suffix, "extension": run.name.extension}
    labels = {long: run.name.entities.get(short) for long, short in LONG_NAMES.items()} | about
    return all(_matches(labels[key], value) for key, value in wanted.items())


def _matches(label: str | None, wanted: Any) -> bool:
    if isinstance(wanted, list):
        return any(_matches(label, each) for each in wanted)
    if wanted in _NONE:
        return label is None
    if label is None or wanted in _ANY:
        return label is not None
    if label.isdecimal() and str(wanted).isdecimal():  # indices: 1 is 01
        return int(label) == int(wanted)
    return label == str(wanted)
