"""The sampler against exact posteriors: a Gaussian prior whose every posterior is known in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medseq.errors import UsageError
from medseq.measurement import Measurement
from medseq.noise import unit_noise
from medseq.operators import Coils, Fourier, Identity, LinearOp, Mask
from medseq.posterior import ancestral, best_images, noise_levels, posterior_samples, turning

SIZE = (6, 8, 8)  # T, Y, X
SAMPLES = 96


class GaussianPrior:
    """Stationary, so that its covariance is diagonal in the 3-D Fourier domain (variances of each real channel)."""

    def __init__(self) -> None:
        axes = [torch.fft.fftfreq(n, dtype=torch.float64) * n for n in SIZE]
        t, y, x = torch.meshgrid(*axes, indexing="ij")
        self.power = 1.5 / (1 + t**2 + 0.5 * (y**2 + x**2)) ** 1.5

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        shrink = (self.power / (self.power + sigma**2)).to(torch.float32)
        return torch.fft.ifftn(torch.fft.fftn(x, dim=(-3, -2, -1)) * shrink, dim=(-3, -2, -1))

    def covariance(self) -> Tensor:
        """(N, N) complex128, of each real channel."""
        n = self.power.numel()
        basis = torch.eye(n, dtype=torch.complex128).reshape(n, *SIZE)
        return torch.fft.ifftn(torch.fft.fftn(basis, dim=(1, 2, 3)) * self.power, dim=(1, 2, 3)).reshape(n, n).T

    def sample(self, g: torch.Generator) -> Tensor:
        noise = unit_noise(torch.zeros(1, 1, *SIZE, dtype=torch.complex64), g)
        root = self.power.sqrt().to(torch.float32)
        return torch.fft.ifftn(torch.fft.fftn(noise, dim=(-3, -2, -1)) * root, dim=(-3, -2, -1))


def exact_posterior(prior: GaussianPrior, A: LinearOp, y: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Mean (N,) and std (N,) of each real channel, by dense linear algebra in double precision."""
    n = prior.power.numel()
    basis = torch.eye(n, dtype=torch.complex64).reshape(n, 1, *SIZE)
    matrix = A(basis).reshape(n, -1).T.to(torch.complex128)
    information = torch.linalg.inv(prior.covariance()) + matrix.mH @ matrix / sigma**2
    covariance = torch.linalg.inv(information)
    mean = covariance @ (matrix.mH @ y.reshape(-1).to(torch.complex128)) / sigma**2
    return mean, covariance.diagonal().real.sqrt()


def cases() -> dict[str, tuple[LinearOp, float, Tensor]]:
    """Operator, noise, and which voxels count as measured."""
    g = torch.Generator().manual_seed(11)
    maps = torch.randn(1, 3, 1, *SIZE[1:], generator=g, dtype=torch.complex64)
    maps = maps / maps.abs().square().sum(1, keepdim=True).sqrt()
    times = torch.tensor([1, 0, 1, 0, 1, 0], dtype=torch.bool).reshape(1, 1, 6, 1, 1)
    lines = torch.rand(1, 1, SIZE[0], SIZE[1], 1, generator=g) < 0.4
    lines[:, :, :, 3:5] = True
    everywhere = torch.ones(SIZE, dtype=torch.bool)
    return {
        "nothing": (Mask(False), 1.0, everywhere),
        "denoise": (Identity(), 0.3, everywhere),
        "interpolate": (Mask(times), 0.1, times.expand(1, 1, *SIZE)[0, 0]),
        "one coil": (Mask(lines) @ Fourier(), 0.1, everywhere),
        "three coils": (Mask(lines) @ Fourier() @ Coils(maps), 0.1, everywhere),
    }


