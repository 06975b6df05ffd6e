"""The contract of the command line: exit codes, one line for every failure, all of the output or none of it."""

from __future__ import annotations

import errno
import getpass
import gzip
import inspect
import json
import os
import platform
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from cli_shelf import FRAMES, SIZE, command, fails, left_behind

import medseq
from medseq import restore
from medseq.bold_prior import GUIDES, BoldPrior
from medseq.cli import app, main
from medseq.errors import MedseqWarning, ResourceError
from medseq.io import load_clip, save_clip, save_kspace
from medseq.io.weights import save_prior
from medseq.network import VideoUNet
from medseq.prior import SpreadTable
from medseq.simulate import acquire, acquire_epi, simulate_bold_images
from medseq.trajectories import golden_radial

RECIPE = "recipe: {width: [8], blocks: 1, steps: 3, window: 16, frames: [1, 2], frames_per_batch: 4}"
COMMANDS = (
    "convert",
    "demo",
    "info",
    "reconstruct",
    "denoise",
    "interpolate",
    "generate",
    "simulate",
    "train",
    "evaluate",
    "stream",
)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("frobnicate", ["frobnicate"]),
        ("denoise", ["SERIES"]),
        ("denoise cine.nii.gz", ["--output"]),
        ("denoise cine.nii.gz -o out.nii.gz --frob", ["--frob"]),
        ("denoise cine.nii.gz -o out.nii.gz --steps 0", ["--steps", "0"]),
        ("denoise cine.nii.gz -o out.nii.gz --steps few", ["--steps", "few"]),
        ("denoise cine.nii.gz -o out.nii.gz --samples 0", ["--samples"]),
        ("denoise cine.nii.gz -o out.nii.gz --seed -1", ["--seed"]),
        ("denoise cine.nii.gz -o out.nii.gz --sigma nan", ["--sigma"]),
        ("denoise cine.nii.gz -o out.nii.gz --sigma -3", ["--sigma"]),
        ("denoise cine.nii.gz -o out.nii.gz --device gpu", ["--device", "gpu"]),
        ("denoise cine.nii.gz -o out.nii.gz --precision half", ["--precision"]),
        ("denoise cine.nii.gz -o out.png", ["out.png", ".nii.gz"]),
        ("denoise cine.nii.gz -o cine.nii.gz", ["cine.nii.gz", "input"]),
        ("denoise cine.nii.gz -o times.txt/out.nii.gz", ["times.txt", "file"]),
        ("denoise cine.nii.gz extra -o out.nii.gz", ["extra"]),
        ("interpolate cine.nii.gz -o out.nii.gz --factor 1", ["--factor"]),
        ("interpolate cine.nii.gz -o out.nii.gz --factor 2 --times times.txt", ["--factor", "--times"]),
        ("simulate lung -o out.nii.gz", ["lung"]),
        ("simulate cine -o out.png", ["out.png"]),
    ],
)
def test_usage_errors_are_2(here, shelf, capsys, arguments, words):
    fails(capsys, arguments, 2, *words)
    assert left_behind(here, shelf) == []


