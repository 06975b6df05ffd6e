"""BOLD at the command line: what was removed and what it cost is written down; bad volumes are filled in and told."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_shelf import command

from medseq import Clip, MedseqWarning, UsageError, load_clip, save_clip
from medseq.bold import denoise_bold
from medseq.bold_prior import GUIDES, BoldPrior
from medseq.bold_task import resample_bold, restore_bold
from medseq.io.weights import load_bold_prior, save_prior
from medseq.network import VideoUNet
from medseq.prior import SpreadTable
from medseq.simulate import simulate_bold

FRAMES, SIZE = 30, (32, 32)


@pytest.fixture(scope="module")
def run() -> Clip:
    return simulate_bold(FRAMES, SIZE, 3, 2.0, seed=4)[0]


@pytest.fixture
def here(run: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    save_clip(run, tmp_path / "sub-01_task-rest_bold.nii.gz")
    save_clip(run, tmp_path / "series.nii.gz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_bold_name_is_denoised_as_bold(here: Path, run: Clip):
    assert command("denoise sub-01_task-rest_bold.nii.gz -o out.nii.gz") == 0
    record = json.loads((here / "out.run.json").read_text())
    assert record["result"]["method"] == "bold" and record["model"] is None
    assert 0 < record["result"]["share"] < 1 and record["result"]["kept"] > 0.96
    expected = denoise_bold(run)
    torch.testing.assert_close(load_clip(here / "out.nii.gz").data, expected.clip.data)
    torch.testing.assert_close(load_clip(here / "out_dof_lost.nii.gz").data, expected.dof_lost.float())
    removed = load_clip(here / "out_removed.nii.gz").data
    torch.testing.assert_close(removed, expected.removed.square().mean(2, keepdim=True).sqrt())


def test_the_kind_can_be_said(here: Path):
    assert command("denoise series.nii.gz -o bold.nii.gz --kind bold") == 0
    assert json.loads((here / "bold.run.json").read_text())["result"]["method"] == "bold"
    assert command("denoise sub-01_task-rest_bold.nii.gz -o prior.nii.gz --kind cine") == 0
    assert json.loads((here / "prior.run.json").read_text())["model"] is not None


def test_censored_volumes_are_filled_in_and_told(here: Path, run: Clip):
    spiked = run.data.clone()
    spiked[:, :, [7, 8]] *= 3
    save_clip(run.with_data(spiked), here / "spiked.nii.gz")
    (here / "censored.txt").write_text("".join("1\n" if t in (7, 8) else "0\n" for t in range(FRAMES)))
    assert command("denoise spiked.nii.gz -o out.nii.gz --kind bold --censored censored.txt") == 0
    assert json.loads((here / "out.run.json").read_text())["result"]["filled_volumes"] == [8, 9]
    made = load_clip(here / "out.nii.gz").data
    assert float((made[:, :, 7] / run.data[:, :, 7].clamp(min=1))[run.data[:, :, 7] > 300].median()) < 1.1


@pytest.mark.parametrize(
    ("text", "code"), [("0 1 2", 4), ("good bad", 4), ("0 1 0", 2), ("", 4)], ids=["two", "words", "short", "empty"]
)
def test_what_censors_wrongly_is_refused(here: Path, capsys, text: str, code: int):
    (here / "censored.txt").write_text(text)
    assert command("denoise series.nii.gz -o out.nii.gz --kind bold --censored censored.txt") == code
    assert capsys.readouterr().err.count("\n") == 1 and not (here / "out.nii.gz").exists()


def test_volumes_that_were_cut_out_stay_out(run: Clip):
    there = [t for t in range(FRAMES) if t not in (10, 20)]
    cut = replace(run, data=run.data[:, :, there], times=run.times[there])
    done = restore_bold(cut)
    np.testing.assert_array_equal(done.clip.times, cut.times)
    whole = denoise_bold(run)
    near = (done.clip.data - whole.clip.data[:, :, there]).std() / (whole.removed[:, :, there]).std()
    assert float(near) < 0.35  # nearly what the whole run gives


def test_a_bold_run_is_interpolated_band_limited(here: Path, run: Clip):
    assert command("interpolate sub-01_task-rest_bold.nii.gz -o out.nii.gz --factor 2") == 0
    made = load_clip(here / "out.nii.gz")
    assert made.frames == 2 * FRAMES - 1
    torch.testing.assert_close(made.data[:, :, ::2], run.data, rtol=1e-3, atol=0.1)


def test_slices_are_brought_to_the_time_of_their_volume():
    late = np.array([0.0, 0.5, 1.0])
    times = 2.0 * np.arange(60)
    course = np.cos(2 * np.pi * 0.05 * (times[None] + late[:, None]))
    data = torch.from_numpy(1000 + 50 * course).float()[:, None, :, None, None].expand(3, 1, 60, 8, 8).contiguous()
    moved = resample_bold(Clip(data, np.diag([3.0, 3, 3, 1]), times, slice_times=late), times=times).clip
    inner = moved.data[..., 0, 0][:, 0, 12:-12]
    assert float((inner - inner[:1]).abs().max()) < 1.0  # of an amplitude of 50


def test_motion_is_told_and_hardly_touched():
    g = torch.Generator().manual_seed(1)
    checks = ((torch.arange(32)[:, None] + torch.arange(32)) % 2 * 2.0 - 1).expand(3, 1, 1, 32, 32)
    # A jerk is broad in frequency: sharp in space and fast in time, and no noise.
    course = torch.zeros(60, 1, 1)
    course[[9, 24, 41]] = 1.0
    data = 1000 + 200 * checks * course + 5 * torch.randn(3, 1, 60, 32, 32, generator=g)
    with pytest.warns(MedseqWarning, match="unlike"):
        done = restore_bold(Clip(data, np.diag([3.0, 3, 3, 1]), 2.0 * np.arange(60)), sigma=5.0)
    assert done.info["share"] < 0.5


def test_there_are_no_samples_of_it(run: Clip):
    with pytest.raises(UsageError, match="deterministic"):
        restore_bold(run, samples=2)
    with pytest.raises(UsageError, match="samples"):
        resample_bold(run, samples=2)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained prior of fluctuations: it answers with principal components."""
    prior = BoldPrior(VideoUNet((8, 12), 1, GUIDES, channels=1), SpreadTable([0.1, 10.0], [0.1, 0.5]))
    return save_prior(prior, tmp_path_factory.mktemp("weights") / "tiny", {"what": "a test"})


