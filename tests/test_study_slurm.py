"""Studies on a real SLURM: jobs that are refused, never start, die, outlive their run, or come to their wall time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import dask
import psutil
import pytest
from distributed import Client
from distributed.security import Security
from slurm_host import Slurm, running_slurm
from study_shelf import Shelf

from medseq.errors import ResourceError, UsageError
from medseq.study import engine, slurm
from medseq.study.ledger import entry_path, read_entry
from medseq.study.run import run_study
from medseq.study.status import read_status

LONG = 240  # seconds that a busy machine may need for anything at all
RUN = """
import sys
from functools import partial
import medseq.study.run as run
import medseq.study.slurm as slurm
from medseq.cli import main
slurm._LOOK = 1.0
run.Settings = partial(run.Settings, program=(sys.executable, "-S", sys.argv[1]))
sys.exit(main(["study", "run", sys.argv[2], "--engine", "slurm", "--workers", "2", "--memory", "1000"]))
"""


def until(holds: Callable[[], object], what: str) -> None:
    end = time.monotonic() + LONG
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def started() -> Iterator[Slurm]:
    with running_slurm() as slurm:
        yield slurm


@pytest.fixture
def cluster(started, monkeypatch) -> Iterator[Slurm]:
    """A SLURM that has no jobs, and shall have none when the test is over."""
    monkeypatch.setattr(slurm, "_LOOK", 1.0)
    for name, value in started.environment.items():
        monkeypatch.setenv(name, value)
    started.wait_until_idle()
    yield started
    until(lambda: started.jobs() == [], "jobs remain")


def interrupted(shelf: Shelf, number: int, wants: Mapping[str, str], ready: Callable[[subprocess.Popen], None]):
    """(exit code, what it printed on stderr) of a run that gets a signal when it is `ready`."""
    words = [sys.executable, "-c", RUN, str(shelf.program), str(shelf.study)]
    wanted = {f"DASK_JOBQUEUE__SLURM__{name}": value for name, value in wants.items()}
    with subprocess.Popen(words, env={**os.environ, **wanted}, stderr=subprocess.PIPE, text=True) as run:
        ready(run)
        run.send_signal(number)
        error = run.communicate(timeout=LONG)[1]
    return run.returncode, error


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_no_job_and_no_unit_outlives_its_run_and_the_next_goes_on(tmp_path, cluster, number, code):
    shelf = Shelf(tmp_path, {"a": "hang", "b": "fine"})
    at_work = shelf.source / "hangs"
    found, error = interrupted(shelf, number, {}, lambda run: until(at_work.exists, "no unit began"))
    assert found == code and (number == signal.SIGKILL or error.endswith("medseq: interrupted\n"))
    pid = int(at_work.read_text().split()[0])
    until(lambda: cluster.jobs() == [], "jobs remain")
    until(lambda: not psutil.pid_exists(pid), "a unit lives on")
    assert not shelf.whole("a") and not read_status(shelf.study).running
    (shelf.source / "go").touch()
    summary = run_study(shelf.study, shelf.settings(), quiet)  # here, as engines may change between runs
    assert "a" in summary.done and not summary.failed and shelf.left() == []


def test_a_queue_that_starts_no_job_is_waited_for_and_its_reason_told(tmp_path, cluster):
    shelf, told = Shelf(tmp_path, {"a": "fine"}), list[str]()

    def ready(run: subprocess.Popen) -> None:
        assert run.stderr is not None
        told.append(run.stderr.readline())

    code, _ = interrupted(shelf, signal.SIGINT, {"QUEUE": "closed"}, ready)
    assert told == ["medseq: waiting for SLURM to start jobs (PartitionDown)\n"]
    assert code == 130 and cluster.jobs() == [] and shelf.left() == []


def test_a_job_that_slurm_refuses_is_a_resource_error_with_its_words(tmp_path, cluster):
    shelf = Shelf(tmp_path, {"a": "fine"})
    with (
        dask.config.set({"jobqueue.slurm.queue": "none"}),
        pytest.raises(ResourceError, match="takes no job.*Invalid partition"),
    ):
        run_study(shelf.study, shelf.settings(engine="slurm"), quiet)
    assert shelf.left() == [] and shelf.calls == []


def test_jobs_that_cannot_work_are_given_up_with_their_last_words(tmp_path, cluster):
    shelf = Shelf(tmp_path, {"a": "fine"})
    with (
        dask.config.set({"jobqueue.slurm.python": "/absent/python"}),
        pytest.raises(ResourceError, match="/absent/python: No such file"),
    ):
        run_study(shelf.study, shelf.settings(engine="slurm"), quiet)
    assert shelf.left() == [] and shelf.calls == []


def test_a_job_that_is_cancelled_is_replaced_and_one_near_its_wall_time_gets_no_unit(tmp_path, cluster, monkeypatch):
    shelf, told = Shelf(tmp_path, {"a": "hang", "b": "slow 8", "c": "fine"}), list[str]()
    run = threading.Thread(
        target=lambda: run_study(shelf.study, shelf.settings(engine="slurm", workers=1), told.append), daemon=True
    )
    run.start()
    until((shelf.source / "hangs").exists, "no unit began")
    (first,) = (number for number, state in cluster.jobs() if state == "RUNNING")
    cluster.ask("scancel", first)
    (shelf.source / "go").touch()
    until(lambda: shelf.calls.count("b"), "the others do not go on")
    (second,) = (number for number, state in cluster.jobs() if state == "RUNNING")
    monkeypatch.setattr(slurm, "_MARGIN", 1e6)  # from now on, every job is near its end
    run.join(LONG)
    assert not run.is_alive() and len(told) == 3 and all(map(shelf.whole, shelf.units))
    entries = {name: read_entry(entry_path(shelf.study, name)) for name in shelf.units}
    assert {name: entry.attempts for name, entry in entries.items() if entry} == {"a": 2, "b": 1, "c": 1}
    until(lambda: cluster.jobs() == [], "jobs remain")
    assert (
        int(cluster.ask("sbatch", "--output=/dev/null", "--wrap", "true").split()[-1])
        > int(second) + 1
        > int(first) + 1
    )


def test_a_scheduler_listens_to_its_own_workers_only_and_keys_are_private(tmp_path, cluster):
    shared = engine.Share(1, 1, 1000)
    with slurm.slurm_jobs(shared, tmp_path, 60) as jobs:
        address = jobs.client.scheduler.address
        assert address.startswith("tls://")
        (folder,) = tmp_path.iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700 and (folder / "key.pem").stat().st_mode & 0o777 == 0o600
        strangers = (None, Security.temporary())
        for stranger, scheme in zip(strangers, ("tcp", "tls"), strict=True):
            with pytest.raises(OSError):
                Client(f"{scheme}{address[3:]}", security=stranger, timeout=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("told", "seconds"),
    [("3:04", 184), ("1:00:05", 3605), ("2-01:00:00", 176400), ("0:00", 0), ("UNLIMITED", None), ("NOT_SET", None)],
)
def test_time_left_as_squeue_tells_it(told, seconds):
    assert slurm._seconds(told) == seconds


def test_what_the_engine_lacks_is_told_before_anything_is_done(tmp_path, monkeypatch):
    shelf = Shelf(tmp_path, {"a": "fine"})
    with pytest.raises(UsageError, match="--workers"):
        run_study(shelf.study, shelf.settings(engine="slurm", workers=None), quiet)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "find_spec", lambda name: None)
        with pytest.raises(UsageError, match=r"medseq\[slurm\]"):
            run_study(shelf.study, shelf.settings(engine="slurm"), quiet)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        with pytest.raises(ResourceError, match="no sbatch"):
            run_study(shelf.study, shelf.settings(engine="slurm"), quiet)
    assert shelf.calls == [] and shelf.left() == []


def test_a_path_that_jobs_cannot_be_told_is_refused(tmp_path, cluster):
    folder = tmp_path / "two words"
    folder.mkdir()
    shelf = Shelf(folder, {"a": "fine"})
    with pytest.raises(UsageError, match="two words"):
        run_study(shelf.study, shelf.settings(engine="slurm"), quiet)
    assert shelf.left() == []


def test_a_job_asks_for_its_unit_and_its_worker_and_time_enough_for_the_longest(tmp_path, cluster):
    shared = engine.job_share(3, 1500, workers=8, threads=2, memory_mb=None)
    assert shared == engine.Share(3, 2, 3000)
    with slurm.slurm_jobs(shared, tmp_path, 7200) as jobs:
        script = jobs._cluster.job_script()
    for line in ("-J medseq", "--cpus-per-task=2", f"--mem={3000 + slurm._OWN_MB}M", "-t 2:10:00"):
        assert f"#SBATCH {line}\n" in script
    assert Path.home().name not in script.split("#SBATCH -e")[0]
