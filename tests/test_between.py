"""The start of interpolation: about as good as the best of its methods, and its error is of the right size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from medseq.baselines import cubic_interpolation, linear_interpolation, optical_flow_interpolation
from medseq.between import between, stacked


def blob(times: np.ndarray, reach: float = 5.0) -> Tensor:
    """A blob on its way round within a period of 1 s: (1, 1, T, 40, 40)."""
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij")
    angle = 2 * torch.pi * torch.from_numpy(np.array(times)).float()[:, None, None]
    frames = torch.exp(-((y - 20 - reach * angle.sin()) ** 2 + (x - 20 - reach * angle.cos()) ** 2) / 12)
    return frames[None, None]


@pytest.mark.parametrize("kind", ["moving", "brightening"])
def test_the_mixture_is_about_as_good_as_the_best_method(kind: str) -> None:
    """To a quarter, as what is best at twice the spacing need not be so at the true one; and well above lines."""
    known_at, wanted_at = np.arange(12) / 12, (np.arange(12) + 0.5) / 12

    def series(times: np.ndarray) -> Tensor:
        if kind == "moving":
            return blob(times)
        course = 1 + 0.5 * torch.sin(2 * torch.pi * torch.from_numpy(np.array(times)).float())
        return blob(np.zeros(1)) * course[:, None, None]

    known, truth = series(known_at), series(wanted_at)
    image, error = between(known, known_at, wanted_at, 1.0)
    true = float((image - truth).square().mean().sqrt())
    places = torch.from_numpy(known_at), torch.from_numpy(wanted_at)
    methods = (linear_interpolation, cubic_interpolation, optical_flow_interpolation)
    rivals = [float((m(known, *places, 1.0) - truth).square().mean().sqrt()) for m in methods]
    assert true <= 1.25 * min(rivals) + 1e-4 and true < 0.8 * rivals[0]
    assert true / 4 < error < 4 * true + 1e-4


def test_known_times_give_the_known_frames_and_open_series_stay_inside() -> None:
    times = np.arange(9) / 12
    image, _ = between(blob(times), times, times, None)
    torch.testing.assert_close(image, blob(times), atol=1e-4, rtol=0)
    beyond, _ = between(blob(times), times, np.array([-1e-9, times[-1] + 1e-9]), None)
    torch.testing.assert_close(beyond, blob(times[[0, -1]]), atol=1e-4, rtol=0)


def test_few_frames_are_joined_by_straight_lines() -> None:
    known = torch.rand(1, 1, 3, 6, 6).to(torch.complex64)
    image, error = between(known, np.arange(3.0), np.array([0.25, 1.5]), None)
    torch.testing.assert_close(image[:, :, 1], (known[:, :, 1] + known[:, :, 2]) / 2)
    assert error > 0


def test_weights_minimise_the_power_of_the_sum() -> None:
    """Closed form: of independent errors each weighs by the inverse of its variance; a useless one weighs nothing."""
    g = torch.Generator().manual_seed(0)
    one, two = torch.randn(200_000, generator=g), 2 * torch.randn(200_000, generator=g)
    assert stacked([one, two]) == pytest.approx([0.8, 0.2], abs=0.01)
    assert stacked([one, one + two]) == pytest.approx([1.0, 0.0], abs=0.02)
    assert min(stacked([two, one, one * 3])) >= 0
