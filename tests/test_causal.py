"""Frames as they arrive: causal, bounded, without a wait for the host, and better than what needs no prior."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from medseq.baselines import kt_sparse
from medseq.causal import Calibrated, CausalReconstruction, calibrated
from medseq.clip import KSpace
from medseq.errors import UsageError
from medseq.metrics import dynamic_region, psnr
from medseq.network import VideoUNet
from medseq.noise import unit_noise
from medseq.operators import Coils, Fourier
from medseq.patterns import variable_density
from medseq.prior import Prior, SpreadTable
from medseq.remembered import LineErrors, Memory
from medseq.simulate import acquire, coil_maps, golden_trajectory, simulate_cine
from medseq.warmstart import sense_operator

SIZE, BEAT = (48, 40), 10


def tiny() -> Prior:
    """Untrained: it answers with little more than what it is shown, as sure of itself as a good one."""
    torch.manual_seed(0)
    return Prior(VideoUNet((8, 8), 1, guides=3), 0.3, SpreadTable([0.002, 0.02, 0.2], [0.001, 0.006, 0.03]))


def beats(count: int = 2, seed: int = 3, **how) -> tuple[Tensor, KSpace]:
    """A phantom's heart over some beats, and its k-space."""
    clip = simulate_cine(BEAT, SIZE, seed=seed)
    series = clip.data.repeat(1, 1, count, 1, 1)
    clip = replace(clip, data=series, times=torch.arange(series.shape[2]).numpy() * 0.09, period=None)
    keep = how.pop("keep", variable_density(series.shape[2], SIZE[0], 4, 6, seed))
    return series, acquire(clip, coils=4, noise=how.pop("noise", 0.01), keep=keep, seed=seed, **how)


def begun(kspace: KSpace, prior: Prior | None = None, **options) -> CausalReconstruction:
    known = calibrated(replace(kspace, data=kspace.data[:, :, :BEAT], keep=_of(kspace)[:, :, :BEAT], times=None))
    return CausalReconstruction(prior or tiny(), known, device="cpu", precision="float32", **options)


def _of(kspace: KSpace) -> Tensor:
    return kspace.keep.expand(1, 1, kspace.frames, SIZE[0], 1)


