"""Decoding compressed frames in a child process: a codec that aborts, hangs or swells takes only the child with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from pydicom.uid import UID

from medseq.errors import InputError

_PROGRAM = Path(__file__).with_name("decode_child.py")
_LONGEST_LINE = 1000


@dataclass(frozen=True)
class Compressed:
    """One compressed frame. options: as pydicom's decoders take them. shape, dtype: of the decoded values."""

    stream: bytes
    syntax: UID
    options: dict[str, Any]
    shape: tuple[int, int]
    dtype: np.dtype

    @property
    def size(self) -> int:
        return self.shape[0] * self.shape[1] * self.dtype.itemsize


class Decoder:
    """A child process that decodes frames, started for the first of them and again after each that ended it."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None

    def decoded(self, frame: Compressed, seconds: int) -> np.ndarray:
        """The stored values of a frame, (rows, columns).

        Raises InputError when it cannot be decoded, ends the child, or takes longer than `seconds`.
        """
        try:
            fault, values = self._exchange(frame, seconds)
        except (OSError, EOFError, ValueError) as error:
            took = "takes too long to decode" if self.close() == -signal.SIGALRM else "crashes its decoder"
            raise InputError(f"{took} ({frame.syntax.name}); it is broken or hostile, get a fresh copy") from error
        except BaseException:
            self.close()  # its answer is still to come
            raise
        if fault == "unknown":
            raise InputError(f"compressed in a way that cannot be read ({frame.syntax.name}); decompress it first")
        if fault:
            raise InputError(f"cannot be decoded ({frame.syntax.name}); decompress it with another program")
        return np.frombuffer(values, frame.dtype).reshape(frame.shape)

    def close(self) -> int | None:
        """End the child, if there is one, and return its exit status."""
        child, self._child = self._child, None
        if child is None:
            return None
        for stream in (child.stdin, child.stdout):
            with suppress(OSError):
                cast(BinaryIO, stream).close()
        try:
            return child.wait(timeout=2)
        except subprocess.TimeoutExpired:
            child.kill()
            return child.wait()

    def _exchange(self, frame: Compressed, seconds: int) -> tuple[str, bytes]:
        """What is wrong, empty when nothing is, and the values. Raises EOFError or OSError when the child ends."""
        child = self._running()
        request = {
            "size": len(frame.stream),
            "syntax": frame.syntax,
            "seconds": seconds,
            "dtype": frame.dtype.str,
            "options": frame.options,
        }
        requests, answers = cast(BinaryIO, child.stdin), cast(BinaryIO, child.stdout)
        requests.write(json.dumps(request).encode() + b"\n" + frame.stream)
        requests.flush()
        answer = json.loads(answers.readline(_LONGEST_LINE) or b"{}")
        if fault := answer.get("fault"):
            return fault, b""
        if answer.get("size") != frame.size:  # or it has ended: reading on would wait for what never comes
            raise EOFError
        values = answers.read(frame.size)
        if len(values) != frame.size:
            raise EOFError
        return "", values

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            # One thread a library, as the stacks of more would count against its memory. Without the program's folder
            # on its path (-P), where modules of medseq would hide others of their name.
            self._child = subprocess.Popen(
                [sys.executable, "-P", str(_PROGRAM)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )
        return self._child
