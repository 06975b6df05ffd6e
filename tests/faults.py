"""Writers of medseq under whatever may befall them, and what is then seen of their outputs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

PRIOR = "--prior {shelf}/tiny.safetensors"
# By name, those that take long at the end; {v} is 2 or 3 and changes what is written. They write into out/.
BY_COMMAND = {
    "convert to NIfTI": "medseq convert {shelf}/cine{v}.nii.gz -o out/x.nii.gz",
    "convert to BART": "medseq convert {shelf}/raw{v}.h5 -o out/x.cfl",
    "convert to DICOM": "medseq convert {shelf}/study.nii.gz --like {shelf}/study -o out/x",
    "simulate": "medseq simulate cine -o out/x.h5 --truth out/t.nii.gz --frames 4 --size 32 32 --acceleration 2"
    " --seed {v}",
    "reconstruct": f"medseq reconstruct {{shelf}}/raw.h5 -o out/x.nii.gz --steps {{v}} {PRIOR}",
    "multiframe": f"medseq denoise {{shelf}}/study -o out/x --sigma {{v}} --multiframe {PRIOR}",
    "train": "medseq train {shelf}/train{v}.yaml -o out --restart",
    "study collect": "medseq study collect out",
    "convert to CMRxRecon": "medseq convert {shelf}/raw{v}.h5 -o out/x.mat",
    "convert to fastMRI": "medseq convert {shelf}/still{v}.h5 -o out/x.fastmri.h5",
    "generate": f"medseq generate -o out/x.nii.gz --frames 4 --size 16 16 --steps 3 --count 2 --seed {{v}} {PRIOR}",
    "interpolate": f"medseq interpolate {{shelf}}/cine.nii.gz -o out/x.nii --factor {{v}} {PRIOR}",
    "study plan": "medseq study plan {shelf}/scans -o out --seed {v} --restart",
    "dicom": f"medseq denoise {{shelf}}/study -o out/x --samples 2 --steps 2 --sigma {{v}} {PRIOR}",
    "denoise": f"medseq denoise {{shelf}}/cine.nii.gz -o out/x.nii.gz --samples 2 --steps 2 --sigma {{v}} {PRIOR}"
    " --report",
    "bids": f"medseq-bids {{shelf}}/dataset out participant --skip-bids-validation --sigma {{v}} {PRIOR}",
    "evaluate": "medseq evaluate --reference {shelf}/cine.nii.gz {shelf}/cine{v}.nii.gz -o out --name a",
}
COMMANDS = tuple(BY_COMMAND)
WRITERS = ("outbox", "fetch", "ledger", "trust", *COMMANDS)
# A new folder each: nothing is replaced. The others replace what is there.
NEW_FOLDER = {"dicom", "multiframe", "convert to DICOM"}
# Not one set of files: checkpoints and runs of a dataset are there one after the other.
IN_STEPS = {"train", "bids", "outbox", "fetch"}
OLD, NEW = 2, 3
_TEMPORARY = re.compile(r"(^|/)\.(medseq-|[0-9a-f]{12}-|lock$)")
Tree = dict[str, bytes]


@dataclass(frozen=True)
class Job:
    """One output to write in `folder`, and what befalls the process that does.

    writer: its name, or a command line like those above. at: the number of the file operation at which it gets the
    signal; after: seconds until then. count: its operations. most_bytes: of a file. no_rights: even root minds modes.
    warm: nothing befalls it, and it is the host itself.
    """

    writer: str
    folder: str
    variant: int = NEW
    at: int | None = None
    after: float | None = None
    signal: int = 9
    count: bool = False
    most_bytes: int | None = None
    no_rights: bool = False
    warm: bool = False


@dataclass(frozen=True)
class Ended:
    """code: negative for a signal. operations: on files, where they were counted. said: on stderr."""

    code: int
    operations: int
    seconds: float
    said: str


@dataclass(frozen=True)
class Undisturbed:
    """What a writer makes when nothing befalls it. before: what is there when it begins."""

    before: Tree
    after: Tree
    operations: int
    seconds: float


class Faults:
    """The host, and what its writers make undisturbed."""

    def __init__(self, folder: Path) -> None:
        self.shelf, self._folder = folder / "shelf", folder
        self.shelf.mkdir()
        self._known: dict[tuple[str, bool], Undisturbed] = {}
        host = Path(__file__).with_name("fault_host.py")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen([sys.executable, str(host), str(self.shelf)], text=True, **pipes)
        assert self.process.stdout.readline() == "ready\n"

    def run(self, job: Job) -> Ended:
        if not job.warm and job.writer in WRITERS:
            self._older(job.writer)
        self.process.stdin.write(json.dumps(asdict(job)) + "\n")
        self.process.stdin.flush()
        return Ended(**json.loads(self.process.stdout.readline()))

    def place(self, writer: str, older: bool, folder: Path | None = None) -> Path:
        """A folder for the writer to write in: empty, or with an earlier output of its own."""
        folder = folder or self._folder / "work"
        for path in folder.iterdir() if folder.exists() else ():
            shutil.rmtree(path)
        folder.mkdir(exist_ok=True)
        if writer == "study collect":
            shutil.copytree(self.shelf / "night", folder / "out")
        elif older:
            shutil.copytree(self._older(writer), folder, symlinks=True, dirs_exist_ok=True)
        return folder

    def _older(self, writer: str) -> Path:
        """An output of the other variant. The host makes it itself: what it imports then, its children have."""
        store = self._folder / "older" / writer
        if not store.exists():
            store.mkdir(parents=True)
            if writer == "study collect":
                self.place(writer, False, store)
            self.run(Job(writer, str(store), OLD, warm=True))
        return store

    def undisturbed(self, writer: str, older: bool) -> Undisturbed:
        if (writer, older) not in self._known:
            folder = self.place(writer, older)
            before = tree(folder)
            done = self.run(Job(writer, str(folder), count=True))
            assert done.code == 0 and tree(folder), done.said
            assert left_over(folder) == []
            self._known[writer, older] = Undisturbed(before, tree(folder), done.operations, done.seconds)
        return self._known[writer, older]

    def close(self) -> None:
        self.process.communicate(timeout=60)


def tree(folder: Path) -> Tree:
    """Every visible file below a folder, by relative path."""
    return {name: path.read_bytes() for name, path in _files(folder) if not _TEMPORARY.search(name)}


def left_over(folder: Path) -> list[str]:
    """Temporary files and folders that nobody removed, and empty folders."""
    temporary = [name for name, _ in _files(folder) if _TEMPORARY.search(name) and not name.endswith("/.lock")]
    empty = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_dir() and not any(path.iterdir())]
    return sorted([*temporary, *empty])


def _files(folder: Path) -> list[tuple[str, Path]]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path.relative_to(folder).as_posix(), path) for path in found]


def faulty(found: Tree, known: Undisturbed) -> list[str]:
    """What is visible and neither as it was before nor as it is to be."""
    return [name for name, data in found.items() if data not in (known.before.get(name), known.after.get(name))] + [
        f"{name} is gone" for name in known.before if name in known.after and name not in found
    ]
