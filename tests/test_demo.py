"""The demo, its sample and its pictures."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from medseq import demo
from medseq.cli import main
from medseq.io import load_clip, load_kspace
from medseq.io.weights import save_prior
from medseq.network import VideoUNet
from medseq.prior import Prior, SpreadTable
from medseq.provenance import RunRecord
from medseq.report.figures import ERROR_GAIN, Panel, montage, movie


@pytest.fixture
def tiny_default(tmp_path, monkeypatch):
    """An untrained prior in place of the shipped one: this tests the demo, not the prior."""
    torch.manual_seed(0)
    tiny = Prior(VideoUNet((8, 16), 1), 0.3, SpreadTable([0.01, 1.0], [0.005, 0.1]))
    save_prior(tiny, tmp_path / "tiny.safetensors", {"licence": "test"})
    monkeypatch.setattr("medseq.io.weights.SHIPPED", tmp_path)
    monkeypatch.setattr("medseq.io.weights.DEFAULT", "tiny")


def test_demo_writes_series_pictures_and_a_table(tiny_default, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["demo", "-o", str(out)]) == 0
    text = capsys.readouterr().out
    for word in ("reconstruct", "denoise", "interpolate", "zero-filled", "frozen", "L+S", "linear", "noisy"):
        assert word in text
    truth = load_clip(out / "reference.nii.gz")
    for name in ("reconstructed", "denoised", "interpolated"):
        restored = load_clip(out / f"{name}.nii.gz")
        assert restored.data.shape == truth.data.shape
        assert np.allclose(restored.times, truth.times) and restored.period == pytest.approx(truth.period)
    for task in ("reconstruct", "denoise", "interpolate"):
        with Image.open(out / f"{task}.png") as still, Image.open(out / f"{task}.webp") as moving:
            assert still.format == "PNG" and moving.format == "WEBP"
            assert getattr(moving, "n_frames", 1) == truth.frames
    page = (out / "report.html").read_text()
    assert all(f"<h2>{task.capitalize()}</h2>" in page for task in ("reconstruct", "denoise", "interpolate"))
    assert "Error, L+S" in page and "cine_truth.nii.gz, SHA-256" in page
    run = json.loads((out / "run.json").read_text())
    assert run["inputs"][0]["name"] == "cine.h5" and set(run["seconds"]) >= {"baselines", "reconstruct", "total"}


def test_without_a_checkout_the_same_sample_is_simulated(monkeypatch, tmp_path):
    stored, truth = demo._sample(RunRecord("demo", {}))
    monkeypatch.setattr(demo, "SAMPLE", tmp_path)
    made, made_truth = demo._sample(RunRecord("demo", {}))
    scale = float(stored.data.abs().max())
    assert torch.equal(stored.keep.expand(stored.data.shape), made.keep.expand(made.data.shape))
    assert float((stored.data - made.data).abs().max()) < 1e-4 * scale
    assert float((truth.data - made_truth.data.abs()).abs().max()) < 1e-4 * float(truth.data.max())
    assert stored.noise == pytest.approx(made.noise, rel=1e-4) and stored.period == pytest.approx(made.period)


def test_the_sample_is_made_by_the_command_beside_it(tmp_path):
    readme = (demo.SAMPLE / "README.md").read_text()
    (line,) = [line for line in readme.splitlines() if line.startswith("medseq simulate")]
    assert main(line.replace("sample_data", str(tmp_path)).split()[1:]) == 0
    stored, made = (load_kspace(folder / "cine.h5").data for folder in (demo.SAMPLE, tmp_path))
    assert float((stored - made).abs().max()) < 1e-4 * float(stored.abs().max())


@pytest.fixture
def square() -> np.ndarray:
    """Three frames, half of each bright; one has a dark column."""
    frames = np.full((3, 60, 60), 0.5)
    frames[:, :, 30:] = 1.0
    frames[1, :, 20] = 0.0
    return frames


def test_every_panel_has_the_same_scale(square, tmp_path):
    doubled, offset = Panel("double", 2 * square), Panel("offset", square + 0.1)
    montage([Panel("reference", square), doubled, offset], square, tmp_path / "m.png", frame=0, column=10)
    with Image.open(tmp_path / "m.png") as picture:
        sheet = np.asarray(picture)
    side = 60 * 4  # four pixels a voxel
    step = side + 6
    left, top = sheet.shape[1] - 3 * step, 24

    def pixel(row: int, panel: int) -> int:
        return int(sheet[top + row * step + 20, left + panel * step + 20])

    assert pixel(0, 0) == 128 and pixel(0, 1) == 255 and pixel(0, 2) == round(0.6 * 255)
    assert pixel(1, 0) == 0 and pixel(1, 1) == 255 and abs(pixel(1, 2) - ERROR_GAIN * 0.1 * 255) < 1


def test_a_movie_has_every_frame_and_never_ends(square, tmp_path):
    panels = [Panel("reference", square), Panel("still", np.repeat(square[:1], 3, axis=0))]
    movie(panels, square, tmp_path / "m.gif", column=20, seconds=0.05)
    with Image.open(tmp_path / "m.gif") as gif:
        assert gif.n_frames == 3 and gif.info["loop"] == 0 and gif.info["duration"] == 50
    movie(panels, square, tmp_path / "m.webp", column=20, seconds=0.05)
    with Image.open(tmp_path / "m.webp") as webp:
        assert webp.n_frames == 3 and webp.info["loop"] == 0


def test_a_panel_of_another_shape_is_refused(square, tmp_path):
    with pytest.raises(ValueError, match="'short' is"):
        montage([Panel("short", square[:2])], square, tmp_path / "m.png", frame=0, column=0)
