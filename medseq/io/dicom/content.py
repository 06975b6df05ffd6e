"""The bytes of an untrusted DICOM file, with gzip and deflate undone, in a stream that cannot be made to explode.

A megabyte of deflate becomes a gigabyte, a length field of eight bytes announces four gigabytes, and a few bytes of
nested items become kilobytes of objects: each of these is bounded here, whoever parses the stream.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from medseq.errors import InputError
from medseq.io.dicom.values import ITEM_TAGS, MOST_ITEMS

PREAMBLE = 132
_GZIP = b"\x1f\x8b"
# Enough of the start for the preamble and the transfer syntax, were there one.
_SNIFF = 1024
_CHUNK = 1 << 16
_MOST_INFLATED = 512 << 20
# The longest header of a real series, some 20,000 frames of an enhanced multi-frame, has about 100 MB.
MOST_HEADER = 256 << 20
# pydicom makes an object of a few hundred bytes of what each two or three of them find.
_MOST_READS = 4_000_000
# What pydicom reads where it looks for a tag; it may meet the end of the file there, and nowhere else.
_TAG_READ = 16
_ITEM_READ = 8


class BoundedStream(io.BufferedReader):
    """A file of which no more is read, and for which no more memory is asked, than it has bytes.

    limit: reading beyond this position is refused too; None: the whole file may be read.
    Raises InputError where a length in the file points beyond its end, backwards or beyond the limit.
    """

    def __init__(self, raw: io.FileIO | io.BytesIO, size: int, limit: int | None = None) -> None:
        super().__init__(raw)
        self._size = size
        self._limit = size if limit is None else limit
        self._reads = 0
        self._items = 0

    def read(self, count: int | None = -1, /) -> bytes:
        self._reads += 1
        if self._reads > _MOST_READS:
            raise InputError(f"has more than {_MOST_READS} parts; it is broken or hostile")
        if count is None or count < 0:
            raise InputError("its offsets run backwards; it is broken or hostile")
        if count > _TAG_READ:
            end = self.tell() + count
            if end > self._size:
                raise InputError("truncated, or of a length that lies; get a fresh copy")
            if end > self._limit:
                raise InputError(f"the header is longer than {self._limit >> 20} MiB; it is broken or hostile")
        found = super().read(count)
        if count == _ITEM_READ and found.startswith(ITEM_TAGS):
            self._items += 1
            if self._items > MOST_ITEMS:
                raise InputError(f"has more than {MOST_ITEMS} items in its sequences; it is broken or hostile")
        return found


@contextmanager
def opened(path: Path) -> Iterator[tuple[io.FileIO | io.BytesIO, int]]:
    """The content of a file from its start, and its length in bytes; gzip and deflate are undone.

    A deflated dataset (PS3.5 A.5) stands inflated behind its file meta information, as if it had been written so.
    Raises InputError when it inflates to more than 512 MiB, or is cut off.
    """
    with path.open("rb", buffering=0) as file:
        start = file.read(_SNIFF)
        content = None
        if start.startswith(_GZIP):
            file.seek(0)
            with gzip.GzipFile(fileobj=file) as packed:
                content = _bounded(iter(lambda: packed.read(_CHUNK), b""))
            start = content[:_SNIFF]
        if start[PREAMBLE - 4 : PREAMBLE] == b"DICM" and DeflatedExplicitVRLittleEndian.encode() in start:
            content = _inflated(content if content is not None else start + file.read())
        size = path.stat().st_size if content is None else len(content)
        file.seek(0)
        yield (file if content is None else io.BytesIO(content)), size


def _inflated(content: bytes) -> bytes:
    """The same file with its dataset inflated, when its file meta information says that it is deflated."""
    stream = BoundedStream(io.BytesIO(content), len(content))
    stream.seek(PREAMBLE)
    meta = read_dataset(stream, False, True, stop_when=after_meta)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return content
    start = stream.tell()
    return content[:start] + _bounded(_inflated_chunks(memoryview(content)[start:]))


def _inflated_chunks(packed: memoryview) -> Iterator[bytes]:
    machine = zlib.decompressobj(-zlib.MAX_WBITS)
    for start in range(0, len(packed), _CHUNK):
        pending: bytes | memoryview = packed[start : start + _CHUNK]
        while pending and not machine.eof:
            yield machine.decompress(pending, _CHUNK)
            pending = machine.unconsumed_tail
    yield machine.flush()
    if not machine.eof:
        raise InputError("truncated inside its deflated dataset; get a fresh copy")


def _bounded(chunks: Iterator[bytes]) -> bytes:
    whole = io.BytesIO()
    for chunk in chunks:
        if whole.tell() + len(chunk) > _MOST_INFLATED:
            raise InputError(f"inflates to more than {_MOST_INFLATED >> 20} MiB; uncompress it first")
        whole.write(chunk)
    return whole.getvalue()


def after_meta(tag: BaseTag, vr: str | None, length: int) -> bool:
    """Whether an element lies behind the file meta information, as pydicom asks it (`stop_when`)."""
    return tag.group != 2
