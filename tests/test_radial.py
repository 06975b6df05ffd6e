"""Series measured along spokes and spirals, from k-space to images, in Python and at the command line."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from cli_shelf import command, fails, left_behind

from medseq import InputError, estimate_maps, load_clip, load_kspace, reconstruct, save_kspace
from medseq.acquisition import average_image, whitened
from medseq.baselines import low_rank_sparse
from medseq.bold_kspace import reconstruct_bold
from medseq.clip import Clip, KSpace, series_scale
from medseq.metrics import psnr
from medseq.network import VideoUNet
from medseq.noise import estimate_noise
from medseq.prior import Prior, SpreadTable
from medseq.simulate import acquire, coil_maps, simulate_cine
from medseq.trajectories import binned, golden_radial, golden_spiral
from medseq.warmstart import LEFT_OUT, classical_problem, left_out, warm_start

SIZE = (56, 44)
MAPS = coil_maps(6, SIZE)


def measured(
    spokes: int, make=golden_radial, frames: int = 10, seed: int = 1, noise: float = 0.01
) -> tuple[Clip, KSpace]:
    clip = simulate_cine(frames, SIZE, seed=seed)
    return clip, acquire(clip, coils=MAPS, trajectory=make(frames, SIZE, spokes), noise=noise, seed=seed)


def tiny() -> Prior:
    torch.manual_seed(0)
    return Prior(VideoUNet((8, 16), 1), 0.3, SpreadTable([0.01, 1.0], [0.005, 0.1]))


def rmse(image: torch.Tensor, truth: torch.Tensor) -> float:
    return float(torch.view_as_real(image - truth).square().mean().sqrt())


@pytest.mark.parametrize(("spokes", "noise"), [(6, 0.01), (12, 0.01), (12, 0.05)])
def test_left_out_spokes_tell_the_error(spokes: int, noise: float) -> None:
    """From 0.7 to 2 times the true one: a spoke left out lies in the middle of a gap twice as wide as the others,
    so that the estimate is rather too large."""
    clip, kspace = measured(spokes, noise=noise)
    assert isinstance(kspace.noise, float)
    start = warm_start(kspace.data, kspace.keep, MAPS, kspace.noise, 0, periodic=True, trajectory=kspace.trajectory)
    assert 0.7 < start.error / rmse(start.image, clip.data) < 2


def test_a_share_of_all_spokes_is_left_out() -> None:
    _, kspace = measured(40)
    out = left_out(kspace.data, kspace.keep, 3, kspace.trajectory)
    assert out.shape == (1, 1, 10, 40, 1)
    assert 0.5 * LEFT_OUT < float(out.float().mean()) < 2 * LEFT_OUT


@pytest.mark.parametrize("make", [golden_radial, golden_spiral])
def test_maps_scale_and_noise_come_from_the_readouts(make) -> None:
    clip, kspace = measured(10, make)
    average = clip.data.mean(2, keepdim=True)
    bright = average.abs() > 0.2 * average.abs().max()
    agreement = (estimate_maps(kspace) * MAPS.conj()).sum(1, keepdim=True).abs()
    assert float(agreement[bright].min()) > 0.98
    found = average_image(whitened(kspace)[0])
    assert float(series_scale(found)) == pytest.approx(float(series_scale(average)), rel=0.03)
    noisier = measured(10, make, noise=0.05)[1]
    sigma = estimate_noise(replace(noisier, noise=None)).square().mean().sqrt()
    assert float(sigma) == pytest.approx(noisier.noise, rel=0.2)


def test_the_scale_does_not_depend_on_the_spokes() -> None:
    few, many = (float(series_scale(average_image(whitened(measured(n)[1])[0]))) for n in (8, 24))
    assert few == pytest.approx(many, rel=0.03)


def test_with_enough_spokes_the_series_comes_back() -> None:
    """The classical start alone must get there; the untrained prior adds nothing."""
    clip, kspace = measured(40, noise=0.002)
    start = warm_start(kspace.data, kspace.keep, MAPS, kspace.noise, 0, trajectory=kspace.trajectory)
    assert psnr(start.image.abs(), clip.data.abs()) > 38
    few = measured(8, noise=0.002)[1]
    y, A = classical_problem(few.data, few.keep, MAPS, few.trajectory)
    gridded, classical = (psnr(image.abs(), clip.data.abs()) for image in (A.adjoint(y), low_rank_sparse(y, A)))
    assert classical > gridded + 8


def test_reconstruct_reduces_the_error_of_its_start_with_the_shipped_prior() -> None:
    clip, kspace = measured(6, frames=6)
    kspace = replace(kspace, maps=MAPS)
    start = warm_start(kspace.data, kspace.keep, MAPS, kspace.noise, 0, periodic=True, trajectory=kspace.trajectory)
    result = reconstruct(kspace, precision="float32")
    assert result.clip.data.shape == clip.data.shape and result.clip.period == clip.period
    assert rmse(result.clip.data, clip.data) < 0.9 * rmse(start.image, clip.data)


def test_samples_support_and_slices_work_with_any_prior() -> None:
    clip = simulate_cine(3, (32, 32), slices=2)
    kspace = acquire(clip, coils=3, trajectory=golden_spiral(3, (32, 32), 6), noise=0.02)
    result = reconstruct(kspace, prior=tiny(), steps=1, samples=2, support=True)
    assert result.clip.data.shape == (2, 1, 3, 32, 32) and result.samples.shape[0] == 2
    assert result.maps["support"].data.shape == (2, 1, 1, 32, 32)


def test_bold_wants_lines() -> None:
    with pytest.raises(InputError, match="not along a trajectory"):
        reconstruct_bold(measured(6)[1])


def test_at_the_command_line(here, shelf, capsys) -> None:
    make = "simulate cine --frames 6 --size 32 32 --coils 4 --trajectory radial --spokes 8"
    assert command(f"{make} -o spokes.h5 --truth truth.nii.gz") == 0
    assert command("info spokes.h5 --json") == 0
    about = json.loads(capsys.readouterr().out.split("\n", 1)[1])[0]
    assert (about["matrix"], about["frames"], about["coils"]) == ([32, 32, 1], 6, 4)
    assert about["trajectory"] == [8, 64] and about["acceleration"] > 2
    assert command("reconstruct spokes.h5 -o image.nii.gz --prior tiny.safetensors --steps 1 --report") == 0
    assert load_clip("image.nii.gz").data.shape == load_clip("truth.nii.gz").data.shape
    assert "Readouts of the first frame" in (here / "image.html").read_text()
    # as a stream in one frame, cut anew
    whole = load_kspace("spokes.h5")
    save_kspace(binned(whole, 48), "stream.h5")
    assert command("reconstruct stream.h5 -o cut.nii.gz --spokes 12 --prior tiny.safetensors --steps 1") == 0
    assert load_clip("cut.nii.gz").frames == 4
    assert json.loads((here / "cut.run.json").read_text())["options"]["spokes"] == 12


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("simulate cine -o k.h5 --spokes 8", 2, ["--spokes", "--trajectory"]),
        ("simulate cine -o k.h5 --trajectory radial --acceleration 4", 2, ["--acceleration", "--spokes"]),
        ("simulate cine -o k.cfl --trajectory spiral", 2, ["k.cfl", "ISMRMRD"]),
        ("simulate cine -o k.nii.gz --trajectory spiral", 2, ["k.nii.gz", "end the output in .h5"]),
        ("simulate bold -o k.h5 --trajectory radial", 2, ["cine"]),
        ("simulate cine -o k.h5 --trajectory rosette", 2, ["rosette"]),
        ("reconstruct raw.h5 -o x.nii.gz --spokes 4 --prior tiny.safetensors", 2, ["raw.h5", "--spokes 4"]),
        ("reconstruct raw.h5 -o x.nii.gz --spokes 0 --prior tiny.safetensors", 2, ["spokes"]),
    ],
)
def test_errors_are_one_line_and_leave_nothing_behind(here, shelf, capsys, arguments, code, words) -> None:
    fails(capsys, arguments, code, *words)
    assert left_behind(here, shelf) == []
