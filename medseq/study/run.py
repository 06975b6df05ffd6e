"""Running a study: what is not done yet goes out to an engine, and every unit ends done or with a reason."""

from __future__ import annotations

import itertools
import secrets
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from distributed import Client, Future, KilledWorker, as_completed, get_worker

from medseq import terminal
from medseq.errors import InputError, ResourceError, UsageError
from medseq.io.weights import BOLD, weights_path
from medseq.provenance import sha256
from medseq.study.child import Limits
from medseq.study.engine import LOCAL, SLURM, Share, check_engine, cluster_share, connected, job_share, share
from medseq.study.ledger import (
    MOST_ATTEMPTS,
    Content,
    Entry,
    entry_path,
    key_of,
    looks_of,
    only_run,
    read_entry,
    sealed,
    write_entry,
)
from medseq.study.manifest import FETCHED, Denoise, Manifest, Unit, load_manifest
from medseq.study.unit import Job, lease_of, perform

_PAUSE = 0.2  # seconds between two looks whether a unit has ended
_LEAST_SECONDS, _LATE = 3600, 20  # a unit may take an hour, or this many times what was estimated


@dataclass(frozen=True)
class Settings:
    """How a study is run. workers, threads, memory_mb, timeout (seconds): None leaves it to medseq.

    again: also try units again that failed for good. program: the medseq to start, (python, "-m") by default. archive,
    calling: the address that series of an archive are fetched from, and our own title there.
    """

    engine: str = LOCAL
    workers: int | None = None
    threads: int | None = None
    memory_mb: int | None = None
    timeout: int | None = None
    device: str = "auto"
    again: bool = False
    program: tuple[str, ...] = ()
    archive: str | None = None
    calling: str = "MEDSEQ"


@dataclass
class Summary:
    """What became of each unit, by its name: done now, done before, or why not."""

    done: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    failed: dict[str, Entry] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        told = [entry.exit_code for entry in self.failed.values()]
        # None is a limit, below 0 is killed.
        codes = [ResourceError.exit_code if code is None or code < 0 else code for code in told]
        return terminal.exit_code_of_many(codes, some_done=bool(self.done or self.unchanged))

    def add(self, entry: Entry, *, before: bool = False) -> None:
        if entry.state == "done":
            (self.unchanged if before else self.done).append(entry.unit)
            return
        self.failed[entry.unit] = entry
        terminal.say(f"{entry.unit}: {entry.reason}{' (as before)' if before else ''}")


def run_study(folder: Path, settings: Settings = Settings(), tell: Callable[[str], None] = print) -> Summary:  # noqa: B008
    """Do every unit of a study that is not done yet; a failure is told on stderr, and the others go on.

    tell: hears one line for every unit done. Raises InputError for a manifest or model that is none, UsageError for an
    impossible engine or archive, ResourceError when another run works on the study or no worker is there.
    """
    check_engine(settings.engine)
    if settings.engine == SLURM and settings.workers is None:
        raise UsageError("engine slurm: say how many jobs SLURM shall run at a time (--workers)")
    manifest = load_manifest(folder)
    _check_archive(manifest, settings)
    models = _models(manifest.units)
    folder, source, summary = folder.resolve(), (folder / manifest.source).resolve(), Summary()
    with only_run(folder), _run_folder(folder, manifest) as run:
        waiting = []
        for unit, model in zip(manifest.units, models, strict=True):
            before = _standing(unit, folder, source, model, settings)
            if before is not None:
                summary.add(before, before=True)
                continue
            seconds = settings.timeout or max(_LEAST_SECONDS, _LATE * unit.estimate.seconds)
            limits = Limits(seconds, settings.memory_mb or 0)
            job = Job(unit, folder, source, run, model, limits, device=settings.device, program=settings.program)
            waiting.append(replace(job, archive=settings.archive, calling=settings.calling))
        if waiting:
            count = itertools.count(1)
            with terminal.progress("study") as advance, closing(_sent_out(waiting, settings)) as entries:
                for entry in entries:
                    summary.add(entry, before=entry.run != run)
                    if entry.state == "done":
                        tell(f"{entry.unit}: done; {entry.seconds:.0f} s, {entry.memory_mb} MiB")
                    advance(next(count), len(waiting))
    return summary


