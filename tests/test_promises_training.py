"""A training run that is killed, started twice or has a damaged checkpoint ends at the very same weights."""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_shelf import command, fails
from faults import NEW, Job, tree
from test_cli import RECIPE
from test_train import TINY

from medseq.errors import InputError, MedseqWarning, ResourceError
from medseq.train import train

NEWEST, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"


def run(folder: Path, stop: int | None = None) -> None:
    for state in train(TINY, folder):
        if state.step == stop:
            return


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    """The last checkpoint of an undisturbed run: weights, their average, the state of Adam, losses."""
    folder = tmp_path_factory.mktemp("whole")
    run(folder)
    return (folder / NEWEST).read_bytes()


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A run that stopped at step 5 of 6, with checkpoints of steps 4 and 2."""
    run(tmp_path / "run", stop=5)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [".lock", PREVIOUS, NEWEST]
    return tmp_path / "run"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2000])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    """One bit in the middle of the largest tensor: torch loads that without a word."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [truncate, empty, flip])
def test_a_damaged_checkpoint_costs_steps_and_nothing_else(stopped, whole, damage: Callable[[Path], None]) -> None:
    damage(stopped / NEWEST)
    good = (stopped / PREVIOUS).read_bytes()
    with pytest.warns(MedseqWarning, match=r"checkpoint\.pt: damaged .* of step 2"):
        run(stopped, stop=4)
    assert (stopped / PREVIOUS).read_bytes() == good  # the damaged one has not taken its place
    run(stopped)
    assert (stopped / NEWEST).read_bytes() == whole


def test_a_checkpoint_that_is_gone_costs_no_more(stopped, whole) -> None:
    """As when it was killed between the two renames."""
    (stopped / NEWEST).unlink()
    run(stopped)
    assert (stopped / NEWEST).read_bytes() == whole


def test_two_damaged_checkpoints_are_refused(stopped) -> None:
    for name in (NEWEST, PREVIOUS):
        flip(stopped / name)
    with pytest.raises(InputError, match="previous.*delete it"):
        run(stopped)


def test_a_run_begun_anew_never_falls_back_to_the_old_one(stopped) -> None:
    for state in train(TINY, stopped, resume=False):
        if state.step == 2:
            break
    assert not (stopped / PREVIOUS).exists()


def test_the_command_tells_of_a_damaged_checkpoint(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(RECIPE.replace("steps: 3", "steps: 3, checkpoint_every: 1"))
    assert command("train c.yaml -o run") == 0
    truncate(Path("run", NEWEST))
    capsys.readouterr()
    assert command("train c.yaml -o run") == 0
    assert "warning: run/checkpoint.pt: damaged" in capsys.readouterr().err
    for name in (NEWEST, PREVIOUS):
        truncate(Path("run", name))
    fails(capsys, "train c.yaml -o run", 4, "checkpoint")


def test_one_process_trains_in_a_folder(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(RECIPE)
    running = train(TINY, tmp_path / "run")
    next(running)
    with pytest.raises(ResourceError, match="another process is training in it"):
        next(train(TINY, tmp_path / "run"))
    fails(capsys, "train c.yaml -o run", 5, "run: another process is training in it")
    running.close()
    run(tmp_path / "run")


@pytest.mark.soak
def test_a_killed_training_goes_on_to_the_same_weights(faults, times) -> None:
    moments = random.Random(2)
    line = f"medseq train {{shelf}}/checked{NEW}.yaml -o out"
    folder = faults.place("train", False)
    operations = faults.run(Job(line, str(folder), count=True)).operations
    known = tree(folder / "out")
    for _ in range(count := times(3, 30)):
        shutil.rmtree(folder / "out")
        ended = faults.run(Job(line, str(folder), at=moments.randrange(operations)))
        assert ended.code == -signal.SIGKILL
        ended = faults.run(Job(line, str(folder)))
        assert (ended.code, ended.said) == (0, "")
        found = tree(folder / "out")
        for name in (NEWEST, "prior.safetensors", "loss.csv"):
            assert found[name] == known[name]
    print(f"\n{count} training runs killed and gone on with: the very same weights")
