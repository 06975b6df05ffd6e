"""What the prior is shown beside the series: each guess is exact where its assumption holds."""

from __future__ import annotations

import torch
from torch import Tensor

from medseq.guides import GUIDES, clip_mean, components, guides, neighbours
from medseq.noise import unit_noise
from medseq.recipe import Recipe
from medseq.train import start


def noise(*shape: int, seed: int = 0) -> Tensor:
    return unit_noise(torch.zeros(*shape, dtype=torch.complex64), torch.Generator().manual_seed(seed))


def rms(error: Tensor) -> float:
    return float(torch.view_as_real(error).square().mean().sqrt())


def levels(*values: float) -> Tensor:
    return torch.tensor(values)[:, None, None].expand(1, 1, -1, 1, 1)


def test_one_frame_has_nothing_to_be_averaged_with() -> None:
    x = noise(2, 1, 1, 8, 8)
    assert torch.equal(guides(x, torch.full((2, 1, 1, 1, 1), 0.1), True), x.expand(-1, GUIDES, -1, -1, -1))


def test_still_tissue_is_averaged_over_the_clip_by_inverse_noise_power() -> None:
    """The std of the best mean of frames of std s_i is (sum 1 / s_i^2)^-1/2, and no frame's own noise enters more."""
    still, level = noise(1, 1, 1, 64, 64), levels(0.1, 0.1, 0.4, 0.05, 0.2)
    noisy = still + level * noise(1, 1, 5, 64, 64, seed=1)
    best = float(level.square().reciprocal().sum()) ** -0.5
    mean = clip_mean(noisy, 1 / level.square())
    assert abs(rms(mean - still) / best - 1) < 0.05
    assert torch.equal(mean[:, :, 0], mean[:, :, 4])


def test_components_weigh_the_frames_by_their_noise() -> None:
    """Rank one, still: by the same weights near the best mean; of one level for all, local_pca would not be."""
    still, level = noise(1, 1, 1, 64, 64), levels(0.1, 0.1, 0.4, 0.05, 0.2)
    noisy = still + level * noise(1, 1, 5, 64, 64, seed=1)
    best = float(level.square().reciprocal().sum()) ** -0.5
    assert rms(components(noisy, level) - still) < 1.5 * best


def test_neighbours_are_exact_on_straight_lines_and_trust_the_cleaner_one() -> None:
    line = torch.arange(6.0)[:, None, None] * noise(1, 1, 1, 4, 4)
    even = torch.ones(1, 1, 6, 1, 1)
    torch.testing.assert_close(neighbours(line, even, False)[:, :, 1:-1], line[:, :, 1:-1])
    torch.testing.assert_close(neighbours(line, even, False)[:, :, 0], line[:, :, 1])  # reflected
    torch.testing.assert_close(neighbours(line, even, True)[:, :, 0], (line[:, :, 1] + line[:, :, 5]) / 2)  # circular
    uneven = levels(1, 1, 1, 1e-3, 1, 1)
    torch.testing.assert_close(
        neighbours(line, 1 / uneven.square(), False)[:, :, 2], line[:, :, 3], atol=1e-4, rtol=1e-4
    )


def test_a_prior_that_goes_on_from_one_without_guides_starts_where_that_stood() -> None:
    plain = start(Recipe(start_from="heart-2", guided=False, bfloat16=False), torch.device("cpu")).prior
    guided = start(Recipe(start_from="heart-2", bfloat16=False), torch.device("cpu")).prior
    x = noise(1, 1, 4, 16, 16)
    assert guided.guided and not plain.guided
    torch.testing.assert_close(guided(x, 0.2), plain(x, 0.2))
