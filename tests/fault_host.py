"""A warm process that forks to write one output, so that a test can do harm to hundreds for the price of one start.

python fault_host.py SHELF

Reads a line of JSON for each (`Job` in faults.py), and answers with one (`Ended`) when the child has ended.
"""

from __future__ import annotations

import ctypes
import gzip
import io
import json
import os
import posix
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import torch
from bids_dataset import CINE, empty_dataset, put, put_bold
from cli_shelf import fill_shelf, undersampled
from faults import BY_COMMAND, Ended, Job

import medseq.provenance
from medseq import bids_app, cli
from medseq.archive.outbox import put as put_into_outbox
from medseq.archive.peer import SeriesUid
from medseq.archive.transfer import fetch
from medseq.clip import Clip
from medseq.io import load_clip, save_clip, save_kspace
from medseq.io.dicom.opening import open_header
from medseq.io.weights import save_trust
from medseq.prior import Trust
from medseq.study.ledger import Entry, write_entry

_OF_THE_SYSTEM = {"open", "close", "write", "fsync", "rename", "replace", "link", "mkdir", "unlink", "remove", "rmdir"}
_OF_STREAMS = {"write", "flush", "close", "__exit__"}
TRAINING = (
    "recipe: {{width: [8], blocks: 1, steps: 4, window: 16, frames: [1, 2], frames_per_batch: 4, seed: {},"
    " checkpoint_every: {}, spread_batches: 1}}"
)


class SameMoment(datetime):
    @classmethod
    def now(cls, tz: object = None) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)


def prepare(shelf: Path) -> None:
    """What the commands read, in two variants called 2 and 3."""
    fill_shelf(shelf)
    clip = load_clip(shelf / "cine.nii.gz")
    for variant in (2, 3):
        other = clip.with_data(clip.data + variant)
        save_clip(other, shelf / f"cine{variant}.nii.gz")
        save_kspace(undersampled(other), shelf / f"raw{variant}.h5")
        save_kspace(undersampled(Clip(other.data[:, :, :1], other.affine)), shelf / f"still{variant}.h5")
        (shelf / f"train{variant}.yaml").write_text(TRAINING.format(variant, 4))
        (shelf / f"checked{variant}.yaml").write_text(TRAINING.format(variant, 1))
    cli.main(["convert", str(shelf / "study"), "-o", str(shelf / "study.nii.gz")])
    dataset = empty_dataset(shelf / "dataset")
    put_bold(dataset)
    put(dataset, CINE, clip)
    (shelf / "scans").mkdir()
    shutil.copy(shelf / "cine.nii.gz", shelf / "scans")
    cli.main(["study", "plan", str(shelf / "scans"), "-o", str(shelf / "night")])


class Archive:
    """Holds the images of a folder."""

    address, calling = "dicom://KEEPER@localhost:1", "MEDSEQ"

    def __init__(self, folder: Path) -> None:
        self._files = {str(open_header(path).SOPInstanceUID): path for path in sorted(folder.iterdir())}

    def search(self, level: str, keys: Mapping[str, str]) -> list[dict[str, str]]:
        return [{"SOPInstanceUID": instance} for instance in self._files]

    def fetch(self, series: SeriesUid, instances: Sequence[str], folder: Path) -> Generator[Path, None, None]:
        for instance in instances:
            yield Path(shutil.copy(self._files[instance], folder / instance))

    def series(self) -> SeriesUid:
        header = open_header(next(iter(self._files.values())))
        return SeriesUid(str(header.StudyInstanceUID), str(header.SeriesInstanceUID))


def into_outbox(shelf: Path, variant: int) -> None:
    files = sorted((shelf / "study").iterdir())[:variant]
    put_into_outbox(files, Archive(shelf / "study"), Path("out"))


def from_archive(shelf: Path, variant: int) -> None:
    archive = Archive(shelf / "study")
    fetch(archive, archive.series(), Path("out"))


def into_ledger(shelf: Path, variant: int) -> None:
    Path("out").mkdir(exist_ok=True)
    write_entry(Path("out"), Entry(unit="a", state="done", key="k", run="r", attempts=variant))