@pytest.mark.filterwarnings("ignore:a response of 1 %:medseq.MedseqWarning")
def test_least_error_is_a_goal_of_its_own(here: Path, run: Clip, tiny: Path):
    line = f"denoise series.nii.gz -o out.nii.gz --kind bold --goal fluctuations --prior {tiny} --precision float32"
    assert command(line) == 0
    record = json.loads((here / "out.run.json").read_text())
    assert record["result"]["goal"] == "fluctuations" and record["model"]["name"] == "tiny"
    expected = denoise_bold(run, prior=load_bold_prior(tiny), bias=None, growth=None)
    torch.testing.assert_close(load_clip(here / "out.nii.gz").data, expected.clip.data, rtol=1e-4, atol=1e-2)
    assert expected.report.growth > 0.05  # beyond what the other goal allows


def test_what_small_responses_would_lose_is_told(run: Clip, tiny: Path):
    with pytest.warns(MedseqWarning, match=r"a response of 1 % and 6 mm would keep \d+ % of its amplitude"):
        done = restore_bold(run, goal="fluctuations", prior=tiny)
    assert done.info["kept"] < 0.9


def test_a_prior_of_images_is_no_prior_of_fluctuations(here: Path, capsys: pytest.CaptureFixture[str]):
    assert command("denoise series.nii.gz -o out.nii.gz --kind bold --goal fluctuations --prior heart-3") == 4
    assert "not of BOLD fluctuations" in capsys.readouterr().err
    assert not (here / "out.nii.gz").exists()


@pytest.mark.parametrize(("level", "told"), [(0.3, True), (0.1, False)])
def test_magnitudes_of_little_snr_are_told(run: Clip, level: float, told: bool):
    """At 3 times the noise magnitudes show changes too small; with their phase they do not."""
    g = torch.Generator().manual_seed(0)
    bright = float(run.data.mean(2)[run.data.mean(2) > 0.5 * run.data.mean(2).max()].median())
    noisy = run.data + level * bright * np.sqrt(2) * torch.randn(run.data.shape, dtype=torch.complex64, generator=g)
    for data, expected in ((noisy.abs(), told), (noisy, False)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            restore_bold(run.with_data(data))
        assert any("SNR" in str(one.message) for one in caught) == expected