@pytest.fixture
def bad_files(here) -> Path:
    whole = (here / "cine.nii.gz").read_bytes()
    (here / "truncated.nii.gz").write_bytes(whole[: len(whole) // 2])
    plain = bytearray(gzip.decompress(whole))
    plain[76 + 4 : 76 + 8] = np.float32(np.nan).tobytes()  # pixdim[1]
    plain[280:296] = np.full(4, np.nan, np.float32).tobytes()  # srow_x
    (here / "nan.nii").write_bytes(plain)
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 1, 3), np.float32), np.eye(4)), here / "zero.nii.gz")
    (here / "text.nii.gz").write_text("not a series")
    (here / "text.h5").write_text("not raw data")
    (here / "times_bad.txt").write_text("soon\n")
    (here / "nothing").mkdir()
    damaged = bytearray((here / "tiny.safetensors").read_bytes())
    damaged[-5] ^= 1
    (here / "damaged.safetensors").write_bytes(damaged)
    (here / "damaged.json").write_bytes((here / "tiny.json").read_bytes())
    torch.save({"net": torch.ones(3)}, here / "pickle.pt")
    return here


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("info missing.nii.gz", ["missing.nii.gz"]),
        ("info nothing", ["nothing"]),
        ("info truncated.nii.gz", ["truncated.nii.gz"]),
        ("info text.h5", ["text.h5"]),
        ("denoise missing.nii.gz -o new/out.nii.gz", ["missing.nii.gz"]),
        ("denoise truncated.nii.gz -o new/out.nii.gz", ["truncated.nii.gz"]),
        ("denoise nan.nii -o new/out.nii.gz", ["nan.nii"]),
        ("denoise zero.nii.gz -o new/out.nii.gz", ["zero.nii.gz"]),
        ("denoise text.nii.gz -o new/out.nii.gz", ["text.nii.gz"]),
        ("denoise cine.nii.gz -o new/out.nii.gz --prior damaged.safetensors", ["damaged.safetensors"]),
        ("denoise cine.nii.gz -o new/out.nii.gz --prior pickle.pt", ["pickle.pt"]),
        ("interpolate cine.nii.gz -o new/out.nii.gz --times times_bad.txt", ["times_bad.txt"]),
        ("interpolate cine.nii.gz -o new/out.nii.gz --times missing.txt", ["missing.txt"]),
        ("reconstruct text.h5 -o new/out.nii.gz", ["text.h5"]),
        ("reconstruct missing.h5 -o new/out.nii.gz", ["missing.h5"]),
        ("train missing.yaml -o new", ["missing.yaml"]),
    ],
)
def test_bad_input_is_4_and_leaves_nothing(bad_files, capsys, arguments, words):
    before = sorted(bad_files.rglob("*"))
    fails(capsys, arguments, 4, *words)
    assert sorted(bad_files.rglob("*")) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_a_missing_device_is_5(here, shelf, capsys):
    fails(capsys, "denoise cine.nii.gz -o out.nii.gz --prior tiny.safetensors --device cuda:7", 5, "cuda")
    assert left_behind(here, shelf) == []


