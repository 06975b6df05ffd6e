"""The report of a result: what it shows is true, says nothing of anybody, and never costs the result."""

from __future__ import annotations

import getpass
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_shelf import beating_disc, command, left_behind, undersampled
from pytest import approx

from medseq import Clip, KSpace
from medseq.activation import detrend, lag_one
from medseq.bold import tissue_mask
from medseq.bold_task import restore_bold
from medseq.cli import main
from medseq.gathering import Restored
from medseq.metrics import tsnr
from medseq.noise import unit_noise
from medseq.provenance import sha256
from medseq.report.blocks import Block, Panel, Players, Profiles, Table
from medseq.report.bold import bold_denoised
from medseq.report.compared import Version, compared
from medseq.report.record import provenance
from medseq.report.series import denoised, interpolated, reconstructed
from medseq.report.stage import Stage
from medseq.report.view import view_of
from medseq.simulate import simulate_bold


def panel(blocks: list[Block], title: str) -> Panel:
    return next(each for block in blocks if isinstance(block, Players) for each in block.panels if each.title == title)


def cell(blocks: list[Block], row: str, column: str) -> str:
    for table in (block for block in blocks if isinstance(block, Table)):
        for values in table.rows:
            if values[0] == row:
                return values[table.header.index(column)]
    raise KeyError(row)


@pytest.fixture(scope="module")
def disc() -> Clip:
    return beating_disc()


def noisy(clip: Clip, sigma: float = 2.0) -> Clip:
    return clip.with_data(clip.data + sigma * torch.randn(clip.data.shape, generator=torch.Generator().manual_seed(3)))


def test_what_was_removed_is_the_difference_of_what_is_shown(disc: Clip):
    three = replace(disc, data=torch.cat([0 * disc.data + 50, disc.data, 0.2 * disc.data]))
    before = noisy(three)
    blocks = denoised(before, Restored(three, info={"noise": [2.0]}))
    shown, result, removed = (panel(blocks, title) for title in ("Input", "Result", "Removed"))
    np.testing.assert_allclose(removed.frames, shown.frames - result.frames, atol=1e-4)
    expected = view_of(disc.affine).of(before.data[1, 0].numpy())  # the slice that beats most, turned
    np.testing.assert_array_equal(shown.frames, expected)
    assert (shown.low, shown.high) == (result.low, result.high)
    assert cell(blocks, "Noise, std (units of the series)", "input") == "2"
    row = "Flicker (0 none, 1 white noise)"
    assert cell(blocks, row, "result") == "–" or float(cell(blocks, row, "result")) < float(cell(blocks, row, "input"))


def test_a_series_that_nothing_was_removed_from_has_a_page_too(disc: Clip):
    blocks = denoised(disc, Restored(disc))
    assert cell(blocks, "Correlation of neighbours in a row", "removed") == "–"
    empty = disc.with_data(disc.data * (torch.arange(6) != 2)[:, None, None])
    assert cell(denoised(empty, Restored(empty)), "Flicker (0 none, 1 white noise)", "input") == "–"


def test_structure_in_what_was_removed_is_told(disc: Clip):
    row = "Rank correlation of its std with the edges of the image"
    honest = float(cell(denoised(noisy(disc), Restored(disc)), row, "removed"))
    frozen = disc.with_data(disc.data.mean(2, keepdim=True).expand_as(disc.data).contiguous())
    erased = float(cell(denoised(disc, Restored(frozen)), row, "removed"))
    assert abs(honest) < 0.2 < 0.5 < erased


def test_an_interpolation_is_shown_beside_straight_lines_and_held_frames(disc: Clip):
    known = replace(disc, data=disc.data[:, :, ::2], times=disc.times[::2])
    blocks = interpolated(known, Restored(disc))
    held, lines, result = (
        panel(blocks, t).frames for t in ("Input, each frame held", "Straight lines in time", "Result")
    )
    np.testing.assert_allclose(lines[::2], held[::2], rtol=1e-5)
    np.testing.assert_allclose(held[1::2], held[::2])
    np.testing.assert_allclose(lines[1], (held[0] + held[2]) / 2, rtol=1e-4)
    np.testing.assert_allclose(panel(blocks, "Result − straight lines").frames, result - lines, atol=1e-3)


@pytest.fixture(scope="module")
def kspace(disc: Clip) -> KSpace:
    clean = undersampled(disc)
    noise = 0.1 * unit_noise(clean.data, torch.Generator().manual_seed(2))
    half = torch.linspace(0, np.pi / 2, 32)
    maps = torch.stack([half.cos(), half.sin()])[None, :, None, None].expand(1, 2, 1, 32, 32).to(torch.complex64)
    return replace(clean, data=(clean.data + noise) * clean.keep, maps=maps)


