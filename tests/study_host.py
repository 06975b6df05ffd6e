"""A warm process that forks to do one unit, so that a test can kill many of them for the price of one start.

Reads a line of JSON each: `study`, `unit`, `run` and, to be killed at an operation on files, its number `at`. Writes
one: the `pid`, and with `at` how it ended instead (`status` as of waitpid).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from medseq.study.child import Limits
from medseq.study.ledger import only_run
from medseq.study.manifest import load_manifest
from medseq.study.unit import Job, lease_of, perform

OPERATIONS = [(os, name) for name in ("open", "rename", "replace", "mkdir", "fsync", "unlink", "rmdir")]


def die_at(number: int) -> None:
    """Kill this process, as kill -9 would, at its file operation, or look at its child, of that number."""
    left = number

    def counted(operation: Callable) -> Callable:
        def call(*args, **options):
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return operation(*args, **options)

        return call

    for place, name in [*OPERATIONS, (subprocess.Popen, "poll")]:
        setattr(place, name, counted(getattr(place, name)))


def do(asked: dict) -> None:
    study = Path(asked["study"])
    if asked["unit"] is None:
        with only_run(study):
            (study / "held").touch()
            signal.pause()
    manifest = load_manifest(study)
    (unit,) = (each for each in manifest.units if each.name == asked["unit"])
    lease_of(study, asked["run"]).mkdir(parents=True, exist_ok=True)
    program = (sys.executable, "-S", str(study.parent / "program.py"))
    job = Job(unit, study, Path(manifest.source), asked["run"], "model", Limits(600, 2000), program=program)
    if "at" in asked:
        die_at(asked["at"])
    perform(job)


if __name__ == "__main__":
    for line in sys.stdin:
        asked = json.loads(line)
        pid = os.fork()
        if pid == 0:
            try:
                do(asked)
            except BaseException as error:
                print(repr(error), file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        told = {"status": os.waitpid(pid, 0)[1]} if "at" in asked else {"pid": pid}
        print(json.dumps(told), flush=True)
