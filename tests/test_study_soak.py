"""Long nights: hundreds of units, some of them poisoned, on each engine, and a worker killed on the way."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from cli_shelf import beating_disc
from slurm_host import running_slurm
from study_shelf import Shelf

from medseq.cli import main
from medseq.clip import Clip
from medseq.io import load_clip, save_clip
from medseq.study import slurm
from medseq.study.ledger import entry_path, read_entry
from medseq.study.run import Settings, run_study

LONG = 3600  # seconds that a part of a night may take on a busy machine


class RealShelf:
    """As `Shelf`, with series that the real `medseq denoise` restores; what is bad lost its end."""

    def __init__(self, folder: Path, inputs: dict[str, str]) -> None:
        self.source, self.study = folder / "source", folder / "study"
        self.source.mkdir()
        clip, rng = beating_disc(), np.random.default_rng(1)
        for name, text in inputs.items():
            file = self.source / f"{name}.nii.gz"
            noise = clip.data.new_tensor(rng.normal(0, 3, clip.data.shape))
            save_clip(Clip(clip.data + noise, clip.affine, clip.times, clip.period), file)
            if text == "bad":
                file.write_bytes(file.read_bytes()[:-2000])
        assert main(["study", "plan", str(self.source), "-o", str(self.study)]) == 0

    def settings(self, **options: str) -> Settings:
        return Settings(**{"workers": 2, "threads": 1, "memory_mb": 4000, **options})

    def whole(self, name: str) -> bool:
        folder = self.study / "results" / name
        if not folder.exists():
            return False
        assert load_clip(folder / f"{name}.nii.gz").frames == beating_disc().frames
        return True

    def left(self) -> list[str]:
        return Shelf.left(self)  # type: ignore[arg-type]


@pytest.fixture
def engine(request, monkeypatch) -> Iterator[str]:
    monkeypatch.setattr(slurm, "_LOOK", 2.0)
    if request.param != "slurm":
        yield request.param
        return
    with running_slurm() as started:
        monkeypatch.setenv("SLURM_CONF", started.environment["SLURM_CONF"])
        yield request.param
        started.wait_until_idle()


def victims(study: Path, what: str) -> Sequence[psutil.Process]:
    """Processes of a study with this word in what started them."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = " ".join(process.info["cmdline"] or ())
        if str(study) in words and what in words:
            found.append(process)
    return found


@pytest.mark.soak
@pytest.mark.parametrize("engine", ["local", "slurm"], indirect=True)
def test_a_night_with_poisoned_units_and_a_killed_worker_loses_nothing(tmp_path, engine, times, capsys):
    """In full, units are real commands; a share of it has the program that only waits a moment in their place."""
    count, real = times(40, 200), bool(times(0, 1))
    every = {f"unit{number:03}": "bad" if number % 20 == 7 else "slow 0.1" for number in range(count)}
    good, bad = [[name for name, text in every.items() if (text == "bad") is wrong] for wrong in (False, True)]
    shelf = (RealShelf if real else Shelf)(tmp_path, every)
    told, start = list[str](), time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(run_study, shelf.study, shelf.settings(engine=engine), told.append)
        word = "dask_worker" if engine == "slurm" else "--output="  # here workers are threads, their units processes
        while not run.done() and not (len(told) >= count // 4 and (seen := victims(shelf.study, word))):
            time.sleep(0.02)
        assert not run.done(), "nobody was there to be killed"
        os.kill(random.Random(count).choice(seen).pid, signal.SIGKILL)
        summary = run.result(LONG)
    seconds = time.monotonic() - start
    assert sorted(summary.done) == good and sorted(summary.failed) == bad
    assert {entry.exit_code for entry in summary.failed.values()} == {4}
    assert all(entry.reason for entry in summary.failed.values()) and summary.exit_code == 3
    entries = [read_entry(entry_path(shelf.study, name)) for name in every]
    twice = [entry.unit for entry in entries if entry is not None and entry.attempts == 2]
    assert len(twice) <= 1 and all(entry is not None and entry.attempts <= 2 for entry in entries)
    assert all(map(shelf.whole, good)) and not any(map(shelf.whole, bad)) and shelf.left() == []
    error = capsys.readouterr().err
    assert all(f"medseq: {name}: " in error for name in bad) and str(tmp_path) not in error

    before = {name: (shelf.study / "results" / name).stat().st_mtime_ns for name in good}
    again = run_study(shelf.study, shelf.settings(engine=engine), told.append)
    assert (again.done, sorted(again.unchanged), sorted(again.failed)) == ([], good, bad)
    assert before == {name: (shelf.study / "results" / name).stat().st_mtime_ns for name in good}
    kind = "medseq denoise" if real else "of a stand-in"
    print(
        f"{engine}: {count} units {kind}, {len(summary.done)} done, {len(bad)} poisoned, {len(twice)} begun twice,",
        end=" ",
    )
    print(f"{seconds:.0f} s; second run: {len(again.done)} done, {len(again.unchanged)} unchanged")
