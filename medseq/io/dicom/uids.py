"""Unique identifiers that follow from what they identify."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from pydicom.uid import UID


def content_uid(parts: Iterable[bytes | str]) -> UID:
    """`2.25.` and the first 128 bits of the SHA-256 over all parts, as a decimal integer (PS3.5 section B.2).

    Equal parts give the same UID on every machine, other parts give another one. Archives keep the first object they
    ever got under a UID: repeating a run stores nothing new, and no changed result hides behind an older one.
    """
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        digest.update(len(content).to_bytes(8, "big"))  # so that ("ab", "c") is not ("a", "bc")
        digest.update(content)
    return UID(f"2.25.{int.from_bytes(digest.digest()[:16], 'big')}")


# Of medseq as a writer of files (PS3.7 section D.3.3.2), whatever its version.
IMPLEMENTATION = content_uid(["medseq"])
