"""One unit, wherever it runs: hash, look whether it is done, run its command, and put result and record in place."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from medseq import __version__
from medseq.errors import InputError, MedseqError, ResourceError, UsageError
from medseq.io.bids_names import LONG_NAMES, name_of
from medseq.study.child import Ended, Limits, run_limited
from medseq.study.ledger import (
    MOST_ATTEMPTS,
    SEAL,
    Content,
    Entry,
    content_of,
    entry_path,
    key_of,
    now,
    only_worker,
    read_entry,
    save_entry,
    sealed,
    sizes,
    write_entry,
)
from medseq.study.manifest import Archived, Unit

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_PAUSE = 0.5  # seconds between two looks at what another process holds
# Their input is at fault, or the request: the same again would fail the same.
_FINAL = (UsageError.exit_code, InputError.exit_code)


@dataclass(frozen=True)
class Job:
    """A unit and all that a worker must know. study, source: absolute paths, the same on every machine.

    run: name of the run. version: of medseq. model: SHA-256 of the weights. program: the medseq to start, such as
    (python, "-m"). threads: of one unit. device: as of the command line. gpu: the only one it sees; None: all.
    archive, calling: the address to fetch from, and our own title there.
    """

    unit: Unit
    study: Path
    source: Path
    run: str
    model: str
    limits: Limits
    threads: int = 1
    device: str = "auto"
    gpu: str | None = None
    version: str = __version__
    program: tuple[str, ...] = ()
    archive: str | None = None
    calling: str = "MEDSEQ"

    @property
    def input(self) -> Path:
        return self.source / self.unit.input.path

    @property
    def output(self) -> Path:
        return self.study / self.unit.output

    @property
    def staging(self) -> Path:
        """Where the command writes: beside the output, so that one rename puts it in place, links in it included."""
        return self.output.with_name(f".{self.output.name}-{self.run}")

    @property
    def lease(self) -> Path:
        """The run goes on while this folder is there."""
        return lease_of(self.study, self.run)

    @property
    def scratch(self) -> Path:
        return self.lease / self.unit.name


def lease_of(study: Path, run: str) -> Path:
    return study / ".work" / run


def perform(job: Job) -> Entry:
    """Do one unit, all of it or nothing, and return the last word on it, which stands in the ledger too.

    Never raises for what a unit does. Raises ResourceError when this machine cannot serve the run: it does not see the
    study, has another medseq, or cannot write the ledger.
    """
    if job.version != __version__:
        raise ResourceError(f"a worker has medseq {__version__}, and the run {job.version}; install the same")
    if not job.lease.is_dir():
        raise ResourceError(f"{job.study}: not seen on a worker, or stopped; put it where every machine sees it")
    with _alone(job, job.unit.name):
        return _perform(job)


@contextmanager
def _alone(job: Job, what: str) -> Iterator[None]:
    """Wait until nobody else holds it. Raises ResourceError when the run is stopped before."""
    while True:
        with only_worker(job.study, what) as mine:
            if mine:
                yield
                return
        if not job.lease.is_dir():
            raise ResourceError(f"{job.study}: the run was stopped")
        time.sleep(_PAUSE)


def _perform(job: Job) -> Entry:
    before = read_entry(entry_path(job.study, job.unit.name))
    attempts = before.attempts + 1 if before is not None and before.run == job.run else 1
    entry = Entry(unit=job.unit.name, state="running", key="", run=job.run, attempts=attempts, started=now())
    start = time.monotonic()
    try:
        stopped = None
        if (archived := job.unit.input.archived) is not None:
            with _alone(job, f"@{archived.folder}"):  # no unit has this name, but two may want the series
                stopped = _fetch(job, archived, entry)
        entry = stopped or _restored(job, entry, before.content if before is not None else None)
    except MedseqError as error:
        entry = entry.model_copy(update={"seconds": round(time.monotonic() - start, 1)})
        may_pass = error.exit_code not in _FINAL
        entry = _failed(entry, _anonymous(str(error), job), exit_code=error.exit_code, may_pass=may_pass)
    write_entry(job.study, entry)
    return entry


def _fetch(job: Job, archived: Archived, entry: Entry) -> Entry | None:
    """Get the input of a unit from its archive, unless it is there; returns what stopped that, None when all has come.

    It comes into a hidden folder, so that a part is never taken for the whole, and the next attempt goes on there.
    """
    if job.input.exists():
        return None
    if job.archive is None:
        raise UsageError(f"{job.unit.name}: its series is in an archive; name that with --archive")
    write_entry(job.study, entry)
    part = job.input.with_name(f".{job.input.name}")
    program = [*(job.program or (sys.executable, "-m")), "medseq", "archive", "fetch", job.archive, archived.study]
    with _scratch(job):
        for left in part.glob(".medseq-*"):  # of a fetch that was killed
            _remove(left)
        ended = _limited(job, [*program, f"--series={archived.series}", f"--output={part}", f"--calling={job.calling}"])
        if ended.stopped is None and ended.exit_code == 0:
            os.rename(part, job.input)
            return None
        return _explained(job, entry.model_copy(update=_taken(ended)), ended)


def _restored(job: Job, entry: Entry, before: Content | None) -> Entry:
    content = content_of(job.unit, job.source, before)
    if job.unit.input.sha256 not in (None, content.sha256):
        raise InputError(f"{job.input}: is not what was planned (SHA-256); plan anew")
    key = key_of(job.unit, content, job.model)
    if (done := sealed(job.output, key)) is not None:
        return done.model_copy(update={"content": content})
    if entry.attempts > MOST_ATTEMPTS:
        return _failed(entry, f"its worker was lost {MOST_ATTEMPTS} times", may_pass=True)
    limits = (job.limits.seconds, job.limits.memory_mb)
    entry = entry.model_copy(update={"key": key, "content": content, "limits": limits})
    write_entry(job.study, entry)
    return _attempt(job, entry)


def _attempt(job: Job, entry: Entry) -> Entry:
    with _scratch(job):
        try:
            _remove(job.staging)
            job.staging.mkdir(parents=True)
            ended = _limited(job, _command(job))
            entry = entry.model_copy(update=_taken(ended))
            if ended.stopped is None and ended.exit_code == 0:
                return _settled(job, entry)
            return _explained(job, entry, ended)
        finally:
            _remove(job.staging)


@contextmanager
def _scratch(job: Job) -> Iterator[None]:
    """An empty folder for a command to work in. Raises ResourceError for every OSError of the block."""
    try:
        _check_disk(job)
        _remove(job.scratch)
        (job.scratch / "tmp").mkdir(parents=True)
        yield
    except OSError as error:
        raise ResourceError(f"{job.study}: cannot be written ({error.strerror}); check its rights and space") from error
    finally:
        _remove(job.scratch)


def _limited(job: Job, program: Sequence[str]) -> Ended:
    return run_limited(program, job.limits, folder=job.scratch, lease=job.lease, environment=_environment(job))


def _taken(ended: Ended) -> dict[str, float]:
    return {"seconds": round(ended.seconds, 1), "memory_mb": ended.memory_mb}


def _settled(job: Job, entry: Entry) -> Entry:
    """Put the results in place, with the record in them: one rename."""
    outputs = sizes(job.staging)
    if not outputs:
        return _failed(entry, "the command wrote nothing", exit_code=1)
    entry = entry.model_copy(update={"state": "done", "outputs": outputs, "exit_code": 0})
    save_entry(entry, job.staging / SEAL)
    if job.output.exists():  # of other options or inputs
        os.rename(job.output, job.scratch / "old")
    os.rename(job.staging, job.output)
    return entry


def _explained(job: Job, entry: Entry, ended: Ended) -> Entry:
    limits = job.limits
    if ended.stopped == "memory":
        return _failed(entry, f"took more than its {limits.memory_mb} MiB of memory; give it more (--memory)")
    if ended.stopped == "time":
        return _failed(entry, f"took more than its {limits.seconds} s; give it more (--timeout)")
    if ended.stopped == "withdrawn":  # the ledger goes on to say "running", which nobody is
        return entry.model_copy(update={"reason": "the run was stopped"})
    words = _anonymous(ended.words.removeprefix("medseq: ").removeprefix("error: "), job)
    if ended.exit_code < 0:
        told = f"killed by signal {-ended.exit_code}, as by a person or a machine without memory"
        return _failed(entry, told, exit_code=ended.exit_code, may_pass=True)
    reason = words or f"exit code {ended.exit_code}"
    return _failed(entry, reason, exit_code=ended.exit_code, may_pass=ended.exit_code == ResourceError.exit_code)


def _failed(entry: Entry, reason: str, *, exit_code: int | None = None, may_pass: bool = False) -> Entry:
    told = {"state": "failed", "reason": reason, "exit_code": exit_code, "may_pass": may_pass}
    return entry.model_copy(update=told)


def _anonymous(text: str, job: Job) -> str:
    """One line without folders: these often hold a user's name, or a patient's."""
    text = " ".join(text.split())
    for path, name in (
        (job.input, job.unit.name),
        (job.staging, job.unit.name),
        (job.scratch, job.unit.name),
        (job.source, "source"),
        (job.study, "study"),
        (Path.home(), "~"),
    ):
        text = text.replace(str(path), name)
    return text.removeprefix(f"{job.unit.name}: ")[:500]


def _check_disk(job: Job) -> None:
    free = shutil.disk_usage(job.study).free >> 20
    if free < job.unit.estimate.disk_mb:
        raise ResourceError(
            f"{job.study}: has {free} MiB of disk left, and a unit needs about {job.unit.estimate.disk_mb}; free some"
        )


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _environment(job: Job) -> dict[str, str]:
    """Of the child: its share of the cores, a GPU of its own, and its temporary files where they are cleaned up."""
    told = dict.fromkeys(_THREADS, str(job.threads)) | {"TMPDIR": str(job.scratch / "tmp")}
    if job.gpu is not None:
        told["CUDA_VISIBLE_DEVICES"] = job.gpu
    return {**os.environ, **told}


def _command(job: Job) -> list[str]:
    """What a person would type for this unit alone."""
    unit, source = job.unit, job.input
    program = job.program or (sys.executable, "-m")
    options = [*unit.task.arguments(), f"--device={job.device}"]
    if unit.format == "bids":
        return [*program, "medseq.bids_app", *_bids_words(job), *options]
    if unit.input.series is not None:
        options.append(f"--series={unit.input.series}")
    target = job.staging / ("dicom" if unit.format == "dicom" else f"{unit.name}.nii.gz")
    return [*program, "medseq", unit.task.command, str(source), f"--output={target}", *options]


def _bids_words(job: Job) -> list[str]:
    """Of the BIDS-App, which restores one run here: every entity that names have is pinned, absent ones too."""
    name = name_of(Path(job.unit.input.path))
    pinned = {long: name.entities.get(short) for long, short in LONG_NAMES.items()}
    chosen = job.scratch / "filter.json"
    chosen.write_text(
        json.dumps({other: {"suffix": "none"} for other in ("bold", "cine", "kspace")} | {name.suffix: pinned})
    )
    mode = [] if job.unit.task.command == "reconstruct" else [f"--mode={job.unit.task.command}"]
    words = [str(job.source), str(job.staging), "participant", f"--bids-filter-file={chosen}", "--skip-bids-validation"]
    return [*words, *mode]