def test_the_misfit_of_the_truth_is_one_and_that_of_another_image_is_not(disc: Clip, kspace: KSpace):
    row = "Misfit to the measured k-space, over the noise"
    truth = disc.with_data(disc.data.to(torch.complex64))
    assert float(cell(reconstructed(kspace, Restored(truth)), row, "value")) == approx(1, abs=0.1)
    wrong = truth.with_data(truth.data.roll(1, 2))
    assert float(cell(reconstructed(kspace, Restored(wrong)), row, "value")) > 5
    share = float(kspace.keep.float().mean())
    assert cell(reconstructed(kspace, Restored(truth)), "Acceleration", "value") == f"{1 / share:.1f}"


def test_a_magnitude_is_not_said_to_fit_the_data(disc: Clip, kspace: KSpace):
    with pytest.raises(KeyError):
        cell(reconstructed(kspace, Restored(disc)), "Misfit to the measured k-space, over the noise", "value")


@pytest.fixture(scope="module")
def run() -> Clip:
    return simulate_bold(20, (32, 32), 3, 2.0, seed=4)[0]


def test_bold_is_told_in_the_figures_of_fmri(run: Clip):
    restored = restore_bold(run)
    blocks = bold_denoised(run, restored)
    mask = tissue_mask(restored.clip.data)
    for column, series in (("input", run.data), ("result", restored.clip.data)):
        assert cell(blocks, "tSNR, median over tissue", column) == f"{float(tsnr(series)[mask].median()):.2f}"
        lag = lag_one(detrend(series, 2.0), mask)
        assert float(cell(blocks, "Autocorrelation from one volume to the next", column)) == approx(lag, abs=1e-3)
    assert (
        cell(blocks, "Share removed of what cannot be a response", "value") == f"{100 * restored.info['share']:.1f} %"
    )
    change = [panel(blocks, f"Change, {name}") for name in ("input", "result")]
    removed = panel(blocks, "Removed").frames
    difference = change[0].frames - change[1].frames
    np.testing.assert_allclose(removed - removed.mean(0), difference, atol=1e-3)


def test_censored_volumes_count_in_no_figure(run: Clip):
    spoilt = run.data.clone()
    spoilt[:, :, 7] *= 5
    bad = np.arange(20) == 7
    before = run.with_data(spoilt)
    blocks = bold_denoised(before, restore_bold(before, censored=bad))
    row = "tSNR, median over tissue"
    good = run.data[:, :, ~bad]
    told = float(cell(blocks, row, "input"))
    assert told == approx(float(tsnr(good)[tissue_mask(good)].median()), rel=0.03)
    assert cell(blocks, "Volumes filled in", "value") == "1"


def test_versions_beside_a_reference_have_one_scale_each(disc: Clip):
    versions = [Version("bad", disc.data + 20, "1 dB"), Version("good", disc.data + 2, "2 dB")]
    players, profiles = compared(disc, versions)
    assert isinstance(players, Players) and isinstance(profiles, Profiles)
    titles = [each.title for each in players.panels]
    assert titles == ["bad", "good", "Reference", "Error, bad", "Error, good"] and players.columns == 3
    np.testing.assert_allclose(players.panels[4].frames, 2, atol=1e-4)
    scales = [(each.low, each.high) for each in players.panels]
    assert len(set(scales[:3])) == 1 and len(set(scales[3:])) == 1


def test_stills_hold_every_slice_once():
    maps = torch.arange(1.0, 6).reshape(5, 1, 1, 1, 1).expand(5, 1, 1, 4, 6)
    stage = Stage(Clip(maps), 0, view_of(np.eye(4)))
    mosaic = stage.stills(maps)[0]
    assert [int((mosaic == value).sum()) for value in range(1, 6)] == [24] * 5
    first = [int(np.flatnonzero(mosaic == value)[0]) for value in range(1, 6)]
    assert first == sorted(first)  # in reading order
    inside = torch.zeros(5, 1, 1, 4, 6, dtype=torch.bool)
    inside[:, ..., 1:3, 2:5] = True
    assert [int((stage.stills(maps, inside) == value).sum()) for value in range(1, 6)] == [6] * 5
    many = Stage(Clip(torch.ones(40, 1, 1, 4, 6)), 0, view_of(np.eye(4)))
    shown = many.stills(many.like.data)
    assert int(shown.sum()) == 12 * 24
    assert "12 of 40 slices" in many.still_players("All", [Panel("x", shown, 0, 1)]).note