@pytest.mark.parametrize(
    ("fault", "code", "word"),
    [
        (MemoryError(), 5, "memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), 5, "memory"),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 byte"), 5, "memory"),
        (OSError(errno.ENOSPC, "No space left on device"), 5, "space"),
        (ResourceError("locked by another run"), 5, "locked"),
        (KeyError("oops"), 1, "--debug"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_goes_wrong_inside_leaves_nothing(here, shelf, capsys, monkeypatch, fault, code, word):
    def broken(clip, **options):
        raise fault

    monkeypatch.setattr(restore, "denoise", broken)
    fails(capsys, "denoise cine.nii.gz -o new/out.nii.gz --prior tiny.safetensors", code, word)
    assert left_behind(here, shelf) == []


def test_debug_shows_the_traceback(here, capsys):
    assert main(["--debug", "denoise", "missing.nii.gz", "-o", "out.nii.gz"]) == 4
    assert "Traceback" in capsys.readouterr().err


def test_a_failure_keeps_the_older_result(here, capsys, monkeypatch):
    (here / "out.nii.gz").write_text("older")
    fails(capsys, "denoise missing.nii.gz -o out.nii.gz", 4)
    assert (here / "out.nii.gz").read_text() == "older"


def test_denoise_writes_the_series_and_how_it_was_made(here, shelf, capsys):
    assert command("denoise cine.nii.gz -o new/out.nii.gz --prior tiny.safetensors --seed 3") == 0
    assert capsys.readouterr().out.startswith("new/out.nii.gz: 6 frames of 32 x 32")
    assert left_behind(here, shelf) == ["new", "new/out.nii.gz", "new/out.run.json"]
    before, after = nibabel.load("cine.nii.gz").header, nibabel.load("new/out.nii.gz").header
    assert (after.get_best_affine() == before.get_best_affine()).all()
    assert after.get_zooms() == before.get_zooms() and after.get_xyzt_units() == before.get_xyzt_units()
    run = json.loads((here / "new/out.run.json").read_text())
    assert run["command"] == "denoise" and run["options"]["seed"] == 3 and run["result"]["steps"] == 1
    assert run["inputs"][0]["name"] == "cine.nii.gz" and len(run["inputs"][0]["sha256"]) == 64
    assert run["model"] == {"name": "tiny", "sha256": json.loads((here / "tiny.json").read_text())["sha256"]}
    assert set(run["seconds"]) == {"read", "restore", "write", "total"}


def test_run_json_tells_nobody_who_ran_it(here, capsys):
    folder = here / "home" / "alice"
    folder.mkdir(parents=True)
    for name in ("cine.nii.gz", "tiny.safetensors", "tiny.json"):
        (folder / name).write_bytes((here / name).read_bytes())
    series, prior, out = folder / "cine.nii.gz", folder / "tiny.safetensors", folder / "out.nii.gz"
    assert main(["denoise", str(series), "-o", str(out), "--prior", str(prior)]) == 0
    text = (folder / "out.run.json").read_text()
    for secret in ("alice", platform.node(), str(here)):
        assert secret not in text
    assert f"/{getpass.getuser()}/" not in text


def test_samples_give_a_mean_and_a_std(here, shelf):
    arguments = "reconstruct raw.h5 -o out.nii.gz --prior tiny.safetensors --steps 2 --samples 2"
    assert command(arguments) == 0
    assert left_behind(here, shelf) == ["out.nii.gz", "out.run.json", "out_std.nii.gz"]
    std = load_clip(here / "out_std.nii.gz").data
    assert std.shape == (1, 1, FRAMES, SIZE, SIZE) and bool((std >= 0).all()) and bool((std > 0).any())


def test_interpolate_at_given_times(here, shelf):
    assert command("interpolate cine.nii.gz -o at.nii.gz --times times.txt --prior tiny.safetensors") == 0
    assert np.allclose(load_clip(here / "at.nii.gz").times, [0, 0.02, 0.04, 0.06])


def test_warnings_are_one_line_and_in_run_json(here, capsys, monkeypatch):
    truly = restore.denoise

    def warned(clip, **options):
        for _ in range(2):
            warnings.warn("the noise\nis a guess", MedseqWarning, stacklevel=1)
        return truly(clip, **options)

    monkeypatch.setattr(restore, "denoise", warned)
    assert command("denoise cine.nii.gz -o out.nii.gz --prior tiny.safetensors") == 0
    assert "medseq: warning: the noise is a guess\n" in capsys.readouterr().err
    assert json.loads((here / "out.run.json").read_text())["warnings"].count("the noise is a guess") == 1


def test_info_of_a_file(here, capsys):
    assert main(["info", "cine.nii.gz"]) == 0
    text = capsys.readouterr().out
    for line in (
        "matrix       32 x 32 x 1",
        "frames       6",
        "voxel        1.5 x 1.5 x 8.0 mm",
        "interval     0.04 s",
    ):
        assert line in text
    assert main(["info", "raw.h5", "--json"]) == 0
    (raw,) = json.loads(capsys.readouterr().out)
    assert raw["kind"] == "k-space" and raw["coils"] == 2 and raw["matrix"] == [SIZE, SIZE, 1]
    assert 1.5 < raw["acceleration"] < 2.5


def test_info_of_a_folder_names_what_is_broken(here, capsys):
    assert main(["info", "."]) == 0
    assert capsys.readouterr().out.count("k-space") == 2
    (here / "text.nii.gz").write_text("not a series")
    assert main(["info", ".", "--json"]) == 3
    found = {series["path"]: series["error"] for series in json.loads(capsys.readouterr().out)}
    assert found["cine.nii.gz"] is None and "NIfTI" in found["text.nii.gz"]


@pytest.mark.parametrize("name", ["reconstruct", "denoise", "interpolate"])
def test_defaults_are_those_of_the_library(name):
    _, bound, _ = app.parse_args([name, "in", "-o", "out"], exit_on_error=False, print_error=False)
    bound.apply_defaults()
    options = bound.arguments["options"]
    defaults = {k: p.default for k, p in inspect.signature(getattr(medseq, name)).parameters.items()}
    assert bound.arguments["steps"] == defaults["steps"]
    for option in ("samples", "seed", "device", "precision", "prior"):
        assert getattr(options, option) == defaults[option]


def test_version(capsys):
    import medseq

    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == medseq.__version__
    assert main([]) == 0
    assert "Usage: medseq COMMAND" in capsys.readouterr().out


def help_of(name: str, capsys) -> str:
    assert main([name, "--help"]) == 0
    return capsys.readouterr().out


def examples(text: str) -> list[list[str]]:
    lines = text.partition("Examples:")[2].splitlines()
    return [line.split()[1:] for line in lines if line.strip().startswith("medseq ")]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_examples(name, capsys):
    found = examples(help_of(name, capsys))
    assert found and all(words[0] == name for words in found)


@pytest.mark.parametrize(
    "name", [name for name in COMMANDS if name not in ("archive", "demo")]
)  # see test_archive_cli.py, test_demo.py
def test_the_examples_of_help_run(name, here, capsys, monkeypatch):
    (here / "folder").mkdir()
    (here / "folder" / "cine.nii.gz").symlink_to(here / "cine.nii.gz")
    for copy in ("ours", "theirs", "around_lv"):
        (here / f"{copy}.nii.gz").symlink_to(here / "cine.nii.gz")
    (here / "configs").mkdir()
    (here / "configs" / "train_tiny.yaml").write_text(RECIPE)
    monkeypatch.setattr("medseq.io.weights.SHIPPED", here)
    monkeypatch.setattr("medseq.io.weights.DEFAULT", "tiny")
    monkeypatch.setattr("medseq.io.weights.BOLD", "tiny_bold")
    tiny_bold = BoldPrior(VideoUNet((8, 12), 1, GUIDES, channels=1), SpreadTable([0.1, 10.0], [0.1, 0.5]))
    save_prior(tiny_bold, here / "tiny_bold.safetensors", {"licence": "test"})
    images = simulate_bold_images(10, (24, 24), 1)[0]
    save_kspace(acquire_epi(images, coils=4), here / "epi.h5")
    spokes = golden_radial(FRAMES, (SIZE, SIZE), 16)
    save_kspace(acquire(load_clip("cine.nii.gz"), coils=2, trajectory=spokes), here / "radial.h5")
    save_clip(images.with_data(images.data.abs()), here / "rest.nii.gz")
    for words in examples(help_of(name, capsys)):
        if "--listen" in words:  # it does not end; see test_stream_command.py
            continue
        assert main(words) == 0, (words, capsys.readouterr().err)
        if "-o" in words:
            assert Path(words[words.index("-o") + 1]).exists()


# Of a background job of a shell SIGINT is ignored, and the children of its tests would inherit that.
SLOW = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from medseq import restore
from medseq.bold_prior import GUIDES, BoldPrior
from medseq.cli import main
def slow(clip, **options):
    print("ready", flush=True)
    time.sleep(60)
restore.denoise = slow
sys.exit(main(["denoise", "cine.nii.gz", "-o", "new/out.nii.gz", "--prior", "tiny.safetensors"]))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_command_leaves_nothing(here, shelf, number, code):
    with subprocess.Popen(
        [sys.executable, "-c", SLOW], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None and run.stdout.readline() == "ready\n"
        start = time.monotonic()
        os.kill(run.pid, number)
        _, error = run.communicate(timeout=30)
    assert run.returncode == code and time.monotonic() - start < 30
    assert error.count("\n") == 1 and "interrupted" in error
    assert left_behind(here, shelf) == []


def test_a_full_disk_is_5(here, shelf):
    """A limit on the size of files stands for the disk: the write fails in the middle."""
    program = (
        "import resource, sys; from medseq.cli import main; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); "
        "sys.exit(main('denoise cine.nii.gz -o out.nii --prior tiny.safetensors'.split()))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 5, run.stderr
    assert run.stderr.count("\n") == 1 and "out.nii" in run.stderr and ".medseq-" not in run.stderr
    assert left_behind(here, shelf) == []


@pytest.mark.parametrize("program", [["-m", "medseq"], ["-c", "import medseq.cli; medseq.cli.entry()"]])
def test_it_runs_as_a_program(here, program):
    run = subprocess.run([sys.executable, *program, "info", "missing.nii.gz"], capture_output=True, text=True)
    assert run.returncode == 4 and run.stdout == ""
    assert run.stderr.count("\n") == 1 and "missing.nii.gz" in run.stderr


def test_a_reader_that_stops_early_is_no_error(here):
    line = f"{sys.executable} -m medseq info raw.h5 | true; exit ${{PIPESTATUS[0]}}"
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    run = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=buffered)
    assert run.returncode == 0 and run.stderr == ""
