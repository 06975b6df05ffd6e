"""GRAPPA and TGRAPPA: exact where a kernel is, near the truth with smooth maps, and clear about what they can't do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from medseq.baselines import grappa, sense, tgrappa, zero_filled
from medseq.errors import UsageError
from medseq.metrics import nrmse
from medseq.noise import unit_noise
from medseq.operators import Coils, Fourier, Mask
from medseq.patterns import equispaced, pseudo_radial, variable_density
from medseq.simulate import coil_maps

METHODS: dict[str, Callable[..., Tensor]] = {"grappa": grappa, "tgrappa": tgrappa}
FRAMES, Y, X = 6, 48, 20


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def body(frames: int = FRAMES, dtype: torch.dtype = torch.complex64) -> Tensor:
    """A textured ellipse that brightens and fades: (1, 1, T, Y, X)."""
    rows, columns = torch.linspace(-1, 1, Y).view(-1, 1), torch.linspace(-1, 1, X)
    texture = torch.rand(1, 1, 12, 6, generator=seeded(1))
    texture = torch.nn.functional.interpolate(texture, (Y, X), mode="bilinear", align_corners=True)[0]
    inside = torch.sigmoid(20 * (1 - (rows / 0.7) ** 2 - (columns / 0.7) ** 2))
    beat = 1 + 0.1 * torch.sin(torch.arange(frames)).view(-1, 1, 1)
    return torch.polar((0.4 + texture) * inside * beat, (rows + columns).expand(frames, Y, X))[None, None].to(dtype)


def measured(keep: Tensor, maps: Tensor, image: Tensor, noise: float = 0.0) -> Tensor:
    full = (Fourier() @ Coils(maps))(image)
    return Mask(keep)(full + noise * unit_noise(full, seeded()))


def gradient_coils(coils: int) -> Tensor:
    """Maps exp(2 pi i c y / Y): each coil sees k-space one line further on, so that a kernel exists and is exact."""
    turns = torch.arange(coils).view(-1, 1, 1, 1) * (torch.arange(Y) - Y // 2).view(1, 1, -1, 1) / Y
    return (torch.polar(torch.ones_like(turns), 2 * torch.pi * turns) / coils**0.5).expand(-1, -1, -1, X)[None]


def band_limited(frames: int = FRAMES) -> Tensor:
    """Images without signal at the edges of k-space, where a kernel reaches out of it."""
    spectrum = torch.zeros(1, 1, frames, Y, X, dtype=torch.complex64)
    spectrum[..., 8:40, :] = unit_noise(spectrum[..., 8:40, :], seeded(2))
    return Fourier().adjoint(spectrum)


@pytest.mark.parametrize("kernel", [(2, 1), (2, 3), (4, 1)])
@pytest.mark.parametrize("step", [2, 3, 4])
def test_what_obeys_a_kernel_is_filled_exactly(step: int, kernel: tuple[int, int]) -> None:
    maps, x = gradient_coils(step), band_limited()
    keep = equispaced(FRAMES, Y, step, centre=16)
    y = measured(keep, maps, x)
    assert nrmse(zero_filled(y, Mask(keep) @ Fourier() @ Coils(maps)), x) > 0.3
    assert nrmse(grappa(y, keep, maps, kernel=kernel, regularization=1e-9), x) < 1e-3
    still = x[:, :, :1].expand(x.shape)
    for shifted in (keep, equispaced(FRAMES, Y, step)):
        y = measured(shifted, maps, still)
        assert nrmse(tgrappa(y, shifted, maps, kernel=kernel, regularization=1e-9), still) < 1e-3


@pytest.mark.parametrize("name", METHODS)
def test_smooth_maps_have_nearly_a_kernel(name: str) -> None:
    maps, x, keep = coil_maps(6, (Y, X)), body(), equispaced(FRAMES, Y, 2, centre=16)
    filled = METHODS[name](measured(keep, maps, x), keep, maps, regularization=1e-6)
    assert filled.shape == x.shape and filled.dtype == x.dtype
    assert nrmse(filled, x) < 0.02


@pytest.mark.parametrize("step", [2, 3])
def test_with_noise_as_good_as_sense(step: int) -> None:
    maps, x, keep = coil_maps(8, (Y, X)), body(), equispaced(FRAMES, Y, step, centre=16)
    y = measured(keep, maps, x, noise=0.01)
    reference = nrmse(sense(y, Mask(keep) @ Fourier() @ Coils(maps), regularization=1e-2), x)
    assert nrmse(grappa(y, keep, maps), x) < 1.15 * reference
    assert nrmse(tgrappa(y, keep, maps), x) < 1.15 * reference


def test_lines_at_the_same_places_in_all_frames_are_fine_with_calibration() -> None:
    maps, x = coil_maps(6, (Y, X)), body()
    full = (Fourier() @ Coils(maps))(x)
    keep = equispaced(1, Y, 2)
    y = Mask(keep)(full)
    for calibration in (full[:, :, :1, 14:34], full[:, :, :, 14:34]):
        assert nrmse(grappa(y, keep, maps, regularization=1e-6, calibration=calibration), x) < 0.05


@pytest.mark.parametrize("name", METHODS)
def test_laws(name: str) -> None:
    maps, method = coil_maps(4, (Y, X)), METHODS[name]
    keep = equispaced(FRAMES, Y, 2, centre=16)
    y = measured(keep, maps, body())
    x = method(y, keep, maps)
    torch.testing.assert_close(method(1000 * y, keep, maps), 1000 * x, rtol=1e-3, atol=1e-1)
    assert not method(torch.zeros_like(y), keep, maps).any()
    pair = method(torch.cat([y, 0.1j * y.flip(2)]), keep, maps)
    torch.testing.assert_close(pair[:1], x, rtol=1e-4, atol=1e-4)
    # What stands at unmeasured places is not looked at.
    torch.testing.assert_close(method(torch.where(keep, y, 7.0), keep, maps), x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_complete_lines_are_combined(name: str) -> None:
    maps, x, keep = coil_maps(3, (Y, X)), body(2), torch.ones(1, 1, 1, Y, 1, dtype=torch.bool)
    torch.testing.assert_close(METHODS[name](measured(keep, maps, x), keep, maps), x, rtol=1e-4, atol=1e-4)


def test_measured_lines_stay() -> None:
    maps, keep = gradient_coils(3), equispaced(FRAMES, Y, 3)
    x = unit_noise(body(), seeded())
    y = measured(keep, maps, x)
    one_coil = torch.zeros_like(maps)
    one_coil[:, 0] = 1
    spectrum = Fourier()(tgrappa(y, keep, one_coil))
    torch.testing.assert_close(Mask(keep)(spectrum), y[:, :1], rtol=1e-4, atol=1e-4)


def test_the_window_is_what_is_learnt_from() -> None:
    maps, keep = coil_maps(6, (Y, X)), equispaced(FRAMES, Y, 3)
    y = measured(keep, maps, body(), noise=0.02)
    whole = tgrappa(y, keep, maps, window=FRAMES)
    assert nrmse(whole, tgrappa(y, keep, maps)) > 1e-3
    # Three frames' average leaves the weights of the first frame untouched by what the last ones hold.
    changed = y.clone()
    changed[:, :, 4:] *= 3
    torch.testing.assert_close(tgrappa(changed, keep, maps)[:, :, :2], tgrappa(y, keep, maps)[:, :, :2])
    assert nrmse(tgrappa(changed, keep, maps, window=FRAMES)[:, :, :2], whole[:, :, :2]) > 1e-4


@pytest.mark.parametrize(
    "keep",
    [
        variable_density(FRAMES, Y, 3),
        pseudo_radial(FRAMES, (Y, X), 9),
        torch.zeros(1, 1, 1, Y, 1, dtype=torch.bool),
        equispaced(FRAMES, Y, 4) | (torch.arange(Y).view(1, 1, 1, Y, 1) % 7 == 1),
    ],
    ids=["random", "radial", "nothing", "two lattices"],
)
@pytest.mark.parametrize("name", METHODS)
def test_other_patterns_are_refused(name: str, keep: Tensor) -> None:
    maps = coil_maps(2, (Y, X))
    with pytest.raises(UsageError, match="lines"):
        METHODS[name](measured(keep, maps, body()), keep, maps)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda y, keep, maps: grappa(y, keep, maps), "calibration"),
        (lambda y, keep, maps: grappa(y, keep, maps, calibration=y[..., :12, :]), "12 calibration lines .* 13"),
        (lambda y, keep, maps: tgrappa(y[:, :, :3], keep[:, :, :3], maps), "as many as the acceleration"),
        (lambda y, keep, maps: tgrappa(y, keep[:, :, :1], maps), "shift"),
        (lambda y, keep, maps: tgrappa(y, keep, maps, window=3), "shift"),
        (lambda y, keep, maps: tgrappa(y, keep, maps, kernel=(3, 5)), "even"),
        (lambda y, keep, maps: grappa(y, keep, maps, kernel=(4, 4)), "odd"),
    ],
)
def test_what_is_missing_is_said(call: Callable[..., Tensor], message: str) -> None:
    maps, keep = coil_maps(2, (Y, X)), equispaced(FRAMES, Y, 4)
    with pytest.raises(UsageError, match=message) as refusal:
        call(measured(keep, maps, body()), keep, maps)
    assert "\n" not in str(refusal.value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", METHODS)
def test_same_on_cuda(name: str) -> None:
    maps, keep = coil_maps(6, (Y, X)), equispaced(FRAMES, Y, 2, centre=16)
    y = measured(keep, maps, body())
    device = METHODS[name](y.cuda(), keep.cuda(), maps.cuda()).cpu()
    assert nrmse(device, METHODS[name](y, keep, maps)) < 1e-3
