"""Every command's answer to bad input, in one warm process: an error of one line, the right exit code, nothing left.

A plain run takes a share of the cases, each with one of its commands; `--soak` takes all cases and all commands.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bad_case import Case
from bad_dicom import series
from bad_inputs import all_cases, looks
from bids_dataset import bold, empty_dataset, put_bold
from cli_shelf import fill_shelf

from medseq import bids_app, cli
from medseq.io import save_clip
from medseq.terminal import SOME_FAILED, printable

# Of the promise; the seconds are those of the processor, as those of the clock depend on who else uses it.
MOST_SECONDS, MOST_MIB = 10, 2048
SHARE = 8
KINDS = sorted({case.kind for case in all_cases()})


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """Good inputs of every kind, for commands that take another one beside the bad."""
    folder = tmp_path_factory.mktemp("good")
    fill_shelf(folder)
    series(folder / "exam")
    assert cli.main(["convert", str(folder / "exam"), "-o", str(folder / "like.nii.gz")]) == 0
    save_clip(bold(), folder / "rest.nii.gz")
    put_bold(empty_dataset(folder / "dataset"))
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch) -> Iterator[Path]:
    """An empty folder to work in, and another that temporary files go to."""
    (tmp_path / "temporary").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path / "work")
    yield tmp_path / "work"
    assert not list((tmp_path / "temporary").iterdir())


def cpu_seconds() -> float:
    told = os.times()
    return told.user + told.system + told.children_user + told.children_system


def memory_mib(name: str) -> float:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) / 1024


def complaints(case: Case, template: str, good: Path, place: Path, capfd) -> tuple[list[str], float, float]:
    """What is wrong with the answer to a case, and its CPU seconds and MiB."""
    before = looks(place)
    words = [word.format(bad=case.name, shelf=good) for word in template.split()]
    program = bids_app.main if words[0] == "medseq-bids" else cli.main
    capfd.readouterr()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    base, start = memory_mib("VmRSS"), cpu_seconds()
    code = program(words[1:] if words[0] == "medseq-bids" else words)
    seconds, grown = cpu_seconds() - start, memory_mib("VmHWM") - base
    output, error = capfd.readouterr()
    lines = [line for line in error.splitlines() if not line.startswith("medseq: warning: ")]
    found = [f"exit code {code}"] if code != case.code else []
    # `info` tells on stdout what it finds in a folder, the bad among the good.
    listing = words[0] == "info" and Path(case.name).is_dir()
    if not listing:
        found += _faults_of_lines(case, lines)
        if output and case.code != SOME_FAILED and "failed" not in output:
            found.append(f"tells on stdout: {output}")
    if "Traceback" in output + error or "\x1b" in output + error:
        found.append("a traceback, or an escape")
    if case.code != SOME_FAILED and looks(place) != before:
        found.append(f"leaves {sorted(looks(place).keys() ^ before.keys())}")
    found += [f"takes {seconds:.1f} s"] if seconds > MOST_SECONDS else []
    found += [f"takes {grown:.0f} MiB"] if grown > MOST_MIB else []
    return [f"{case.title} | {template} | {each} | {error!r}" for each in found], seconds, grown


def _faults_of_lines(case: Case, lines: list[str]) -> Iterator[str]:
    if len(lines) != 1 or not lines[0].startswith("medseq: "):
        yield f"{len(lines)} lines"
        return
    if case.says not in lines[0]:
        yield f"does not say {case.says!r}"
    # Of BART and of priors the file beside it may be at fault, of another ending.
    if case.code == 4 and printable(case.name).split(".")[0] not in lines[0]:
        yield "does not name it"
    if case.code == 4 and ";" not in lines[0]:
        yield "offers no remedy"


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_bad_input_is_refused(kind: str, good: Path, place: Path, times: Callable[[int, int], int], capfd) -> None:
    every = times(SHARE, 1)
    chosen = [(number, case) for number, case in enumerate(all_cases()) if case.kind == kind][::every]
    bad, worst, runs, began = [], [(0.0, 0.0, "")], 0, time.monotonic()
    for number, case in chosen:
        one = case.commands[number // every % len(case.commands)]
        for template in case.commands if every == 1 else (one,):
            case.make(Path(case.name))
            found, seconds, grown = complaints(case, template, good, place, capfd)
            bad, runs = bad + found, runs + 1
            worst.append((seconds, grown, case.title))
            for path in place.iterdir():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    slowest, largest = max(worst), max(worst, key=lambda each: each[1])
    with capfd.disabled():
        print(
            f"\n{kind}: {len(chosen)} inputs, {runs} commands, {time.monotonic() - began:.0f} s; at most "
            f"{slowest[0]:.1f} CPU s ({slowest[2]}) and {largest[1]:.0f} MiB more ({largest[2]})"
        )
    assert not bad, "\n".join(bad)


def test_there_are_400_different_ones(tmp_path: Path, times: Callable[[int, int], int]) -> None:
    """By kind, name and content of what is made; a share of the slow kinds is enough for 400."""
    cases = [case for case in all_cases() if times(0, 1) or case.kind not in ("DICOM", "BIDS", "priors", "CMRxRecon")]
    assert len({case.title for case in cases}) == len(cases)
    made = set()
    for number, case in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        case.make(folder / case.name)
        made.add((case.kind, case.code, str(sorted(looks(folder).items(), key=str))))
        shutil.rmtree(folder)
    assert len(made) >= 400, f"{len(made)} of {len(cases)}"


@pytest.mark.parametrize(
    "command",
    [
        "info {shelf}/cine.nii.gz",
        "convert {shelf}/exam -o out/out.nii.gz",
        "convert {shelf}/like.nii.gz --like {shelf}/exam -o out/new",
        "denoise {shelf}/exam -o out/new --prior {shelf}/tiny.safetensors",
        "reconstruct {shelf}/raw.h5 -o out/out.nii.gz --prior {shelf}/tiny.safetensors",
        "interpolate {shelf}/cine.nii.gz --times {shelf}/times.txt -o out/o.nii --prior {shelf}/tiny.safetensors",
    ],
)
def test_what_the_faults_were_put_into_is_good(command: str, good: Path, place: Path) -> None:
    assert cli.main([word.format(shelf=good) for word in command.split()]) == 0