def _check_archive(manifest: Manifest, settings: Settings) -> None:
    """Raise UsageError for what is no archive. A manifest that somebody else made must not choose whom we talk to."""
    if settings.archive is None:
        return
    if all(unit.input.archived is None for unit in manifest.units):
        raise UsageError("--archive is about studies that were planned from one; leave it out")
    from medseq.archive import connect

    connect(settings.archive, calling=settings.calling)


def _models(units: Sequence[Unit]) -> list[str]:
    """SHA-256 of the weights that each unit may use, whatever its series turns out to be. InputError without them."""
    names = [_weights(unit) for unit in units]
    hashes = {name: sha256(weights_path(name)) for name in {name for each in names for name in each}}
    return [" ".join(hashes[name] for name in each) for each in names]


def _weights(unit: Unit) -> list[str | None]:
    task = unit.task
    by_bold = isinstance(task, Denoise) and task.goal == "fluctuations" and task.prior is None
    return [None, BOLD] if by_bold else [task.prior]


def _standing(unit: Unit, folder: Path, source: Path, model: str, settings: Settings) -> Entry | None:
    """The last word on a unit where it still holds, found without reading its inputs; None when it is to be done."""
    entry = read_entry(entry_path(folder, unit.name))
    if entry is None or entry.content is None:
        return None
    if not _looks_as(entry.content, unit, source):
        return None
    key = key_of(unit, entry.content, model)
    if entry.state == "done":
        return sealed(folder / unit.output, key)
    if settings.again or entry.state == "running" or entry.may_pass or entry.key != key:
        return None
    return None if _has_more(entry, settings) else entry


def _looks_as(content: Content, unit: Unit, source: Path) -> bool:
    """Whether the inputs of a unit are what they were. Those from an archive may be removed once they have served."""
    if unit.input.archived is not None and not (source / unit.input.path).exists():
        return True
    try:
        return looks_of(unit, source) == content.looks
    except InputError:  # its attempt will say so
        return False


def _has_more(entry: Entry, settings: Settings) -> bool:
    """Whether a unit that outran a limit is given more than it had."""
    if entry.exit_code is not None or entry.limits is None:
        return False
    return any((now or 0) > had for now, had in zip((settings.timeout, settings.memory_mb), entry.limits, strict=True))


