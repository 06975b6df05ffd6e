"""What the tests of studies work on: a program in the place of medseq that does at once what its input tells it to."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from medseq.study.manifest import Denoise, Estimate, Input, Manifest, Unit, save_manifest
from medseq.study.run import Settings

PROGRAM = """
import os, signal, sys, time
source = sys.argv[3]
output = next(word.removeprefix("--output=") for word in sys.argv if word.startswith("--output="))
root = os.path.dirname(source)
with open(os.path.join(root, "calls"), "a") as calls:
    calls.write(os.path.basename(source) + "\\n")
times = open(os.path.join(root, "calls")).read().split().count(os.path.basename(source))
what, _, value = open(source).read().strip().partition(" ")

def wait_for(name):
    while not os.path.exists(os.path.join(root, name)):
        time.sleep(0.02)

def fail(code, reason):
    print("medseq: error: %s: %s" % (source, reason), file=sys.stderr)
    sys.exit(code)

if what == "bad":
    fail(4, "holds nothing that can be used")
if what == "usage":
    fail(2, "impossible")
if what == "full" and times <= int(value):
    fail(5, "out of memory or disk")
if what == "killed" and times <= int(value):
    os.kill(os.getpid(), signal.SIGKILL)
if what == "hang":
    open(os.path.join(root, "pid"), "w").write("%d %d" % (os.getpid(), os.getppid()))
    os.rename(os.path.join(root, "pid"), os.path.join(root, "hangs"))
    wait_for("go")
if what == "slow":
    time.sleep(float(value))
if what == "eat":
    held = [bytearray(b"x" * (1 << 20)) for _ in range(int(value))]
    wait_for("go")
for number in range(20):
    with open(output, "a") as stream:
        stream.write("%d %s\\n" % (number, what))
ending = ".nii.gz"
with open(output[: -len(ending)] + ".run.json", "w") as stream:
    stream.write('{"result": {"noise": 1.5, "deep": {"er": 2}}, "seconds": {"total": 0.1}}')
"""


class Shelf:
    """A source of files that say what shall happen, and a study of them."""

    def __init__(self, folder: Path, inputs: Mapping[str, str]) -> None:
        self.source, self.study = folder / "source", folder / "study"
        self.source.mkdir()
        self.study.mkdir()
        for name, text in inputs.items():
            (self.source / f"{name}.nii.gz").write_text(text)
        self.program = folder / "program.py"
        self.program.write_text(PROGRAM)
        self.units = {name: unit(name) for name in inputs}
        self.save()

    def save(self, **changes: object) -> None:
        units = tuple(each.model_copy(update=changes) for each in self.units.values())
        save_manifest(Manifest(source=str(self.source), units=units), self.study)

    def settings(self, **options: object) -> Settings:
        program = (sys.executable, "-S", str(self.program))
        return Settings(**{"workers": 2, "memory_mb": 2000, "timeout": 300, "program": program, **options})

    @property
    def calls(self) -> list[str]:
        file = self.source / "calls"
        return sorted(name.removesuffix(".nii.gz") for name in file.read_text().split()) if file.exists() else []

    def result(self, name: str) -> Path:
        return self.study / "results" / name / f"{name}.nii.gz"

    def whole(self, name: str) -> bool:
        """Whether the result of a unit is there with all its lines; never part of it."""
        folder = self.study / "results" / name
        if not folder.exists():
            return False
        assert {path.name for path in folder.iterdir()} == {f"{name}.nii.gz", f"{name}.run.json", "unit.json"}
        assert len(self.result(name).read_text().splitlines()) == 20
        return True

    def left(self) -> list[str]:
        """Temporary files that nobody removed."""
        return sorted(path.name for path in self.study.rglob(".*") if path.name != ".lock" and path.suffix != ".lock")


def unit(name: str, **changes: object) -> Unit:
    given = {"name": name, "input": Input(path=f"{name}.nii.gz"), "task": Denoise(), "output": f"results/{name}"}
    return Unit(**{**given, "estimate": Estimate(seconds=1), **changes})
