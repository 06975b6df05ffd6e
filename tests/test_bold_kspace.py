"""BOLD from undersampled EPI k-space: activation is kept, nothing folds, the noise is known, no prior is asked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from medseq import (
    Clip,
    InputError,
    KSpace,
    MedseqWarning,
    UsageError,
    load_clip,
    load_kspace,
    reconstruction,
    save_kspace,
)
from medseq.activation import design_matrix, glm
from medseq.bold import denoise_bold, tissue_mask
from medseq.bold_kspace import reconstruct_bold
from medseq.cli import main
from medseq.patterns import equispaced
from medseq.phantoms.bold import block_design
from medseq.simulate import acquire, acquire_epi, head_coil_maps, simulate_bold_images

FRAMES, SIZE, SLICES, TR = 48, (48, 48), 2, 2.0
DESIGN = design_matrix(block_design(FRAMES, TR), TR)


@pytest.fixture(scope="module")
def scene() -> tuple[Clip, Tensor]:
    """Images without noise, and where they are active."""
    clip, activation = simulate_bold_images(FRAMES, SIZE, SLICES, TR, change=0.03, seed=5)
    return clip, activation.data > 0.01


@pytest.fixture(scope="module")
def whole(scene) -> Clip:
    """Every line measured, hardly any noise."""
    return reconstruct_bold(acquire_epi(scene[0], acceleration=1, noise=1e-4, seed=1)).clip


def partial_fourier(kspace: KSpace) -> KSpace:
    keep = kspace.keep.clone()
    keep[:, :, :, : SIZE[0] // 4] = False
    return replace(kspace, keep=keep, data=kspace.data * keep)


def test_a_fully_measured_series_comes_back(scene, whole) -> None:
    tissue = tissue_mask(scene[0].data).expand_as(whole.data)
    error = (whole.data.abs() - scene[0].data.abs()).abs() / scene[0].data.abs()
    assert float(error[tissue].quantile(0.99)) < 0.01


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("acceleration", [2, 3])
def test_activation_keeps_its_amplitude_and_nothing_folds(scene, whole, acceleration: int, shifted: bool) -> None:
    clip, active = scene
    kspace = acquire_epi(clip, acceleration=acceleration, noise=1e-4, shifted=shifted, seed=2)
    found = reconstruct_bold(kspace).clip
    assert found.is_complex and found.data.shape == clip.data.shape
    np.testing.assert_array_equal(found.affine, clip.affine)
    np.testing.assert_array_equal(found.times, clip.times)
    ours, truth = glm(found.data, DESIGN).percent, glm(whole.data, DESIGN).percent
    bias = float((ours * truth)[active].sum() / truth.square()[active].sum()) - 1
    assert abs(bias) < 0.02
    quiet = tissue_mask(whole.data) & ~active
    assert float((ours - truth)[quiet].abs().quantile(0.99)) < 0.1  # per cent, of 3 at the height
    # Voxel for voxel, frame for frame: aliases would be tens of per cent.
    # The phase is that of the maps, which ESPIRiT leaves open.
    error = (found.data.abs() - whole.data.abs()).abs().mean(2, keepdim=True) / whole.data.abs().mean(2, keepdim=True)
    assert float(error[quiet].quantile(0.95)) < 0.03


def test_partial_fourier_blurs_and_keeps_the_amplitude(scene) -> None:
    clip, active = scene
    full = reconstruct_bold(partial_fourier(acquire_epi(clip, acceleration=1, noise=1e-4, seed=2))).clip
    half = reconstruct_bold(partial_fourier(acquire_epi(clip, acceleration=2, noise=1e-4, seed=2)))
    ours, truth = glm(half.clip.data, DESIGN).percent, glm(full.data, DESIGN).percent
    assert abs(float((ours * truth)[active].sum() / truth.square()[active].sum()) - 1) < 0.02
    assert half.info["g_factor"] < 2


@pytest.mark.parametrize(("acceleration", "shifted"), [(2, True), (3, False)])
def test_the_noise_is_what_the_map_says(scene, acceleration: int, shifted: bool) -> None:
    clip, _ = scene
    still = replace(clip, data=clip.data[:, :, :1].expand_as(clip.data))
    kspace = acquire_epi(still, acceleration=acceleration, noise=0.02, shifted=shifted, seed=3)
    found = reconstruct_bold(kspace)
    tissue = tissue_mask(found.clip.data)
    measured = torch.view_as_real(found.clip.data).var(2, keepdim=True).mean(-1).sqrt()
    ratio = (measured / found.maps["noise"].data)[tissue]
    assert float(ratio.median()) == pytest.approx(1, abs=0.03)
    assert float(ratio.std()) < 0.15
    assert found.info["noise"] == pytest.approx(float(found.maps["noise"].data[tissue].median()), rel=0.01)
    assert 1 <= found.info["g_factor"] < 3 and found.info["acceleration"] == pytest.approx(acceleration, rel=0.1)


def test_denoising_is_told_the_noise(scene) -> None:
    clip, _ = scene
    kspace = acquire_epi(clip, acceleration=2, noise=0.02, seed=3)
    plain, clean = reconstruct_bold(kspace), reconstruct_bold(kspace, denoise=True)
    expected = denoise_bold(plain.clip, sigma=plain.maps["noise"].data)
    torch.testing.assert_close(clean.clip.data, expected.clip.data)
    assert clean.info["denoised"]["share"] == expected.report.share > 0
    assert set(clean.maps) == {"noise", "g_factor", "dof_lost", "removed"}


def test_volumes_without_lines_are_filled_in_and_told(scene) -> None:
    clip, _ = scene
    kspace = acquire_epi(clip, acceleration=2, noise=0.01, seed=3)
    keep = kspace.keep.clone()
    keep[:, :, [7, 20]] = False
    found = reconstruct_bold(replace(kspace, keep=keep, data=kspace.data * keep))
    assert found.info["filled_volumes"] == [8, 21] and found.clip.present is None
    tissue = tissue_mask(clip.data)
    error = (found.clip.data.abs() - clip.data.abs()).abs()[:, :, [7, 20]].mean(2, keepdim=True)
    assert float((error / clip.data.abs().mean(2, keepdim=True))[tissue].median()) < 0.05


def test_a_covariance_whitens_the_calibration_scan_too(scene) -> None:
    clip, _ = scene
    g = torch.Generator().manual_seed(0)
    mixing = torch.eye(6) + 0.5 * torch.randn(6, 6, dtype=torch.complex64, generator=g)

    def mixed(acceleration: int) -> Tensor:
        kspace = acquire_epi(clip, coils=6, acceleration=acceleration, noise=1e-4, seed=3)
        assert kspace.calibration is not None and isinstance(kspace.noise, float)
        data, calibration = (torch.einsum("dc,bc...->bd...", mixing, one) for one in (kspace.data, kspace.calibration))
        covariance = kspace.noise**2 * mixing @ mixing.mH
        return reconstruct_bold(replace(kspace, data=data, calibration=calibration, noise=covariance)).clip.data.abs()

    full, half = mixed(1), mixed(2)  # the maps of the first are those of its own average
    error = ((half - full).abs() / full)[tissue_mask(full).expand_as(full)]
    assert float(error.quantile(0.95)) < 0.05


def test_too_few_lines_for_the_coils_are_warned_of(scene) -> None:
    with pytest.warns(MedseqWarning, match="cannot unfold so few lines"):
        reconstruct_bold(acquire_epi(scene[0], coils=4, acceleration=5, seed=3))


def refused(kspace: KSpace) -> dict[str, KSpace]:
    few, points = kspace.keep.clone(), kspace.keep.expand(-1, -1, -1, -1, SIZE[1]).clone()
    few[:, :, 7:] = False
    points[..., 0, 3] = False
    return {
        "need a fully sampled centre of k-space": replace(kspace, calibration=None),
        "even the calibration scan has only 0 x 0": replace(
            kspace, calibration=torch.zeros_like(kspace.data[:, :, :1])
        ),
        "measured in 7 frames only": replace(kspace, keep=few, data=kspace.data * few),
        "whole lines": replace(kspace, keep=points, data=kspace.data * points),
    }


def test_what_cannot_be_done_is_refused(scene) -> None:
    kspace = acquire_epi(scene[0], acceleration=2, seed=3)
    for message, bad in refused(kspace).items():
        with pytest.raises(InputError, match=message):
            reconstruct_bold(bad)
    with pytest.raises(UsageError, match="deterministic"):
        reconstruct_bold(kspace, samples=2)
    with pytest.raises(UsageError, match="at least one coil"):
        acquire_epi(scene[0], coils=0)
    with pytest.raises(UsageError, match="whole acceleration"):
        acquire_epi(scene[0], acceleration=1.5)


def run(words: str, folder: Path) -> int:
    return main([str(folder / word) if "." in word and word[0] != "-" else word for word in words.split()])


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("epi")
    words = "simulate bold -o epi.h5 --truth active.nii.gz --frames 24 --slices 1 --size 32 32 --coils 6 --seed 3"
    assert run(words, folder) == 0
    return folder


def test_simulated_epi_is_read_as_such(simulated: Path) -> None:
    kspace = load_kspace(simulated / "epi.h5")
    assert kspace.epi and kspace.calibration is not None and kspace.data.shape == (1, 6, 24, 32, 32)
    assert float(kspace.keep.float().mean()) == 0.5 and isinstance(kspace.noise, float)
    clip, _ = simulate_bold_images(24, (32, 32), 1, seed=3)
    expected = acquire_epi(clip, coils=6, seed=3)
    assert torch.equal(kspace.data, expected.data)
    assert torch.equal(kspace.calibration, expected.calibration)
    assert bool((load_clip(simulated / "active.nii.gz").data > 0).any())


def test_epi_is_reconstructed_as_bold_by_itself(simulated: Path) -> None:
    assert run("reconstruct epi.h5 -o out.nii.gz --denoise", simulated) == 0
    record = json.loads((simulated / "out.run.json").read_text())
    assert record["model"] is None and record["result"]["method"] == "bold"
    assert record["options"]["kind"] == "auto" and record["options"]["denoise"] is True
    assert record["result"]["denoised"]["kept"] > 0.96
    expected = reconstruct_bold(load_kspace(simulated / "epi.h5"), denoise=True)
    series = load_clip(simulated / "out.nii.gz")
    torch.testing.assert_close(series.data, expected.clip.data.abs())
    assert np.diff(series.times) == pytest.approx(2.0)
    for name, extra in expected.maps.items():
        torch.testing.assert_close(load_clip(simulated / f"out_{name}.nii.gz").data, extra.data)


def test_the_kind_can_be_said(
    simulated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, _ = simulate_bold_images(24, (32, 32), 1, seed=3)
    save_kspace(acquire(clip, coils=head_coil_maps(clip, 6), keep=equispaced(24, 32, 2)), tmp_path / "plain.h5")
    assert run("reconstruct plain.h5 -o bold.nii.gz --kind bold --complex", tmp_path) == 0
    assert json.loads((tmp_path / "bold.run.json").read_text())["result"]["method"] == "bold"
    assert load_clip(tmp_path / "bold.nii.gz").is_complex
    capsys.readouterr()
    assert run("reconstruct plain.h5 -o no.nii.gz --denoise", tmp_path) == 2
    assert "--denoise is about BOLD" in capsys.readouterr().err

    def prior_asked(*_: object, **__: object) -> None:
        raise InputError("the prior of hearts is asked")

    monkeypatch.setattr(reconstruction, "reconstruct", prior_asked)
    assert run("reconstruct epi.h5 -o hearts.nii.gz --kind cine", simulated) == 4
    assert "the prior of hearts is asked" in capsys.readouterr().err


def test_a_scan_without_calibration_is_named_and_leaves_nothing(
    simulated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_kspace(replace(load_kspace(simulated / "epi.h5"), calibration=None), tmp_path / "alone.h5")
    assert run("reconstruct alone.h5 -o out.nii.gz", tmp_path) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert "alone.h5: coil maps need" in line and "measure calibration lines" in line
    assert [file.name for file in tmp_path.iterdir()] == ["alone.h5"]


def test_a_measured_series_becomes_epi_k_space(simulated: Path, tmp_path: Path) -> None:
    assert run(f"simulate bold --from out.nii.gz -o {tmp_path}/again.h5 --acceleration 3", simulated) == 0
    assert float(load_kspace(tmp_path / "again.h5").keep.float().mean()) == pytest.approx(1 / 3, rel=0.05)
