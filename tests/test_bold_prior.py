"""The prior of BOLD fluctuations, what it is trained on, and denoising with it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from medseq import Clip, InputError, UsageError, bold_split, denoise_bold
from medseq.baselines import local_pca
from medseq.bold_prior import GUIDES, BoldPrior
from medseq.bold_recipe import BoldRecipe
from medseq.io.weights import load_bold_prior, load_prior, save_prior
from medseq.network import VideoUNet
from medseq.phantoms.bold import bold_run
from medseq.phantoms.bold_clips import FluctuationSource, _reshuffled_noise
from medseq.phantoms.phases import Stills
from medseq.prior import SpreadTable
from medseq.simulate import simulate_bold
from medseq.smoothness import neighbour_correlation
from medseq.train import start, train, training

TINY = BoldRecipe(
    width=(8, 12), steps=4, window=24, slices=3, frames=(12,), pool=2, batches_per_run=4, bfloat16=False, seed=1
)


def _random_prior() -> BoldPrior:
    """With weights that all count, unlike those of an untrained one."""
    torch.manual_seed(0)
    prior = BoldPrior(VideoUNet((8, 12), 1, GUIDES, channels=1), SpreadTable([0.1, 10.0], [0.1, 0.5]))
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return prior.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def fluctuations() -> Tensor:
    """Five slices of noise about a wave, nothing in a corner."""
    g = torch.Generator().manual_seed(3)
    x = torch.randn(5, 1, 12, 20, 24, generator=g)
    x = x + 2 * torch.sin(torch.arange(12) * 0.9).view(-1, 1, 1)
    x[..., :6, :9] = 0
    return x


def test_untrained_it_answers_with_the_principal_components(fluctuations: Tensor):
    prior = BoldPrior(VideoUNet((8, 12), 1, GUIDES, channels=1))
    expected = torch.where(fluctuations != 0, local_pca(fluctuations, 1.0), 0)
    torch.testing.assert_close(prior(fluctuations, 1.0).detach(), expected)


def test_it_knows_no_scale(fluctuations: Tensor):
    prior = _random_prior()
    once, tenfold = prior(fluctuations, 1.0), prior(10 * fluctuations, 10.0)
    assert not torch.allclose(once, local_pca(fluctuations, 1.0), atol=0.1)
    torch.testing.assert_close(tenfold, 10 * once, rtol=1e-4, atol=1e-3)
    level = torch.full((5, 1, 1, 20, 24), 1.0)
    torch.testing.assert_close(prior(fluctuations, level), once)


def test_where_there_is_no_tissue_there_is_nothing(fluctuations: Tensor):
    found = _random_prior()(fluctuations, 1.0)
    assert found.shape == fluctuations.shape and found.dtype == fluctuations.dtype
    assert bool((found[..., :6, :9] == 0).all()) and bool((found[..., 8:, :] != 0).any())


def test_a_few_slices_at_a_time_give_what_all_at_once_do(monkeypatch: pytest.MonkeyPatch):
    """Five slices are seen as four and one, each part with its neighbours."""
    clip, _ = simulate_bold(16, (32, 32), 5, 2.0, seed=2)
    prior, seen = _random_prior(), []

    def watched(x: Tensor, level: float) -> Tensor:
        seen.append(len(x))
        return prior(x, level)

    def removed() -> Tensor:
        sigma = torch.full((5, 1, 1, 32, 32), 0.02 * float(clip.data.max()))
        return denoise_bold(clip, sigma=sigma, prior=watched, bias=None, growth=None).removed

    by_parts = removed()
    monkeypatch.setattr(bold_split, "_SLICES", 8)
    torch.testing.assert_close(removed(), by_parts)
    assert seen == [5, 2, 5, 2, 5, 5]


def test_weights_there_and_back(tmp_path: Path, fluctuations: Tensor):
    prior = _random_prior()
    path = save_prior(prior, tmp_path / "bold", {"what": "a test"})
    again = load_bold_prior(path)
    torch.testing.assert_close(again(fluctuations, 1.0), prior(fluctuations, 1.0), rtol=0.02, atol=0.02)
    with pytest.raises(InputError, match="of BOLD fluctuations, not of images"):
        load_prior(path)
    with pytest.raises(InputError, match="of images, not of BOLD fluctuations"):
        load_bold_prior("heart-3")


def test_training_pieces_are_in_units_of_their_noise():
    source = FluctuationSource(seed=5, window=32, frames=(40,), pool=2)
    levels = []
    for number in range(6):
        clean, noisy = source.batch(number)
        assert clean.shape == noisy.shape == (4, 1, 40, 32, 32)
        tissue = (noisy != 0).any(2, keepdim=True)
        assert bool((clean * ~tissue == 0).all())
        if tissue.float().mean() > 0.2:
            noise = (noisy - clean)[tissue.expand_as(noisy)]
            levels.append(float(noise.std()) / math.sqrt(1 - 1 / 40))
            assert abs(float(noise.mean())) < 1e-3
    assert len(levels) >= 3 and all(0.75 < level < 1.3 for level in levels)
    assert all(torch.equal(a, b) for a, b in zip(source.batch(2), source.batch(2), strict=True))


def test_training_noise_is_as_correlated_in_space_as_that_of_the_run():
    run = bold_run((48, 48), 3, 60, 2.0, torch.Generator().manual_seed(9))
    noise = _reshuffled_noise(run, 60, torch.Generator().manual_seed(0))[:, None]
    measured = (run.measured * torch.exp(-1j * run.phase)[:, None] - run.clean).real[:, None]
    everywhere = torch.ones(3, 1, 1, 48, 48, dtype=torch.bool)
    found, expected = (neighbour_correlation(n, everywhere)[:2] for n in (noise, measured / run.noise[:, None, None]))
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02)
    assert float(expected.max()) > 0.1  # or it would tell nothing
    in_time = (noise[:, :, 1:] * noise[:, :, :-1]).mean() / noise.square().mean()
    assert abs(float(in_time)) < 0.01


def test_it_learns_from_simulated_runs():
    recipe = replace(TINY, steps=40, learning_rate=3e-3)
    state = start(recipe, torch.device("cpu"))
    lessons = recipe.lessons(None, torch.device("cpu"))
    before = lessons.loss(state.prior, 0).item()
    for _ in training(recipe, state, lessons):
        pass
    assert lessons.loss(state.prior, 0).item() < 0.95 * before


def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path):
    recipe = replace(TINY, checkpoint_every=2, spread_batches=1)
    for _ in train(recipe, tmp_path / "whole"):
        pass
    for state in train(recipe, tmp_path / "broken"):
        if state.step == 3:
            break
    for _ in train(recipe, tmp_path / "broken"):
        pass
    whole, broken = (tmp_path / name / "prior.safetensors" for name in ("whole", "broken"))
    assert whole.read_bytes() == broken.read_bytes()
    assert load_bold_prior(whole).spread is not None


def test_stills_do_not_fluctuate():
    stills = Stills(torch.zeros(1, 8, 8), torch.zeros(1, dtype=torch.long), torch.zeros(1, 8, 8, 2))
    with pytest.raises(UsageError, match="leave stills out"):
        TINY.lessons(stills, torch.device("cpu"))


@pytest.mark.parametrize("wrong", [{"frames": (4,)}, {"width": ()}, {"slices": 0}, {"steps": 0}])
def test_impossible_recipes(wrong: dict[str, object]):
    with pytest.raises(UsageError):
        BoldRecipe(**wrong)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def clip() -> Clip:
    return simulate_bold(24, (32, 32), 3, 2.0, seed=4)[0]


def test_a_prior_that_sees_no_noise_removes_none(clip: Clip):
    done = denoise_bold(clip, prior=lambda x, sigma: x, bias=None, growth=None)
    torch.testing.assert_close(done.clip.data, clip.data, rtol=0, atol=1e-3)
    assert done.report.kept == pytest.approx(1, abs=1e-4)


def test_a_prior_that_sees_only_noise_leaves_the_mean(clip: Clip):
    sigma = torch.full((3, 1, 1, 32, 32), 10 * float(clip.data.std()))  # so much that all fluctuations may be noise
    done = denoise_bold(clip, sigma=sigma, prior=lambda x, level: 0 * x, bias=None, growth=None)
    inside, mean = done.removed != 0, clip.data.mean(2, keepdim=True).expand_as(clip.data)
    torch.testing.assert_close(done.clip.data[inside], mean[inside], rtol=0, atol=1e-2)
    assert done.report.share == 1 and done.report.kept == pytest.approx(0, abs=1e-4)


def test_what_responses_keep_is_measured_and_limits_what_goes(clip: Clip):
    """A prior that keeps 70 % of everything keeps 70 % of a response, and 97 % once no more than 3 % may go."""
    sigma = torch.full((3, 1, 1, 32, 32), 10 * float(clip.data.std()))
    free = denoise_bold(clip, sigma=sigma, prior=lambda x, level: 0.7 * x, bias=None, growth=None)
    assert free.report.kept == pytest.approx(0.7, abs=1e-3) and free.report.limit == "noise"
    limited = denoise_bold(clip, sigma=sigma, prior=lambda x, level: 0.7 * x, growth=None)
    assert limited.report.kept == pytest.approx(0.97, abs=1e-3) and limited.report.limit == "amplitude"
    assert limited.report.share == pytest.approx(0.1, abs=1e-3)


def test_phase_turns_with_a_complex_series(clip: Clip):
    """A magnitude with a phase that stands still is denoised as the magnitude is, and keeps its phase."""
    sigma, prior = torch.full((3, 1, 1, 32, 32), 0.03 * float(clip.data.max())), _random_prior()
    turn = torch.polar(torch.ones(32, 32), torch.linspace(-2, 2, 32).expand(32, 32))
    real = denoise_bold(clip, sigma=sigma, prior=prior, bias=None, growth=None)
    both = denoise_bold(clip.with_data(clip.data * turn), sigma=sigma, prior=prior, bias=None, growth=None)
    ratio = both.report.share / real.report.share  # complex noise has twice the power
    torch.testing.assert_close((both.removed / turn).real, ratio * real.removed, rtol=1e-3, atol=0.05)
