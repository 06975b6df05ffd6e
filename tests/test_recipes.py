"""The recipes of `pipelines/`, each a study in and a study out."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from bids_dataset import BOLD, empty_dataset, errors_of, put_bold
from cli_shelf import noisy_scan

from medseq import load_clip, psnr, save_clip
from medseq.baselines import linear_interpolation
from medseq.io.dicom import find_series, load_series
from medseq.study.manifest import Denoise, Reconstruct
from medseq.study.run import Settings

PIPELINES = Path(__file__).parent.parent / "pipelines"
sys.path.insert(0, str(PIPELINES))
import compare_with_baselines  # noqa: E402  (recipes, not part of the package)
import denoise_bids_dataset  # noqa: E402
import evaluate_study  # noqa: E402
import interpolate_dicom_cine_study  # noqa: E402
import reconstruct_raw_study  # noqa: E402

RECIPES = (compare_with_baselines, denoise_bids_dataset, interpolate_dicom_cine_study, reconstruct_raw_study)
ONE = Settings(workers=1, device="cpu")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def started(recipe, monkeypatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["recipe", *map(str, words)])
    return recipe.main()


def test_raw_data_become_images_reports_and_a_table(shelf: Path, tmp_path: Path, capsys) -> None:
    source, night = tmp_path / "scans", tmp_path / "night"
    source.mkdir()
    for name in ("raw.h5", "cine.nii.gz"):
        shutil.copy(shelf / name, source)
    (source / "broken.h5").write_bytes(b"x" * 100)
    task = Reconstruct(prior=str(shelf / "tiny.safetensors"), report=True)
    for _ in range(2):
        assert reconstruct_raw_study.reconstruct_study(source, night, task, ONE) == 3
    assert "broken: " in capsys.readouterr().err
    made = night / "results" / "raw"
    assert load_clip(made / "raw.nii.gz").data.shape == load_clip(shelf / "cine.nii.gz").data.shape
    assert (made / "raw.html").is_file() and not (night / "results" / "cine").exists()
    assert {row["unit"]: row["state"] for row in rows(night / "collected" / "units.csv")} == {
        "broken": "failed",
        "raw": "done",
    }
    assert rows(night / "collected" / "figures.csv") and (night / "collected" / "index.html").is_file()


def test_a_bids_dataset_becomes_one_of_derivatives(tmp_path: Path) -> None:
    root = empty_dataset(tmp_path / "dataset")
    for name in (BOLD, BOLD.replace("sub-01", "sub-02")):
        put_bold(root, name)
    assert denoise_bids_dataset.denoise_dataset(root, tmp_path / "night", Denoise(), ONE) == 0
    derivatives = tmp_path / "night" / "collected" / "derivatives"
    made = sorted(path.name for path in derivatives.rglob("*desc-denoised_bold.nii.gz"))
    assert [name[:6] for name in made] == ["sub-01", "sub-02"] and errors_of(derivatives) == []


def test_the_cines_of_a_dicom_study_get_frames_in_between(shelf: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    study, smooth = tmp_path / "study", tmp_path / "smooth"
    noisy_scan(study / "cine", "ge", slices=1, frames=6, number=5)
    noisy_scan(study / "rest", "siemens", "bold", slices=1, frames=4, number=9, name="other")
    words = [study, "-o", smooth, "--factor", 2, "--prior", shelf / "tiny.safetensors"]
    assert started(interpolate_dicom_cine_study, monkeypatch, *words) == 0
    (folder,) = smooth.iterdir()
    (before,) = find_series(study / "cine").series
    (after,) = find_series(folder).series
    assert folder.name == "cine-001_series-5" and len(after.times) == 2 * len(before.times)
    old, new = load_series(before), load_series(after)
    assert np.abs(new.affine - old.affine).max() < 1e-3 and np.abs(new.times[::2] - old.times).max() < 2e-3
    images = [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]
    assert all(image.ImageType[0] == "DERIVED" for image in images)
    assert {image.PatientID for image in images} == {pydicom.dcmread(next((study / "cine").iterdir())).PatientID}

    looks = [path.stat().st_mtime_ns for path in sorted(folder.iterdir())]
    (study / "cine" / "broken.dcm").write_bytes(next((study / "cine").iterdir()).read_bytes()[:-10])
    capsys.readouterr()
    assert started(interpolate_dicom_cine_study, monkeypatch, *words) == 3  # it is named, and nothing is made again
    assert (
        "broken.dcm" in capsys.readouterr().err
        and [path.stat().st_mtime_ns for path in sorted(folder.iterdir())] == looks
    )


@pytest.fixture
def references(shelf: Path, tmp_path: Path, monkeypatch) -> Path:
    """A heart and a file that is none."""
    folder = tmp_path / "references"
    folder.mkdir()
    clip = load_clip(shelf / "cine.nii.gz")
    clip = clip.with_data(clip.data + torch.rand(clip.data.shape, generator=torch.Generator().manual_seed(0)))
    save_clip(clip, folder / "one.nii.gz")
    (folder / "broken.nii.gz").write_text("nothing")
    # It takes most of the time, and has tests of its own.
    monkeypatch.setattr(evaluate_study, "write_report", lambda *_: None)
    return folder


def test_methods_are_compared_on_the_same_measurement(shelf, references, tmp_path, monkeypatch, capsys) -> None:
    words = [references, "-o", tmp_path / "out", "--prior", shelf / "tiny.safetensors", "--acceleration", 2]
    assert started(compare_with_baselines, monkeypatch, *words) == 3
    assert "broken.nii.gz" in capsys.readouterr().err
    summary = json.loads((tmp_path / "out" / "judged" / "summary.json").read_text())
    assert summary["cases"] == 1 and summary["methods"][:2] == ["medseq", "zero-filled"]
    assert {"L+S", "locally low rank"} <= set(summary["methods"])
    found = {
        row["method"]: float(row["value"])
        for row in rows(tmp_path / "out" / "judged" / "metrics.csv")
        if (row["metric"], row["region"]) == ("PSNR", "whole")
    }
    truth = load_clip(references / "one.nii.gz").data
    told = psnr(load_clip(tmp_path / "out" / "results" / "one" / "L+S.nii.gz").data, truth)
    assert found["L+S"] == pytest.approx(told, abs=1e-3)


@pytest.mark.parametrize("task", ["denoise", "interpolate"])
def test_baselines_of_other_tasks(task, shelf, references, tmp_path, monkeypatch) -> None:
    (references / "broken.nii.gz").unlink()
    words = [references, "-o", tmp_path / "out", "--prior", shelf / "tiny.safetensors", "--task", task]
    assert started(compare_with_baselines, monkeypatch, *words, *(["--tune"] if task == "denoise" else [])) == 0
    results = {path.name for path in (tmp_path / "out" / "results" / "one").iterdir()}
    assert {"medseq.nii.gz", "local_PCA.nii.gz" if task == "denoise" else "linear.nii.gz"} <= results
    truth = load_clip(references / "one.nii.gz")
    if task == "denoise":
        made, noisy = (load_clip(tmp_path / "out" / "results" / "one" / name) for name in ("TV.nii.gz", "noisy.nii.gz"))
        assert psnr(made.data, truth.data) > psnr(noisy.data, truth.data)
    else:
        known, times = truth.data[:, :, ::2], torch.tensor(truth.times)
        line = linear_interpolation(known, times[::2], times, truth.period)
        made = load_clip(tmp_path / "out" / "results" / "one" / "linear.nii.gz").data
        assert (made - line).abs().max() < 1e-3 * truth.data.max()


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.__name__)
def test_a_recipe_is_short_and_a_fault_is_one_line(recipe, tmp_path, monkeypatch, capsys) -> None:
    assert len((PIPELINES / f"{recipe.__name__}.py").read_text().splitlines()) < 120
    assert f"python pipelines/{recipe.__name__}.py" in recipe.__doc__
    (tmp_path / "empty").mkdir()
    for source in ("empty", "missing"):
        assert started(recipe, monkeypatch, tmp_path / source, "-o", tmp_path / "out") == 4
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and source in error and not (tmp_path / "out").exists()


def test_the_array_of_jobs_in_the_docs_does_each_series_once(tmp_path: Path) -> None:
    """As SLURM starts it, number by number, with a program in the place of medseq."""
    text = (PIPELINES.parent / "docs" / "studies.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```bash\n(#!/bin/bash.*?)```", text, re.DOTALL)
    (tmp_path / "array.sh").write_text(script)
    (tmp_path / "medseq").write_text('#!/bin/bash\necho "$2 $OMP_NUM_THREADS" >> calls\ninstall -D "$2" "$4"\n')
    (tmp_path / "medseq").chmod(0o755)
    files = ("scans/one.nii.gz", "scans/sub/two words.nii.gz")
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    (tmp_path / "series.txt").write_text("".join(f"{file}\n" for file in files))
    for number in (1, 2, 1, 2):
        path = f"{tmp_path}:{os.environ['PATH']}"
        told = {"SLURM_ARRAY_TASK_ID": str(number), "SLURM_CPUS_PER_TASK": "3", "PATH": path}
        subprocess.run(["bash", "array.sh"], cwd=tmp_path, env=told, check=True)
    assert (tmp_path / "calls").read_text().splitlines() == [f"{file} 3" for file in files]
    assert (tmp_path / "restored" / "sub" / "two words.nii.gz").exists()
