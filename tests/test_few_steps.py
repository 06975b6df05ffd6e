"""The best image in one evaluation: its start, what comes after it, what it refuses, and how it is learnt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from medseq import Clip, denoise, generate, interpolate, reconstruct
from medseq.acquisition import image_of
from medseq.baselines import combined, cyclic_descent, kt_composite
from medseq.baselines.combined import FIRST_FREQUENCIES, Weights
from medseq.baselines.proximal import accelerated
from medseq.causal import CausalReconstruction, calibrated
from medseq.clip import KSpace
from medseq.coils import average_of
from medseq.errors import InputError, UsageError
from medseq.few_step_recipe import FewStepRecipe, acquired
from medseq.few_steps import Remembering, few_step_image
from medseq.io.weights import load_prior, save_prior
from medseq.network import VideoUNet
from medseq.patterns import variable_density
from medseq.prior import Prior, SpreadTable
from medseq.simulate import acquire, coil_maps, simulate_cine
from medseq.solve import cg
from medseq.train import start, train, training
from medseq.warmstart import ROUNDS, Start, left_out, sense_operator, warm_start

CPU = torch.device("cpu")
TINY = FewStepRecipe(
    steps=2, window=32, frames=(8,), frames_per_batch=8, coils=(3,), acceleration=(3.0, 5.0), spread_batches=1
)


MAPS = coil_maps(6, (64, 48), 1)


def _case(frames: int = 12, acceleration: float = 5.0) -> tuple[Clip, KSpace]:
    clip = simulate_cine(frames, (64, 48), seed=2)
    keep = variable_density(frames, 64, acceleration, 5, 3)
    return clip, acquire(clip, coils=MAPS, keep=keep, noise=0.01, seed=3)


def _rmse(image: torch.Tensor, truth: torch.Tensor) -> float:
    return float((image - truth).abs().square().mean().sqrt())


def _rms(image: torch.Tensor) -> float:
    return float(image.abs().square().mean().sqrt())


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Prior:
    """An untrained one, read from disk: it gives the series back, and the measurement does the rest."""
    path = tmp_path_factory.mktemp("few") / "few.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = VideoUNet((8, 12), 1, 3)
    save_prior(Prior(net, 0.3, SpreadTable([0.01, 0.1], [0.005, 0.03]), few=True), path, {})
    loaded = load_prior(path)
    assert loaded.few and not load_prior("heart-3").few
    return loaded


def _average(kspace: KSpace) -> torch.Tensor:
    return image_of(*average_of(kspace.data, kspace.keep), MAPS).expand(-1, -1, kspace.frames, -1, -1)


def test_without_penalties_the_turns_end_at_the_least_squares_solution() -> None:
    _, kspace = _case(acceleration=3.0)
    A = sense_operator(kspace.keep, MAPS)
    b = A.adjoint(kspace.data)
    none = Weights(frequencies=1e-12, jumps=0.0, rank=0.0, regularization=0.1)
    found = cyclic_descent(b, weights=none)(lambda: b, A, torch.zeros_like(b), 60)
    solved = cg(lambda x: A.normal(x) + 0.1 * x, b, None, 100, 1e-6)
    assert _rmse(found, solved) < 1e-3 * _rms(solved)


def test_a_rescaled_measurement_gives_the_same_image_rescaled() -> None:
    _, kspace = _case()
    A, average = sense_operator(kspace.keep, MAPS), _average(kspace)
    b = A.adjoint(kspace.data)
    one = cyclic_descent(b)(lambda: b, A, average, 2, 5e-3)
    large = cyclic_descent(1000 * b)(lambda: 1000 * b, A, 1000 * average, 2, 5e-3)
    assert _rmse(large / 1000, one) < 1e-4 * _rms(one)


def test_nine_iterations_in_turns_come_nearly_as_far_as_thirty_of_all_at_once() -> None:
    clip, kspace = _case(frames=24, acceleration=8.0)
    A, average = sense_operator(kspace.keep, MAPS), _average(kspace)
    b = A.adjoint(kspace.data)
    turns = _rmse(cyclic_descent(b)(lambda: b, A, average, 3, FIRST_FREQUENCIES), clip.data)
    assert turns < 1.1 * _rmse(kt_composite(kspace.data, A, iterations=30, start=average), clip.data)
    assert turns < 0.95 * _rmse(kt_composite(kspace.data, A, iterations=9, start=average), clip.data)


def test_every_round_takes_each_penalty_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weight of frequencies falls by one ratio from the first to the last."""
    _, kspace = _case()
    A, average = sense_operator(kspace.keep, MAPS), _average(kspace)
    b, asked = A.adjoint(kspace.data), []
    monkeypatch.setattr(
        combined, "soft_spectrum", lambda x, amount: (asked.append(("frequencies", float(amount))), x)[1]
    )
    monkeypatch.setattr(combined, "shrunk_patches", lambda tiling, x: (asked.append(("rank", 0.0)), x)[1])
    monkeypatch.setattr(
        combined, "variation_step", lambda *_, **__: lambda x, rows: (asked.append(("jumps", 0.0)), x)[1]
    )
    cyclic_descent(b)(lambda: b, A, average, 3, 1.8e-2)
    assert [name for name, _ in asked] == 3 * ["jumps", "frequencies", "rank"]
    weights = [weight for name, weight in asked if name == "frequencies"]
    assert weights[0] / weights[-1] == pytest.approx(1.8e-2 / combined.CYCLIC.frequencies, rel=1e-4)
    assert weights[0] / weights[1] == pytest.approx(weights[1] / weights[2], rel=1e-4)


