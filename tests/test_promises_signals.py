"""Ctrl-C and SIGTERM at any moment, and two processes that write the same: all of an output or none."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import threading
from pathlib import Path

import pytest
from faults import COMMANDS, IN_STEPS, NEW_FOLDER, Job, faulty, left_over, tree

from medseq.errors import ResourceError
from medseq.io.files import uninterrupted
from medseq.provenance import staged


@pytest.mark.soak
def test_an_interrupted_command_says_so_and_leaves_all_or_nothing(faults, times):
    moments = random.Random(5)
    commands = COMMANDS[: times(8, len(COMMANDS))]
    for number in range(count := len(commands) * times(1, 6)):
        turn, place = divmod(number, len(commands))
        writer = commands[place]
        older = (turn + place) % 2 == 1 and writer not in NEW_FOLDER
        sent, code = ((signal.SIGINT, 130), (signal.SIGTERM, 143))[(turn // 2 + place) % 2]
        known = faults.undisturbed(writer, older)
        folder = faults.place(writer, older)
        ended = faults.run(Job(writer, str(folder), at=moments.randrange(known.operations), signal=sent))
        told = [line for line in ended.said.splitlines() if not line.startswith("medseq: warning: ")]
        assert (ended.code, told) == (code, ["medseq: interrupted"]), (writer, ended)
        assert left_over(folder) == [], writer
        found = tree(folder)
        assert faulty(found, known) == [] and (writer in IN_STEPS or found in (known.before, known.after)), writer
    print(f"\n{count} interruptions of {len(commands)} commands: exit code 130 or 143, all of an output or nothing")


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_what_belongs_together_is_not_torn_apart(number: int, raised: type[BaseException]) -> None:
    before = signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(SystemExit))
    done = False
    try:
        with pytest.raises(raised), uninterrupted():
            signal.raise_signal(number)
            done = True
    finally:
        signal.signal(signal.SIGTERM, before)
    assert done


def test_of_two_that_write_the_same_the_last_leaves_all_of_its_own(tmp_path: Path) -> None:
    with staged(tmp_path) as slow:
        with staged(tmp_path) as quick:
            for place, text in ((slow, "slow"), (quick, "quick")):
                for name in ("x.nii.gz", "x.run.json"):
                    (place / name).write_text(text)
        assert {path.read_text() for path in tmp_path.glob("x.*")} == {"quick"}
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"x.nii.gz": "slow", "x.run.json": "slow"}


def test_outputs_of_two_do_not_mix(tmp_path: Path) -> None:
    """While one moves its files into place, the other waits."""

    def write() -> None:
        with staged(tmp_path) as place:
            (place / "x").write_text("mine")
            ready.set()

    ready = threading.Event()
    other = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    writer = threading.Thread(target=write)
    writer.start()
    assert ready.wait(60)
    writer.join(0.2)
    assert not (tmp_path / "x").exists()
    os.close(other)
    writer.join(60)
    assert (tmp_path / "x").read_text() == "mine"


def test_a_new_folder_that_another_has_made_meanwhile_stays_as_it_is(tmp_path: Path) -> None:
    slow = staged(tmp_path)
    late = slow.__enter__()
    with staged(tmp_path) as quick:
        for place, text in ((late, "slow"), (quick, "quick")):
            (place / "out").mkdir()
            (place / "out" / "IM00001.dcm").write_text(text)
    with pytest.raises(ResourceError, match="out: cannot be written"):
        slow.__exit__(None, None, None)
    assert [path.read_text() for path in tmp_path.rglob("*.dcm")] == ["quick"]
