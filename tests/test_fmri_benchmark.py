"""The recipe that compares fMRI denoisers, on a small simulated head."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from medseq import Clip
from medseq.activation import brain_mask

sys.path.insert(0, str(Path(__file__).parent.parent / "pipelines"))
import fmri_benchmark  # noqa: E402  (a recipe, not part of the package)
from fmri_benchmark_cases import Case, random_blocks, random_events, simulated_case  # noqa: E402


@pytest.fixture(scope="module")
def case() -> Case:
    return simulated_case((32, 32), 4, null_designs=20)


def test_the_untouched_series_is_the_measure_of_all(case: Case) -> None:
    found = fmri_benchmark.row(case, fmri_benchmark.untouched)
    for change in ("1%", "2%"):
        assert found[f"t gain {change}"] == found[f"t at equal FPR {change}"] == found[f"error {change}"] == 1
        assert found[f"bias % {change}"] == pytest.approx(0, abs=1e-9)
    assert found["smoother %"] == 0 and found["FPR %"] == found["FPR % uncorrected"]


def test_a_denoiser_that_freezes_the_series_half_way_is_found_out(case: Case) -> None:
    """It takes half of all that varies: half the activation is lost, no t value changes, no smoothness is added."""

    def halved(clip: Clip) -> fmri_benchmark.Denoised:
        return clip.with_data((clip.data + clip.data.mean(2, keepdim=True)) / 2), 0.0

    found = fmri_benchmark.row(case, halved)
    for change in ("1%", "2%"):
        assert found[f"bias % {change}"] == pytest.approx(-50, abs=0.01)
        assert found[f"t gain {change}"] == pytest.approx(1, abs=1e-3)
        assert found[f"t at equal FPR {change}"] == pytest.approx(1, abs=1e-3)
    assert found["smoother %"] == pytest.approx(0, abs=0.01)


def test_fluctuations_are_compared_without_their_means(case: Case) -> None:
    truth = case.truth
    assert truth is not None
    mean = truth.mean(2, keepdim=True)
    off = mean + 0.9 * (truth - mean) + 100
    assert fmri_benchmark.fluctuation_error(off, truth, case.mask) == pytest.approx(-20, abs=0.01)
    still = mean.expand_as(truth)
    assert fmri_benchmark.fluctuation_error(still, truth, case.mask) == pytest.approx(0, abs=0.01)


def test_activation_lies_in_bright_brain(case: Case) -> None:
    mean = case.clip.data.mean(2, keepdim=True)
    assert torch.equal(case.mask, brain_mask(case.clip.data))
    for injection in case.injections:
        weight = injection.weight
        assert float(weight.min()) == 0 and 0.9 < float(weight.max()) <= 1
        assert not bool(weight[~(case.mask & (mean > mean[case.mask].median()))].any())
        assert 10 < int(injection.active.sum()) < 0.2 * int(case.mask.sum())
        largest = (injection.into(case.clip.data) / case.clip.data - 1).abs().nan_to_num().amax()
        assert float(largest) == pytest.approx(injection.change, rel=0.2)


@pytest.mark.parametrize("draw", [random_blocks, random_events])
def test_random_tasks_differ_and_are_responses(draw) -> None:
    g = torch.Generator().manual_seed(0)
    one, other = (draw(75, 1.26, g) for _ in range(2))
    assert one.shape == (75,) and float(one.abs().max()) == pytest.approx(1)
    assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 0.9


def test_a_row_that_is_there_is_not_made_again(case: Case, tmp_path: Path, monkeypatch) -> None:
    runs = []

    def counted(clip: Clip) -> fmri_benchmark.Denoised:
        runs.append(clip)
        return clip, None

    monkeypatch.setitem(fmri_benchmark.METHODS, "counted", counted)
    path = tmp_path / "counted.json"
    first = fmri_benchmark.kept_row(path, case, "counted")
    made = len(runs)
    assert made == 1 + len(case.injections)
    assert fmri_benchmark.kept_row(path, case, "counted") == first and len(runs) == made
    path.write_text(json.dumps({**first, "code": "of yesterday"}), "utf-8")
    fmri_benchmark.kept_row(path, case, "counted")
    assert len(runs) == 2 * made