def ratios(draws: Tensor, mean: Tensor, std: Tensor, where: Tensor) -> tuple[float, float]:
    """RMS error of the sample mean in posterior stds, and the ratio of the stds, over the voxels `where`."""
    flat, chosen = draws.reshape(draws.shape[0], -1).to(torch.complex128), where.reshape(-1)
    off = torch.view_as_real(flat.mean(0) - mean).square().mean(-1).sqrt()
    measured = torch.view_as_real(flat - flat.mean(0)).square().mean(-1).sum(0) / (draws.shape[0] - 1)
    error = float((off[chosen] / std[chosen]).square().mean().sqrt())
    return error, float((measured[chosen].sqrt() / std[chosen]).mean())


@pytest.mark.parametrize("name", list(cases()))
def test_many_levels_give_the_exact_posterior(name: str) -> None:
    """200 levels, spread = sigma: mean within 0.25 posterior std (0.10 of it is Monte Carlo error), std within 7 %."""
    A, sigma, measured = cases()[name]
    prior, g = GaussianPrior(), torch.Generator().manual_seed(5)
    y = A(prior.sample(g))
    y = Mask(measured[None, None])(y + sigma * unit_noise(y, g)) if name == "interpolate" else _noisy(A, y, sigma, g)
    mean, std = exact_posterior(prior, A, y, sigma)
    # items of a batch are independent samples: y is broadcast to all of them
    measurement = Measurement(y.expand(SAMPLES, *y.shape[1:]), A, sigma, iterations=40, tolerance=1e-5)
    levels = noise_levels(200, 40.0, 0.01)
    start = levels[0] * unit_noise(torch.zeros(SAMPLES, 1, *SIZE, dtype=torch.complex64), g)
    *_, draws = posterior_samples(prior, measurement, levels, start, generator=g)
    for where in (measured, ~measured):
        if where.any():
            error, ratio = ratios(draws, mean, std, where)
            assert error < 0.25, f"{name}: mean off by {error:.2f} posterior std"
            assert 0.93 < ratio < 1.07, f"{name}: std ratio {ratio:.3f}"


def _noisy(A: LinearOp, y: Tensor, sigma: float, g: torch.Generator) -> Tensor:
    noisy = y + sigma * unit_noise(y, g)
    return noisy if isinstance(A, Identity) else torch.where(y == 0, 0, noisy)


def test_twelve_warm_levels_are_no_posterior_and_the_figure_is_printed() -> None:
    """The fast regime is reported, not promised; its mean must lie nearer the exact one than its start does."""
    A, sigma, everywhere = cases()["three coils"]
    prior, g = GaussianPrior(), torch.Generator().manual_seed(7)
    truth = prior.sample(g)
    y = A(truth)
    y = _noisy(A, y, sigma, g)
    mean, std = exact_posterior(prior, A, y, sigma)
    measurement = Measurement(y.expand(SAMPLES, *y.shape[1:]), A, sigma, iterations=40, tolerance=1e-5)
    warm = A.adjoint(y)
    error = float(torch.view_as_real(warm - truth).square().mean().sqrt())
    levels = noise_levels(12, 2 * error, 0.1 * error)
    start = warm + levels[0] * unit_noise(truth.expand(SAMPLES, *truth.shape[1:]), g)
    *_, draws = posterior_samples(prior, measurement, levels, start, generator=g)
    off, ratio = ratios(draws, mean, std, everywhere)
    print(f"12 warm levels: mean off by {off:.2f} posterior std, std ratio {ratio:.2f}")
    target = mean.reshape(SIZE).to(torch.complex64)
    assert (draws.mean(0)[0] - target).norm() < 0.5 * (warm[0, 0] - target).norm()


def test_best_image_comes_nearer_the_posterior_mean_than_its_start() -> None:
    """With the prior's own RMSE as spread and the error of its start as first level, four levels halve the distance."""
    A, sigma, _ = cases()["three coils"]
    prior, g = GaussianPrior(), torch.Generator().manual_seed(8)
    truth = prior.sample(g)
    y = _noisy(A, A(truth), sigma, g)
    mean, std = exact_posterior(prior, A, y, sigma)
    target = mean.reshape(1, 1, *SIZE).to(torch.complex64)

    def rmse(level: float | Tensor) -> float | Tensor:
        return float((prior.power * level**2 / (prior.power + level**2)).mean().sqrt())

    warm = A.adjoint(y)
    error = float(torch.view_as_real(warm - truth).square().mean().sqrt())
    levels = noise_levels(4, error, 0.5 * error)
    *_, best = best_images(prior, Measurement(y, A, sigma, iterations=40), levels, warm, spread=rmse)
    print(f"best image: {float((best - target).norm() / (warm - target).norm()):.2f} of the distance of its start")
    assert (best - target).norm() < 0.5 * (warm - target).norm()


