"""One command in a process of its own, under limits of memory and time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import psutil

_LEASH = Path(__file__).with_name("leash.py")
_TICK = 0.2  # seconds between two looks at the memory
_LAST_WORDS = 4096  # bytes of what it said that are looked at

Stop = Literal["memory", "time", "withdrawn"]


@dataclass(frozen=True)
class Limits:
    """seconds: of wall time, by a clock that nobody can set. memory_mb: MiB of resident memory."""

    seconds: int
    memory_mb: int


@dataclass(frozen=True)
class Ended:
    """How it ended. exit_code: negative for a signal. stopped: by which limit, None when it ended by itself.

    memory_mb: the most that was seen. words: the last line of what it printed.
    """

    exit_code: int
    stopped: Stop | None
    seconds: float
    memory_mb: int
    words: str


def run_limited(
    program: Sequence[str], limits: Limits, *, folder: Path, lease: Path, environment: Mapping[str, str]
) -> Ended:
    """Run `program` until it ends, outruns a limit, or `lease` is gone; what it started ends with it.

    folder: where it works and its `log` is kept. Memory is that which the process holds, looked at five times a
    second. A limit on address space (RLIMIT_AS) would be exact, but torch and CUDA reserve many times what they use; a
    control group would be, too, but few users may make one. Processes that decode pixels have limits of their own.
    """
    start, peak, stopped = time.monotonic(), 0, None
    with (folder / "log").open("w+b") as log:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_LEASH), str(os.getpid()), *program],
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # the terminal's Ctrl-C is for us to hear, and a group can be killed as one
        )
        try:
            while process.poll() is None:
                peak = max(peak, _resident_mb(process.pid))
                stopped = _outrun(limits, peak, time.monotonic() - start, lease)
                if stopped is not None:
                    break
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_TICK)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        # By its handle: a run that was stopped has removed the folder.
        return Ended(process.returncode, stopped, time.monotonic() - start, peak, _last_words(log))


def _outrun(limits: Limits, peak: int, elapsed: float, lease: Path) -> Stop | None:
    if peak > limits.memory_mb:
        return "memory"
    if elapsed > limits.seconds:
        return "time"
    return None if lease.exists() else "withdrawn"


def _resident_mb(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss) >> 20
    except psutil.Error:  # it has just ended
        return 0


def _last_words(log: BinaryIO) -> str:
    log.seek(max(0, os.fstat(log.fileno()).st_size - _LAST_WORDS))
    lines = log.read().decode("utf-8", errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
