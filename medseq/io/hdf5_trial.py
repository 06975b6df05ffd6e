"""HDF5 files are read for a trial in a child process before they are read: its library cannot be trusted with any."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TextIO, cast

from medseq.errors import InputError, ResourceError
from medseq.io.faults import reason

# No compression that HDF5 files use gets further (RFC 1951).
DEFLATE_LIMIT = 1032
_PROGRAM = Path(__file__).with_name("hdf5_child.py")
# Of the processor's time and of memory: some for the library, and several times what sound files need for each byte.
_SECONDS, _BYTES_A_SECOND = 2.0, 10e6
_MEMORY, _MEMORY_A_BYTE = 512 << 20, 4


class _Trial:
    """One child for all files of this process, started for the first of them and again after each that ended it."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[str] | None = None
        self._passed: tuple[str, int, int, int] | None = None
        self._alone = threading.Lock()

    def check(self, path: Path) -> None:
        """Raise InputError when HDF5 cannot read all of the file within time and memory that suit its size, and
        ResourceError when there is no room for the child."""
        told = path.stat()
        file = (str(path.absolute()), told.st_ino, told.st_size, told.st_mtime_ns)
        with self._alone:
            if file == self._passed:
                return
            request = {
                "path": file[0],
                "seconds": _SECONDS + told.st_size / _BYTES_A_SECOND,
                "memory": _MEMORY + _MEMORY_A_BYTE * told.st_size,
                "largest": DEFLATE_LIMIT * told.st_size,
            }
            fault = self._asked(request)
            if fault:
                raise InputError(f"{path}: broken or hostile HDF5 ({reason(Exception(fault))}); get a fresh copy")
            self._passed = file

    def _asked(self, request: dict[str, object]) -> str:
        try:
            child = self._running()
        except (OSError, ValueError) as error:
            self.close()
            raise ResourceError(
                f"no process to read HDF5 in can be started ({reason(error)}); free some memory"
            ) from error
        try:
            requests, answers = cast(TextIO, child.stdin), cast(TextIO, child.stdout)
            requests.write(json.dumps(request) + "\n")
            requests.flush()
            return str(json.loads(answers.readline())["fault"])
        except (OSError, ValueError):
            self.close()
            return "it ends or outruns its reader"
        except BaseException:
            self.close()  # its answer is still to come
            raise

    def _running(self) -> subprocess.Popen[str]:
        if self._child is None:
            self._child = subprocess.Popen(
                [sys.executable, "-P", str(_PROGRAM)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                # "::" loads no filters from the disk, whatever HDF5_PLUGIN_PATH says.
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "HDF5_PLUGIN_PRELOAD": "::"},
                encoding="utf-8",
            )
            if not cast(TextIO, self._child.stdout).readline():
                raise OSError("it ended at once")
        return self._child

    def close(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()  # it has nothing to lose
        for stream in (child.stdin, child.stdout):
            with suppress(OSError):
                cast(TextIO, stream).close()
        child.wait()


_trial = _Trial()
atexit.register(_trial.close)
check_readable = _trial.check
