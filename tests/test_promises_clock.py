"""A wall clock that jumps by ten years and back moves nothing: no limit of time, no order, no progress."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
import torch
from study_shelf import Shelf

from medseq.study.ledger import entry_path, read_entry
from medseq.train import load_checkpoint, start

# Before anything else is imported: everybody gets the clock that jumps, four times a second. Dask would drop workers
# that it has not heard of for a second, by that clock.
JUMPING = """
import datetime, sys, time
from pathlib import Path
YEARS, right = 10 * 365.25 * 86400, time.time
def jumping():
    return right() + YEARS * (int(4 * time.monotonic()) % 3 - 1)
time.time, time.time_ns = jumping, lambda: int(1e9 * jumping())
class Jumping(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(jumping(), tz)
datetime.datetime = Jumping
import dask
dask.config.set({"distributed.scheduler.worker-ttl": "1s", "distributed.worker.heartbeat-interval": "100ms"})
"""
STUDY = """
from medseq.study.run import Settings, run_study
program = (sys.executable, "-S", sys.argv[2])
settings = Settings(workers=2, memory_mb=2000, timeout=int(sys.argv[3]), program=program)
summary = run_study(Path(sys.argv[1]), settings, lambda _: None)
print(sorted(summary.done), {name: entry.reason for name, entry in summary.failed.items()})
"""
TRAIN = """
from test_train import TINY
from medseq.train import train
for state in train(TINY, sys.argv[1]):
    if state.step == 3: break
for state in train(TINY, sys.argv[1]): pass
"""


def run(program: str, *arguments: object) -> str:
    words = [sys.executable, "-c", JUMPING + program, *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=280, cwd=Path(__file__).parent)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_limits_of_time_do_not_move(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, {"a": "fine", "b": "hang", "c": "fine", "d": "fine"})
    said = run(STUDY, shelf.study, shelf.program, 12)
    assert said.startswith("['a', 'c', 'd'] {'b': 'took more than its 12 s"), said
    for name in "abcd":
        entry = read_entry(entry_path(shelf.study, name))
        assert entry is not None and datetime.fromisoformat(entry.started).tzinfo is not None
        assert 0 <= entry.seconds < 120
    (shelf.source / "go").touch()
    assert run(STUDY, shelf.study, shelf.program, 60).startswith("['b'] {}")  # the others are done, whatever the date
    assert len(shelf.calls) == 5 and shelf.left() == []


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without distributed")
def test_training_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    from test_train import TINY

    from medseq.train import train

    run(TRAIN, tmp_path / "jumping")
    for _ in train(TINY, tmp_path / "calm"):
        pass
    assert (tmp_path / "jumping/checkpoint.pt").read_bytes() == (tmp_path / "calm/checkpoint.pt").read_bytes()
    state = start(TINY, torch.device("cpu"))
    load_checkpoint(state, tmp_path / "jumping" / "checkpoint.pt")
    assert state.step == TINY.steps
