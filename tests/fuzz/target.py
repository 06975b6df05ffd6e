"""What a target is, and the rule that every input is held to."""

from __future__ import annotations

import os
import random
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from medseq.errors import MedseqError

# In memory where the system has that: a file is written for each execution.
_SHELF = Path("/dev/shm")


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder for files that live for one execution."""
    return tempfile.TemporaryDirectory(prefix="medseq-fuzz-", dir=_SHELF if os.access(_SHELF, os.W_OK) else None)


@dataclass(frozen=True)
class Target:
    """One reader under test.

    runs: executions of a long run. seeds: whole inputs that it reads, given an empty folder to make them in. read: the
    reader, given the content of an input and an empty folder; whatever it raises beside `medseq.errors` is a fault.
    mutate: another input, from one and a source of chance. seconds: what one input may take under libFuzzer.
    """

    name: str
    runs: int
    seeds: Callable[[Path], Sequence[bytes]]
    read: Callable[[bytes, Path], object]
    mutate: Callable[[bytes, random.Random], bytes]
    seconds: int = 10


@dataclass
class Count:
    """executions: on different inputs, the repeated ones aside. read, refused: what became of them."""

    executions: int = 0
    read: int = 0
    refused: int = 0

    def __str__(self) -> str:
        return f"{self.executions} executions on different inputs: {self.read} read, {self.refused} refused"


class Trial:
    """Executions of one target, counted. Call it with an input; it raises what breaks the rule."""

    def __init__(self, target: Target, folder: Path) -> None:
        self.count = Count()
        self._target, self._folder = target, folder
        self._seen: set[bytes] = set()

    def __call__(self, data: bytes) -> None:
        digest = blake2b(data, digest_size=8).digest()
        if digest in self._seen:
            return
        self._seen.add(digest)
        self.count.executions += 1
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._target.read(data, self._folder)
            self.count.read += 1
        except MedseqError as error:
            text = str(error)
            assert text and "\n" not in text, f"not one line: {text!r}"
            self.count.refused += 1
