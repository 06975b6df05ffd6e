"""Inserted lesions: perfect, halved and erasing results are told as what they are, and invented blobs are counted."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "pipelines"))
import hallucination  # noqa: E402  (a recipe, not part of the package)
from hallucination import CONTRAST, Lesion, detections, false_places, layout, readings  # noqa: E402

SCALE = 0.5
KINDS = [(kind, way) for kind in ("bright", "dark", "dropout") for way in ("still", "moving", "brief")]


def series() -> torch.Tensor:
    """A beating disc on bright tissue, (T, Y, X)."""
    rows, columns = torch.arange(72.0).view(-1, 1), torch.arange(96.0)
    distance = ((rows - 36) ** 2 + (columns - 40) ** 2).sqrt()
    radius = 16 + 4 * torch.cos(2 * torch.pi * torch.arange(20) / 20).view(-1, 1, 1)
    return 0.3 + 0.3 * torch.sigmoid(2 * (radius - distance))


def lesions() -> list[Lesion]:
    places = [(14, 14), (14, 40), (14, 66), (36, 14), (36, 40), (36, 70), (58, 14), (58, 40), (58, 66)]
    return [Lesion(kind, way, *at, 0.3, False) for (kind, way), at in zip(KINDS, places, strict=True)]


def with_lesions() -> torch.Tensor:
    return series() + sum(lesion.change(series(), SCALE) for lesion in lesions())


def told(result: torch.Tensor, without: torch.Tensor) -> np.ndarray:
    """(lesions, 3): kept, as read, found."""
    found = readings(lesions(), series(), SCALE, result, without)
    return np.array([[r.kept, r.as_read, r.found] for r in found])


def test_what_is_kept_erased_or_halved_is_told_so() -> None:
    np.testing.assert_allclose(told(with_lesions(), series()), 1, atol=1e-3)
    np.testing.assert_allclose(told(series(), series()), 0, atol=1e-3)
    half = told((with_lesions() + series()) / 2, series())
    np.testing.assert_allclose(half[:, :2], 0.5, atol=1e-3)


def test_errors_that_are_there_anyway_do_not_count_as_kept_but_are_read() -> None:
    noise = 0.03 * torch.randn(series().shape, generator=torch.Generator().manual_seed(0))
    found = told(with_lesions() + noise, series() + noise)
    np.testing.assert_allclose(found[:, 0], 1, atol=1e-3)
    assert np.abs(found[:, 1] - 1).max() > 0.01


def test_a_frozen_result_loses_what_moves_and_not_what_lies_still() -> None:
    frozen, without = (x.mean(0, keepdim=True).expand(x.shape) for x in (with_lesions(), series()))
    kept = {(r.lesion.kind, r.lesion.way): r.kept for r in readings(lesions(), series(), SCALE, frozen, without)}
    assert kept["bright", "still"] == pytest.approx(1, abs=1e-3)
    assert kept["bright", "moving"] < 0.8
    course = torch.exp(-4 * np.log(2) * ((torch.arange(20) - 10) / hallucination.BRIEF) ** 2)
    assert kept["bright", "brief"] == pytest.approx(float(course.sum() ** 2 / (20 * (course**2).sum())), abs=1e-3)


def test_invented_blobs_are_counted_once_a_place_and_noise_is_not() -> None:
    truth = series()
    nothing = torch.zeros_like(truth)
    assert false_places(nothing, truth, SCALE) == (0, 0, 8 * 10)
    invented = nothing.clone()
    blob = Lesion("bright", "still", 22, 31, 0.0, False)  # the middle of a place
    invented[3:6] = 0.7 * CONTRAST * SCALE * blob.shape(20, (72, 96))[3:6]
    assert false_places(invented, truth, SCALE) == (1, pytest.approx(3 / 20), 80)
    assert false_places(-invented, truth, SCALE)[0] == 1
    assert false_places(0.6 * invented, truth, SCALE)[0] == 0  # 0.42 of a lesion
    assert false_places(invented, truth, SCALE, [blob])[0] == 0
    noise = 0.01 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    assert false_places(noise, truth, SCALE)[0] == 0


def test_the_detector_knows_bright_from_dark() -> None:
    blob = CONTRAST * SCALE * Lesion("bright", "still", 22, 31, 0.0, False).shape(20, (72, 96))
    bright, dark = detections(blob, SCALE)
    assert bright.nonzero().tolist() == [[t, 22, 31] for t in range(20)] and not dark.any()


def test_layouts_keep_apart_and_differ_by_seed() -> None:
    one, other = layout(series(), SCALE, 0), layout(series(), SCALE, 1)
    assert one == layout(series(), SCALE, 0) != other
    places = np.array([(lesion.row, lesion.column) for lesion in one])
    apart = np.linalg.norm(places[:, None] - places, axis=2)[np.triu_indices(len(places), 1)]
    assert apart.min() >= hallucination.APART
    assert any(lesion.heart for lesion in one) and not all(lesion.heart for lesion in one)
