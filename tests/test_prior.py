"""Network, preconditioning, windows and weights on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from medseq import network
from medseq.errors import InputError
from medseq.guides import GUIDES
from medseq.io.weights import load_prior, save_prior
from medseq.network import TimeMix, VideoUNet, shifted
from medseq.noise import unit_noise
from medseq.prior import Prior, SpreadTable, Windowed

SPREAD = SpreadTable([0.01, 0.1, 1.0], [0.008, 0.03, 0.1])


def small_net(seed: int = 0, guides: int = GUIDES) -> VideoUNet:
    """A tiny network whose every layer does something: fresh ones start silent."""
    torch.manual_seed(seed)
    net = VideoUNet((8, 12), 1, guides)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return net.eval().requires_grad_(False)


def series(*shape: int, seed: int = 1) -> torch.Tensor:
    return unit_noise(torch.zeros(*shape, dtype=torch.complex64), torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(1, 1, 1, 16, 16), (2, 1, 5, 17, 23), (1, 1, 2, 5, 9), (1, 1, 33, 8, 8)])
@pytest.mark.parametrize("guides", [0, GUIDES])
def test_any_size_and_any_number_of_frames(shape: tuple[int, ...], guides: int) -> None:
    x = series(*shape)
    out = Prior(small_net(guides=guides), 0.3)(x, 0.2)
    assert out.shape == x.shape and out.dtype == torch.complex64 and torch.isfinite(torch.view_as_real(out)).all()


def test_an_untrained_network_is_the_linear_denoiser() -> None:
    """Fresh weights give zero, which leaves c_skip x: the best estimate for white data of std sigma_data."""
    x = series(1, 1, 3, 8, 8)
    torch.testing.assert_close(Prior(VideoUNet((8, 12), 1), 0.5)(x, 0.5), x / 2)


def test_gates_mix_the_series_with_its_guides() -> None:
    """Gates of 1 and a network that is silent otherwise: the clip's mean, but where that is far from the series."""
    net, still = VideoUNet((8, 12), 1, GUIDES), series(1, 1, 1, 16, 16)
    with torch.no_grad():
        net.leave.bias[-4:] = 1  # the last four channels are the four pixels of the last gate
    prior, level = Prior(net, 100.0), 0.1
    x = still + 0.1 * level * series(1, 1, 5, 16, 16, seed=2)
    torch.testing.assert_close(prior(x, level), x.mean(2, keepdim=True).expand_as(x), atol=1e-3, rtol=0.0)
    x[:, :, 0] += 5  # moved: beyond three times the noise a guide is not followed
    assert 2.9 * level < float((prior(x, level) - x).detach().abs().max()) < 3.1 * level


def test_batch_items_do_not_see_each_other() -> None:
    prior, x = Prior(small_net(), 0.3), series(3, 1, 4, 16, 16)
    together = prior(x, 0.1)
    torch.testing.assert_close(together[1:2], prior(x[1:2], 0.1), atol=1e-5, rtol=1e-4)


