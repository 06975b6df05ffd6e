"""kill -9 at any moment, on every writer: what is visible is absent or complete, and what was there before is whole."""

from __future__ import annotations

import random
import signal
from collections import Counter

import pytest
from faults import NEW_FOLDER, WRITERS, Faults, Job, Tree, Undisturbed, faulty, tree


def kill(faults: Faults, writer: str, moments: random.Random, number: int) -> tuple[Tree, Undisturbed]:
    """What is left of a writer killed at a random moment: of its operations on files, or of time.

    number: by which these two, and that there is an earlier output or none, take turns.
    """
    older = number % 2 == 1 and writer not in NEW_FOLDER
    known = faults.undisturbed(writer, older)
    folder = faults.place(writer, older)
    if number // 2 % 2 == 0:
        job = Job(writer, str(folder), at=moments.randrange(known.operations))
    else:
        job = Job(writer, str(folder), after=moments.uniform(0, known.seconds))
    ended = faults.run(job)
    assert ended.code == -signal.SIGKILL or (job.after is not None and ended.code == 0), ended.said
    return tree(folder), known


@pytest.mark.soak
def test_a_killed_writer_leaves_nothing_by_half(faults, times):
    moments = random.Random(7)
    counts: Counter[str] = Counter()
    writers = WRITERS[: times(12, len(WRITERS))]
    for number in range(times(25, 500)):
        turn, place = divmod(number, len(writers))
        writer = writers[place]
        found, known = kill(faults, writer, moments, turn + place)
        assert faulty(found, known) == [], writer
        counts["complete" if found == known.after else "as before" if found == known.before else "in part"] += 1
    print(f"\n{sum(counts.values())} kills of {len(writers)} writers: {dict(counts)}, no file by half")
    assert counts["as before"] and counts["complete"] + counts["in part"]


@pytest.mark.soak
@pytest.mark.parametrize("writer", ["convert to NIfTI", "convert to BART", "outbox", "ledger"])
def test_no_operation_on_files_is_a_bad_moment(faults, times, writer):
    """Not at random: the operations in turn, over an earlier output."""
    known = faults.undisturbed(writer, True)
    moments = range(0, known.operations, times(1 + known.operations // 4, 1))
    for at in moments:
        folder = faults.place(writer, True)
        assert faults.run(Job(writer, str(folder), at=at)).code == -signal.SIGKILL
        assert faulty(tree(folder), known) == [], at
    print(f"\n{writer}: killed at {len(moments)} of its {known.operations} operations on files, none by half")


def test_a_careless_writer_is_caught(faults):
    moments = random.Random(3)
    caught = [bool(faulty(*kill(faults, "careless", moments, number))) for number in range(8)]
    assert any(caught)
