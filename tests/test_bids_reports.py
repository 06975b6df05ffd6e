"""One page a subject of a BIDS dataset: all of its series and nothing of the others, made again from what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from bids_dataset import BOLD, RAW, bold, empty_dataset, put, put_bold

from medseq.bids_app import main
from medseq.bids_method import Method
from medseq.bids_reports import write_subject_pages
from medseq.bids_run import plan, restore_dataset
from medseq.io import save_kspace
from medseq.provenance import sha256
from medseq.simulate import acquire, simulate_cine


def _mute(_: str) -> None:
    pass


@pytest.fixture
def study(tmp_path: Path) -> Path:
    root = empty_dataset(tmp_path / "study")
    put_bold(root)
    put_bold(root, "sub-02/func/sub-02_task-rest_bold.nii.gz", SliceTiming=[0.0, 9.0])
    return root


def told(page: Path) -> str:
    return re.sub(r'"data:image[^"]*"', "", page.read_text())


def test_a_page_holds_every_series_of_its_subject_and_no_other(study: Path, tmp_path: Path, shelf: Path):
    kspace = study / RAW
    kspace.parent.mkdir(parents=True)
    save_kspace(acquire(simulate_cine(5, (32, 32)), coils=2, acceleration=2), kspace)
    out = tmp_path / "out"
    restore_dataset(study, out, method=Method(prior=str(shelf / "tiny.safetensors")), tell=_mute)
    one, two = told(out / "sub-01.html"), told(out / "sub-02.html")
    for name in ("sub-01_task-rest_desc-denoised_bold", "sub-01_acq-sa_desc-recon_cine"):
        assert f"<h2>{name}</h2>" in one and name not in two
    assert sha256(kspace) in one and "Zero-filled" in one and "Degrees of freedom lost" in one
    assert "sub-02_task-rest_desc-denoised_bold: " in two and "SliceTiming reaches" in two and "SliceTiming" not in one
    assert str(tmp_path) not in one + two


def test_pages_are_made_again_from_what_is_there(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    out = tmp_path / "out"
    restore_dataset(study, out, tell=_mute)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in sorted(out.rglob("*")) if path.is_file()}
    page = out / "sub-01.html"
    page.unlink()
    put_bold(study, "sub-01/func/sub-01_task-new_bold.nii.gz")
    words = [
        str(study),
        str(out),
        "participant",
        "--participant-label",
        "01",
        "--skip-bids-validation",
        "--reports-only",
    ]
    capsys.readouterr()
    assert main(words) == 0
    assert capsys.readouterr().out == "1 pages written, 0 failed\n"
    assert "sub-01_task-new_bold: not restored, and so not shown here" in told(page)
    (study / "sub-01" / "func" / "sub-01_task-new_bold.nii.gz").unlink()
    assert main(words) == 0
    after = {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    assert after == {path: content for path, (content, _) in before.items()}
    unchanged = [path for path, (_, time) in before.items() if path.stat().st_mtime_ns == time]
    assert set(before) - set(unchanged) == {page}


def test_a_result_is_not_shown_beside_another_source(study: Path, tmp_path: Path):
    out = tmp_path / "out"
    put_bold(study, "sub-01/func/sub-01_task-new_bold.nii.gz")
    runs = plan(study, out)
    restore_dataset(study, out, tell=_mute)
    put(study, BOLD, bold(seed=5))
    assert write_subject_pages(study, out, runs[:1]) == {}
    assert "sub-01_task-rest_desc-denoised_bold: its source has changed" in told(out / "sub-01.html")
    assert "<h2>sub-01_task-new_desc-denoised_bold</h2>" in (out / "sub-01.html").read_text()


def test_a_page_that_fails_costs_no_series(study: Path, tmp_path: Path, capsys, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no pen")

    monkeypatch.setattr("medseq.report.page.render", fail)
    out = tmp_path / "out"
    assert main([str(study), str(out), "participant", "--participant-label", "01", "--skip-bids-validation"]) == 3
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("medseq: sub-01.html: internal error") and "no pen" in line
    assert not (out / "sub-01.html").exists()
    assert (out / "sub-01" / "func" / "sub-01_task-rest_desc-denoised_bold.nii.gz").is_file()
