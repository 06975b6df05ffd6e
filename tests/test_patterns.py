"""Sampling patterns: how many lines, which ones, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from medseq.errors import UsageError
from medseq.patterns import equispaced, pseudo_radial, uniform, variable_density


@pytest.mark.parametrize("pattern", [variable_density, uniform])
@given(
    frames=st.integers(1, 8),
    lines=st.integers(16, 65),
    acceleration=st.floats(1, 4),
    centre=st.integers(0, 4),
    seed=st.integers(0, 5),
)
def test_random_lines(
    pattern: Callable[..., Tensor], frames: int, lines: int, acceleration: float, centre: int, seed: int
) -> None:
    keep = pattern(frames, lines, acceleration, centre, seed)
    assert keep.dtype == torch.bool and keep.shape == (1, 1, frames, lines, 1)
    assert (keep.sum(3) == round(lines / acceleration)).all()
    start = lines // 2 - centre // 2
    assert keep[:, :, :, start : start + centre].all()
    assert torch.equal(keep, pattern(frames, lines, acceleration, centre, seed))


def test_frames_and_seeds_differ() -> None:
    keep = variable_density(6, 64, 4)
    assert len({tuple(frame.flatten().tolist()) for frame in keep[0, 0]}) == 6
    assert not torch.equal(keep, variable_density(6, 64, 4, seed=1))


def test_density_falls_towards_the_edge_only_where_asked() -> None:
    centre, outer = slice(44, 52), slice(0, 8)
    varied, even = variable_density(500, 64, 4)[0, 0, :, :, 0], uniform(500, 64, 4)[0, 0, :, :, 0]
    assert varied[:, centre].float().mean() > 4 * varied[:, outer].float().mean()
    torch.testing.assert_close(even[:, centre].float().mean(), even[:, outer].float().mean(), rtol=0.1, atol=0)


@given(frames=st.integers(4, 9), lines=st.integers(8, 40), acceleration=st.integers(1, 4))
def test_equispaced_lines_interleave(frames: int, lines: int, acceleration: int) -> None:
    keep = equispaced(frames, lines, acceleration)[0, 0, :, :, 0]
    assert keep[0, lines // 2]
    gaps = keep[0].nonzero().flatten().diff()
    assert (gaps == acceleration).all()
    together = torch.stack([keep[t : t + acceleration].sum(0) for t in range(frames - acceleration + 1)])
    assert (together == 1).all()


def test_equispaced_lines_with_a_centre() -> None:
    keep = equispaced(4, 32, 4, centre=6)
    assert keep[:, :, :, 13:19].all()
    assert keep.sum() < 4 * (32 / 4 + 6)


@pytest.mark.parametrize("size", [(32, 32), (31, 40)])
def test_spokes_pass_the_centre_and_stay_thin(size: tuple[int, int]) -> None:
    keep = pseudo_radial(5, size, 6)
    assert keep.shape == (1, 1, 5, *size)
    assert keep[..., size[0] // 2, size[1] // 2].all()
    assert (keep.sum((3, 4)) <= 6 * 1.5 * max(size)).all()
    assert (keep.sum((3, 4)) >= 3 * min(size)).all()
    assert not torch.equal(keep[:, :, 0], keep[:, :, 1])


def test_spokes_are_symmetric_about_the_centre() -> None:
    keep = pseudo_radial(3, (33, 33), 4)
    assert torch.equal(keep, keep.flip(3, 4))


@pytest.mark.parametrize(
    "refused",
    [
        lambda: variable_density(4, 64, 0.5),
        lambda: variable_density(4, 64, float("nan")),
        lambda: variable_density(4, 64, 16, centre=8),
        lambda: variable_density(4, 64, 200, centre=0),
        lambda: variable_density(0, 64, 2),
        lambda: uniform(4, 64, 2, centre=65),
        lambda: equispaced(4, 0, 2),
        lambda: equispaced(4, 64, 2.5),  # type: ignore[arg-type]
        lambda: pseudo_radial(4, (32, 32), 0),
    ],
)
def test_impossible_patterns_are_refused(refused: Callable[[], Tensor]) -> None:
    with pytest.raises(UsageError):
        refused()
