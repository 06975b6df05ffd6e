"""What the tasks and commands do with a prior that is trusted so far and no further."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cli_shelf import command, fails, left_behind

from medseq.calibration import Calibration
from medseq.clip import Clip, KSpace
from medseq.errors import InputError, MedseqWarning
from medseq.gathering import Restored
from medseq.io import load_clip, save_clip
from medseq.io.weights import load_prior, save_trust
from medseq.mismatch import Expectation
from medseq.network import VideoUNet
from medseq.noise import unit_noise
from medseq.prior import Prior, SpreadTable, Trust
from medseq.reconstruction import reconstruct
from medseq.restore import denoise, interpolate
from medseq.simulate import acquire, simulate_cine

FACTORS = (0.6, 1.2, 1.6449)
MEASURES = ("gain", "unexplained", "unevenness")
TASKS = ("reconstruct", "denoise", "interpolate")


def calibration(*names: str) -> Calibration:
    return Calibration(dict.fromkeys(names, 0.3), 0.0, 0.0, FACTORS, 2, "planted numbers")


def expecting(log_measure: float) -> dict[str, Expectation]:
    return {name: Expectation(log_measure, {}, 1.0) for name in MEASURES}


STD = {f"{task} image": calibration("change") for task in TASKS} | {
    f"{task} draws": calibration("change", "draws") for task in TASKS
}
AT_EASE, ALARMED = Trust(STD, expecting(20.0)), Trust(STD, expecting(-20.0))
NAIVE = Trust()


def prior(trust: Trust) -> Prior:
    """x / (1 + sigma^2): a fresh network answers zero, and what is left is the best linear denoiser of white data."""
    sigmas = [0.01, 0.1, 1.0, 10.0]
    table = SpreadTable(sigmas, [s / (1 + s**2) ** 0.5 for s in sigmas])
    return Prior(VideoUNet((8, 12), 1), 1.0, table, trust=trust)


@pytest.fixture(scope="module")
def truth() -> Clip:
    return simulate_cine(6, (40, 32), slices=2, seed=3)


@pytest.fixture(scope="module")
def kspace(truth: Clip) -> KSpace:
    return acquire(truth, coils=4, acceleration=3, noise=0.01, seed=1)


@pytest.fixture(scope="module")
def tasks(truth: Clip, kspace: KSpace) -> Iterator[dict[str, Callable[..., Restored]]]:
    noisy = truth.with_data(truth.data + 0.05 * unit_noise(truth.data, torch.Generator().manual_seed(0)))
    yield {
        "reconstruct": lambda **options: reconstruct(kspace, steps=2, **options),
        "denoise": lambda **options: denoise(noisy.with_data(noisy.data.abs()), **options),
        "interpolate": lambda **options: interpolate(noisy, **options),
    }


@pytest.mark.parametrize("task", TASKS)
def test_a_calibrated_prior_tells_a_std_for_the_single_image_too(tasks, task: str) -> None:
    told, untold = tasks[task](prior=prior(AT_EASE)), tasks[task](prior=prior(NAIVE))
    assert torch.equal(told.clip.data, untold.clip.data), "what is told of the errors must not change the result"
    assert told.std is not None and told.std.data.shape == told.clip.data.shape
    assert not told.std.is_complex and bool((told.std.data > 0).all())
    assert told.info["interval_factors"] == dict(zip(("50%", "80%", "90%"), FACTORS, strict=True))
    assert told.info["coverage_basis"].startswith("calibrated on planted numbers")
    assert len(told.info["mismatch"]) == 2 and max(told.info["mismatch"]) < 0.1
    assert untold.std is None and "coverage_basis" not in untold.info and "mismatch" not in untold.info


def test_draws_without_calibration_keep_their_own_spread_and_say_so(kspace: KSpace) -> None:
    raw = reconstruct(kspace, prior=prior(NAIVE), samples=3, steps=2)
    assert raw.std is not None and raw.samples is not None
    torch.testing.assert_close(raw.std.data, raw.samples.abs().std(0))
    assert raw.info["coverage_basis"] == "none: the spread of the draws, not calibrated"
    told = reconstruct(kspace, prior=prior(AT_EASE), samples=3, steps=3)
    assert told.std is not None and not torch.allclose(told.std.data, raw.std.data)
    assert told.info["coverage_basis"].endswith("at 2 steps, not the 3 here")


def test_std_follows_the_units_of_the_k_space(kspace: KSpace) -> None:
    one = reconstruct(kspace, prior=prior(AT_EASE), steps=2).std
    thousand = replace(kspace, data=1000 * kspace.data, noise=1000 * float(kspace.noise or 0))
    other = reconstruct(thousand, prior=prior(AT_EASE), steps=2).std
    assert one is not None and other is not None
    torch.testing.assert_close(other.data / 1000, one.data, rtol=0.02, atol=1e-5)


def test_one_frame_is_not_calibrated(kspace: KSpace) -> None:
    still = KSpace(kspace.data[:, :, :1], kspace.keep[:, :, :1], noise=kspace.noise)
    assert reconstruct(still, prior=prior(AT_EASE), steps=2).std is None


@pytest.mark.parametrize("task", TASKS)
def test_a_series_out_of_reach_is_warned_of_or_refused(tasks, task: str) -> None:
    with pytest.warns(MedseqWarning, match="unlike those that the prior has learnt"):
        restored = tasks[task](prior=prior(ALARMED))
    assert max(restored.info["mismatch"]) > 2
    with pytest.raises(InputError, match="leave --strict out"):
        tasks[task](prior=prior(ALARMED), strict=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tasks[task](prior=prior(AT_EASE), strict=True)


def test_support_of_k_space_grows_with_the_lines_measured(truth: Clip) -> None:
    """All lines and hardly any noise: everything comes from the data. A fifth of them, and noise: less."""
    supports = []
    for acceleration, noise in ((1.0, 1e-4), (5.0, 0.05)):
        measured = acquire(truth, coils=4, acceleration=acceleration, centre=5, noise=noise, seed=1)
        restored = reconstruct(measured, prior=prior(NAIVE), steps=2, support=True)
        supports.append(restored.maps["support"])
    full, part = (float(one.data.median()) for one in supports)
    assert supports[0].data.shape == (2, 1, 1, 40, 32) and supports[0].frames == 1
    assert full > 0.95 and part < 0.9
    assert all(float(one.data.min()) >= 0 and float(one.data.max()) <= 1 for one in supports)


def test_support_of_a_linear_denoiser_is_its_gain(truth: Clip) -> None:
    """One frame goes to the prior x / (1 + s^2) as it is, so that is the share of every detail that is left."""
    frame = Clip(truth.data[:1, :, :1])
    restored = denoise(frame, sigma=0.8, prior=prior(NAIVE), support=True, precision="float32")
    gain = 1 / (1 + (0.8 / restored.info["scale"]) ** 2)
    data = restored.maps["support"].data
    torch.testing.assert_close(data, torch.full_like(data, gain), rtol=1e-3, atol=0.0)


@pytest.fixture
def alarmed_shelf(here: Path) -> Path:
    for name in ("tiny.safetensors", "tiny.json"):
        content = (here / name).read_bytes()
        (here / name).unlink()
        (here / name).write_bytes(content)
    save_trust(ALARMED, here / "tiny.safetensors", {})
    clip = load_clip(here / "cine.nii.gz")  # without noise, and then there is nothing to judge by
    noise = 3 * torch.randn(clip.data.shape, generator=torch.Generator().manual_seed(0))
    (here / "cine.nii.gz").unlink()
    save_clip(clip.with_data(clip.data + noise), here / "cine.nii.gz")
    assert load_prior(here / "tiny.safetensors").trust.expected == ALARMED.expected
    return here


def test_without_noise_nothing_is_scored(truth: Clip) -> None:
    far = torch.linspace(-2, 2, 32).square()
    beat = 1 + 0.2 * torch.cos(2 * math.pi * torch.arange(8) / 8)
    smooth = torch.exp(-far[:, None] - far) * beat[:, None, None]
    results = (
        denoise(truth, sigma=1e-3, prior=prior(ALARMED)),
        interpolate(Clip(smooth[None, None]), prior=prior(ALARMED)),
    )
    assert all("mismatch" not in restored.info for restored in results)


@pytest.mark.parametrize("line", ["reconstruct raw.h5", "denoise cine.nii.gz", "interpolate cine.nii.gz"])
def test_strict_commands_refuse_in_one_line_and_leave_nothing(alarmed_shelf: Path, shelf: Path, capsys, line) -> None:
    fails(capsys, f"{line} -o out.nii.gz --prior tiny.safetensors --strict", 4, "mismatch", "--strict")
    assert left_behind(alarmed_shelf, shelf) == ["tiny.trust.json"]


def test_the_warning_reaches_terminal_and_notes_and_maps_are_written(alarmed_shelf: Path, shelf: Path, capsys) -> None:
    assert command("reconstruct raw.h5 -o out.nii.gz --prior tiny.safetensors --support") == 0
    told = capsys.readouterr().err.splitlines()
    assert any("unlike those that the prior has learnt" in line for line in told)
    files = ["out.nii.gz", "out.run.json", "out_std.nii.gz", "out_support.nii.gz"]
    assert left_behind(alarmed_shelf, shelf) == [*files, "tiny.trust.json"]
    notes = json.loads((alarmed_shelf / "out.run.json").read_text())
    assert any("made up" in line for line in notes["warnings"]) and notes["result"]["mismatch"][0] > 2
    assert math.isclose(notes["result"]["interval_factors"]["90%"], FACTORS[2])
    support = load_clip(alarmed_shelf / "out_support.nii.gz").data
    assert support.shape[2] == 1 and float(support.min()) >= 0 and float(support.max()) <= 1
