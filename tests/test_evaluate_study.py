"""The recipe that judges a study: pairs, agreement and a report of all cases, and a bad case that does not end it."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medseq import Clip, InputError, save_clip

sys.path.insert(0, str(Path(__file__).parent.parent / "pipelines"))
import evaluate_study  # noqa: E402  (a recipe, not part of the package)

CASES, FRAMES = 6, 6


def heart(case: int) -> Clip:
    rows, columns = torch.arange(24.0).view(-1, 1), torch.arange(28.0)
    distance = ((rows - 12) ** 2 + (columns - 14) ** 2).sqrt()
    radius = 6 + 0.3 * case + 2 * torch.cos(2 * torch.pi * torch.arange(FRAMES) / FRAMES).view(-1, 1, 1)
    data = 0.2 + 0.6 * torch.sigmoid(2 * (radius - distance))
    return Clip(data[None, None], np.diag([1.5, 1.5, 8, 1.0]), 0.1 * np.arange(FRAMES), 0.1 * FRAMES)


def noisy(clip: Clip, sigma: float, seed: int) -> Clip:
    noise = torch.randn(clip.data.shape, generator=torch.Generator().manual_seed(seed))
    return clip.with_data((clip.data + sigma * noise).abs())


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Six cases, of which "ours" has less noise than "theirs"; the files lie beside the table."""
    lines = ["case,method,reference,result,ventricle"]
    around = replace(heart(0), data=torch.ones(1, 1, 1, 24, 28), times=np.zeros(1), period=None)
    save_clip(around, tmp_path / "around.nii.gz")
    for case in range(CASES):
        save_clip(heart(case), tmp_path / f"truth{case}.nii.gz")
        for method, sigma in (("ours", 0.02), ("theirs", 0.06)):
            save_clip(noisy(heart(case), sigma, case), tmp_path / f"{method}{case}.nii.gz")
            lines.append(f"case {case},{method},truth{case}.nii.gz,{method}{case}.nii.gz,around.nii.gz")
    path = tmp_path / "study.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_study_becomes_figures_statistics_and_one_report(table: Path, tmp_path: Path, capsys) -> None:
    assert evaluate_study.run(table, tmp_path / "judged") == 0
    summary = json.loads((tmp_path / "judged" / "summary.json").read_text())
    assert (summary["cases"], summary["methods"]) == (CASES, ["ours", "theirs"])
    (psnr,) = (
        c["found"]
        for c in summary["comparisons"]
        if (c["quantity"]["metric"], c["quantity"]["region"]) == ("PSNR", "dynamic")
    )
    assert psnr["difference"] == pytest.approx(20 * np.log10(3), abs=0.3)  # a third of the noise
    assert psnr["p"] == pytest.approx(2 / 2**CASES)  # better in every case
    areas = [a for a in summary["agreements"] if a["quantity"]["metric"] == "LV area, largest"]
    assert [a["method"] for a in areas] == ["ours", "theirs"]
    with (tmp_path / "judged" / "metrics.csv").open(newline="") as stream:
        assert {row["case"] for row in csv.DictReader(stream)} == {f"case {case}" for case in range(CASES)}
    page = (tmp_path / "judged" / "report.html").read_text()
    assert "Bland-Altman plot of 6 cases" in page and "case 3" in page
    assert str(tmp_path) not in page


def test_a_bad_case_is_named_and_left_out(table: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(evaluate_study, "write_report", lambda *_: None)  # which takes most of the time
    table.write_text("\n".join(table.read_text().splitlines()[:7]))  # three cases
    (tmp_path / "theirs2.nii.gz").write_text("nothing")
    assert evaluate_study.run(table, tmp_path / "judged") == 3
    assert "theirs2.nii.gz" in capsys.readouterr().err
    run = json.loads((tmp_path / "judged" / "run.json").read_text())
    assert run["result"] == {"cases": 2, "failed": ["case 2"]}


@pytest.mark.parametrize(
    "text", ["", "case,method,result\na,b,c\n", "case,method,reference,result\na,b,missing.nii,c.nii\n"]
)
def test_a_table_without_a_usable_case_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "study.csv"
    path.write_text(text)
    with pytest.raises(InputError, match="study.csv"):
        evaluate_study.run(path, tmp_path / "judged")
    assert not (tmp_path / "judged").exists()
