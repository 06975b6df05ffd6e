"""Training: it learns, it resumes to the very same weights, and its parts obey their definitions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medseq.config import load_config
from medseq.corruption import noisy
from medseq.errors import InputError, UsageError
from medseq.io.weights import load_prior
from medseq.prior import Prior
from medseq.recipe import Recipe, corrupted, draw_sigma, loss
from medseq.train import load_checkpoint, rate, save_checkpoint, start, train, training

TINY = Recipe(
    width=(8, 12),
    blocks=1,
    steps=6,
    window=16,
    frames=(1, 4),
    frames_per_batch=4,
    checkpoint_every=2,
    bfloat16=False,
    spread_batches=1,
)


def _weights(prior: Prior) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in prior.net.parameters()])


def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for _ in train(TINY, whole):
        pass
    for state in train(TINY, broken):
        if state.step == 5:  # dies after the checkpoint of step 4, one step of work lost
            break
    for state in train(TINY, broken):
        last = state
    reference = start(TINY, torch.device("cpu"))
    load_checkpoint(reference, whole / "checkpoint.pt")
    assert last.step == 6 and len(last.losses) == 6
    assert torch.equal(_weights(last.prior), _weights(reference.prior))
    assert torch.equal(_weights(last.average), _weights(reference.average))
    assert (whole / "prior.safetensors").read_bytes() == (broken / "prior.safetensors").read_bytes()
    assert load_prior(whole / "prior.safetensors").spread is not None
    assert len((whole / "loss.csv").read_text().splitlines()) == 7


def test_it_learns() -> None:
    recipe = Recipe(width=(8, 16), blocks=1, steps=60, window=16, frames=(4,), frames_per_batch=16, bfloat16=False)
    device = torch.device("cpu")
    state = start(recipe, device)
    for _ in training(recipe, state, recipe.lessons(None, device)):
        pass
    assert sum(state.losses[-10:]) < 0.8 * sum(state.losses[:10])


def test_batches_carry_each_kind_of_error_in_its_share() -> None:
    """White noise alone by default; else aliasing and skipped frames, and never skipped ones in clips too short."""
    clean = torch.rand(2, 1, 6, 16, 16).to(torch.complex64)
    every = Recipe(**{**TINY.__dict__, "aliased_share": 0.5, "skipped_share": 0.5})
    kinds = set()
    for seed in range(12):
        image, sigma = corrupted(every, clean, False, torch.Generator().manual_seed(seed))
        kinds.add(bool((sigma[:, :, :1] == sigma).all()))
        white, _ = corrupted(TINY, clean, False, torch.Generator().manual_seed(seed))
        assert image.shape == white.shape == clean.shape and sigma.shape == (2, 1, 6, 1, 1)
    assert kinds == {True, False}
    short = corrupted(every, clean[:, :, :2], False, torch.Generator().manual_seed(3))[1]
    assert short.shape == (2, 1, 2, 1, 1)


def test_a_run_starts_from_another_prior(tmp_path: Path) -> None:
    for _ in train(TINY, tmp_path):
        pass
    path = str(tmp_path / "prior.safetensors")
    again = start(Recipe(**{**TINY.__dict__, "start_from": path}), torch.device("cpu"))
    torch.testing.assert_close(_weights(again.prior), _weights(load_prior(path)))
    with pytest.raises(InputError, match="other sizes"):
        start(Recipe(width=(8, 16), blocks=1, window=16, start_from=path), torch.device("cpu"))


def test_loss_of_a_prior_that_answers_zero_is_one() -> None:
    """For data of std sigma_data the weighted error of the linear denoiser is 1 at every noise level."""
    g = torch.Generator().manual_seed(0)
    prior = start(TINY, torch.device("cpu")).prior
    clean = 0.3 * 2**0.5 * torch.randn(8, 1, 4, 32, 32, generator=g, dtype=torch.complex64)
    for sigma in (0.03, 0.3, 3.0):
        level = torch.full((8, 1, 1, 1, 1), sigma)
        assert float(loss(prior, clean, noisy(clean, level, g), level).detach()) == pytest.approx(1, rel=0.03)


def test_noise_distribution() -> None:
    g = torch.Generator().manual_seed(0)
    sigma = draw_sigma(Recipe(mixed_share=0.0), 40_000, 2, g)
    assert (sigma[:, :, :1] == sigma).all()
    logs = sigma[:, 0, 0, 0, 0].log()
    mean, (low, high) = -1.8, (torch.tensor(0.002).log(), torch.tensor(20.0).log())
    assert float(logs.mean()) == pytest.approx(0.8 * mean + 0.2 * float(low + high) / 2, abs=0.03)
    assert logs.min() >= low - 1e-4 and logs.max() <= high + 1e-4
    mixed = draw_sigma(Recipe(mixed_share=1.0), 1000, 8, g)[:, 0, :, 0, 0]
    kinds = torch.tensor([len(row.unique()) for row in mixed])
    assert kinds.max() == 2 and (kinds == 2).float().mean() > 0.6


def test_rate_warms_up_and_cools_down() -> None:
    recipe = Recipe(steps=1000, cooldown=0.5, learning_rate=1.0)
    assert rate(recipe, 0) == pytest.approx(1 / 200) and rate(recipe, 400) == 1.0
    assert rate(recipe, 750) == pytest.approx(0.5) and rate(recipe, 999) == pytest.approx(0.002)


def test_a_checkpoint_of_another_recipe_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    state = start(TINY, torch.device("cpu"))
    save_checkpoint(state, path)
    other = Recipe(width=(8, 16), blocks=1, window=16)
    with pytest.raises(InputError, match="not a checkpoint of this recipe"):
        load_checkpoint(start(other, torch.device("cpu")), path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="not a checkpoint"):
        load_checkpoint(state, path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"width": ()},
        {"window": 20},
        {"mixed_share": 2.0},
        {"frames": (0,)},
        {"aliased_share": 0.6, "skipped_share": 0.6},
    ],
)
def test_impossible_recipes(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Recipe(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("recipe: {stepz: 3}", "recipe.stepz"),
        ("recipe: {steps: many}", "recipe.steps"),
        ("recipe: {steps: 0}", "positive"),
        ("colour: red", "colour"),
        ("recipe: [", "not a readable YAML"),
        ("!!python/object/apply:os.system ['true']", "not a readable YAML"),
    ],
)
def test_faults_of_a_config_are_named(tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=match) as caught:
        load_config(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_presets_are_valid_and_stills_are_found(tmp_path: Path) -> None:
    from skimage.io import imsave

    for preset in (Path(__file__).parent.parent / "configs").glob("train_*.yaml"):
        assert load_config(preset).recipe.steps > 0
    (tmp_path / "stills").mkdir()
    (tmp_path / "c.yaml").write_text("stills: stills")
    with pytest.raises(InputError, match="no PNG"):
        load_config(tmp_path / "c.yaml").load_stills()
    for i in range(2):
        frame = (torch.rand(24, 24) * 255).byte().numpy()
        imsave(tmp_path / "stills" / f"{i}.png", frame, check_contrast=False)
    stills = load_config(tmp_path / "c.yaml").load_stills()
    assert stills is not None and stills.images.shape == (2, 24, 24)
