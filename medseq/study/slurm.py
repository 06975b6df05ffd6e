"""Workers that SLURM starts, by dask-jobqueue: one job each, of one process that does one unit at a time.

What a cluster wants (partition, account, wall time, network interface) stands in dask-jobqueue's `jobqueue.yaml`.
"""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import dask
from distributed import Client
from distributed.core import Status
from distributed.security import Security

from medseq import terminal
from medseq.errors import ResourceError, UsageError
from medseq.study.engine import NO_PAGES, Share, as_we_want_dask

# To import dask-jobqueue changes what Ctrl-C does: the process would end as if all were well.
_on_interrupt = signal.getsignal(signal.SIGINT)
from dask_jobqueue import SLURMCluster  # noqa: E402
from dask_jobqueue.slurm import SLURMJob  # noqa: E402

signal.signal(signal.SIGINT, _on_interrupt)

_OWN_MB = 512  # of the worker itself, beside its unit
_SPARE = 600  # seconds of a job beyond the longest unit's
_LOOK = 30.0  # seconds between two questions to SLURM, which serves many
_MARGIN = 1.5  # of the longest unit so far: they vary
_FRUITLESS = 3  # looks at which jobs had ended and no worker had ever answered
_NAME = "medseq"  # of the jobs: everybody on a cluster sees it
_ROLES = ("client", "scheduler", "worker")


class _Job(SLURMJob):
    """A job that keeps why SLURM refused it, for `Jobs` to deal with, where Dask would log it and go on."""

    refused: str | None = None

    async def start(self) -> None:
        try:
            await super().start()
        except (RuntimeError, OSError, ValueError) as error:
            self.refused = _last_line(str(error)).removeprefix("sbatch: error: ")
            self.status = Status.running

    async def close(self) -> None:
        await super().close()
        self.status = Status.closed  # which its cluster insists on, and dask-jobqueue forgets


class _Cluster(SLURMCluster):
    job_cls = _Job


@dataclass(frozen=True)
class _Listed:
    """A job in SLURM's queue. seconds: until its wall time, None if it has none. waits: for what, None if it runs."""

    seconds: float | None
    waits: str | None


class Jobs:
    """The jobs of a run; Dask starts as many as there are units to do, replaces lost ones and lets idle ones go."""

    def __init__(self, cluster: SLURMCluster, client: Client, logs: Path) -> None:
        self.client = client
        self._cluster, self._logs = cluster, logs
        self._next, self._fruitless, self._told = time.monotonic() + _LOOK, 0, ""

    def look(self, longest: float) -> None:
        """Ask SLURM, now and then, and deal with what Dask cannot know. longest: seconds that a unit may take.

        Jobs that ended in the queue or were refused are replaced; a worker whose wall time is near gets no further
        unit. Raises ResourceError when SLURM takes no job, or jobs end before any worker has answered.
        """
        if time.monotonic() < self._next:
            return
        jobs = dict(self._cluster.workers)  # before the queue is read: what is submitted later is not missed in it
        listed = _queue()
        self._next = time.monotonic() + _LOOK
        if listed is None:  # SLURM does not answer, which is no reason to stop what runs
            return
        workers = self.client.scheduler_info(n_workers=-1)["workers"]
        names = {worker["name"]: address for address, worker in workers.items()}
        refused = {name: job.refused for name, job in jobs.items() if job.refused is not None}
        ended = [name for name, job in jobs.items() if job.job_id is not None and job.job_id not in listed]
        self._check(refused, len(jobs), ended, bool(names))
        if ended or refused:
            self._cluster.sync(self._cluster.scale_down, [*ended, *refused])
        known = {name: listed[job.job_id] for name, job in jobs.items() if job.job_id in listed}
        reasons = {job.waits for job in known.values() if job.waits is not None}
        if reasons and not names:
            self._tell(f"waiting for SLURM to start jobs ({', '.join(sorted(reasons))})")
        late = [name for name, job in known.items() if name in names and _late(job.seconds, longest)]
        self._withdraw({name: names[name] for name in late})

    def _check(self, refused: dict[str, str], count: int, ended: list[str], answered: bool) -> None:
        if refused:
            reason = next(iter(refused.values()))
            if len(refused) == count:
                raise ResourceError(f"SLURM takes no job: {reason}; put what it wants into jobqueue.yaml")
            self._tell(f"warning: SLURM takes fewer jobs: {reason}")
        self._fruitless = 0 if answered else self._fruitless + bool(ended)
        if self._fruitless >= _FRUITLESS:
            raise ResourceError(
                f"SLURM's jobs end before their worker answers ({_last_words(self._logs)}); "
                "do nodes see this Python and the study, and reach this machine (`interface` in jobqueue.yaml)?"
            )

    def _withdraw(self, workers: dict[str, str]) -> None:
        """Give these workers (name to address) no further unit, and let those go that have none."""
        if not workers:
            return
        busy = self.client.processing(list(workers.values()))
        idle = {name: address for name, address in workers.items() if not busy.get(address)}
        at_work = [address for name, address in workers.items() if name not in idle]
        self.client.retire_workers(at_work, close_workers=False, remove=False)
        self.client.retire_workers(list(idle.values()))
        self._cluster.sync(self._cluster.scale_down, list(idle))

    def _tell(self, message: str) -> None:
        if message != self._told:
            terminal.say(message)
        self._told = message