def test_levels_and_seed() -> None:
    levels = noise_levels(5, 10.0, 0.1)
    assert len(levels) == 6 and levels[-1] == 0 and levels[0] == pytest.approx(10) and levels[-2] == pytest.approx(0.1)
    assert all(a > b for a, b in zip(levels, levels[1:], strict=False))
    for bad in ((0, 1.0, 0.1), (3, 0.1, 1.0), (3, 1.0, 0.0)):
        with pytest.raises(UsageError):
            noise_levels(*bad)
    prior = GaussianPrior()
    start = unit_noise(torch.zeros(1, 1, *SIZE, dtype=torch.complex64), torch.Generator().manual_seed(1))
    nothing = Measurement(torch.zeros_like(start), Mask(False), 1.0)
    runs = [
        list(posterior_samples(prior, nothing, levels, start, generator=torch.Generator().manual_seed(s)))[-1]
        for s in (3, 3, 4)
    ]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


@pytest.mark.parametrize("sigma", [0.1, 1.0])
def test_noisy_images_descend_to_their_posterior(sigma: float) -> None:
    """A noisy image is the state of the diffusion at its own level: descending from it draws from the posterior."""
    prior, g = GaussianPrior(), torch.Generator().manual_seed(5)
    truth = prior.sample(g)
    y = truth + sigma * unit_noise(truth, g)
    mean, std = exact_posterior(prior, Identity(), y, sigma)
    nothing = Measurement(torch.zeros_like(y), Mask(False), 1.0)
    start = y.expand(SAMPLES, -1, -1, -1, -1)
    *_, draws = posterior_samples(
        prior, nothing, noise_levels(100, sigma, 0.01), start, spread=lambda s: 0.0 * s, eta=ancestral, generator=g
    )
    error, ratio = ratios(draws, mean, std, torch.ones(SIZE, dtype=torch.bool))
    assert error < 0.25 and 0.9 < ratio < 1.05


def test_turning_shows_every_view_and_turns_the_answer_back() -> None:
    """A prior that knows no sides is left as it is; one that pushes to the right pushes in turn every way."""
    x = torch.randn(1, 1, 2, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.complex64)
    even = turning(lambda x, sigma: 0.5 * x)
    for _ in range(5):
        torch.testing.assert_close(even(x, 0.1), 0.5 * x)
    right = turning(lambda x, sigma: x.roll(1, -1))
    moved = [right(x, 0.1) for _ in range(4)]
    for image, (by, axis) in zip(moved, [(-1, -1), (1, -1), (1, -2), (1, -1)], strict=True):
        torch.testing.assert_close(image, x.roll(by, axis))


def test_the_best_image_is_refined_between_levels_but_not_after_the_last() -> None:
    """What `refine` returns is what the prior sees next; the last clean estimate is left as the measurement has it."""
    seen: list[float] = []
    refined: list[float] = []

    def refine(x: torch.Tensor) -> torch.Tensor:
        refined.append(float(x.real.mean()))
        return x + 1

    def prior(x: torch.Tensor, sigma: object) -> torch.Tensor:
        seen.append(float(x.real.mean()))
        return x

    start, nothing = torch.zeros(1, 1, 2, 4, 4, dtype=torch.complex64), Mask(False)
    measurement = Measurement(torch.zeros_like(start), nothing, 1.0)
    loop = best_images(prior, measurement, [3.0, 2.0, 1.0, 0.0], start, spread=lambda s: s, refine=refine)
    assert [float(clean.real.mean()) for clean in loop] == seen == [0.0, 1.0, 2.0]
    assert refined == [0.0, 1.0]
