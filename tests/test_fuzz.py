"""Every reader on inputs that nobody meant: a result, or one of `medseq.errors` in one line. See docs/fuzzing.md."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from fuzz.target import Target, Trial
from fuzz.targets import TARGETS

from medseq import MedseqWarning

SLOW = {"dicom", "series", "twix", "config", "manifest", "ismrmrd", "fastmri", "cmrxrecon"}


def seeds_of(target: Target, folder: Path) -> list[bytes]:
    folder.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MedseqWarning)  # of uneven times, and of what a format has no place for
        return list(target.seeds(folder))


@pytest.mark.parametrize("name", TARGETS)
def test_any_input_gives_a_result_or_one_line(name: str, tmp_path: Path) -> None:
    """The seeds are read, and every change of them is read or refused; the same changes on every machine."""
    target = TARGETS[name]
    seeds = seeds_of(target, tmp_path / "seeds")
    work = tmp_path / "work"
    work.mkdir()
    trial = Trial(target, work)
    for seed in seeds:
        trial(seed)
    assert trial.count.read >= len(seeds) - (name == "times"), "a seed is refused"  # not every times are censoring
    for number in range(20 if name in SLOW else 150):
        chance = random.Random(number)
        data = chance.choice(seeds)
        for _ in range(chance.choice((1, 1, 2, 4))):
            data = target.mutate(data, chance)
        trial(data)
    assert trial.count.executions == trial.count.read + trial.count.refused


@pytest.mark.soak
def test_long_runs_find_nothing(tmp_path: Path, times) -> None:
    """Under atheris, with limits of time and memory; a share of one target in a plain run, all of every one in full."""
    tests = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests)])}
    total = 0
    for target in list(TARGETS.values())[-times(1, len(TARGETS)) :]:
        words = [sys.executable, "-m", "fuzz", target.name, "--runs", str(times(300, target.runs))]
        done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stdout[-500:] + done.stderr[-3000:]
        told = re.search(r"(\d+) executions .*done", done.stdout)
        assert told is not None
        total += int(told[1])
        print(f"\n{done.stdout.splitlines()[-1]}")
    print(f"{total} executions in all")
    assert total >= times(300, 1_000_000)