@contextmanager
def slurm_jobs(shared: Share, folder: Path, seconds: int) -> Iterator[Jobs]:
    """As many workers as are told and needed, until the block ends, however it does; then their jobs are cancelled.

    folder: where logs and keys are kept, seen by all machines. seconds: that a unit may take at most. Scheduler and
    workers know each other by a key of this run alone (TLS), and listen to nobody else. Should this process be killed,
    workers end as they lose the scheduler, or do not find it within jobqueue.yaml's `death-timeout`.

    Raises ResourceError where no job can be submitted, UsageError for a path that jobs cannot be told.
    """
    if shutil.which("sbatch") is None:
        raise ResourceError("no sbatch here; run where jobs are submitted to SLURM, or use --engine local")
    if shlex.quote(str(folder)) != str(folder) or "%" in str(folder):
        raise UsageError(f"{folder}: SLURM wants a path of plain letters and digits; move the study")
    memory_mb = shared.memory_mb + _OWN_MB
    python = dask.config.get("jobqueue.slurm.python") or shlex.quote(sys.executable)
    with (
        as_we_want_dask(),
        TemporaryDirectory(dir=folder, prefix="slurm-", ignore_cleanup_errors=True) as private,
        _Cluster(
            name=_NAME,
            job_name=_NAME,
            silence_logs=logging.CRITICAL,
            processes=1,
            cores=1,  # threads of the worker, which waits while its unit works
            job_cpu=shared.threads,
            memory=f"{memory_mb}MiB",
            job_mem=f"{memory_mb}M",
            walltime=_walltime(seconds),
            nanny=False,
            python=f"exec {python}",  # SLURM's signals then reach the worker, and not a shell that leaves it behind
            worker_extra_args=[
                *dask.config.get("jobqueue.slurm.worker-extra-args"),
                "--no-dashboard",
                "--dashboard-address",
                NO_PAGES,
            ],
            job_script_prologue=[
                *dask.config.get("jobqueue.slurm.job-script-prologue"),
                "export DASK_DISTRIBUTED__WORKER__HTTP__ROUTES=[]",
            ],
            log_directory=private,
            security=_security(Path(private)),
            scheduler_options={
                **dask.config.get("jobqueue.slurm.scheduler-options"),
                "dashboard_address": NO_PAGES,
                "dashboard": False,
            },
        ) as cluster,
        Client(cluster) as client,
    ):
        # That brief a target makes it one worker for each unit that is left: none is worth waiting for another.
        cluster.adapt(minimum=0, maximum=shared.workers, interval="2s", target_duration="1ms")
        yield Jobs(cluster, client, Path(private))


def _walltime(seconds: int) -> str:
    """The user's (jobqueue.yaml or environment), else enough for any one unit; dask-jobqueue would say 30 minutes."""
    minutes = (seconds + _SPARE) // 60
    enough = f"{minutes // 60}:{minutes % 60:02}:00"
    return str(dask.config.get("jobqueue.slurm.walltime", enough, config=dask.config.collect()))


def _security(folder: Path) -> Security:
    """A new key and its certificate, in files that only this user can read and that go with their folder."""
    made = Security.temporary()
    files = {"key": folder / "key.pem", "cert": folder / "cert.pem"}
    for name, file in files.items():
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            stream.write(getattr(made, f"tls_worker_{name}"))
    told = {f"tls_{role}_{name}": str(file) for role in _ROLES for name, file in files.items()}
    return Security(require_encryption=True, tls_ca_file=str(files["cert"]), **told)


def _queue() -> dict[str, _Listed] | None:
    """This user's jobs by number; None when SLURM does not say."""
    words = ["squeue", "--me", "--noheader", "--format=%A|%L|%T|%r"]
    try:
        told = subprocess.run(words, capture_output=True, text=True, timeout=_LOOK * 4, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    lines = [line.split("|", 3) for line in told.splitlines() if line.count("|") >= 3]
    return {
        number: _Listed(_seconds(left), reason if state == "PENDING" else None) for number, left, state, reason in lines
    }


def _seconds(left: str) -> float | None:
    """Of days-hours:minutes:seconds; None for UNLIMITED, NOT_SET and INVALID."""
    days, _, clock = left.rpartition("-")
    try:
        parts = [int(part) for part in clock.split(":")]
        return int(days or 0) * 86400.0 + sum(part * 60**place for place, part in enumerate(reversed(parts)))
    except ValueError:
        return None


def _late(seconds: float | None, longest: float) -> bool:
    """Whether a job has too little time left for another unit."""
    return seconds is not None and seconds < _MARGIN * longest + 2 * _LOOK


def _last_words(folder: Path) -> str:
    """The last line that a job has said of why it ended."""
    logs = sorted(folder.glob("*.err"), key=lambda log: log.stat().st_mtime)
    return _last_line("\n".join(log.read_text(errors="replace") for log in logs))


def _last_line(text: str) -> str:
    return next((line.strip()[:300] for line in reversed(text.splitlines()) if line.strip()), "without a word")
