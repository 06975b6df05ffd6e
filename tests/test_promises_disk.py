"""A full disk, inputs that cannot be written and outputs that cannot: exit code 5 in one line, and nothing is lost."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import pytest
from faults import COMMANDS, IN_STEPS, NEW_FOLDER, Ended, Faults, Job, faulty, left_over, tree

# Shares of the room that an output needs: none, and so much that it ends early, or late.
SHARES = (0.0, 0.3, 0.8)
_LINE = re.compile(r"medseq: (sub-\S+: )?error: out\S*: cannot be written \(.+\); (check|choose) .+")


def check_told(writer: str, ended: Ended) -> None:
    """One line that names what could not be written, and what to do; hidden folders are no news. BIDS: one a run."""
    told = [line for line in ended.said.splitlines() if not line.startswith("medseq: warning: ")]
    assert all(_LINE.fullmatch(line) for line in told) and ".medseq-" not in ended.said, (writer, ended.said)
    assert len(told) == 1 or writer == "bids", (writer, ended.said)


def check_kept(writer: str, ended: Ended, folder: Path, faults: Faults, older: bool) -> None:
    """What failed has lost and left nothing; what did not is all there. A page that finds no room is only warned of."""
    known, found = faults.undisturbed(writer, older), tree(folder)
    assert left_over(folder) == [], writer
    if "no report was written" in ended.said:
        assert ended.code == 0 and "out/x.html" not in found and found["out/x.nii.gz"] == known.after["out/x.nii.gz"]
    elif ended.code == 0:
        assert found == known.after, writer
    else:
        assert ended.code == 5 or (writer == "bids" and ended.code == 3), (writer, ended)
        check_told(writer, ended)
        # The page of a subject goes when its series are new and it finds no room: it would tell of the old ones.
        stale = ["out/sub-01.html is gone"] if ended.code == 3 else []
        assert faulty(found, known) in ([], stale) and (found == known.before or writer in IN_STEPS), writer


def combinations(commands: Sequence[str], turns: int) -> Iterator[tuple[str, bool, float]]:
    """Command, whether there is an earlier output, and share of the room; in 6 turns all of them have been together."""
    for turn, (place, writer) in product(range(turns), enumerate(commands)):
        yield writer, (turn + place) % 2 == 1 and writer not in NEW_FOLDER, SHARES[(turn // 2 + place) % len(SHARES)]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(place)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here: that takes root, and a container that lets it")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.soak
def test_a_full_disk_costs_nothing_that_was_there(faults, times, disk):
    count = failures = 0
    for writer, older, share in combinations(COMMANDS[: times(8, len(COMMANDS))], times(1, 6)):
        known = faults.undisturbed(writer, older)
        folder = faults.place(writer, older, disk / "work")
        need = sum(map(len, known.after.values()))
        state = os.statvfs(disk)
        with (disk / "filler").open("wb") as filler:
            os.posix_fallocate(filler.fileno(), 0, state.f_bavail * state.f_bsize - int(share * need))
        ended = faults.run(Job(writer, str(folder)))
        check_kept(writer, ended, folder, faults, older)
        count, failures = count + 1, failures + (ended.code != 0)
        (disk / "filler").unlink()
    print(f"\n{count} commands met a full disk, {failures} of them needed more room: exit code 5, nothing lost or left")
    assert failures > count / 2


@pytest.mark.soak
def test_a_limit_on_the_size_of_files_is_a_full_disk(faults, times):
    """What a user without any rights can try."""
    count = failures = 0
    for writer, older, share in combinations(COMMANDS[: times(8, len(COMMANDS))], times(1, 6)):
        known = faults.undisturbed(writer, older)
        folder = faults.place(writer, older)
        largest = max(map(len, known.after.values()))
        ended = faults.run(Job(writer, str(folder), most_bytes=int(share * largest)))
        check_kept(writer, ended, folder, faults, older)
        count, failures = count + 1, failures + (ended.code != 0)
    print(f"\n{count} commands met a limit, {failures} of them stopped by it: exit code 5, nothing lost or left")
    assert failures > count / 2


def modes(folder: Path, *, writable: bool) -> None:
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode | 0o200 if writable else path.stat().st_mode & ~0o222)


def looks(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Names, sizes and times of what is below a folder."""
    told = {str(path): path.stat() for path in (folder, *folder.rglob("*"))}
    return {name: (one.st_size, one.st_mtime_ns, one.st_ino) for name, one in told.items()}


@pytest.fixture
def read_only(faults: Faults) -> Iterator[Path]:
    """The folder of all inputs, which nobody may write to."""
    modes(faults.shelf, writable=False)
    yield faults.shelf
    modes(faults.shelf, writable=True)


@pytest.mark.soak
def test_nothing_is_written_beside_an_input(faults, times, read_only):
    before = looks(read_only)
    for writer in COMMANDS[: times(8, len(COMMANDS))]:
        folder = faults.place(writer, False)
        modes(folder, writable=True)  # of what was copied from there
        ended = faults.run(Job(writer, str(folder), no_rights=True))
        assert ended.code == 0 and tree(folder) == faults.undisturbed(writer, False).after, (writer, ended.said)
    for line in ("info {shelf}", "info {shelf}/study", "info {shelf}/raw.h5", "study status {shelf}/night"):
        ended = faults.run(Job(f"medseq {line}", str(folder), no_rights=True))
        assert ended.code == 0, (line, ended.said)
    assert looks(read_only) == before


@pytest.mark.parametrize("there", [False, True], ids=["to be made", "there"])
def test_an_output_that_cannot_be_written_is_told_before_any_work(faults, tmp_path, there):
    place = tmp_path / "place"
    (place / "out").mkdir(parents=True)
    for writer in COMMANDS:
        if writer == "study collect":
            continue  # see below
        if not there and (place / "out").exists():
            (place / "out").rmdir()
        modes(place, writable=False)
        ended = faults.run(Job(writer, str(place), no_rights=True))
        modes(place, writable=True)
        assert ended.code == 5 and "training" not in ended.said, (writer, ended)
        check_told(writer, ended)
        assert [path.name for path in place.rglob("*")] == ["out"] * there


@pytest.mark.parametrize("command", ["study run out", "study collect out"])
def test_a_study_that_cannot_be_written_is_told(faults, tmp_path, command):
    place = faults.place("study collect", False, tmp_path / "place")
    before = looks(place)
    modes(place, writable=False)
    ended = faults.run(Job(f"medseq {command}", str(place), no_rights=True))
    modes(place, writable=True)
    assert ended.code == 5 and re.fullmatch(r"medseq: error: \S*out\S*: cannot be .+; .+\n", ended.said), ended
    assert looks(place) == before