@contextmanager
def _run_folder(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Remove what earlier runs left, and keep the folder that says that this one goes on; yields its name.

    Without that folder, units that still run somewhere stop within a moment.
    """
    _check_links(folder, manifest)
    shutil.rmtree(folder / ".work", ignore_errors=True)
    for entry in (folder / "ledger").glob(".*.json"):  # of a killed `atomic_write`
        entry.unlink(missing_ok=True)
    for unit in manifest.units:
        output = folder / unit.output
        for staging in output.parent.glob(f".{output.name}-*"):
            shutil.rmtree(staging, ignore_errors=True)
    run = secrets.token_hex(6)
    try:
        lease_of(folder, run).mkdir(parents=True)
    except OSError as error:
        raise ResourceError(f"{folder}: cannot be written ({error.strerror}); check its rights and space") from error
    try:
        yield run
    finally:
        shutil.rmtree(folder / ".work", ignore_errors=True)


def _check_links(folder: Path, manifest: Manifest) -> None:
    """Raise InputError when a link leads out of the study: whoever made the study chose it, not who runs it."""
    own = (folder / ".work", folder / "ledger", folder / FETCHED)
    for path in {*own, *((folder / unit.output).parent for unit in manifest.units)}:
        if path.resolve() != path:
            raise InputError(f"{path}: leads elsewhere by a link; put the whole study where its results shall be")


def _sent_out(jobs: Sequence[Job], settings: Settings) -> Generator[Entry]:
    """Send jobs to the engine, the longest first, and yield the last word on each as it comes."""
    jobs = sorted(jobs, key=lambda job: -job.unit.estimate.seconds)
    asked = {"threads": settings.threads, "memory_mb": settings.memory_mb}
    largest = max(job.unit.estimate.memory_mb for job in jobs)
    if settings.engine == LOCAL:
        shared = share(len(jobs), largest, workers=settings.workers, **asked)
        with connected(settings.engine, shared.workers) as client:
            yield from _entries(client, jobs, shared)
    elif settings.engine == SLURM:
        from medseq.study.slurm import slurm_jobs  # of an extra

        shared = job_share(len(jobs), largest, workers=settings.workers or 1, **asked)
        with slurm_jobs(shared, jobs[0].lease.parent, max(job.limits.seconds for job in jobs)) as started:
            yield from _entries(started.client, jobs, shared, started.look)
    else:
        with connected(settings.engine) as client:
            yield from _entries(client, jobs, cluster_share(client, **asked))


def _entries(
    client: Client, jobs: Sequence[Job], shared: Share, look: Callable[[float], None] | None = None
) -> Iterator[Entry]:
    """Every job until it is done or has failed for good.

    look: called again and again, with the seconds that a unit may be expected to take at most.
    """
    longest: float = max(job.unit.estimate.seconds for job in jobs)
    queue, sent = as_completed(), dict[str, Job]()
    lost = dict.fromkeys((job.unit.name for job in jobs), 0)

    def send(job: Job) -> None:
        # One group, by the head of the key: Dask then keeps units back until a worker is free, and shares out no rest.
        key = ("unit", f"{job.unit.name}-{secrets.token_hex(4)}")
        future = client.submit(_on_worker, job, shared, key=key)
        sent[str(future.key)] = job
        queue.add(future)

    try:
        for job in jobs:
            send(job)
        while not queue.is_empty():
            if look is not None:
                look(longest)
                if not queue.has_ready():
                    time.sleep(_PAUSE)
                    continue
            future = next(queue)
            job = sent.pop(str(future.key))
            entry = _outcome(future, job)
            if entry is None:
                lost[job.unit.name] += 1
                entry = _lost(future, job, lost[job.unit.name])
            del future  # with it, its worker forgets the result, which else would keep it from being let go
            longest = max(longest, entry.seconds or 0)
            if entry.state == "failed" and entry.may_pass and entry.attempts < MOST_ATTEMPTS:
                send(job)  # at the end of the queue, when the machine may be in a better state
            else:
                yield entry
    finally:  # interrupted: units must stop before the engine can
        shutil.rmtree(jobs[0].lease, ignore_errors=True)


def _on_worker(job: Job, shared: Share) -> Entry:
    """`perform`, with the share of the machine that is this worker's."""
    limits = replace(job.limits, memory_mb=shared.memory_mb)
    return perform(replace(job, limits=limits, threads=shared.threads, gpu=shared.gpu_of(get_worker().name)))


def _outcome(future: Future, job: Job) -> Entry | None:
    """What `perform` returned; None when it could not, as its worker was lost or cannot serve us."""
    if future.status == "finished":
        return future.result()
    if future.status == "error":
        return None
    raise ResourceError(f"the Dask scheduler is gone, with {job.unit.name} unfinished; run again to go on")


def _lost(future: Future, job: Job, times: int) -> Entry:
    """The entry of an attempt that ended without a word. times: how often that has happened."""
    fault = future.exception()
    reason = "its worker was killed" if isinstance(fault, KilledWorker) else terminal.explained(fault)
    before = read_entry(entry_path(job.study, job.unit.name))
    entry = Entry(
        unit=job.unit.name,
        state="failed",
        key="",
        run=job.run,
        attempts=max(times, before.attempts if before is not None and before.run == job.run else 0),
        reason=reason,
        exit_code=ResourceError.exit_code,
        may_pass=True,
    )
    with suppress(ResourceError):  # where the ledger cannot be written, the caller still hears of it
        write_entry(job.study, entry)
    return entry