def test_long_steps_are_stable_where_they_are_said_to_be() -> None:
    """One dimension, no penalty, steps of 1.3 over the Lipschitz constant with 0.9 carried on: it converges, and at 1.5
    it would not."""

    def distance(step: float) -> float:
        start = torch.ones(1, 1, 1, 1, 1, dtype=torch.complex64)
        return float(accelerated(lambda x: x.clone(), lambda x: x, start, step, 400, carried=0.9).abs())

    assert distance(1.3) < 1e-3 and not distance(1.5) < 1


def test_the_quick_start_does_not_see_the_lines_left_out() -> None:
    """But for the time average that it begins with."""
    _, kspace = _case()
    assert isinstance(kspace.noise, float)
    out = left_out(kspace.data, kspace.keep, 0) & kspace.keep
    assert bool(out.any())
    A = sense_operator(kspace.keep & ~out, MAPS)
    of_part, b = (sense_operator(lines, MAPS).adjoint(kspace.data) for lines in (kspace.keep & ~out, kspace.keep))
    descent = cyclic_descent(b)
    expected = descent(lambda: of_part, A, _average(kspace), ROUNDS, FIRST_FREQUENCIES)
    begun = warm_start(kspace.data, kspace.keep, MAPS, kspace.noise, 0, quick=True)
    assert _rmse(begun.image, expected) < 1e-3 * _rms(expected)
    assert begun.blind is not None and begun.blind.image is begun.image
    assert begun.go_on is not None
    more = descent(lambda: b, sense_operator(kspace.keep, MAPS), expected, 1)
    assert _rmse(begun.go_on(begun.image, 1), more) < 1e-3 * _rms(more)


def test_one_question_then_the_start_goes_on() -> None:
    asked: list[object] = []

    def prior(x: torch.Tensor, level: object) -> torch.Tensor:
        asked.append(level)
        return 0.9 * x

    image = torch.ones(1, 1, 8, 4, 4, dtype=torch.complex64)
    start = Start(image, 0.2, lambda x, rounds: x + rounds, None)
    assert torch.equal(next(few_step_image(prior, start)), 0.9 * image + 1)
    assert asked == [0.2]


def test_the_first_question_is_thought_about_once() -> None:
    asked = []

    def denoiser(x: torch.Tensor, level: object) -> torch.Tensor:
        asked.append(level)
        return x + 1

    remembering, x = Remembering(denoiser), torch.zeros(2)
    assert torch.equal(remembering(x, 1.0), remembering(x, 1.0))
    assert torch.equal(remembering(x + 2, 0.5), torch.full((2,), 3.0))
    assert asked == [1.0, 0.5]


