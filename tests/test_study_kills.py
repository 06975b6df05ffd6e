"""kill -9 at any moment, on whatever process of a study: results are absent or complete, and the next run goes on."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from distributed import Client
from study_shelf import Shelf

from medseq.errors import ResourceError
from medseq.study.ledger import entry_path, only_run, read_entry
from medseq.study.run import Summary, run_study
from medseq.study.status import read_status

LONG = 240  # seconds that a busy machine may need for anything at all


def wait_for(path: Path) -> str:
    """The content of a file, when it is there: others rename it into place, or only touch it."""
    end = time.monotonic() + LONG
    while not path.exists():
        assert time.monotonic() < end, f"{path.name} did not come"
        time.sleep(0.02)
    return path.read_text()


def gone(pid: int) -> None:
    """Wait until a process has ended, whether or not its parent has noticed."""
    end = time.monotonic() + LONG
    with suppress(psutil.NoSuchProcess):
        while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < end, "it lives on"
            time.sleep(0.02)


class Host:
    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("study_host.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, shelf: Shelf, unit: str | None, run: str = "run", **more: int) -> dict[str, int]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps({"study": str(shelf.study), "unit": unit, "run": run, **more}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    host = Host()
    yield host
    host.process.communicate(timeout=LONG)


def test_a_worker_killed_at_any_operation_on_files_leaves_its_result_absent_or_complete(tmp_path, host):
    shelf = Shelf(tmp_path, {"a": "fine"})
    seen = set()
    for at in range(500):
        status = host.ask(shelf, "a", f"run{at}", at=at)["status"]
        there = shelf.whole("a")
        seen.add(there)
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        entry = read_entry(entry_path(shelf.study, "a"))
        assert entry is None or entry.state != "done" or there
        if there and at % 2:  # what is done stays done; begin anew to come to the operations behind it
            os.rename(shelf.study / "results" / "a", tmp_path / f"done{at}")
    assert at > 20 and there and seen == {False, True}
    summary = run_study(shelf.study, shelf.settings(), lambda _: None)
    assert (len(summary.done) + len(summary.unchanged), summary.failed) == (1, {})
    assert shelf.left() == [] and shelf.whole("a")


def test_a_new_result_replaces_an_old_one_whole_wherever_it_is_killed(tmp_path, host):
    shelf = Shelf(tmp_path, {"a": "old"})
    assert run_study(shelf.study, shelf.settings(), lambda _: None).done == ["a"]
    (shelf.source / "a.nii.gz").write_text("new")
    for at in range(500):
        status = host.ask(shelf, "a", f"run{at}", at=at)["status"]
        if shelf.whole("a"):
            assert len(set(line.split()[1] for line in shelf.result("a").read_text().splitlines())) == 1
        if status == 0:
            break
    assert "new" in shelf.result("a").read_text()


def test_runs_killed_at_random_moments_lose_nothing(tmp_path, host):
    names = [f"unit{number}" for number in range(4)]
    shelf = Shelf(tmp_path, dict.fromkeys(names, "fine"))
    moments = random.Random(1)
    for name in names * 2:
        pid = host.ask(shelf, name, f"run-{moments.random()}")["pid"]
        time.sleep(moments.uniform(0, 0.3))  # the moment is what is tried here
        os.kill(pid, signal.SIGKILL)
        shelf.whole(name)
    summary = run_study(shelf.study, shelf.settings(), lambda _: None)
    assert sorted(summary.done + summary.unchanged) == names and all(map(shelf.whole, names)) and shelf.left() == []


def test_a_unit_dies_with_its_worker(tmp_path, host):
    shelf = Shelf(tmp_path, {"a": "hang"})
    worker = host.ask(shelf, "a")["pid"]
    pid, parent = map(int, wait_for(shelf.source / "hangs").split())
    assert parent == worker
    os.kill(worker, signal.SIGKILL)
    gone(pid)
    (shelf.source / "go").touch()
    assert run_study(shelf.study, shelf.settings(), lambda _: None).done == ["a"]


def test_a_lock_goes_with_the_process_that_held_it(tmp_path, host):
    shelf = Shelf(tmp_path, {"a": "fine"})
    holder = host.ask(shelf, None)["pid"]
    wait_for(shelf.study / "held")
    with pytest.raises(ResourceError, match=f"process {holder}"), only_run(shelf.study):
        pass
    os.kill(holder, signal.SIGKILL)
    gone(holder)
    with only_run(shelf.study):
        pass


INTERRUPTED = """
import sys
from functools import partial
import medseq.study.run as run
from medseq.cli import main
run.Settings = partial(run.Settings, program=(sys.executable, "-S", sys.argv[1]))
sys.exit(main(["study", "run", sys.argv[2], "--workers", "2"]))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_an_interrupted_run_stops_its_units_and_the_next_goes_on(tmp_path, number, code):
    shelf = Shelf(tmp_path, {"a": "hang", "b": "fine"})
    words = [sys.executable, "-c", INTERRUPTED, str(shelf.program), str(shelf.study)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        pid = int(wait_for(shelf.source / "hangs").split()[0])
        assert run.stdout is not None and run.stdout.readline().startswith("b: done")
        run.send_signal(number)
        _, error = run.communicate(timeout=LONG)
    assert run.returncode == code
    gone(pid)
    if number != signal.SIGKILL:
        assert error == "medseq: interrupted\n" and shelf.left() == []
    assert read_status(shelf.study).counts["interrupted"] == 1
    assert not shelf.whole("a") and shelf.whole("b")
    assert not read_status(shelf.study).running
    (shelf.source / "go").touch()
    summary = run_study(shelf.study, shelf.settings(), lambda _: None)
    assert summary.done == ["a"] and summary.unchanged == ["b"] and shelf.left() == []


@pytest.fixture
def cluster(tmp_path) -> Iterator[str]:
    """A Dask cluster of two workers on this machine, as a user starts one."""
    file = tmp_path / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    at = ["--scheduler-file", str(file), "--no-dashboard", "--host", "127.0.0.1"]
    started = []
    try:
        for words in (["scheduler", "--port", "0"], ["worker", "--nworkers", "2", "--nthreads", "1"]):
            started.append(subprocess.Popen([*dask, *words, *at], cwd=tmp_path, stderr=subprocess.DEVNULL))
            wait_for(file)
        address = json.loads(file.read_text())["address"]
        with Client(address, timeout=LONG) as client:
            client.wait_for_workers(2, timeout=LONG)
        yield address
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(LONG)


def test_a_cluster_that_loses_a_worker_loses_no_unit(tmp_path, cluster):
    shelf = Shelf(tmp_path, {"a": "hang", "bad": "bad", **{f"unit{number}": "fine" for number in range(5)}})
    found: list[Summary] = []
    run = threading.Thread(
        target=lambda: found.append(run_study(shelf.study, shelf.settings(engine=cluster), lambda _: None))
    )
    run.start()
    pid, worker = map(int, wait_for(shelf.source / "hangs").split())
    os.kill(worker, signal.SIGKILL)
    gone(pid)
    (shelf.source / "go").touch()
    run.join(LONG)
    (summary,) = found
    assert len(summary.done) == 6 and list(summary.failed) == ["bad"] and all(map(shelf.whole, summary.done))
    entry = read_entry(entry_path(shelf.study, "a"))
    assert entry is not None and entry.attempts == 2 and shelf.calls.count("bad") == 1
    again = run_study(shelf.study, shelf.settings(engine=cluster), lambda _: None)
    assert len(again.unchanged) == 6 and again.done == [] and shelf.left() == []