def trusted(shelf: Path, variant: int) -> None:
    Path("out").mkdir(exist_ok=True)
    for name in ("tiny.safetensors", "tiny.json"):
        if not Path("out", name).exists():
            Path("out", name).symlink_to(shelf / name)
    save_trust(Trust(), Path("out", "tiny.safetensors"), {"variant": float(variant)})


def careless(shelf: Path, variant: int) -> None:
    """How not to do it: straight into the file that others read."""
    Path("out").mkdir(exist_ok=True)
    data = (shelf / f"cine{variant}.nii.gz").read_bytes()
    with gzip.GzipFile("out/x.nii.gz", "wb", mtime=0) as stream:
        for start in range(0, len(data), 1024):
            stream.write(data[start : start + 1024])
            time.sleep(0.0005)


BY_FUNCTION: dict[str, Callable[[Path, int], None]] = {
    "outbox": into_outbox,
    "fetch": from_archive,
    "ledger": into_ledger,
    "trust": trusted,
    "careless": careless,
}


def write(job: Job, shelf: Path) -> int:
    os.chdir(job.folder)
    if job.writer in BY_FUNCTION:
        BY_FUNCTION[job.writer](shelf, job.variant)
        return 0
    words = BY_COMMAND.get(job.writer, job.writer).format(shelf=shelf, v=job.variant).split()
    main = bids_app.main if words[0] == "medseq-bids" else cli.main
    return main(words[1:])


class Counter:
    """Sends this process a signal at its file operation of that number; None only counts."""

    def __init__(self, at: int | None, number: int) -> None:
        self.seen, self._at, self._number = 0, at, number

    def __call__(self, frame: object, event: str, called: object) -> None:
        if event != "c_call":
            return
        owner, name = getattr(called, "__self__", None), getattr(called, "__name__", "")
        if (
            (owner is posix and name in _OF_THE_SYSTEM)
            or (isinstance(owner, io.IOBase) and name in _OF_STREAMS)
            or called is io.open
        ):
            if self.seen == self._at:
                os.kill(os.getpid(), self._number)
            self.seen += 1


def drop_rights() -> None:
    """Give up the capabilities of root (capset(2)), which may write whatever the modes say."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    none = (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, none):
        raise OSError(ctypes.get_errno(), "capset")


def child(job: Job, shelf: Path, told: int) -> None:
    """Never returns. told: where to write how many operations there were."""
    counter = Counter(job.at, job.signal)
    if job.most_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job.most_bytes, job.most_bytes))
    if job.no_rights:
        drop_rights()
    if job.at is not None or job.count:
        sys.setprofile(counter)
    try:
        code = write(job, shelf)
    finally:
        sys.setprofile(None)
    os.write(told, str(counter.seen).encode())
    os._exit(code)


def do(job: Job, shelf: Path) -> Ended:
    counted, count = os.pipe()
    heard, said = os.pipe()
    start = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.dup2(said, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            child(job, shelf, count)
        except BaseException as error:
            print(f"escaped: {error!r}", file=sys.stderr, flush=True)
        os._exit(99)
    os.close(count)
    os.close(said)
    if job.after is not None:
        time.sleep(job.after)  # the moment is what is tried here
        os.kill(pid, job.signal)
    with os.fdopen(heard) as words, os.fdopen(counted) as number:
        text, operations = words.read(), number.read()
    status = os.waitpid(pid, 0)[1]
    return Ended(os.waitstatus_to_exitcode(status), int(operations or 0), time.monotonic() - start, text)


if __name__ == "__main__":
    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    shelf = Path(sys.argv[1])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    prepare(shelf)
    # What was made twice shall be the same to the last byte, so that a test can tell part of it from all of it.
    medseq.provenance.datetime = SameMoment
    medseq.provenance.RunRecord.elapsed = property(lambda _: 0.0)
    time.perf_counter = lambda: 0.0
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        job = Job(**json.loads(line))
        if job.warm:  # in this process, so that its children need not import what is imported late
            here = os.getcwd()
            code = write(job, shelf)
            os.chdir(here)
            ended = Ended(code, 0, 0.0, "")
        else:
            ended = do(job, shelf)
        print(json.dumps(asdict(ended)), file=answers, flush=True)
