"""`medseq evaluate`: what it writes, what it refuses, and by which name."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_shelf import FRAMES, command, fails, left_behind

from medseq.activation import inject
from medseq.clip import Clip
from medseq.io import load_clip, save_clip
from medseq.metrics import psnr
from medseq.phantoms.fluctuations import response_course

WRITTEN = ["curves.csv", "metrics.csv", "report.html", "run.json", "summary.json"]


@pytest.fixture
def cine(here: Path) -> Path:
    """Beside the shelf: a noisy version, a region around the disc, a mask of the disc in every frame."""
    truth = load_clip(here / "cine.nii.gz")
    noise = torch.randn(truth.data.shape, generator=torch.Generator().manual_seed(0))
    save_clip(truth.with_data((truth.data + 0.05 * truth.data.max() * noise).abs()), here / "noisy.nii.gz")
    still = replace(truth, data=torch.ones_like(truth.data[:, :, :1]), times=truth.times[:1], period=None)
    save_clip(still, here / "around.nii.gz")
    save_clip(truth.with_data((truth.data > 0.5 * truth.data.max()).float()), here / "disc.nii.gz")
    return here


@pytest.fixture
def quick(monkeypatch) -> None:
    """Without the report, whose plots take most of the time: others look at it."""
    monkeypatch.setattr("medseq.evaluate_jobs.write_report", lambda *_: None)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def value(folder: Path, method: str, metric: str, region: str) -> float:
    (row,) = (
        r for r in rows(folder / "metrics.csv") if (r["method"], r["metric"], r["region"]) == (method, metric, region)
    )
    return float(row["value"])


def test_figures_report_and_record_are_written(cine: Path) -> None:
    regions = "--region around.nii.gz --ventricle around.nii.gz"
    line = f"evaluate --reference cine.nii.gz noisy.nii.gz cine.nii.gz -o judged {regions} --case heart-7"
    assert command(line) == 0
    assert sorted(path.name for path in (cine / "judged").iterdir()) == WRITTEN
    told = rows(cine / "judged" / "metrics.csv")
    assert set(told[0]) == {"case", "method", "metric", "region", "value", "unit"}
    assert {row["method"] for row in told} == {"reference", "noisy", "cine"}
    assert {row["region"] for row in told} == {"whole", "dynamic", "around", "ventricle"}
    truth, noisy = (load_clip(cine / name).data for name in ("cine.nii.gz", "noisy.nii.gz"))
    assert value(cine / "judged", "noisy", "PSNR", "whole") == pytest.approx(psnr(noisy, truth))
    assert value(cine / "judged", "cine", "NRMSE", "around") == 0
    assert value(cine / "judged", "cine", "LV area error, rms", "ventricle") == 0
    curves = [row for row in rows(cine / "judged" / "curves.csv") if row["metric"] == "LV area"]
    assert len(curves) == 3 * FRAMES and {row["unit"] for row in curves} == {"mm^2"}
    summary = json.loads((cine / "judged" / "summary.json").read_text())
    assert summary["methods"] == ["noisy", "cine"] and summary["settings"]["kind"] == "auto"
    assert summary["comparisons"] == []  # of one case nothing can be tested
    run = json.loads((cine / "judged" / "run.json").read_text())
    assert run["command"] == "evaluate" and len(run["inputs"]) == 5
    page = (cine / "judged" / "report.html").read_text(encoding="utf-8")
    for words in ("heart-7", "noisy", "temporal spectrum error", "Research only"):
        assert words in page
    assert str(cine) not in page
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page)


def test_masks_stand_for_a_threshold_and_names_for_files(cine: Path, quick: None) -> None:
    line = "evaluate --reference cine.nii.gz noisy.nii.gz -o judged --name ours --mask disc.nii.gz --mask disc.nii.gz"
    assert command(line) == 0
    assert value(cine / "judged", "ours", "LV area error, rms", "ventricle") == 0
    disc = load_clip(cine / "disc.nii.gz")
    pixel = np.linalg.norm(disc.affine[:3, 0]) * np.linalg.norm(disc.affine[:3, 1])
    largest = pixel * float(disc.data.sum((3, 4)).max())
    assert value(cine / "judged", "ours", "LV area, largest", "ventricle") == pytest.approx(largest)


def test_without_a_reference_and_of_dicom(here: Path, quick: None) -> None:
    assert command("evaluate study -o judged") == 0
    assert {row["metric"] for row in rows(here / "judged" / "metrics.csv")} == {"flicker"}


def test_perfusion_is_told_its_up_slope(cine: Path, quick: None) -> None:
    truth = load_clip(cine / "cine.nii.gz")
    filling = torch.tensor([5.0, 5.0, 9.0, 13.0, 17.0, 17.0]).view(-1, 1, 1).expand(truth.data.shape)
    save_clip(truth.with_data(filling), cine / "filling.nii.gz")
    assert command("evaluate filling.nii.gz -o judged --kind perfusion --region around.nii.gz") == 0
    slope = np.polyfit(truth.times[:5], filling[0, 0, :5, 0, 0].numpy(), 1)[0]
    assert value(cine / "judged", "filling", "up-slope", "around") == pytest.approx(slope, rel=1e-5)


@pytest.fixture
def bold(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    g, seconds = torch.Generator().manual_seed(0), 2.0 * torch.arange(60)
    head = torch.zeros(2, 1, 1, 16, 16)
    head[..., 2:14, 2:14] = 1000
    spot = torch.zeros_like(head)
    spot[..., 5:8, 5:8] = 1
    response = response_course(torch.tensor([10.0, 60.0]), 20.0, seconds)
    data = inject(head.expand(2, 1, 60, 16, 16), spot, response, 0.03)
    data = (data + 10 * torch.randn(data.shape, generator=g)).abs()
    clip = Clip(data, np.diag([3.0, 3, 3, 1]), seconds.numpy())
    save_clip(clip, tmp_path / "sub-01_task-x_bold.nii.gz")
    save_clip(clip, tmp_path / "clean.nii.gz")
    still = Clip(torch.full((2, 1, 1, 16, 16), 12.0), clip.affine)
    save_clip(still, tmp_path / "clean_dof_lost.nii.gz")
    save_clip(replace(still, data=spot), tmp_path / "spot.nii.gz")
    (tmp_path / "events.tsv").write_text("onset\tduration\ttrial_type\n10\t20\tgo\n60\t20\tgo\n95\t2\tstop\n")
    return tmp_path


BOLD = "evaluate --reference sub-01_task-x_bold.nii.gz clean.nii.gz -o judged --region spot.nii.gz"


def test_bold_is_judged_by_its_activation_and_by_what_it_lost(bold: Path) -> None:
    assert command(f"{BOLD} --design events.tsv --condition go") == 0
    judged = bold / "judged"
    assert value(judged, "clean", "amplitude", "spot") == pytest.approx(3, rel=0.1)
    assert value(judged, "clean", "degrees of freedom lost", "brain") == 12
    dof = 60 - 2 - 2  # go and stop, a constant and one cosine
    ratio = value(judged, "clean", "t", "spot") / value(judged, "reference", "t", "spot")
    assert ratio == pytest.approx(((dof - 12) / dof) ** 0.5, rel=1e-3)
    inputs = [file["name"] for file in json.loads((judged / "run.json").read_text())["inputs"]]
    assert "clean_dof_lost.nii.gz" in inputs and "events.tsv" in inputs


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("--design events.tsv", 2, ["events.tsv", "go, stop", "--condition"]),
        ("--design events.tsv --condition wait", 2, ["events.tsv", "wait"]),
        ("--condition go", 2, ["--design"]),
        ("--design missing.tsv", 4, ["missing.tsv", "no such file"]),
        ("--design spot.nii.gz", 4, ["spot.nii.gz", "events"]),
        ("--ventricle spot.nii.gz", 2, ["--region"]),
        ("--kind cine --design events.tsv", 2, ["--kind bold"]),
    ],
)
def test_what_does_not_go_with_bold_is_refused(bold: Path, capsys, line: str, code: int, words: list[str]) -> None:
    fails(capsys, f"{BOLD} {line}", code, *words)
    assert not (bold / "judged").exists()


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("", 2, ["RESULT"]),
        ("missing.nii.gz", 4, ["missing.nii.gz", "no such file"]),
        ("--reference missing.nii.gz cine.nii.gz", 4, ["missing.nii.gz"]),
        ("cine.nii.gz noisy.nii.gz --name ours", 2, ["--name"]),
        ("cine.nii.gz cine.nii.gz", 2, ["--name"]),
        ("cine.nii.gz --name reference", 2, ["reference"]),
        ("--reference cine.nii.gz small.nii.gz", 4, ["small.nii.gz", "voxels", "cine.nii.gz"]),
        ("--reference cine.nii.gz moved.nii.gz", 4, ["moved.nii.gz", "mm from"]),
        ("--reference cine.nii.gz late.nii.gz", 4, ["no frame at", "late.nii.gz"]),
        ("--reference cine.nii.gz noisy.nii.gz --mask disc.nii.gz", 2, ["--mask", "2 series"]),
        ("cine.nii.gz --mask short.nii.gz", 4, ["short.nii.gz", "frames"]),
        ("cine.nii.gz --mask disc.nii.gz --ventricle around.nii.gz", 2, ["--ventricle"]),
        ("cine.nii.gz --region small.nii.gz", 4, ["small.nii.gz", "voxels"]),
        ("cine.nii.gz --kind bald", 2, ["--kind"]),
    ],
)
def test_what_does_not_agree_is_refused(
    cine: Path, shelf: Path, capsys, line: str, code: int, words: list[str]
) -> None:
    truth = load_clip(cine / "cine.nii.gz")
    shifted = truth.affine.copy()
    shifted[0, 3] += 5
    made = {
        "small": replace(truth, data=truth.data[..., :-2, :]),
        "moved": replace(truth, affine=shifted),
        "late": replace(truth, times=truth.times + 0.01),
        "short": replace(truth, data=truth.data[:, :, :3], times=truth.times[:3], period=None),
    }
    for name, clip in made.items():
        save_clip(clip, cine / f"{name}.nii.gz")
    before = left_behind(cine, shelf)
    fails(capsys, f"evaluate {line} -o judged", code, *words)
    assert left_behind(cine, shelf) == before
