"""Where an attribute of a frame is found: in its own functional groups, in the shared ones, or in the object itself.

A classic image has everything at its top. A multi-frame object (PS3.3 C.7.6.16) spreads it over sequences of one item,
which vendors fill differently, and a legacy-converted one keeps classic attributes in two more. `Attributes` looks
through all of them, the nearest to the frame first, so that nobody else needs to know.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import Any

from pydicom import Dataset
from pydicom.multival import MultiValue

from medseq.io.dicom import values

_NOTHING = Dataset()
_EPOCH = date(2000, 1, 1)
_CLOCK = re.compile(r"(\d\d):?(\d\d)?:?(\d\d)?(\.\d+)?")


@dataclass(frozen=True)
class Attributes:
    """The datasets that hold the attributes of one frame, the nearest to it first.

    Every reader returns None (or nothing) for what is absent or empty, and raises InputError as in `values`.
    """

    layers: tuple[Dataset, ...]

    def _home(self, key: str | int) -> Dataset:
        return next((layer for layer in self.layers if key in layer), _NOTHING)

    def text(self, key: str) -> str | None:
        return values.text(self._home(key), key)

    def words(self, key: str) -> tuple[str, ...]:
        return values.words(self._home(key), key)

    def number(self, *keys: str) -> float | None:
        """The first of the attributes that is there."""
        found = (values.number(self._home(key), key) for key in keys)
        return next((value for value in found if value is not None), None)

    def positive(self, *keys: str) -> float | None:
        """As `number`, but zero and less, which scanners write for "not measured", are nothing."""
        found = (values.number(self._home(key), key) for key in keys)
        return next((value for value in found if value is not None and value > 0), None)

    def numbers(self, key: str, count: int) -> tuple[float, ...] | None:
        return values.numbers(self._home(key), key, count)

    def whole(self, key: str) -> int | None:
        return values.whole(self._home(key), key)

    def items(self, key: str) -> list[Dataset]:
        """The items of a sequence; none when it is absent."""
        return values.items(self._home(key), key)

    def private(self, group: int, creator: str, element: int) -> tuple[float, ...] | None:
        """The numbers of a private attribute (PS3.5 section 7.8); None also when they cannot be read.

        What a vendor adds for itself may help, but must not make a file unreadable.
        """
        value = self._private(group, creator, element)
        try:
            found = tuple(float(each) for each in (value if isinstance(value, list | MultiValue) else [value]))
        except (TypeError, ValueError):
            return None
        return found if found and all(map(math.isfinite, found)) else None

    def private_bytes(self, group: int, creator: str, element: int) -> bytes | None:
        """The bytes of a private attribute; None when it has none."""
        value = self._private(group, creator, element)
        return value if isinstance(value, bytes) else None

    def _private(self, group: int, creator: str, element: int) -> Any:
        for layer in self.layers:
            try:
                with values.quiet():
                    return layer.private_block(group, creator)[element].value
            except Exception:  # noqa: BLE001, S112 - absent, or whatever the conversion of a broken value raises
                continue
        return None

    def acquired(self) -> float | None:
        """Seconds (from no particular day) at which the acquisition of the frame began."""
        for key in ("FrameAcquisitionDateTime", "FrameReferenceDateTime"):
            if (stamp := self.text(key)) is not None:
                return _seconds(stamp[:8], stamp[8:])
        clock = self.text("AcquisitionTime")
        if clock is not None:
            return _seconds(self.text("AcquisitionDate") or self.text("ContentDate"), clock)
        stamp = self.text("AcquisitionDateTime")
        return None if stamp is None else _seconds(stamp[:8], stamp[8:])

    def content(self) -> float | None:
        """Seconds at which the pixels of the object were created."""
        clock = self.text("ContentTime")
        return None if clock is None else _seconds(self.text("ContentDate"), clock)


def frame_attributes(header: Dataset, group: Dataset, shared: Iterable[Dataset]) -> Attributes:
    """Those of one frame of a multi-frame object. group: its item of PerFrameFunctionalGroupsSequence."""
    return Attributes((*first_items(group), *shared, header))


def first_items(group: Dataset) -> list[Dataset]:
    """The first item of each sequence in a functional group item, public ones before private ones."""
    tags = sorted(group.keys(), key=lambda tag: tag.is_private)
    # Asked of the converted element, as implicit VR says what is a sequence nowhere else.
    return [item for tag in tags if group[tag].VR == "SQ" for item in values.items(group, tag)[:1]]


def _seconds(day: str | None, clock: str) -> float | None:
    """DA and TM (PS3.5 section 6.2), or the older form with colons; a time zone, the same for all, is ignored."""
    match = _CLOCK.match(clock)
    if match is None:
        return None
    hours, minutes, seconds, fraction = (float(part or 0) for part in match.groups())
    return _day(day) * 86400.0 + hours * 3600 + minutes * 60 + seconds + fraction


def _day(day: str | None) -> int:
    """So that an exam over midnight stays in order; from 2000 on, as seconds since year 1 would lose microseconds."""
    try:
        return (date.fromisoformat((day or "").replace(".", "")) - _EPOCH).days
    except ValueError:
        return 0
