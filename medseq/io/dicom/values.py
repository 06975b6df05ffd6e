"""Reading the attributes of an untrusted DICOM dataset: a value that can be meant, None, or one InputError.

pydicom converts a value when it is first asked for, so that a bad one raises then, in any of a dozen ways, and warns
of what it had to guess. Everything in medseq that reads an attribute therefore asks here:

    with dicom_faults_named(path):
        spacing = numbers(header, "PixelSpacing", 2)      # (row, column) or None

The messages name the attribute and never its value, which may be a name that slipped into the wrong place.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from pydicom import Dataset, config
from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import PersonName

from medseq.errors import InputError
from medseq.io.faults import faults_named

# Each item of a sequence costs pydicom 15 us and 2 kB, and a file only 8 bytes. The longest real series, of some 10,000
# frames with a dozen functional groups each, has three quarters as many.
MOST_ITEMS = 200_000
ITEM_TAGS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")
# PS3.5 section 9.1, tolerating components that start with 0, which scanners do write.
_UID = re.compile(r"(?=.{1,64}$)\d+(\.\d+)*", re.ASCII)


def dicom_faults_named(path: str | Path) -> AbstractContextManager[None]:
    """`faults_named` for whatever pydicom, zlib or numpy raise on a broken file.

    Wrap everything that looks into the datasets of one file. What pydicom says is not repeated: it quotes values, and
    those may identify somebody.
    """
    return faults_named(path, _broken)


def _broken(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "sequences nested without end; it is broken or hostile, get a fresh copy"
    if isinstance(error.__context__, InputError):  # pydicom hides what its file raises behind an OSError
        return str(error.__context__)
    return f"broken DICOM ({type(error).__name__}); get a fresh copy"


@contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom from warning and logging: its messages quote values, and those may identify somebody."""
    with warnings.catch_warnings(), config.disable_value_validation():
        warnings.simplefilter("ignore")
        yield


def text(dataset: Dataset, key: str | int) -> str | None:
    """The value as text without blanks around it, several joined by a backslash; None when absent or empty.

    key: a keyword ("SeriesDescription") or a tag (0x0008103E). Raises InputError when it cannot be decoded.
    """
    values = _values(dataset, key)
    return "\\".join(str(value).strip(" \0") for value in values) if values else None


def words(dataset: Dataset, key: str | int) -> tuple[str, ...]:
    """Every value of a multi-valued text such as ImageType; () when absent or empty. Raises InputError as `text`."""
    return tuple(str(value).strip(" \0") for value in _values(dataset, key))


def number(dataset: Dataset, key: str | int) -> float | None:
    """A single number, in the units of the attribute; None when absent or empty.

    Raises InputError when it is no number, not finite, or not alone.
    """
    values = numbers(dataset, key, 1)
    return None if values is None else values[0]


def numbers(dataset: Dataset, key: str | int, count: int | None = None) -> tuple[float, ...] | None:
    """All the numbers of an attribute; None when absent or empty.

    Raises InputError when one is no number or not finite, and when there are not `count` of them (None: any count).
    """
    values = _values(dataset, key)
    if not values:
        return None
    try:
        found = tuple(float(value) for value in values)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{_name(key)} is not a number; correct it or get a fresh copy") from error
    if not all(map(math.isfinite, found)):
        raise InputError(f"{_name(key)} is not finite; correct it or get a fresh copy")
    if count is not None and len(found) != count:
        raise InputError(f"{_name(key)} has {len(found)} values instead of {count}; correct it or get a fresh copy")
    return found


def whole(dataset: Dataset, key: str | int) -> int | None:
    """A single whole number; None when absent or empty. Raises InputError as `number`, and when it has a fraction."""
    value = number(dataset, key)
    if value is not None and value != int(value):
        raise InputError(f"{_name(key)} is not a whole number; correct it or get a fresh copy")
    return None if value is None else int(value)


def uid(dataset: Dataset, key: str | int) -> str | None:
    """A single UID; None when absent or empty.

    Raises InputError when it is none (PS3.5 section 9.1): UIDs end up in the names of files, where `..` or `/` harm.
    """
    value = text(dataset, key)
    if value is not None and not _UID.fullmatch(value):
        raise InputError(f"{_name(key)} is not a UID; it is broken or hostile, get a fresh copy")
    return value


def items(dataset: Dataset, key: str | int) -> list[Dataset]:
    """The items of a sequence; [] when absent or empty. Raises InputError when it is broken, or no sequence."""
    raw: object = dataset.get_item(Tag(key)) if Tag(key) in dataset else None
    stored = raw.value if isinstance(raw, RawDataElement) else None
    if stored and max(map(stored.count, ITEM_TAGS)) > MOST_ITEMS:
        raise InputError(f"{_name(key)} has more than {MOST_ITEMS} items; it is broken or hostile")
    found = _values(dataset, key)
    if not all(isinstance(item, Dataset) for item in found):
        raise InputError(f"{_name(key)} is not a sequence; get a fresh copy")
    return found


def _values(dataset: Dataset, key: str | int) -> list[Any]:
    """Every value of an attribute, converted; [] when it is absent or empty."""
    try:
        with quiet():
            element = dataset.get(Tag(key))
            value = None if element is None else element.value
    except RecursionError as error:
        raise InputError(f"{_name(key)} nests sequences without end; it is broken or hostile") from error
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever the conversion of a broken value raises
        raise InputError(f"{_name(key)} cannot be read; correct it or get a fresh copy") from error
    # Binary numbers come in a plain list, others in one of pydicom's.
    values = list(value) if isinstance(value, MultiValue | Sequence | list) else [value]
    return [] if all(map(_is_blank, values)) else values


def _is_blank(value: object) -> bool:
    if isinstance(value, str | PersonName):
        return not str(value).strip(" \0")
    return value is None or value == b""


def _name(key: str | int) -> str:
    tag: BaseTag = Tag(key)
    return keyword_for_tag(tag) or str(tag)