@pytest.mark.parametrize(
    ("words", "page"),
    [
        ("reconstruct raw.h5 -o out.nii.gz", "out.html"),
        ("denoise cine.nii.gz -o out.nii.gz", "out.html"),
        ("denoise cine.nii.gz -o out.nii.gz --samples 2 --steps 2", "out.html"),
        ("interpolate cine.nii.gz -o out.nii", "out.html"),
        ("denoise study --series 5 -o clean", "clean/report.html"),
    ],
)
def test_every_restoring_command_writes_a_page(here: Path, words: str, page: str):
    assert command(f"{words} --prior tiny.safetensors --report") == 0
    html = (here / page).read_text()
    record = json.loads((here / page.replace("report.html", "run.json").replace(".html", ".run.json")).read_text())
    told = re.sub(r'"data:image[^"]*"', "", html)
    assert record["inputs"][0]["sha256"] in told and record["model"]["sha256"] in told and "Not for diagnosis" in told
    assert ("Std over the samples" in told) == ("--samples" in words)
    for secret in (str(here), str(here.resolve()), getpass.getuser() + "/", str(Path.home()) + "/"):
        assert secret not in told


def test_a_calibrated_std_is_called_what_it_is(here: Path):
    """With the shipped prior one image has a std, which is no spread of samples."""
    assert command("reconstruct raw.h5 -o out.nii.gz --steps 1 --report") == 0
    told = re.sub(r'"data:image[^"]*"', "", (here / "out.html").read_text())
    reach = json.loads((here / "out.run.json").read_text())["result"]["interval_factors"]["90%"]
    assert "Std of the error" in told and f"{reach:.2g} of it cover 90 % on 64 simulated series" in told
    assert "over the samples" not in told


def test_no_page_unless_asked_for(here: Path, shelf: Path):
    assert command("denoise cine.nii.gz -o out.nii.gz --prior tiny.safetensors") == 0
    assert left_behind(here, shelf) == ["out.nii.gz", "out.run.json"]


def test_a_deidentified_result_has_a_page_without_names(here: Path):
    (here / "Doe^Jane").symlink_to(here / "study")
    assert command("denoise Doe^Jane --series 5 -o Doe_clean --deidentify --report --prior tiny.safetensors") == 0
    html = re.sub(r'"data:image[^"]*"', "", (here / "Doe_clean" / "report.html").read_text())
    assert "Doe" not in html and "2.25." not in html and "1.2." not in html.replace("1.2.5", "")
    assert "<h1>Series</h1>" in html


@pytest.mark.parametrize("where", ["medseq.report.restored.series_section", "medseq.report.page.render"])
def test_a_report_that_fails_costs_nothing_but_itself(here, shelf, capsys, monkeypatch, where: str):
    (here / "out.html").write_text("of an older result")

    def fail(*_, **__):
        raise RuntimeError("no pen")

    monkeypatch.setattr(where, fail)
    assert command("denoise cine.nii.gz -o out.nii.gz --prior tiny.safetensors --report") == 0
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("medseq: warning: out.html: no report was written") and "no pen" in line
    assert left_behind(here, shelf) == ["out.nii.gz", "out.run.json"]
    assert any("no report" in text for text in json.loads((here / "out.run.json").read_text())["warnings"])


def test_provenance_is_that_of_run_json(here: Path):
    assert command("denoise cine.nii.gz -o out.nii.gz --prior tiny.safetensors --sigma 2 --seed 7") == 0
    told = provenance(json.loads((here / "out.run.json").read_text()))
    assert told["Input"] == f"cine.nii.gz, SHA-256 {sha256(here / 'cine.nii.gz')}"
    assert "seed 7" in told["Options"] and "sigma 2" in told["Options"] and told["Model"].startswith("tiny, SHA-256")
    assert "torch" in told["Software"]


def test_a_series_of_one_frame_has_a_page(here: Path):
    assert command("reconstruct multicoil.fastmri.h5 -o still.nii.gz --prior tiny.safetensors --report") == 0
    assert "Zero-filled" in (here / "still.html").read_text()


def test_the_real_cine_and_rest_series_fit_into_their_pages(real_data: Path, tmp_path: Path):
    bold = real_data / "fmri_rest" / "sub-01_task-rest_bold.nii.gz"
    import nibabel as nib

    image = nib.load(bold).slicer[20:76, 20:80, 8:11, :20]
    nib.save(image, tmp_path / "sub-01_task-rest_bold.nii.gz")
    out = tmp_path / "clean.nii.gz"
    assert main(["denoise", str(tmp_path / "sub-01_task-rest_bold.nii.gz"), "-o", str(out), "--report"]) == 0
    assert 100_000 < (tmp_path / "clean.html").stat().st_size <= 5_000_000
