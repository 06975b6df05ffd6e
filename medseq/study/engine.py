"""Where units run: on this machine, or on a Dask cluster; `slurm` has one that SLURM starts."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import dask
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster
from distributed.system import MEMORY_LIMIT
from distributed.utils import silence_logging_cmgr

from medseq.errors import ResourceError, UsageError

LOCAL, SLURM = "local", "slurm"
_SECONDS = 30  # to find a scheduler
_LEAST_MB = 2000  # of a job that is told nothing: estimates are rough
NO_PAGES = "127.0.0.1:0"
# A unit has its own ways of being tried again, by which a lost worker counts once; so has Dask, without telling us.
_CONFIG: dict[str, object] = {
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.scheduler.worker-ttl": None,  # goes by a clock that people set; local workers die with us anyway
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
}


@dataclass(frozen=True)
class Share:
    """What each unit gets of a machine. memory_mb: MiB. gpus: of which each worker has one, by its number."""

    workers: int
    threads: int
    memory_mb: int
    gpus: tuple[str, ...] = ()

    def gpu_of(self, worker: object) -> str | None:
        return self.gpus[int(str(worker)) % len(self.gpus)] if self.gpus else None


def check_engine(engine: str) -> None:
    """Raise UsageError for what is no engine, or is not installed, before anything is done."""
    if engine == SLURM:
        if None in map(find_spec, ("dask_jobqueue", "cryptography")):
            raise UsageError("engine slurm needs dask-jobqueue and cryptography; pip install medseq[slurm]")
    elif engine != LOCAL and not (engine.startswith(("tcp://", "tls://")) and _has_port(engine)):
        raise UsageError(f"engine {engine!r} is none of local, slurm, tcp://host:port and tls://host:port")


def _has_port(address: str) -> bool:
    try:
        parts = urlsplit(address)
        return parts.hostname is not None and parts.port is not None
    except ValueError:
        return False


def share(units: int, largest_mb: int, *, workers: int | None, threads: int | None, memory_mb: int | None) -> Share:
    """How this machine is divided: a worker for each GPU, or as many as cores and memory serve; never more than units.

    largest_mb: MiB that the largest unit is expected to take. What is given is not changed.
    """
    gpus = _gpus()
    most = int(MEMORY_LIMIT * 0.9) >> 20
    if workers is None:
        room = max(1, most // max(memory_mb or largest_mb, 1))
        workers = max(1, min(len(gpus) or min(CPU_COUNT, room), units))
    return Share(workers, threads or max(1, CPU_COUNT // workers), memory_mb or most // workers, tuple(gpus))


def _gpus() -> list[str]:
    """Those that may be seen, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


@contextmanager
def as_we_want_dask() -> Iterator[None]:
    """Dask's settings for a run; what it has to say of an interrupted one is no news to whoever interrupted it."""
    with dask.config.set(_CONFIG), silence_logging_cmgr(logging.CRITICAL):
        yield


@contextmanager
def connected(engine: str, workers: int = 1) -> Iterator[Client]:
    """A client of the engine. workers: of this machine; a cluster has its own.

    Raises ResourceError when no cluster answers.
    """
    with as_we_want_dask():
        if engine == LOCAL:
            with _local_cluster(workers) as cluster, Client(cluster) as client:
                yield client
            return
        try:
            client = Client(engine, timeout=_SECONDS)
        except (OSError, TimeoutError) as error:
            raise ResourceError(
                f"{engine}: no Dask scheduler answers ({error}); start one, or use --engine local"
            ) from None
        with client:
            yield client


@contextmanager
def _local_cluster(workers: int) -> Iterator[LocalCluster]:
    """Workers of one thread each in this process, as units are processes of their own anyway.

    So nobody can give them work: a scheduler on a port does what anybody on the machine asks it to. Dask insists on
    its web server; that is bound to this machine, and has no pages.
    """
    with (
        TemporaryDirectory(prefix="medseq-", ignore_cleanup_errors=True) as scratch,
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=False,
            dashboard_address=NO_PAGES,
            worker_dashboard_address=NO_PAGES,
            scheduler_kwargs={"dashboard": False},
            memory_limit=0,
            silence_logs=logging.CRITICAL,
            local_directory=scratch,
        ) as cluster,
    ):
        yield cluster


def job_share(units: int, largest_mb: int, *, workers: int, threads: int | None, memory_mb: int | None) -> Share:
    """What each job of SLURM asks for: one thread and twice the memory of the largest estimate, if nothing is given."""
    return Share(min(workers, units), threads or 1, memory_mb or max(_LEAST_MB, 2 * largest_mb))


def cluster_share(client: Client, *, threads: int | None, memory_mb: int | None) -> Share:
    """How the machines of a cluster are divided: by what its workers were started with; one thread a unit.

    Raises ResourceError when it has no worker.
    """
    try:
        client.wait_for_workers(1, timeout=_SECONDS)
    except TimeoutError:
        raise ResourceError("the Dask cluster has no worker; start some, and run again") from None
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    slots = sum(worker["nthreads"] for worker in workers)
    limits = [worker["memory_limit"] // worker["nthreads"] for worker in workers if worker["memory_limit"]]
    return Share(slots, threads or 1, memory_mb or min(limits, default=MEMORY_LIMIT) >> 20)