def frames(kspace: KSpace, first: int = 0, last: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    for t in range(first, kspace.frames if last is None else last):
        yield kspace.data[:, :, t : t + 1], _of(kspace)[:, :, t : t + 1]


def run(reconstruction: CausalReconstruction, kspace: KSpace, last: int | None = None) -> Tensor:
    return torch.cat([reconstruction.frame(y, keep) for y, keep in frames(kspace, 0, last)], 2)


def test_a_frame_depends_on_none_that_comes_later() -> None:
    """Told by the same frames followed by others; and the same frames give the same images."""
    _, kspace = beats()
    other = kspace.data.clone()
    other[:, :, 6:] = other[:, :, 6:].flip(2)
    one, another = run(begun(kspace), kspace, 9), begun(kspace)
    torch.testing.assert_close(run(another, replace(kspace, data=other), 6), one[:, :, :6], rtol=0, atol=0)
    assert not torch.equal(another.frame(other[:, :, 6:7], _of(kspace)[:, :, 6:7]), one[:, :, 6:7])


def test_frames_held_back_are_the_better_for_it_and_so_are_those_that_follow() -> None:
    """Reconstructed as one series, where one after the other each knows of none that comes later."""
    truth, kspace = beats(2)
    one_by_one, together = begun(kspace), begun(kspace)
    apart = run(one_by_one, kspace, BEAT)
    held = together.first(kspace.data[:, :, :BEAT], _of(kspace)[:, :, :BEAT])

    def quality(images: Tensor, first: int) -> float:
        return psnr(images.abs(), truth[:, :, first : first + images.shape[2]].abs())

    assert held.shape == apart.shape and quality(held, 0) > quality(apart, 0) + 1
    step = torch.view_as_real(held.diff(dim=2)).square().mean().sqrt() / together._calibrated.scale
    assert step / 2 < together._errors.level() < 2 * step  # how far one frame is from the next, no first guess
    later = [torch.cat([each.frame(*f) for f in frames(kspace, BEAT)], 2) for each in (one_by_one, together)]
    assert quality(later[1], BEAT) > quality(later[0], BEAT)


def test_few_frames_held_back_are_taken_one_after_the_other() -> None:
    _, kspace = beats(1)
    one, other = begun(kspace), begun(kspace)
    assert torch.equal(one.first(kspace.data[:, :, :4], _of(kspace)[:, :, :4]), run(other, kspace, 4))
    with pytest.raises(UsageError, match="frames of k-space have the shape"):
        one.first(kspace.data[:, :3, :9], _of(kspace)[:, :, :9])


def test_a_fully_sampled_frame_comes_out_as_it_is() -> None:
    """To within its noise, whatever the prior: with all lines the measurement decides."""
    truth, kspace = beats(1, keep=torch.ones(1, 1, 1, SIZE[0], 1, dtype=torch.bool), noise=1e-3)
    maps = coil_maps(4, SIZE, 3)
    images = run(begun(replace(kspace, maps=maps)), kspace, 3)
    error = torch.view_as_real(images - truth[:, :, :3]).square().mean().sqrt()
    assert isinstance(kspace.noise, float)
    assert error < 1.2 * kspace.noise


def test_correlated_noise_and_many_coils_change_nothing_that_matters() -> None:
    """The same k-space with its noise told as a covariance, and with each coil measured four times over."""
    truth, kspace = beats(1)
    assert isinstance(kspace.noise, float)
    plain = run(begun(kspace), kspace, 5)
    told = replace(kspace, noise=kspace.noise**2 * torch.eye(4, dtype=torch.complex64))
    torch.testing.assert_close(run(begun(told), told, 5).abs(), plain.abs(), rtol=0, atol=2e-3)
    many = replace(kspace, data=kspace.data.repeat(1, 4, 1, 1, 1) / 2)
    assert psnr(run(begun(many), many, 5).abs(), truth[:, :, :5].abs()) > psnr(plain.abs(), truth[:, :, :5].abs()) - 1


def tensors(thing: object, seen: set[int]) -> Iterator[Tensor]:
    """All that are reachable from an object."""
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, list | tuple):
        for part in thing:
            yield from tensors(part, seen)
    elif isinstance(thing, dict) or hasattr(thing, "__dict__"):
        for part in (thing if isinstance(thing, dict) else vars(thing)).values():
            yield from tensors(part, seen)


def test_what_is_kept_stays_where_it_is_and_as_large() -> None:
    _, kspace = beats(1)
    reconstruction = begun(kspace)
    before = [(t.data_ptr(), t.shape) for t in tensors(reconstruction, set())]
    run(reconstruction, kspace)
    reconstruction.missed(1000)
    assert [(t.data_ptr(), t.shape) for t in tensors(reconstruction, set())] == before


def without_values(thing: object) -> object:
    """The same object, all of its tensors on the meta device."""
    if isinstance(thing, Tensor | nn.Module):
        return thing.to("meta")
    if isinstance(thing, tuple):
        return tuple(map(without_values, thing))
    if hasattr(thing, "__dict__") and not isinstance(thing, Calibrated | SpreadTable):
        vars(thing).update({name: without_values(part) for name, part in vars(thing).items()})
    return thing


def test_no_value_is_asked_of_the_device() -> None:
    """On tensors without values, which raise when one is asked for: a GPU would have to be waited for."""
    _, kspace = beats(1)
    reconstruction = begun(kspace)
    without_values(reconstruction)
    y, keep = next(frames(kspace))
    image = reconstruction._step(y.to("meta"), keep.to("meta"))
    reconstruction.missed()
    assert image.is_meta and image.shape == (1, 1, 1, *SIZE)


def test_the_frame_of_the_last_beat_is_found() -> None:
    """By few central lines, some of which are missing; where relaxation passes through the shapes of contraction."""
    phantom, maps = simulate_cine(BEAT, SIZE, seed=3).data, coil_maps(4, SIZE, 3)
    truth = phantom[:, :, [0, 1, 2, 3, 4, 3, 2, 1] * 2]
    memory = Memory(truth[:, :, :1], maps, 32, 2)
    for t in range(14):
        memory.add(truth[:, :, t : t + 1], torch.full((1, 1, 1, 1, 1), 0.01))
    keep = variable_density(1, SIZE[0], 4, 4, 0)
    y = sense_operator(keep, maps)(truth[:, :, 14:15])
    found, levels = memory.match(y, keep)
    torch.testing.assert_close(found, phantom[:, :, [3, 2, 1, 0]])
    assert levels.shape == (1, 1, 4, 1, 1)


