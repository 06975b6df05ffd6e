"""HDF5 files changed from within: values, types, sizes, links that lead out of the file; and their bytes."""

from __future__ import annotations

import io
import random
import re
import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import h5py
import numpy as np

from fuzz.chance import NUMBERS, WORDS, changed_bytes, odd_number

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_NUMBER = re.compile(r"(?<=>)-?[0-9.]+(?=<)")
_TAG = re.compile(r"<(\w+)>[^<]*</\1>")
# Nothing that is there, or could be made: a later change of the same file writes through whatever is named.
_OUTSIDE = ("/nowhere/secret", "/nowhere/other.h5", "")


def changer(seeds: Callable[[Path], Sequence[bytes]]) -> Callable[[bytes, random.Random], bytes]:
    """The change of an input: its bytes, or a sound file (one of `seeds`) changed through the library.

    Never a damaged one through the library, which might take this process with it.
    """

    @cache
    def sound() -> Sequence[bytes]:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return seeds(Path(folder))

    def mutate(data: bytes, chance: random.Random) -> bytes:
        if chance.random() < 0.4:
            return changed_bytes(data, chance, 0, chance.choice((None, 2048)))
        whole = chance.choice(sound())
        start = whole.find(_SIGNATURE)
        stream = io.BytesIO(whole[start:])
        try:
            with h5py.File(stream, "r+") as file:
                for _ in range(chance.choice((1, 1, 2, 3))):
                    _change(file, chance)
        except Exception:  # noqa: BLE001 - a change that the library refuses
            return changed_bytes(whole, chance)
        made = whole[:start] + stream.getvalue()
        return changed_bytes(made, chance) if chance.random() < 0.1 else made

    return mutate


def _change(file: h5py.File, chance: random.Random) -> None:
    names: list[str] = []
    file.visit(names.append)
    name = chance.choice(names)
    item = file[name]
    if not isinstance(item, h5py.Dataset) or chance.random() < 0.25:
        _relink(file, name, chance)
    elif item.dtype.kind in "OS" and h5py.check_string_dtype(item.dtype):
        _change_text(item, chance)
    elif chance.random() < 0.2:
        _remake(file, name, chance)
    else:
        _change_values(item, chance)


def _relink(file: h5py.File, name: str, chance: random.Random) -> None:
    """The name leads elsewhere: nowhere, in a circle, out of the file, or to another kind of thing."""
    old = file[name]
    keep = chance.random() < 0.5
    if keep:
        file.move(name, "elsewhere")
    else:
        del file[name]
    match chance.randrange(7):
        case 0:
            file[name] = h5py.SoftLink("/elsewhere" if keep else chance.choice(("/nowhere", f"/{name}", "/")))
        case 1:
            file[name] = h5py.ExternalLink(chance.choice(_OUTSIDE), f"/{name}")
        case 2:
            layout = h5py.VirtualLayout((4, 4), "f4")
            layout[...] = h5py.VirtualSource(chance.choice((".", *_OUTSIDE)), "elsewhere", (4, 4))
            file.create_virtual_dataset(name, layout)
        case 3:
            size = chance.choice((16, 1 << 20))
            file.create_dataset(name, (size,), "u1", external=[(chance.choice(_OUTSIDE), 0, size)])
        case 4:
            file.create_group(name)
        case 5:
            file[name] = np.dtype("f4")
        case 6 if isinstance(old, h5py.Dataset):
            file[name] = file["elsewhere"] if keep else 0


def _change_text(item: h5py.Dataset, chance: random.Random) -> None:
    raw = item[()] if item.shape == () else item[0]
    text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)
    numbers, tags = list(_NUMBER.finditer(text)), list(_TAG.finditer(text))
    if numbers and chance.random() < 0.6:
        found = chance.choice(numbers)
        new = chance.choice(
            (chance.choice(NUMBERS), f"{odd_number(chance, float(found[0])):.6g}", chance.choice(WORDS))
        )
    elif tags:
        found = chance.choice(tags)
        new = chance.choice(
            (
                "",
                found[0] * 2,
                found[0] * 500,
                chance.choice(tags)[0],
                "<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]>&b;",
            )
        )
    else:
        item[...] = changed_bytes(text.encode(), chance).replace(b"\0", b" ")
        return
    item[...] = (text[: found.start()] + new + text[found.end() :]).replace("\0", " ").encode("utf-8", "replace")


def _remake(file: h5py.File, name: str, chance: random.Random) -> None:
    """Another array of this name."""
    old = file[name]
    shape, dtype = old.shape, old.dtype
    del file[name]
    match chance.randrange(9):
        case 0:
            file.create_dataset(name, (2**20,) * len(shape), dtype, chunks=(16,) * len(shape))
        case 1:
            file.create_dataset(name, tuple(40 * n for n in shape), dtype, chunks=True, compression="gzip")
        case 2:
            file[name] = h5py.Empty(chance.choice(("f4", "S3")))
        case 3:
            file.create_dataset(name, shape, h5py.vlen_dtype(np.dtype(chance.choice(("f4", "u1")))))
        case 4:
            file.create_dataset(name, shape, h5py.string_dtype())
        case 5:
            file.create_dataset(name, shape, h5py.ref_dtype)
        case 6:
            file.create_dataset(name, shape, chance.choice(("f2", "f8", "i1", "u8", "S4", "V7", "?", "c16")))
        case 7:
            file.create_dataset(name, shape[::-1] + chance.choice(((), (0,), (2,))), dtype)
        case 8:
            file.create_dataset(name, (), dtype)


def _change_values(item: h5py.Dataset, chance: random.Random) -> None:
    """One field of one row."""
    if item.size == 0:
        return
    index = tuple(chance.randrange(size) for size in item.shape)
    row = np.array(item[index])
    target = row
    while target.dtype.names:
        target = target[chance.choice(target.dtype.names)]
    if target.dtype.kind == "O":
        inner = target.item()
        target[()] = (
            inner[: len(inner) // 2] if chance.random() < 0.7 else np.zeros(chance.choice((0, 1, 9)), inner.dtype)
        )
    else:
        raw = np.frombuffer(
            bytearray(changed_bytes(target.tobytes(), chance).ljust(target.nbytes, b"\0")), target.dtype
        )
        target[...] = raw[: target.size].reshape(target.shape)
    item[index] = row
