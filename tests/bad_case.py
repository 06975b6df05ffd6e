"""What a bad input is: a fault, how to make it, the commands that are given it, and what they must say.

The faults themselves are in bad_*.py, one kind of input a file; `bad_inputs.py` gathers them.
"""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import h5py

Make = Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """One bad input.

    kind: of input. fault: what is wrong. name: of the file or folder. make: puts it there. says: words that the one
    line on stderr must hold, which show that it was refused for this fault and no other. commands: what is run, each
    alone; {bad} stands for the input and {shelf} for a folder with good ones. code: the exit code of each.
    """

    kind: str
    fault: str
    name: str
    make: Make
    says: str
    commands: tuple[str, ...]
    code: int = 4

    @property
    def title(self) -> str:
        return f"{self.kind}: {self.fault}"


_PRIOR = "--prior {shelf}/tiny.safetensors"
NIFTI = (
    "info {bad}",
    f"denoise {{bad}} -o out/out.nii.gz {_PRIOR}",
    f"interpolate {{bad}} -o out/out.nii.gz {_PRIOR}",
    "convert {bad} -o out/out.nii",
    "simulate cine --from {bad} -o out/raw.h5",
    "evaluate {bad} -o out",
    "evaluate {shelf}/cine.nii.gz --reference {bad} -o out",
)
DICOM = (
    f"denoise {{bad}} -o out/new {_PRIOR}",
    f"interpolate {{bad}} -o out/new {_PRIOR}",
    "convert {bad} -o out/out.nii.gz",
    "evaluate {bad} -o out",
    "info {bad}",
)
LIKE = ("convert {shelf}/like.nii.gz --like {bad} -o out/new",)  # of which only headers are read
RAW = (
    f"reconstruct {{bad}} -o out/out.nii.gz {_PRIOR}",
    "convert {bad} -o out/raw.cfl",
    "info {bad}",
)


def content(data: bytes | str) -> Make:
    """A file that holds just this."""
    raw = data.encode() if isinstance(data, str) else data
    return lambda path: path.write_bytes(raw)


def cut(make: Make, share: float) -> Make:
    """A good file that ends after this share of its bytes."""

    def made(path: Path) -> None:
        make(path)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(share * len(whole))])

    return made


def flipped(make: Make, share: float) -> Make:
    """A good file with one bit changed, this far in."""

    def made(path: Path) -> None:
        make(path)
        raw = bytearray(path.read_bytes())
        raw[int(share * (len(raw) - 1))] ^= 16
        path.write_bytes(raw)

    return made


def deflate_bomb(start: bytes, gigabytes: int, tail: bytes = b"") -> bytes:
    """Deflated `start`, then as many GiB of zeros, of which a MiB is packed once and repeated, then `tail`."""
    machine = zlib.compressobj(9, wbits=-15)
    first = machine.compress(start) + machine.flush(zlib.Z_FULL_FLUSH)
    again = machine.compress(bytes(1 << 20)) + machine.flush(zlib.Z_FULL_FLUSH)  # knows nothing of what was before
    return first + again * (gigabytes << 10) + machine.compress(tail) + machine.flush()


def gzip_bomb(start: bytes, gigabytes: int) -> bytes:
    return gzip.compress(b"", mtime=0)[:10] + deflate_bomb(start, gigabytes) + bytes(8)


@cache
def foreign() -> dict[str, bytes]:
    """Files that are something else, whatever their name says."""
    zipped, tarred, hdf5 = io.BytesIO(), io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("cine.nii", "not a series")
    with tarfile.open(fileobj=tarred, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("cine.nii"))
    with h5py.File(hdf5, "w") as file:
        file["weather"] = [1.0, 2.0]
    png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\0\0\0\0:~\x9bU\0\0\0\nIDATx\x9cc`\0\0\0\2\0\1H\xaf\xa4q"
    return {
        "nothing": b"",
        "one byte": b"\0",
        "text": b"This series is on the other disk.\n",
        "a login page": b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>Session over</body></html>",
        "PNG": png + b"\0\0\0\0IEND\xaeB`\x82",
        "PDF": b"%PDF-1.7\n1 0 obj <</Type /Catalog>> endobj\ntrailer <</Root 1 0 R>>\n%%EOF\n",
        "zip": zipped.getvalue(),
        "tar": tarred.getvalue(),
        "gzip of text": gzip.compress(b"not a series", mtime=0),
        "other HDF5": hdf5.getvalue(),
        "pickle": pickle.dumps({"net": [1.0, 2.0]}),
        "a git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        "JSON": b'{"RepetitionTime": 2.0}',
        "UTF-16": "nothing of use".encode("utf-16"),
        "zeros": bytes(5000),
        "ones": b"\xff" * 5000,
        "a program": b"\x7fELF\2\1\1" + bytes(57) + bytes(range(256)) * 4,
    }


def others(kind: str, name: str, commands: tuple[str, ...], says: str, but: tuple[str, ...] = ()) -> Iterator[Case]:
    """Every foreign file under this name, `but` some that are no fault there."""
    for what, data in foreign().items():
        if what not in but:
            yield Case(kind, f"{what} under the name {name}", name, content(data), says, commands)