def test_periodic_time_commutes_with_rotation_of_the_frames() -> None:
    x = series(1, 1, 6, 16, 16)
    net = small_net(guides=0)  # the guides know a first frame where components are equally strong
    circular, open_ended = Prior(net, 0.3, periodic=True), Prior(net, 0.3)
    rolled = circular(x.roll(2, dims=2), 0.2).roll(-2, dims=2)
    torch.testing.assert_close(rolled, circular(x, 0.2), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(open_ended(x.roll(2, dims=2), 0.2).roll(-2, dims=2), open_ended(x, 0.2), atol=1e-3)


def test_shift_reflects_or_wraps_and_undoes_itself() -> None:
    x = torch.arange(4.0)[None]
    assert shifted(x, 1, True).tolist() == [[1, 2, 3, 0]] and shifted(x, -1, True).tolist() == [[3, 0, 1, 2]]
    assert shifted(x, 1, False).tolist() == [[1, 2, 3, 2]] and shifted(x, -1, False).tolist() == [[1, 0, 1, 2]]


@pytest.mark.parametrize("periodic", [True, False])
def test_time_is_mixed_as_defined(periodic: bool) -> None:
    """A convolution of the activated frames before, at and after, and of the activated mean over the clip."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        mix = TimeMix(8)
        torch.nn.init.normal_(mix.mix.weight)
    frames, x = 5, torch.randn(10, 8, 6, 4, generator=torch.Generator().manual_seed(4))
    clip = mix.shrink(x).view(2, frames, 2, 6, 4)
    expected = []
    for each in clip:
        for t in range(frames):
            before = each[t - 1] if t or periodic else each[1]
            after = each[(t + 1) % frames] if t < frames - 1 or periodic else each[frames - 2]
            expected.append(torch.cat([before, each[t], after, each.mean(0)]))
    near = torch.stack(expected)
    torch.testing.assert_close(mix(x, frames, periodic), x + mix.mix(near * torch.sigmoid(near)))


def test_a_level_for_each_frame_equals_one_level_when_they_agree() -> None:
    prior, x = Prior(small_net(), 0.3), series(2, 1, 4, 8, 8)
    torch.testing.assert_close(prior(x, torch.full((1, 1, 4, 1, 1), 0.2)), prior(x, 0.2))
    mixed = prior(x, torch.tensor([0.2, 0.2, 0.9, 0.2]).reshape(1, 1, 4, 1, 1))
    assert not torch.allclose(mixed, prior(x, 0.2), atol=1e-3)


@pytest.mark.parametrize("levels", [[0.2] * 7, [0.2, 0.2, 0.9, 0.2, 0.5, 0.2, 0.2]])
@pytest.mark.parametrize("values", [1, 3 * 8 * 6 * 6, 2**22])
def test_a_few_frames_at_a_time_or_all_at_once(
    levels: list[float], values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where gradients are asked for all frames are taken at once; else one, three, or all, and nothing changes."""
    monkeypatch.setattr(network, "_VALUES", values)
    prior, x = Prior(small_net(), 0.3, periodic=True), series(1, 1, 7, 12, 12)
    sigma, given = torch.tensor(levels).reshape(1, 1, 7, 1, 1), x.clone()
    with torch.enable_grad():
        whole = prior(x, sigma)
    with torch.no_grad():
        torch.testing.assert_close(prior(x, sigma), whole, atol=1e-5, rtol=1e-4)
        prior.autocast = torch.bfloat16
        rounded = prior(x, sigma)
    assert (rounded - whole).norm() < 0.02 * (x - whole).norm()
    assert torch.equal(x, given)


def test_space_is_treated_alike_everywhere() -> None:
    """Convolutional, and normed by pixel: far from its edges a crop gives what the whole image gives."""
    net = small_net()
    prior, x = Prior(net, 0.3), series(1, 1, 2, 96, 96)  # cut at a multiple of the guides' steps
    inner = slice(16, 80)
    crop = prior(x[..., inner, inner], 0.3)[..., 24:40, 24:40]
    torch.testing.assert_close(crop, prior(x, 0.3)[..., 40:56, 40:56], atol=1e-5, rtol=1e-4)


def test_windows_without_a_seam() -> None:
    """An identity comes through the windows unchanged, whatever they are; short series go through whole."""
    x = series(1, 1, 41, 4, 4)
    for frames, overlap in ((10, 4), (7, 0), (40, 39), (64, 16)):
        torch.testing.assert_close(Windowed(lambda v, s: v, frames, overlap)(x, 1.0), x)
    levels = torch.rand(1, 1, 41, 1, 1)
    torch.testing.assert_close(Windowed(lambda v, s: v * s, 10, 4)(x, levels), x * levels)
    with pytest.raises(ValueError, match="overlap"):
        Windowed(lambda v, s: v, 4, 4)


def test_spread_table_interpolates_in_log_log() -> None:
    assert SPREAD(0.1) == pytest.approx(0.03)
    assert SPREAD(0.1**0.5) == pytest.approx((0.03 * 0.1) ** 0.5)
    assert SPREAD(0.001) == pytest.approx(0.0008) and SPREAD(50.0) == pytest.approx(0.1) and SPREAD(0.0) == 0
    for sigma, rmse in (([1.0, 1.0], [1.0, 1.0]), ([1.0, 2.0], [1.0, 0.0]), ([1.0], [1.0, 2.0])):
        with pytest.raises(ValueError, match="spread table"):
            SpreadTable(sigma, rmse)


def test_numerics_run_on_the_meta_device() -> None:
    with torch.device("meta"):
        prior = Prior(VideoUNet((8, 12), 1, GUIDES), 0.3)
        x = torch.zeros(2, 1, 5, 16, 16, dtype=torch.complex64)
        assert prior(x, torch.ones(2, 1, 1, 1, 1)).shape == x.shape


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_network_on_a_gpu_equals_that_on_the_cpu() -> None:
    net, x = small_net(), series(1, 1, 4, 16, 16)
    here = Prior(net, 0.3)(x, 0.2)
    there = Prior(net.to("cuda"), 0.3)(x.to("cuda"), 0.2).cpu()
    torch.testing.assert_close(here, there, atol=1e-3, rtol=1e-3)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_prior(Prior(small_net(), 0.3, SPREAD), tmp_path / "p.safetensors", {"data": "none", "licence": "x"})


def test_weights_come_back(saved: Path) -> None:
    x, prior = series(1, 1, 3, 16, 16), load_prior(saved)
    torch.testing.assert_close(prior(x, 0.2), Prior(small_net(), 0.3)(x, 0.2), atol=2e-3, rtol=2e-2)
    assert prior.spread is not None and prior.spread.rmse == SPREAD.rmse and prior.sigma_data == 0.3


def test_damaged_swapped_or_unsafe_weights_are_refused(saved: Path) -> None:
    good, card = saved.read_bytes(), saved.with_suffix(".json")
    saved.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(InputError, match="SHA-256"):
        load_prior(saved)
    torch.save({"a": torch.zeros(1)}, saved)  # a pickle under the right name, even with its hash on the card
    about = json.loads(card.read_text())
    import hashlib

    about["sha256"] = hashlib.sha256(saved.read_bytes()).hexdigest()
    card.write_text(json.dumps(about))
    with pytest.raises(InputError, match="not the weights"):
        load_prior(saved)
    about["width"] = [8, 16]
    saved.write_bytes(good)
    about["sha256"] = hashlib.sha256(good).hexdigest()
    card.write_text(json.dumps(about))
    with pytest.raises(InputError, match="not the weights"):
        load_prior(saved)
    card.write_text("{}")
    with pytest.raises(InputError, match="not the card"):
        load_prior(saved)
    card.unlink()
    with pytest.raises(InputError, match="card of the prior is missing"):
        load_prior(saved)


def test_an_unknown_prior_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such prior"):
        load_prior("nowhere")
    with pytest.raises(InputError, match="no such prior"):
        load_prior(tmp_path / "gone.safetensors")
