"""DICOM in explicit VR little endian as a tree of elements, changed and written without asking what is allowed."""

from __future__ import annotations

import random
import re
import struct
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from dicom_files import ITEM, LONG_VRS, SEQUENCE_END, UNDEFINED, element

from fuzz.chance import NUMBERS, WORDS, changed_bytes, odd_number

_START = re.compile(rb"(?=\0{128}DICM)")
_TEXT = {"DS", "IS", "CS", "LO", "SH", "UI", "DA", "TM", "DT", "ST", "LT", "PN", "UT", "AS", "AE"}
_BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d", "AT": "I"}
_TELLING = (
    "M",
    "P",
    "R",
    "I",
    "MOSAIC",
    "VFRAME",
    "MAGNITUDE",
    "PHASE",
    "EP",
    "YES",
    "MR",
    "CT",
    "DERIVED",
    "SIEMENS",
    "GE",
)
_TELLING += (
    "20240230",
    "99999999",
    "256199.9999999",
    "-1",
    "1.2.840.10008.5.1.4.1.1.4.1",
    "1.2.840.10008.1.2.5",
    "1.2..3",
)
_ITEM_END = b"\xfe\xff\x0d\xe0"


@dataclass
class Element:
    """One element. value: bytes, or for a sequence the elements of each item."""

    tag: int
    vr: str
    value: bytes | list[list[Element]]


def files_of(data: bytes) -> list[bytes]:
    """The files of an input, which stand one after the other; each begins with its preamble."""
    return [part for part in _START.split(data) if part] or [b""]


def parsed(data: bytes) -> list[Element]:
    """The elements behind the preamble of one file. Raises ValueError for what is not plain explicit little endian."""
    if data[128:132] != b"DICM":
        raise ValueError("no preamble")
    try:
        found, _ = _elements(data, 132, len(data))
    except (struct.error, IndexError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError("not explicit little endian") from error
    return found


def _elements(data: bytes, at: int, end: int) -> tuple[list[Element], int]:
    found = []
    while at < end:
        if data[at : at + 4] == _ITEM_END:
            return found, at + 8
        group, number, vr = struct.unpack_from("<HH2s", data, at)
        name = vr.decode("ascii")
        if name in LONG_VRS:
            length, at = struct.unpack_from("<I", data, at + 8)[0], at + 12
        elif name in _TEXT or name in _BINARY:
            length, at = struct.unpack_from("<H", data, at + 6)[0], at + 8
        else:
            raise ValueError(name)
        value: Any
        if name == "SQ":
            value, at = _items(data, at, length)
        else:
            stop = end if length == UNDEFINED else at + length  # encapsulated pixels, which come last
            value, at = data[at:stop], stop
        found.append(Element(group << 16 | number, name, value))
    return found, at


def _items(data: bytes, at: int, length: int) -> tuple[list[list[Element]], int]:
    items, end = [], len(data) if length == UNDEFINED else at + length
    while at < end:
        _, kind, size = struct.unpack_from("<HHI", data, at)
        at += 8
        if kind == 0xE0DD:
            break
        item, at = _elements(data, at, len(data) if size == UNDEFINED else at + size)
        items.append(item)
    return items, at


def written(elements: list[Element], preamble: bytes) -> bytes:
    """The file again; sequences of defined length, pixels that are encapsulated of undefined length."""
    return preamble + _body(elements)


def _body(elements: list[Element]) -> bytes:
    return b"".join(_one(each) for each in elements)


def _one(each: Element) -> bytes:
    if isinstance(each.value, bytes):
        packed = each.tag == 0x7FE00010 and each.value.startswith(ITEM[:4]) and each.value.endswith(SEQUENCE_END)
        return element(
            each.tag,
            each.vr,
            each.value[:65535] if each.vr not in LONG_VRS else each.value,
            UNDEFINED if packed else None,
        )
    bodies = map(_body, each.value)
    return element(each.tag, each.vr, b"".join(ITEM[:4] + struct.pack("<I", len(body)) + body for body in bodies))


def mutate(data: bytes, chance: random.Random) -> bytes:
    """One file of an input changed in its elements or, at times and when it has none, in its bytes."""
    files = files_of(data)
    for _ in range(chance.choice((1, 1, 2))):
        index = chance.randrange(len(files))
        files[index] = _changed(files[index], chance)
    if chance.random() < 0.03:
        files.append(chance.choice(files))
    return b"".join(files)


def _changed(data: bytes, chance: random.Random) -> bytes:
    try:
        if chance.random() < 0.2:
            raise ValueError
        tree = parsed(data)
    except ValueError:
        return changed_bytes(data, chance, 128, chance.choice((None, 2000)))
    for _ in range(chance.choice((1, 1, 2, 4))):
        _change(tree, chance)
    return written(tree, data[:132])


def _change(tree: list[Element], chance: random.Random) -> None:
    homes = _homes(tree)
    home = chance.choice(homes)
    each = chance.choice(home)
    match chance.randrange(10):
        case 0:
            home.remove(each)
        case 1:
            home.append(deepcopy(chance.choice(chance.choice(homes))))
        case 2:
            each.vr = chance.choice((*_TEXT, *_BINARY, *LONG_VRS))
            if not isinstance(each.value, bytes):
                each.value = _body([item for part in each.value for item in part])
            elif each.vr == "SQ":
                each.vr = "UN"
        case 3:
            other = chance.choice(chance.choice(homes))
            each.value = deepcopy(other.value) if (other.vr == "SQ") == (each.vr == "SQ") else each.value
        case 4 if isinstance(each.value, list) and each.value:
            at = chance.randrange(len(each.value))
            each.value[at : at + 1] = [each.value[at]] * chance.choice((0, 2, 3, 40))
        case _:
            if isinstance(each.value, bytes):
                each.value = _odd(each.vr, each.value, chance)


def _homes(tree: list[Element]) -> list[list[Element]]:
    """The dataset and every item below that has elements; the dataset often, as there are many items."""
    found, open_ = [], [tree]
    while open_ and len(found) < 2000:
        home = open_.pop()
        if home:
            found.append(home)
        open_ += [item for each in home if isinstance(each.value, list) for item in each.value]
    return found + [tree or [Element(0x00080060, "CS", b"MR")]] * (len(found) // 2 + 1)


def _odd(vr: str, value: bytes, chance: random.Random) -> bytes:
    if vr in _BINARY and chance.random() < 0.8:
        kind = _BINARY[vr]
        if kind in "fd":
            return struct.pack("<" + kind, min(odd_number(chance), 3e38)) * chance.choice((1, 1, 1, 2, 3))
        size = struct.calcsize(kind)
        return b"".join(
            chance.choice((bytes(size), b"\xff" * size, value[:size], b"\1".ljust(size, b"\0")))
            for _ in range(chance.choice((1, 1, 2)))
        )
    if vr in _TEXT and chance.random() < 0.8:
        parts = value.decode("latin-1").split("\\")
        at = chance.randrange(len(parts))
        try:
            near = f"{odd_number(chance, float(parts[at])):.10g}"
        except (ValueError, OverflowError):
            near = chance.choice(WORDS)
        parts[at] = chance.choice((near, near, chance.choice(NUMBERS), chance.choice(_TELLING)))
        text = "\\".join(parts[: chance.choice((len(parts), at, 1, 2))])
        raw = text.encode("utf-8", "replace")
        return raw + b" " * (len(raw) % 2)
    return changed_bytes(value, chance)