def test_lines_tell_how_far_a_prediction_is_off() -> None:
    """White errors of known size, more of them at the centre; noise of the measurement does not count."""
    g = torch.Generator().manual_seed(0)
    maps, sigma, error = coil_maps(4, SIZE), 0.02, 0.05
    errors = LineErrors(SIZE[0], sigma, torch.device("cpu"))
    full = Fourier() @ Coils(maps)
    for seed in range(30):
        keep = variable_density(1, SIZE[0], 4, 4, seed)
        wrong = full(error * unit_noise(torch.zeros(1, 1, 1, *SIZE, dtype=torch.complex64), g))
        y = torch.where(keep, sigma * unit_noise(wrong, g), 0)
        errors.learn(errors.missed(wrong, y, keep)[0], keep)
    assert float(errors.level()) == pytest.approx(error, rel=0.1)
    left = (0.75 * error**2 + 0.25 * sigma**2) ** 0.5
    assert float(errors.level(keep)) == pytest.approx(left, rel=0.1)


def test_levels_on_a_device_are_read_from_the_same_table() -> None:
    table = tiny().spread
    assert table is not None
    levels = [1e-4, 0.002, 0.003, 0.05, 0.2, 3.0]
    torch.testing.assert_close(table.of_levels(torch.tensor(levels)), torch.tensor([table(level) for level in levels]))


def test_better_than_what_needs_no_prior() -> None:
    """The shipped prior on a phantom, in its second beat: last frame held, a sliding window, zeros in place of lines.

    Frames that never came cost little, once they are told."""
    truth, kspace = beats(2)
    region = dynamic_region(truth)
    second = slice(BEAT, None)

    def score(images: Tensor) -> float:
        return psnr(images[:, :, -BEAT:].abs(), truth[:, :, second].abs(), region)

    known = calibrated(replace(kspace, data=kspace.data[:, :, :BEAT], keep=kspace.keep[:, :, :BEAT], times=None))
    whole = CausalReconstruction(None, known, device="cpu", precision="float32")
    images = run(whole, kspace)
    A = sense_operator(kspace.keep, known.maps)
    windows = [slice(max(0, t - 7), t + 1) for t in range(BEAT, 2 * BEAT)]
    sliding = torch.cat([kt_sparse(kspace.data[:, :, w], A.frames(w), iterations=20)[:, :, -1:] for w in windows], 2)
    zeros = A.adjoint(kspace.data)
    rivals = [score(images[:, :, :-1]), score(sliding), score(zeros)]
    assert score(images) > max(rivals) + 1

    late = CausalReconstruction(None, known, device="cpu", precision="float32")
    run(late, kspace, BEAT + 2)
    late.missed(3)
    after = torch.cat([late.frame(y, keep) for y, keep in frames(kspace, BEAT + 5)], 2)
    rest = slice(BEAT + 5, None)
    assert (
        psnr(after.abs(), truth[:, :, rest].abs(), region)
        > psnr(images[:, :, rest].abs(), truth[:, :, rest].abs(), region) - 1.5
    )


def test_what_does_not_fit_is_refused() -> None:
    _, kspace = beats(1)
    reconstruction = begun(kspace)
    y, keep = next(frames(kspace))
    for bad in ((y[:, :3], keep), (y[..., 1:], keep), (y, keep[:, :, :, 1:]), (y, keep.float())):
        with pytest.raises(UsageError, match="frames of k-space have the shape"):
            reconstruction.frame(*bad)
    for count in (1, 33):
        with pytest.raises(UsageError, match="at once"):
            begun(kspace, frames=count)
    with pytest.raises(UsageError, match="one slice at a time"):
        calibrated(replace(kspace, data=kspace.data.repeat(2, 1, 1, 1, 1)))
    clip = simulate_cine(4, SIZE)
    with pytest.raises(UsageError, match="Cartesian"):
        calibrated(acquire(clip, coils=4, trajectory=golden_trajectory("radial", clip)))
