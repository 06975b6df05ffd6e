"""Changes that any format may meet: of bytes, of numbers, of text, of trees as JSON and YAML hold them."""

from __future__ import annotations

import random
import struct
from typing import Any

NUMBERS = ("0", "-1", "1", "-0.0", "nan", "inf", "-inf", "1e999", "1e-320", "1e308", "2147483648", "4294967295", "0.1")
NUMBERS += ("9" * 400, "1_0", "0x10", "1e", "+", "1,5", "65536", "-32769", "3e38", "1e9", "16777217")
WORDS = (
    "",
    " ",
    "\n",
    "\0",
    "x" * 3000,
    "../../etc/passwd",
    "/etc/passwd",
    "a\nb",
    "\ud7ff",
    "\u2028",
    "é",
    "n/a",
    "%s",
)
STRUCTURES = (
    "[" * 3000,
    "{" * 3000,
    "[" * 100_000,
    "]",
    "}",
    ",",
    ":",
    '"',
    "'",
    "\\",
    "\\ud800",
    "null",
    "true",
    "{}",
)
YAML_WORDS = ("&a ", "*a", "&a [*a]", "<<: *a", "!!python/object/apply:os.system [ls]", "!!binary |", "!!timestamp ")
YAML_WORDS += (
    "2001-99-99",
    "2001-01-01T25:61:61Z",
    "!!int ",
    "1:60:60",
    "0b2",
    ".nan",
    ".inf",
    "? ",
    "- ",
    "--- ",
    "...",
)
YAML_WORDS += (
    "%YAML 9.9\n",
    "\ufeff",
    "\t",
    "- " * 2000,
    "!!set {a, b}",
    "!!omap [a: 1]",
    "!<tag:yaml.org,2002:map> ",
    "| ",
)
_INTEGERS = (0, 1, 2, 7, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
_FLOATS = (0.0, -0.0, float("nan"), float("inf"), -1.0, 1e-38, 3e38, 1e9, 0.5)


def changed_bytes(data: bytes, chance: random.Random, low: int = 0, high: int | None = None) -> bytes:
    """A few bytes of data[low:high] set, flipped, cut out, doubled or overwritten by a telling number."""
    raw = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        end = len(raw) if high is None else min(high, len(raw))
        if end <= low:
            return bytes(raw) or chance.randbytes(8)
        at = chance.randrange(low, end)
        match chance.randrange(7):
            case 0:
                raw[at] = chance.randrange(256)
            case 1:
                raw[at] ^= 1 << chance.randrange(8)
            case 2:
                del raw[at : at + chance.choice((1, 2, 4, 64, 100_000))]
            case 3:
                raw[at:at] = raw[at : at + chance.choice((1, 4, 16, 256))]
            case 4:
                raw[at : at + 4] = struct.pack(chance.choice("<>") + "I", chance.choice(_INTEGERS))
            case 5:
                raw[at : at + 2] = struct.pack(chance.choice("<>") + "H", chance.choice(_INTEGERS) & 0xFFFF)
            case 6:
                raw[at : at + 4] = struct.pack(chance.choice("<>") + "f", chance.choice(_FLOATS))
    return bytes(raw)


def odd_number(chance: random.Random, near: float = 1.0) -> float:
    """A number that no header should hold, or one near the right one."""
    if chance.random() < 0.5:
        return chance.choice((*_FLOATS, *map(float, _INTEGERS)))
    return near * chance.choice((-1.0, 0.5, 0.999, 1.001, 2.0, 100.0)) + chance.choice((0.0, 0.0, 1.0, -1.0))


def changed_text(text: str, chance: random.Random, words: tuple[str, ...] = ()) -> str:
    """A line moved, doubled or lost, a word replaced, or something put in anywhere."""
    lines = text.splitlines(keepends=True)
    odd = chance.choice((NUMBERS, WORDS, STRUCTURES, words or WORDS))
    at = chance.randrange(len(text) + 1)
    match chance.randrange(5):
        case 0 if lines:
            lines.insert(chance.randrange(len(lines)), chance.choice(lines))
            return "".join(lines)
        case 1 if lines:
            del lines[chance.randrange(len(lines))]
            return "".join(lines)
        case 2:
            parts = text.split(" ")
            parts[chance.randrange(len(parts))] = chance.choice(odd)
            return " ".join(parts)
        case _:
            return text[:at] + chance.choice(odd) + text[at + chance.choice((0, 0, 1, 5, 50)) :]


def changed_tree(tree: Any, chance: random.Random) -> Any:
    """A tree of dict, list and scalars with one or more of its nodes replaced, lost, doubled or put elsewhere."""
    for _ in range(chance.choice((1, 1, 2, 4))):
        tree = _one_change(tree, chance)
    return tree


def _one_change(tree: Any, chance: random.Random) -> Any:
    nodes = _nodes(tree)
    holder, key = chance.choice(nodes)
    if holder is None:
        return _odd(chance) if chance.random() < 0.1 else tree
    match chance.randrange(6):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, list):
            holder.extend([holder[key]] * chance.choice((1, 1, 100)))
        case 1:
            holder[chance.choice(WORDS)] = holder.pop(key)
        case 2:
            other, place = chance.choice(nodes)
            holder[key] = _copied(other[place]) if other is not None and _has(other, place) else None
        case 3 if isinstance(holder[key], int | float):
            number = odd_number(chance, float(holder[key]) if abs(holder[key]) < 1e300 else 1.0)
            holder[key] = int(number) if chance.random() < 0.5 and abs(number) < 1e300 else number
        case _:
            holder[key] = _odd(chance)
    return tree


def _nodes(tree: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = [(None, None)]
    open_ = [tree]
    while open_ and len(found) < 5000:
        node = open_.pop()
        if isinstance(node, dict | list):
            for key, value in node.items() if isinstance(node, dict) else enumerate(node):
                found.append((node, key))
                open_.append(value)
    return found


def _has(holder: Any, key: Any) -> bool:
    return key in holder if isinstance(holder, dict) else key < len(holder)


def _copied(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _copied(value) for key, value in node.items()}
    return [_copied(value) for value in node] if isinstance(node, list) else node


def _odd(chance: random.Random) -> Any:
    deep: Any = 0
    for _ in range(chance.choice((2, 300, 2000))):
        deep = [deep]
    choices = (None, True, False, [], {}, [[]], {"": None}, -1, 0, 10**400, 0.5, float("nan"), float("-inf"), deep)
    return chance.choice((*choices, *NUMBERS, *WORDS))
