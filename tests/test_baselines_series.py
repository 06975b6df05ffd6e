"""Denoising and interpolation baselines against closed forms, other libraries and the order they must come in."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from medseq.baselines import (
    cubic_interpolation,
    fourier_interpolation,
    linear_interpolation,
    local_pca,
    local_pca_wiener,
    non_local_means,
    optical_flow_interpolation,
    total_variation_denoise,
)
from medseq.baselines.proximal import eigh
from medseq.errors import UsageError
from medseq.metrics import nrmse
from medseq.noise import unit_noise

DENOISERS: dict[str, Callable[..., Tensor]] = {
    "local PCA": local_pca,
    "local PCA, Wiener": local_pca_wiener,
    "TV": total_variation_denoise,
    "NLM": non_local_means,
}
INTERPOLATORS: dict[str, Callable[..., Tensor]] = {
    "cubic": cubic_interpolation,
    "Fourier": fourier_interpolation,
    "flow": optical_flow_interpolation,
}
FRAMES, Y, X = 12, 36, 30
TIMES = torch.arange(FRAMES) * 0.07
PERIOD = FRAMES * 0.07


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def beating_disc(frames: int = FRAMES) -> Tensor:
    """A disc that beats before a still, smooth background, with a phase: (1, 1, T, Y, X) complex64."""
    rows, columns = torch.linspace(-1, 1, Y).view(-1, 1), torch.linspace(-1, 1, X)
    beat = 0.5 + 0.15 * torch.cos(2 * torch.pi * torch.arange(frames) / frames).view(-1, 1, 1)
    disc = torch.sigmoid(15 * (beat - (rows**2 + columns**2).sqrt()))
    still = 0.3 * torch.cos(3 * rows + 2 * columns).square()
    return torch.polar(0.7 * disc + still, (rows + columns).expand(Y, X))[None, None]


def of_kind(kind: str, series: Tensor) -> Tensor:
    return {"complex": series, "real": series.real.contiguous(), "magnitude": series.abs()}[kind]


@pytest.mark.parametrize("name", DENOISERS)
@pytest.mark.parametrize("kind", ["complex", "real"])
def test_every_denoiser(name: str, kind: str) -> None:
    denoise, clean = DENOISERS[name], of_kind(kind, beating_disc())
    noisy = clean + 0.05 * unit_noise(clean, seeded())
    result = denoise(noisy, 0.05)
    assert result.shape == noisy.shape and result.dtype == noisy.dtype
    assert nrmse(result, clean) < 0.6 * nrmse(noisy, clean)
    torch.testing.assert_close(denoise(1024 * noisy, 51.2), 1024 * result, rtol=1e-3, atol=0.1)  # nothing is absolute
    pair = denoise(torch.cat([noisy.flip(3), noisy]), torch.tensor([0.01, 0.05]))
    torch.testing.assert_close(pair[1:], result, rtol=1e-4, atol=1e-4)  # items are on their own
    # Within 3 % the estimate is the sigma put in, which moves the result by far less than the noise.
    assert nrmse(denoise(noisy), result) < 0.1 * nrmse(noisy, clean)


@pytest.mark.parametrize("name", DENOISERS)
@pytest.mark.parametrize("kind", ["complex", "real"])
def test_without_noise_nothing_is_taken_away(name: str, kind: str) -> None:
    clean = of_kind(kind, beating_disc()) + 1e-3 * unit_noise(of_kind(kind, beating_disc()), seeded())
    assert nrmse(DENOISERS[name](clean, 1e-6), clean) < 1e-4


@pytest.mark.parametrize("name", DENOISERS)
def test_of_pure_noise_little_is_left(name: str) -> None:
    noise = unit_noise(torch.empty(1, 1, FRAMES, Y, X, dtype=torch.complex64), seeded())
    left = float(DENOISERS[name](noise, 1.0).abs().square().mean()) / 2
    assert left < {"local PCA": 0.005, "local PCA, Wiener": 0.005, "TV": 0.1, "NLM": 0.05}[name]


@pytest.mark.parametrize("name", DENOISERS)
@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, torch.ones(3)])
def test_impossible_noise_is_refused(name: str, sigma: float | Tensor) -> None:
    with pytest.raises(UsageError, match="sigma"):
        DENOISERS[name](beating_disc(), sigma)


@pytest.mark.parametrize("name", DENOISERS)
def test_what_is_no_series_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="B, 1, T, Y, X"):
        DENOISERS[name](torch.ones(1, 2, 3, 8, 8), 1.0)


def test_impossible_patches_and_weights_are_refused() -> None:
    x = beating_disc()
    for refused in (
        lambda: local_pca(x, patch=0),
        lambda: local_pca(x, patch=5, stride=6),
        lambda: local_pca_wiener(x, 0.1, patch=5, stride=0),
        lambda: total_variation_denoise(x, 0.1, weight=0.0),
        lambda: non_local_means(x, 0.1, weight=math.inf),
    ):
        with pytest.raises(UsageError):
            refused()


def test_the_second_passes_pay() -> None:
    clean = beating_disc()
    noisy = clean + 0.1 * unit_noise(clean, seeded())
    error = {name: nrmse(denoise(noisy, 0.1), clean) for name, denoise in DENOISERS.items()}
    assert error.pop("local PCA, Wiener") < 0.8 * min(error.values())


def test_a_better_pilot_gives_a_better_result() -> None:
    clean = beating_disc()
    noisy = clean + 0.1 * unit_noise(clean, seeded())
    plain = local_pca_wiener(noisy, 0.1)
    torch.testing.assert_close(local_pca_wiener(noisy, 0.1, pilot=local_pca(noisy, 0.1)), plain)
    assert nrmse(local_pca_wiener(noisy, 0.1, pilot=clean), clean) < nrmse(plain, clean)
    for unfit in (clean.real, clean[:, :, 1:]):
        with pytest.raises(UsageError, match="pilot"):
            local_pca_wiener(noisy, 0.1, pilot=unfit)


def low_rank(rank: int, frames: int, side: int, dtype: torch.dtype) -> Tensor:
    """(1, 1, T, side, side) of exact rank, its singular values about sqrt(T side^2)."""
    spaces = torch.randn(side * side, rank, dtype=dtype, generator=seeded(1))
    courses = torch.randn(rank, frames, dtype=dtype, generator=seeded(2))
    return (spaces @ courses).T.reshape(1, 1, frames, side, side)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("frames", [20, 200])  # more pixels than frames, and fewer
@pytest.mark.parametrize("known", [True, False])
def test_low_rank_comes_back_as_well_as_from_an_oracle(dtype: torch.dtype, frames: int, known: bool) -> None:
    # The projection on the true row and column spaces leaves r (M + T - r) of M T degrees of freedom of noise.
    rank, side, sigma = 3, 10, 0.01
    clean = low_rank(rank, frames, side, dtype)
    noisy = clean + sigma * unit_noise(clean, seeded())
    result = local_pca(noisy, sigma if known else None, patch=side)
    error = (result - clean).abs().square().mean() / (sigma**2 * (2 if dtype.is_complex else 1))
    oracle = rank * (side**2 + frames - rank) / (side**2 * frames)
    assert float(error) == pytest.approx(oracle, rel=0.1)


@pytest.mark.parametrize("frames", [20, 200])
def test_singular_values_shrink_as_in_closed_form(frames: int) -> None:
    # Gavish and Donoho 2017, eq. 1.7, and zero where Marchenko and Pastur put the edge, from a decomposition.
    side, sigma = 10, 0.5
    noisy = low_rank(2, frames, side, torch.float64) * 0.3
    noisy = noisy + sigma * unit_noise(noisy, seeded())
    left, singular, right = torch.linalg.svd(noisy.flatten(3)[0, 0], full_matrices=False)
    longer, ratio = max(frames, 100), min(frames, 100) / max(frames, 100)
    y = singular / (sigma * longer**0.5)
    shrunk = ((y**2 - ratio - 1) ** 2 - 4 * ratio).clamp(min=0).sqrt() / y * (y > 1 + ratio**0.5)
    assert 0 < int((shrunk > 0).sum()) < 6
    expected = (left * (shrunk * sigma * longer**0.5)) @ right
    torch.testing.assert_close(local_pca(noisy, sigma, patch=side).flatten(3)[0, 0], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_noise_that_varies_over_the_image_is_found_patch_by_patch(dtype: torch.dtype) -> None:
    clean = of_kind("complex" if dtype.is_complex else "real", beating_disc(24))
    level = 0.02 + 0.1 * torch.linspace(0, 1, X)
    noisy = clean + level * unit_noise(clean, seeded())
    adaptive = nrmse(local_pca(noisy), clean)
    assert adaptive < min(nrmse(local_pca(noisy, sigma), clean) for sigma in (0.02, 0.05, 0.07, 0.09, 0.12))


def test_small_images_and_single_frames_are_patches_of_their_own() -> None:
    for shape in ((1, 1, 1, 8, 8), (1, 1, 6, 3, 4), (1, 1, 40, 4, 3)):
        x = 5 + unit_noise(torch.empty(shape), seeded())
        for denoise in (local_pca, local_pca_wiener):
            assert nrmse(denoise(x, 1.0), torch.full(shape, 5.0)) < nrmse(x, torch.full(shape, 5.0))


def test_nothing_in_nothing_out() -> None:
    zero = torch.zeros(1, 1, 6, 12, 12)
    assert not local_pca(zero).any() and not local_pca_wiener(zero, 1.0).any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["local PCA", "local PCA, Wiener"])
def test_denoisers_are_the_same_on_cuda(name: str) -> None:
    noisy = beating_disc() + 0.05 * unit_noise(beating_disc(), seeded())
    assert nrmse(DENOISERS[name](noisy.cuda(), 0.05).cpu(), DENOISERS[name](noisy, 0.05)) < 1e-3


@pytest.mark.parametrize("name", INTERPOLATORS)
@pytest.mark.parametrize("kind", ["complex", "real"])
def test_known_times_give_known_frames(name: str, kind: str) -> None:
    known = of_kind(kind, beating_disc())
    result = INTERPOLATORS[name](known, TIMES, TIMES, PERIOD)
    assert result.dtype == known.dtype
    torch.testing.assert_close(result, known)


@pytest.mark.parametrize("name", INTERPOLATORS)
def test_one_cycle_on_is_the_same_frame(name: str) -> None:
    known = beating_disc(6)
    times = torch.arange(6.0)
    wanted = torch.tensor([2.5, 5.5])
    result = INTERPOLATORS[name](known, times, wanted, 6.0)
    torch.testing.assert_close(INTERPOLATORS[name](known, times, wanted - 6, 6.0), result, rtol=1e-4, atol=1e-4)
    rolled = INTERPOLATORS[name](known.roll(-3, dims=2), times, torch.tensor([5.5, 2.5]), 6.0)
    torch.testing.assert_close(rolled, result, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", INTERPOLATORS)
def test_batches_are_interpolated_item_by_item(name: str) -> None:
    known = torch.cat([beating_disc(4), 100j * beating_disc(4).flip(3)])
    times, wanted = torch.arange(4.0), torch.tensor([1.5])
    result = INTERPOLATORS[name](known, times, wanted, 4.0)
    assert result.shape == (2, 1, 1, Y, X)
    torch.testing.assert_close(result[1:], 100j * result[:1].flip(3), rtol=0.02, atol=2.0)


@pytest.mark.parametrize("name", INTERPOLATORS)
def test_impossible_times_are_refused(name: str) -> None:
    known = torch.ones(1, 1, 3, 8, 8)
    for times, wanted, period in (([0, 1, 2], [2.5], None), ([0, 1, 2], [0.5], 2.0), ([0, 1, 1], [0.5], 3.0)):
        with pytest.raises(UsageError):
            INTERPOLATORS[name](known, torch.tensor(times), torch.tensor(wanted), period)


@pytest.mark.parametrize("period", [None, 4.0])
@pytest.mark.parametrize("frames", [2, 3, 6])
def test_cubic_is_that_of_scipy(period: float | None, frames: int) -> None:
    times = torch.tensor([0.0, 0.5, 1.2, 2.0, 2.1, 3.0])[:frames]
    values = torch.randn(frames, dtype=torch.float64, generator=seeded())
    wanted = torch.linspace(0, float(times[-1]), 9)
    knots, closed = times.double().numpy(), values.numpy()
    if period is not None:
        knots, closed = np.append(knots, period), np.append(closed, closed[0])
    expected = CubicSpline(knots, closed, bc_type="not-a-knot" if period is None else "periodic")(wanted.double())
    actual = cubic_interpolation(values.view(1, 1, -1, 1, 1), times, wanted, period)
    torch.testing.assert_close(actual.flatten(), torch.from_numpy(expected))


def test_cubic_is_exact_for_cubics() -> None:
    times, wanted = torch.tensor([0.0, 0.7, 1.0, 2.2, 3.0]), torch.linspace(0, 3, 13)

    def course(t: Tensor) -> Tensor:
        return (1 - 2 * t + t**2 - 0.3 * t**3).double().view(1, 1, -1, 1, 1)

    torch.testing.assert_close(cubic_interpolation(course(times), times, wanted), course(wanted), rtol=1e-5, atol=1e-5)


def test_one_known_frame_fills_a_whole_cycle() -> None:
    known, zero, wanted = beating_disc(1), torch.tensor([0.0]), torch.tensor([0.0, 0.4, 0.9])
    for interpolate in INTERPOLATORS.values():
        torch.testing.assert_close(interpolate(known, zero, wanted, 1.0), known.expand(-1, -1, 3, -1, -1))


@pytest.mark.parametrize("frames", [5, 6])
def test_fourier_is_exact_for_few_harmonics(frames: int) -> None:
    def course(t: Tensor) -> Tensor:
        turn = 2 * math.pi * t.double() / 0.9
        return (1 + torch.cos(turn + 0.3) - 2 * torch.sin(2 * turn)).view(1, 1, -1, 1, 1)

    times, wanted = 0.1 + torch.arange(frames).double() * 0.9 / frames, torch.linspace(-1, 2, 31).double()
    torch.testing.assert_close(fourier_interpolation(course(times), times, wanted, 0.9), course(wanted))


@pytest.mark.parametrize("frames", [5, 6])
def test_fourier_between_frames_is_zero_filling(frames: int) -> None:
    known = torch.randn(1, 1, frames, 2, 3, dtype=torch.float64, generator=seeded())
    times, wanted = torch.arange(frames).double(), torch.arange(2 * frames).double() / 2
    spectrum = torch.fft.rfft(known, dim=2)
    if frames % 2 == 0:
        spectrum[:, :, -1] /= 2
    expected = 2 * torch.fft.irfft(spectrum, n=2 * frames, dim=2)
    torch.testing.assert_close(fourier_interpolation(known, times, wanted, float(frames)), expected)


def test_fourier_needs_equal_parts_of_a_period() -> None:
    known, wanted = torch.ones(1, 1, 3, 2, 2), torch.tensor([0.5])
    with pytest.raises(UsageError, match="period"):
        fourier_interpolation(known, torch.arange(3.0), wanted)
    for times, period in (([0.0, 1.0, 2.2], 3.0), ([0.0, 1.0, 2.0], 3.5)):
        with pytest.raises(UsageError, match="equal intervals"):
            fourier_interpolation(known, torch.tensor(times), wanted, period)


def walking_blob(times: Tensor) -> Tensor:
    """A blob that walks 5 voxels a second along X, complex with a still phase: (1, 1, T, 32, 48)."""
    rows, columns = torch.arange(32).view(-1, 1) - 16, torch.arange(48) - 10 - 5 * times.view(-1, 1, 1)
    return torch.polar(torch.exp(-(rows**2 + columns**2) / 18), (0.05 * rows).expand(len(times), 32, 48))[None, None]


@pytest.mark.parametrize("kind", ["complex", "magnitude"])
def test_flow_follows_what_walks(kind: str) -> None:
    times, wanted = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0.25, 0.5, 1.7])
    known, truth = (of_kind(kind, walking_blob(t)) for t in (times, wanted))
    error = nrmse(optical_flow_interpolation(known, times, wanted), truth)
    assert error < 0.3 * nrmse(linear_interpolation(known, times, wanted), truth)
    assert error < 0.1


def test_flow_of_a_series_that_stands_still_or_is_empty() -> None:
    still = beating_disc(1).expand(-1, -1, 3, -1, -1)
    times, wanted = torch.arange(3.0), torch.tensor([0.5, 2.5])
    torch.testing.assert_close(
        optical_flow_interpolation(still, times, wanted, 3.0), still[:, :, :2], rtol=1e-3, atol=1e-3
    )
    assert not optical_flow_interpolation(0 * still, times, wanted, 3.0).any()


@pytest.mark.parametrize("name", ["cubic", "Fourier"])
def test_gradients_pass(name: str) -> None:
    known = beating_disc(4).requires_grad_()
    INTERPOLATORS[name](known, torch.arange(4.0), torch.tensor([1.5]), 4.0).abs().sum().backward()
    assert known.grad is not None and bool(known.grad.any())


@pytest.mark.parametrize("failure", ["raises", "NaN"])
def test_where_single_precision_fails_double_serves(failure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = torch.linalg.eigh

    def fails_in_single(matrices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if matrices.dtype == torch.float64:
            return tuple(exact(matrices))
        if failure == "raises":
            raise torch.linalg.LinAlgError("failed to converge")
        return torch.zeros(1, 2), torch.full((1, 2, 2), torch.nan)

    monkeypatch.setattr(torch.linalg, "eigh", fails_in_single)
    values, vectors = eigh(torch.diag(torch.tensor([1.0, 3.0]))[None])
    assert values.tolist() == [[1.0, 3.0]] and vectors.dtype == torch.float32
