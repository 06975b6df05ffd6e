"""The best image in few evaluations: its start, its loop, what it refuses, and how it is learnt."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medseq import Clip, denoise, generate, interpolate, reconstruct
from medseq.acquisition import image_of
from medseq.baselines import kt_continuation, kt_sparse, time_average
from medseq.baselines.proximal import accelerated
from medseq.causal import CausalReconstruction, calibrated
from medseq.clip import KSpace
from medseq.coils import average_of
from medseq.errors import InputError, UsageError
from medseq.few_step_recipe import FewStepRecipe, acquired
from medseq.few_steps import LEVELS, SPREAD, Remembering, few_step_image, unrolled
from medseq.io.weights import load_prior, save_prior
from medseq.measurement import Measurement
from medseq.network import VideoUNet
from medseq.patterns import variable_density
from medseq.prior import Prior, SpreadTable
from medseq.simulate import acquire, coil_maps, simulate_cine
from medseq.train import start, train, training
from medseq.warmstart import left_out, sense_operator, warm_start

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


def test_with_one_threshold_it_ends_where_the_plain_method_does() -> None:
    """Both minimise the same convex function."""
    _, kspace = _case()
    A = sense_operator(kspace.keep, MAPS)
    b = A.adjoint(kspace.data)
    begin = b.mean(2, keepdim=True).expand_as(b)
    quick = kt_continuation(b, A, begin, thresholds=(3e-3, 3e-3), iterations=300)
    plain = kt_sparse(kspace.data, A, threshold=3e-3, iterations=600, start=begin)
    assert _rmse(quick, plain) < 1e-3 * float(plain.abs().square().mean().sqrt())


def test_a_falling_threshold_comes_further_in_fewer_iterations() -> None:
    clip, kspace = _case(frames=24, acceleration=8.0)
    A = sense_operator(kspace.keep, MAPS)
    begin = time_average(kspace.data, A, iterations=6).expand(-1, -1, 24, -1, -1)
    quick = kt_continuation(A.adjoint(kspace.data), A, begin, iterations=15)
    for threshold in (7e-4, 3e-3, 1e-2):
        plain = kt_sparse(kspace.data, A, threshold=threshold, iterations=30, start=begin)
        assert _rmse(quick, clip.data) < _rmse(plain, clip.data)


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
    average = image_of(*average_of(kspace.data, kspace.keep), MAPS).expand(-1, -1, 12, -1, -1)
    expected = kt_continuation(A.adjoint(kspace.data), A, average)
    begun = warm_start(kspace.data, kspace.keep, MAPS, kspace.noise, 0, quick=True)
    assert torch.allclose(begun.image, expected, atol=1e-6)
    assert begun.blind is not None and begun.blind.image is begun.image and begun.go_on is None


def test_the_loop_is_what_training_unrolls() -> None:
    clip, kspace = _case()
    assert isinstance(kspace.noise, float)
    A = sense_operator(kspace.keep, MAPS)
    measurement = Measurement(kspace.data, A, kspace.noise, iterations=3)
    asked = []

    def prior(x: torch.Tensor, level: object) -> torch.Tensor:
        asked.append(level)
        return 0.9 * x

    begin = clip.data.mean(2, keepdim=True).expand_as(clip.data)
    looped = list(few_step_image(prior, measurement, 0.2, begin))
    for one, other in zip(looped, unrolled(prior, measurement, 0.2, begin), strict=True):
        assert torch.equal(one, other)
    assert asked == 2 * [share * 0.2 for share in LEVELS]
    expected = measurement.solve(0.9 * begin, SPREAD * (LEVELS[0] * 0.2))
    assert torch.equal(looped[0], expected)


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
    assert restored.info["steps"] == len(LEVELS) and done == [(1, 2), (2, 2)]
    assert isinstance(kspace.noise, float)
    begun = warm_start(kspace.data, kspace.keep, MAPS, kspace.noise, 0, quick=True)
    assert _rmse(restored.clip.data.abs(), clip.data.abs()) < _rmse(begun.image.abs(), clip.data.abs())


def test_what_it_is_not_made_for_is_refused(few: Prior) -> None:
    _, kspace = _case()
    with pytest.raises(UsageError, match="one best image, not 3 draws"):
        reconstruct(kspace, prior=few, samples=3)
    with pytest.raises(UsageError, match="trained for 2 evaluations, not 4"):
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
    prior, before = start(TINY, CPU).prior, load_prior("heart-3").net.state_dict()
    assert prior.few and isinstance(prior.net, VideoUNet) and prior.net.blocks == 1
    for name, tensor in prior.net.state_dict().items():
        assert torch.equal(tensor, before[name])
    with pytest.raises(InputError, match="heart-1: this prior has no 1 guided blocks"):
        start(FewStepRecipe(start_from="heart-1"), CPU)


def test_what_is_acquired_fits_the_clip() -> None:
    """Of noiseless data of all lines the solver finds the clip again, and the error of the start is of its size."""
    recipe = FewStepRecipe(acceleration=(4.0, 4.0), noise=(0.01, 0.01), coils=(6,))
    clean = simulate_cine(12, (64, 64), seed=5).data
    g = torch.Generator().manual_seed(1)
    measurement, image, error = acquired(recipe, clean, g)
    true = float(torch.view_as_real(image - clean).square().mean().sqrt())
    assert true / 2 < error < 2 * true
    assert _rmse(measurement.solve(clean, 1e-6), clean) < 1e-3


def test_it_learns() -> None:
    """One batch by heart, through data consistency and both evaluations."""
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
