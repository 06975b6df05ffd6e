"""Nothing leaves the machine unless `archive` or a cluster is asked for.

Every Python of a run, children included, notes and refuses what would (tests/offline). Where Linux lets us make a
network of our own, the run has none at all but loopback, so that libraries that do not ask Python are held, too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bids_dataset import BOLD, empty_dataset, put_bold

import medseq

ROOT = Path(medseq.__file__).parent.parent
OFFLINE = Path(__file__).parent / "offline"
ALONE = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]

RUN = """
import sys
from pathlib import Path
from medseq.cli import main
from medseq.bids_app import app
from medseq.command_line import run_app
from medseq.config import load_config
for line in sys.stdin.read().splitlines():
    words = line.split()
    if words[0] == "step":  # of training; its end measures the prior, which takes minutes
        next(load_config(words[1]).train(Path(words[2]), None, resume=False, device="cpu"))
        continue
    code = run_app(app, words[1:]) if words[0] == "medseq-bids" else main(words)
    assert code == 0, line
"""
COMMANDS = """\
info study
denoise study -o clean --prior tiny.safetensors
denoise cine.nii.gz -o clean.nii.gz --prior tiny.safetensors
interpolate cine.nii.gz -o smooth.nii.gz --prior tiny.safetensors
reconstruct raw.h5 -o image.nii.gz --prior tiny.safetensors --report
stream --replay raw.h5 -o played.nii.gz --prior tiny.safetensors
convert raw.h5 -o raw.cfl
generate -o made.nii.gz --prior tiny.safetensors --frames 2 --size 16 16 --steps 2
simulate cine -o made.h5 --frames 2 --size 64 64 --acceleration 2
evaluate clean.nii.gz --reference cine.nii.gz -o judged
step train.yaml trained
study plan scans -o night --prior tiny.safetensors
study run night --device cpu
study collect night
medseq-bids dataset derivatives participant --prior tiny.safetensors
"""
TRAIN = """
recipe: {width: [8], blocks: 1, steps: 1, window: 16, frames: [1, 2], frames_per_batch: 2}
"""


def can_be_alone() -> bool:
    try:
        return subprocess.run([*ALONE, "true"], capture_output=True, timeout=30).returncode == 0
    except OSError:
        return False


def offline(program: str, text: str, folder: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """How a program ends that has no network, and what it tried to reach."""
    log = folder / "network.log"
    path = os.pathsep.join([str(OFFLINE), str(ROOT), os.environ.get("PYTHONPATH", "")])
    words = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(
        [*ALONE, *words] if can_be_alone() else words,
        input=text,
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "MEDSEQ_TEST_NETWORK": str(log)},
    )
    return done, log.read_text() if log.exists() else ""


def test_commands_run_without_a_network(here: Path, shelf: Path, times) -> None:
    (here / "scans").mkdir()
    shutil.copy(shelf / "cine.nii.gz", here / "scans")
    put_bold(empty_dataset(here / "dataset"), BOLD)
    (here / "train.yaml").write_text(TRAIN)
    demo = "demo -o demo\n" * times(0, 1)  # minutes
    done, tried = offline(RUN, COMMANDS + demo, here)
    assert done.returncode == 0, done.stderr
    assert tried == ""
    assert "Traceback" not in done.stderr
    for made in ("image.html", "judged/report.html", "derivatives/sub-01"):
        assert (here / made).exists(), made
    assert list((here / "night" / "results").iterdir()) and list((here / "trained").iterdir())


def test_imports_ask_nobody(tmp_path: Path) -> None:
    program = (
        "import importlib, pkgutil, medseq\n"
        "for each in pkgutil.walk_packages(medseq.__path__, 'medseq.'):\n"
        "    if not each.name.endswith('__main__'): importlib.import_module(each.name)\n"
    )
    done, tried = offline(program, "", tmp_path)
    assert done.returncode == 0 and tried == "", done.stderr + tried


@pytest.mark.parametrize(
    "attempt",
    [
        "import socket; socket.create_connection(('192.0.2.1', 80), 1)",
        "import urllib.request; urllib.request.urlopen('https://medseq.example/weights')",
        "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))",
        "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]], check=True)",
    ],
)
def test_the_test_sees_whoever_tries(tmp_path: Path, attempt: str) -> None:
    done, tried = offline(attempt, "", tmp_path, "import socket; socket.create_connection(('192.0.2.1', 80), 1)")
    assert done.returncode == 1 and tried


def test_this_machine_may_be_asked(tmp_path: Path) -> None:
    program = (
        "import socket\nwith socket.create_server(('127.0.0.1', 0)) as s: socket.create_connection(s.getsockname())"
    )
    done, tried = offline(program, "", tmp_path)
    assert done.returncode == 0 and tried == "", done.stderr