def test_it_reconstructs_and_says_how(few: Prior) -> None:
    clip, kspace = _case()
    done = []
    restored = reconstruct(kspace, prior=few, progress=lambda step, steps: done.append((step, steps)))
    assert restored.info["steps"] == 1 and done == [(1, 1)]
    assert isinstance(kspace.noise, float)
    begun = warm_start(kspace.data, kspace.keep, MAPS, kspace.noise, 0, quick=True)
    assert _rmse(restored.clip.data.abs(), clip.data.abs()) < _rmse(begun.image.abs(), clip.data.abs())


def test_what_it_is_not_made_for_is_refused(few: Prior) -> None:
    _, kspace = _case()
    with pytest.raises(UsageError, match="one best image, not 3 draws"):
        reconstruct(kspace, prior=few, samples=3)
    with pytest.raises(UsageError, match="trained for 1 evaluation, not 4"):
        reconstruct(kspace, prior=few, steps=4)
    with pytest.raises(UsageError, match="needs 8 frames, here are 4"):
        reconstruct(_case(frames=4, acceleration=3.0)[1], prior=few)
    clip = simulate_cine(8, (32, 32))
    for refused in (
        lambda: denoise(clip, prior=few),
        lambda: interpolate(clip, 2, prior=few),
        lambda: generate(4, (32, 32), prior=few, steps=2),
        lambda: CausalReconstruction(few, calibrated(kspace)),
    ):
        with pytest.raises(UsageError, match="few evaluations only reconstructs whole series"):
            refused()


def test_its_recipe_goes_on_from_the_first_blocks() -> None:
    prior, before = start(replace(TINY, blocks=1), CPU).prior, load_prior("heart-3").net.state_dict()
    assert prior.few and isinstance(prior.net, VideoUNet) and prior.net.blocks == 1
    for name, tensor in prior.net.state_dict().items():
        assert torch.equal(tensor, before[name])
    with pytest.raises(InputError, match="heart-1: this prior has no 2 guided blocks"):
        start(FewStepRecipe(start_from="heart-1"), CPU)


def test_what_is_acquired_fits_the_clip() -> None:
    """Of noiseless data of all lines the solver finds the clip again, and the error of the start is of its size."""
    recipe = FewStepRecipe(acceleration=(4.0, 4.0), noise=(0.01, 0.01), coils=(6,))
    clean = simulate_cine(12, (64, 64), seed=5).data
    g = torch.Generator().manual_seed(1)
    measurement, start = acquired(recipe, clean, True, g)
    true = float(torch.view_as_real(start.image - clean).square().mean().sqrt())
    assert true / 2 < start.error < 2 * true
    assert _rmse(measurement.solve(clean, 1e-6), clean) < 1e-3


def test_blood_streams_in_as_many_clips_as_the_recipe_says() -> None:
    none, all_of_them = (replace(TINY, flow_share=share).lessons(None, CPU).source for share in (0.0, 1.0))
    assert not torch.equal(none.batch(1)[0], all_of_them.batch(1)[0])


def test_it_learns() -> None:
    """One batch by heart, through data consistency."""
    recipe = FewStepRecipe(
        steps=30, learning_rate=6e-3, window=32, frames=(8,), frames_per_batch=8, acceleration=(4.0, 4.0), coils=(3,)
    )
    lessons, state = recipe.lessons(None, CPU), start(recipe, CPU)

    class Same:
        def loss(self, prior: Prior, number: int) -> torch.Tensor:
            return lessons.loss(prior, 1)

        spread = lessons.spread

    for _ in training(recipe, state, Same()):
        pass
    assert state.losses[-1] < 0.8 * state.losses[0]


def test_training_leaves_a_prior_of_few_evaluations(tmp_path: Path) -> None:
    for _ in train(TINY, tmp_path):
        pass
    assert load_prior(tmp_path / "prior.safetensors").few


@pytest.mark.parametrize(
    "wrong", [{"frames": (4,)}, {"window": 16}, {"acceleration": (5.0, 4.0)}, {"noise": (0.0, 0.1)}, {"coils": ()}]
)
def test_impossible_recipes_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        FewStepRecipe(**wrong)  # type: ignore[arg-type]
