"""BIDS file names: `sub-01_task-rest_bold.nii.gz` is two entities, a suffix and an extension.

Source: BIDS 1.11, "Common principles" (Filenames) and the appendix "Entities", which fixes their order: `desc` is last.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from medseq.errors import InputError

_NAME = re.compile(r"((?:[a-z]+-[0-9A-Za-z+]+_)*)([0-9A-Za-z]+)((?:\.[0-9A-Za-z]+)+)", re.ASCII)

# What people and filter files call the entities of functional and cardiac series (appendix "Entities").
LONG_NAMES = {
    "subject": "sub",
    "session": "ses",
    "task": "task",
    "acquisition": "acq",
    "ceagent": "ce",
    "reconstruction": "rec",
    "direction": "dir",
    "run": "run",
    "echo": "echo",
    "part": "part",
    "space": "space",
    "resolution": "res",
    "description": "desc",
}


@dataclass(frozen=True)
class BidsName:
    """The parts of a file name; entities keep the order in which they stand."""

    entities: Mapping[str, str]
    suffix: str
    extension: str

    def __str__(self) -> str:
        return f"{self.stem}{self.extension}"

    @property
    def stem(self) -> str:
        return "".join(f"{key}-{label}_" for key, label in self.entities.items()) + self.suffix

    def applies_to(self, other: BidsName) -> bool:
        """Whether a sidecar of this name speaks of the file `other` (inheritance principle, rules 2 and 3)."""
        return self.suffix == other.suffix and self.entities.items() <= other.entities.items()

    def described(self, description: str) -> BidsName:
        """The name of what was derived from this file: `desc-preproc` and `denoised` give `desc-preprocDenoised`."""
        before = self.entities.get("desc")
        label = f"{before}{description[0].upper()}{description[1:]}" if before else description
        return replace(self, entities={**self.without("desc").entities, "desc": label})

    def without(self, entity: str) -> BidsName:
        """The same name without an entity."""
        return replace(self, entities={key: label for key, label in self.entities.items() if key != entity})

    def ending(self, extension: str) -> BidsName:
        """The same name with another extension."""
        return replace(self, extension=extension)


def parse_name(name: str) -> BidsName | None:
    """The parts of a file name, or None when it is not a BIDS name or gives an entity twice."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    pairs = [pair.split("-") for pair in match[1].split("_") if pair]
    entities = {key: label for key, label in pairs}
    return BidsName(entities, match[2], match[3]) if len(entities) == len(pairs) else None


def name_of(file: Path) -> BidsName:
    """The parts of the name of `file`. Raises InputError when it is not a BIDS name."""
    name = parse_name(file.name)
    if name is None:
        raise InputError(f"{file}: not a BIDS file name; rename it like sub-01_task-rest_bold.nii.gz")
    return name
