"""The BIDS-App: its flags, its exit codes, and what it says when something is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from bids_dataset import empty_dataset, put_bold, put_heart, write_json

from medseq import bids_app
from medseq.bids_app import main
from medseq.errors import MedseqWarning
from medseq.io.bids_validator import validate


@pytest.fixture
def study(tmp_path: Path) -> Path:
    root = empty_dataset(tmp_path / "study")
    put_bold(root)
    return root


def test_the_flags_of_fmriprep_are_understood(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    put_bold(study, "sub-02/func/sub-02_task-rest_bold.nii.gz")
    put_heart(study)
    filters = write_json(tmp_path / "filter.json", {"bold": {"subject": ["01", "02"]}, "t1w": {"session": "01"}})
    words = (
        f"{study} {tmp_path / 'out'} participant --participant-label sub-01 02 --task-id rest -w {tmp_path} --nprocs 1"
    )
    words += (
        f" --omp-nthreads 1 --mem-mb 4000 --bids-filter-file {filters} --stop-on-first-crash --random-seed 1 --dry-run"
    )
    threads = torch.get_num_threads()
    assert main(words.split()) == 0
    assert torch.get_num_threads() == threads
    assert capsys.readouterr().out.splitlines() == [
        f"sub-0{n}_task-rest_bold.nii.gz: denoise -> sub-0{n}/func/sub-0{n}_task-rest_desc-denoised_bold.nii.gz"
        for n in (1, 2)
    ]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ("{study} {out} group", 0, "nothing to do"),
        ("{study} {out} cohort", 2, "cohort"),
        ("{study} {out}", 2, "LEVEL"),
        ("{study} {out} participant --reports-only", 4, "holds no restored series"),
        ("{study} {out} participant --steps 0", 2, "steps"),
        ("{out} {out} participant", 4, "no such folder"),
        ("{study} {out} participant --participant-label 99", 4, "sub-99"),
        ("{study} {study} participant", 2, "lies in the dataset"),
        ("{study} {out} participant --bids-filter-file {study}/nothing.json", 4, "no such file"),
        ("{study} {out} participant --prior nobody", 4, "nobody"),
    ],
)
def test_every_failure_is_one_line(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture, words: str, code: int, told: str
) -> None:
    assert main(words.format(study=study, out=tmp_path / "out").split()) == code
    captured = capsys.readouterr()
    lines = (captured.out + captured.err).splitlines()
    assert len(lines) == 1 and told in lines[0]
    assert not (tmp_path / "out").exists()


def test_an_invalid_dataset_is_refused_unless_told_otherwise(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (study / "sub-01" / "func" / "notes.txt").write_text("x")
    words = [str(study), str(tmp_path / "out"), "participant"]
    assert main(words) == 4
    assert "NOT_INCLUDED in sub-01/func/notes.txt" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*words, "--skip-bids-validation"]) == 0


def test_a_validator_that_is_not_there_or_broken_is_warned_of(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    with pytest.warns(MedseqWarning, match="not installed"):
        validate(study)
    judge = tmp_path / "bids-validator-deno"
    monkeypatch.setattr("medseq.io.bids_validator._PATIENCE", 2)
    for script, fault in (
        ("exec sleep 60", "more than 2 s"),
        ("exit 134", "exit code 134"),
        ("echo nonsense", "not understood"),
        ("echo []", "not understood"),
    ):
        judge.write_text(f"#!/bin/sh\n{script}\n")
        judge.chmod(0o755)
        with pytest.warns(MedseqWarning, match=fault):
            validate(study)


def test_threads_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", limits.append)
    bids_app.Running(nprocs=4, omp_nthreads=2).limit_threads()
    bids_app.Running().limit_threads()
    assert limits == [2]


def test_the_command_is_installed(study: Path, tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("medseq-bids")
    done = subprocess.run([command, study, tmp_path / "out", "group"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    help_text = subprocess.run([command, "--help"], capture_output=True, text=True, timeout=60).stdout
    assert "--participant-label" in help_text and "medseq-bids study" in help_text
