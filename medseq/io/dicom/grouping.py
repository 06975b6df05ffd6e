"""Which images belong to one series: split what a scanner put together, join what it took apart.

A `Stack` is what can be laid out as slices by frames: one place, one shape, one echo, one component.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np

from medseq.errors import InputError
from medseq.io.dicom.components import IMAGINARY, MAGNITUDE, PHASE, REAL
from medseq.io.dicom.geometry import are_even, slice_centres
from medseq.io.dicom.records import Record

_Thing = TypeVar("_Thing")
_Key = TypeVar("_Key", bound=Hashable)


@dataclass(frozen=True)
class Stack:
    """Images that can be sorted into slices and frames. problems: what was assumed on the way."""

    records: tuple[Record, ...]
    problems: tuple[str, ...] = ()

    @property
    def first(self) -> Record:
        return self.records[0]

    @property
    def number(self) -> int:
        return -1 if self.first.number is None else self.first.number

    @cached_property
    def places(self) -> frozenset[tuple[float, ...]]:
        return frozenset(_rounded(record.position, 2) for record in self.records)

    def noted(self, problems: tuple[str, ...]) -> Stack:
        """The same stack with more problems."""
        return replace(self, problems=(*self.problems, *problems))

    @cached_property
    def is_gated(self) -> bool:
        """Whether trigger times place every image in the heart's cycle rather than in the run of the scan.

        They tell the frames of each slice apart, and all lie within 2.5 s: the longest cycle is shorter, and the first
        dynamics of an fMRI run, whose beginning Philips writes here, are told by its temporal positions.
        """
        if self.first.is_planar or any(record.clues.trigger is None for record in self.records):
            return False
        by_place = grouped(self.records, lambda record: _rounded(record.position, 2))
        triggers = [[record.clues.trigger or 0.0 for record in place] for place in by_place.values()]
        times = [time for place in triggers for time in place]
        if max(map(len, triggers)) < 2 or max(times) - min(times) > 2.5:
            return False
        temporal = {record.clues.temporal for record in by_place[next(iter(by_place))]}
        counted = None not in temporal and len(temporal) == len(triggers[0])
        by_dynamic = self.first.vendor == "Philips" and counted and self.first.cycle is None
        return all(len(set(place)) == len(place) for place in triggers) and not by_dynamic


def stacks(records: Iterable[Record]) -> list[Stack]:
    """Every stack of the images, by series number.

    A series (by SeriesInstanceUID) is split by everything that images of one stack share: orientation, matrix, voxel
    size, echo, component, ImageType. Joined are: cine slices that are a series each (Siemens), and EPI volumes that are
    a series each (Siemens XA30).
    """
    split = grouped(records, lambda record: (record.study, record.series, *_likeness(record), record.image_type))
    ordered = sorted((Stack(tuple(found)) for found in split.values()), key=lambda stack: stack.number)
    return sorted(_join_volumes(_join_slices(ordered)), key=lambda stack: stack.number)


def pairs(found: Sequence[Stack]) -> Iterator[tuple[Stack, Stack | None]]:
    """Each stack with its other half: a magnitude with its phase, a real with its imaginary part, else with None.

    The other half has the same study, geometry, protocol, echo, places and number of images; the same series goes
    before the series with the nearest number. Phases whose unit is unknown stay by themselves.
    """
    taken: set[int] = set()
    halves = grouped(found, lambda stack: (stack.first.study, stack.first.component, *_likeness(stack.first)[:-1]))
    for stack in found:
        other = {MAGNITUDE: PHASE, REAL: IMAGINARY}.get(stack.first.component)
        if other is not None:
            candidates = halves.get((stack.first.study, other, *_likeness(stack.first)[:-1]), [])
            fitting = [half for half in candidates if id(half) not in taken and _fits(stack, half)]
            if fitting:
                half = min(fitting, key=lambda half: _distance(stack, half))
                taken |= {id(stack), id(half)}
                yield stack, half
    for stack in found:
        if id(stack) not in taken:
            yield stack, None


def grouped(things: Iterable[_Thing], key: Callable[[_Thing], _Key]) -> dict[_Key, list[_Thing]]:
    """The things by their key, in the order in which they came."""
    groups: dict[_Key, list[_Thing]] = defaultdict(list)
    for thing in things:
        groups[key(thing)].append(thing)
    return dict(groups)


def _likeness(record: Record) -> tuple[Hashable, ...]:
    """What all images of a series share, whatever the scanner made of series; the component comes last."""
    return (
        record.reference,
        record.vendor,
        record.protocol,
        _rounded(record.orientation, 3),
        _rounded(record.spacing, 4),
        record.matrix,
        None if record.echo is None else round(record.echo, 5),
        record.component,
    )


def _rounded(numbers: Iterable[float], digits: int) -> tuple[float, ...]:
    # Adding zero makes 0 of -0, which hashes alike but does not read alike.
    return tuple(round(number, digits) + 0.0 for number in numbers)


def _fits(stack: Stack, half: Stack) -> bool:
    if len(stack.records) != len(half.records) or stack.first.image_type[:1] != half.first.image_type[:1]:
        return False
    return half.first.is_scaled and stack.places == half.places


def _distance(stack: Stack, half: Stack) -> tuple[bool, int]:
    return half.first.series != stack.first.series, abs(half.number - stack.number)


def _join_slices(found: list[Stack]) -> list[Stack]:
    """Cine slices that are a series each become one stack, where their places are evenly spaced."""

    def key(stack: Stack) -> Hashable:
        first = stack.first
        if len(stack.places) > 1 or not stack.is_gated:
            return id(stack)
        return first.study, *_likeness(first), first.image_type, first.planned or len(stack.records)

    return [joined for like in grouped(found, key).values() for joined in _piles(like)]


def _piles(like: list[Stack]) -> list[Stack]:
    """Stacks of one slice each, piled up by series number; what was scanned again begins another pile."""
    piles: list[list[Stack]] = []
    for stack in like:
        free = (pile for pile in piles if not any(stack.places & other.places for other in pile))
        pile = next(free, None)
        if pile is None:
            piles.append(pile := [])
        pile.append(stack)
    return [joined for pile in piles for joined in _pile(pile)]


def _pile(pile: list[Stack]) -> list[Stack]:
    if len(pile) == 1:
        return pile
    together = tuple(record for stack in pile for record in stack.records)
    try:
        _, centres = slice_centres(together)
    except InputError:
        return pile
    if not are_even(centres):
        note = f"has the protocol of {len(pile) - 1} other series at uneven distances; they are not joined"
        return [replace(stack, problems=(note,)) for stack in pile]
    return [Stack(together, (f"{len(pile)} series of one slice each are joined",))]


def _join_volumes(found: list[Stack]) -> list[Stack]:
    """EPI volumes that are a series each become one stack, where they follow each other by the repetition time."""

    def key(stack: Stack) -> Hashable:
        first = stack.first
        is_volume = first.is_planar and len(stack.places) == len(stack.records) and first.clues.acquired is not None
        return (first.study, *_likeness(first), first.image_type, stack.places) if is_volume else id(stack)

    return [joined for like in grouped(found, key).values() for joined in _runs(like)]


def _runs(like: list[Stack]) -> list[Stack]:
    if len(like) == 1:
        return like
    like = sorted(like, key=_start)
    steps = np.diff([_start(stack) for stack in like])
    repetition = like[0].first.repetition
    # Lost volumes leave a gap of some more; a pause between runs, localizers and reference scans are no repetition.
    if repetition is None or (np.abs(steps / repetition - np.rint(steps / repetition)) > 0.1).any():
        return like
    if not (steps / repetition > 0.5).all() or not (steps / repetition < 5).all():
        return like
    together = tuple(record for stack in like for record in stack.records)
    return [Stack(together, (f"{len(like)} series of one volume each are joined",))]


def _start(stack: Stack) -> float:
    return min(record.clues.acquired or 0.0 for record in stack.records)
