"""Evaluations: every figure is that of its own function on its own region, and what differs shows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import wilcoxon

from medseq import metrics
from medseq.clip import Clip
from medseq.errors import InputError, MedseqWarning, UsageError
from medseq.evaluate import DYNAMIC, WHOLE, Evaluation, Figure, evaluate_series
from medseq.statistics import bland_altman
from medseq.summary import Summary, summarise

AFFINE = np.diag([1.5, 1.5, 8.0, 1.0])
FRAMES = 12


def heart(slices: int = 1) -> Clip:
    """A disc of blood of radius 9 +- 3 in a wall, on still tissue."""
    rows, columns = torch.arange(40.0).view(-1, 1), torch.arange(44.0)
    distance = ((rows - 20) ** 2 + (columns - 22) ** 2).sqrt()
    radius = 9 + 3 * torch.cos(2 * torch.pi * torch.arange(FRAMES) / FRAMES).view(-1, 1, 1)
    frames = 0.2 + 0.1 * torch.sin(columns / 3) + 0.6 * torch.sigmoid(2 * (radius - distance))
    data = frames.expand(slices, 1, -1, -1, -1).contiguous()
    return Clip(data, AFFINE, 0.05 * np.arange(FRAMES), period=0.05 * FRAMES)


def around(slices: int = 1) -> torch.Tensor:
    region = torch.zeros(slices, 1, 1, 40, 44, dtype=torch.bool)
    region[..., 6:34, 8:36] = True
    return region


def noisy(clip: Clip, sigma: float = 0.03, seed: int = 0) -> Clip:
    noise = torch.randn(clip.data.shape, generator=torch.Generator().manual_seed(seed))
    return clip.with_data((clip.data + sigma * noise).abs())


def frozen(clip: Clip) -> Clip:
    return clip.with_data(clip.data.mean(2, keepdim=True).expand(clip.data.shape).contiguous())


def value(found: Evaluation, method: str, metric: str, region: str) -> float:
    (one,) = (f.value for f in found.figures if (f.method, f.metric, f.region) == (method, metric, region))
    return one


def test_figures_are_those_of_the_metrics_in_their_regions() -> None:
    truth, result = heart(), noisy(heart())
    found = evaluate_series({"ours": result}, truth, case="one", regions={"box": around()})
    moving = metrics.dynamic_region(truth.data)
    assert torch.equal(found.regions[DYNAMIC], moving)
    for name, metric in (
        ("NRMSE", metrics.nrmse),
        ("PSNR", metrics.psnr),
        ("SSIM", metrics.ssim),
        ("HFEN", metrics.hfen),
    ):
        assert value(found, "ours", name, WHOLE) == metric(result.data, truth.data)
        assert value(found, "ours", name, DYNAMIC) == metric(result.data, truth.data, moving)
        assert value(found, "ours", name, "box") == metric(result.data, truth.data, around())
    assert value(found, "ours", "x-t profile error", DYNAMIC) == metrics.profile_error(result.data, truth.data, moving)
    assert {f.case for f in found.figures} == {"one"}


def test_a_frozen_series_is_found_out_by_motion_and_by_the_ventricle() -> None:
    still = frozen(heart())
    found = evaluate_series({"ours": noisy(heart()), "still": still}, heart(), ventricle=around())
    for metric in ("temporal spectrum error", "x-t profile error"):
        assert value(found, "still", metric, DYNAMIC) == pytest.approx(1, abs=1e-3)
        assert value(found, "ours", metric, DYNAMIC) < 0.3
    assert value(found, "still", "flicker", DYNAMIC) == pytest.approx(0, abs=1e-6)
    assert value(found, "still", "LV area change", "ventricle") == 0
    assert value(found, "still", "LV area error, rms", "ventricle") > 20
    assert value(found, "ours", "LV area error, rms", "ventricle") < 3
    area = np.pi * 1.5**2 * np.array([12, 6]) ** 2
    for method in ("reference", "ours"):
        ends = [value(found, method, f"LV area, {end}", "ventricle") for end in ("largest", "smallest")]
        np.testing.assert_allclose(ends, area, rtol=0.08)


def test_noise_flickers_and_blurred_edges_are_not_sharp() -> None:
    blurred = heart().with_data(torch.nn.functional.avg_pool2d(heart().data[0, 0], 5, 1, 2)[None, None])
    found = evaluate_series({"noisy": noisy(heart(), 0.1), "blurred": blurred}, heart())
    reference, noise = (value(found, method, "flicker", DYNAMIC) for method in ("reference", "noisy"))
    assert noise > 2 * reference
    assert value(found, "noisy", "edge sharpness", DYNAMIC) == pytest.approx(1, abs=0.05)
    assert value(found, "blurred", "edge sharpness", DYNAMIC) < 0.7
    (curve,) = (c for c in found.curves if (c.method, c.metric) == ("blurred", "edge sharpness"))
    assert curve.values.shape == curve.times.shape == (FRAMES,)


def test_slices_make_a_volume_and_masks_stand_for_a_threshold() -> None:
    truth = heart(3)
    masks = {"reference": truth.data > 0.5, "ours": truth.data > 0.6}
    found = evaluate_series({"ours": truth}, truth, masks=masks)
    volume = 1.5 * 1.5 * 8 / 1000 * masks["ours"].sum((0, 1, 3, 4)).double()
    assert value(found, "ours", "LV volume, largest", "ventricle") == pytest.approx(float(volume.max()))
    fraction = 100 * (1 - float(volume.min() / volume.max()))
    assert value(found, "ours", "LV ejection fraction", "ventricle") == pytest.approx(fraction)


def test_without_a_reference_only_what_needs_none_is_told() -> None:
    found = evaluate_series({"ours": noisy(heart())}, regions={"box": around()}, ventricle=around(), perfusion=True)
    told = {figure.metric for figure in found.figures}
    assert told == {"flicker", "up-slope", "LV area, largest", "LV area, smallest", "LV area change"}


def test_frames_are_matched_by_time() -> None:
    truth = heart()
    every_second = replace(truth, data=truth.data[:, :, ::2], times=truth.times[::2])
    found = evaluate_series({"ours": truth}, every_second)
    assert value(found, "ours", "NRMSE", WHOLE) == 0
    with pytest.raises(InputError, match="ours: has no frame"):
        evaluate_series({"ours": replace(truth, times=truth.times + 0.02, period=None)}, truth)


def test_complex_errors_are_told_besides_where_all_is_complex() -> None:
    truth = heart().with_data(heart().data.to(torch.complex64))
    found = evaluate_series({"turned": truth.with_data(1j * truth.data)}, truth)
    assert value(found, "turned", "NRMSE", WHOLE) == pytest.approx(0, abs=1e-6)
    assert value(found, "turned", "NRMSE, complex", WHOLE) == pytest.approx(2**0.5)
    mixed = evaluate_series({"real": heart()}, truth)
    assert "NRMSE, complex" not in {figure.metric for figure in mixed.figures}


def test_another_scale_is_warned_of() -> None:
    with pytest.warns(MedseqWarning, match="ours: is about 0.5 times as bright"):
        evaluate_series({"ours": heart().with_data(0.5 * heart().data)}, heart())


def test_what_has_no_answer_is_left_out_with_a_warning() -> None:
    with pytest.warns(MedseqWarning, match="dynamic region: left out, as the series does not change"):
        found = evaluate_series({"ours": noisy(heart())}, frozen(heart()))
    assert {figure.region for figure in found.figures} == {WHOLE}


@pytest.mark.parametrize(
    "options",
    [
        {"results": {}},
        {"results": {"reference": heart()}},
        {"results": {"ours": heart()}, "regions": {"whole": around()}},
        {"results": {"ours": heart()}, "regions": {"box": around()[..., 1:, :]}},
        {"results": {"ours": heart()}, "regions": {"box": around() & False}},
        {"results": {"ours": heart()}, "masks": {"theirs": heart().data > 0.5}},
        {"results": {"ours": heart()}, "masks": {"ours": around()}},
    ],
)
def test_what_does_not_fit_is_refused(options: dict) -> None:
    with pytest.raises(UsageError):
        evaluate_series(reference=heart(), **options)


def figures(cases: int) -> list[Figure]:
    rng = np.random.default_rng(0)
    made = []
    for case in range(cases):
        truth = rng.normal(100, 20)
        for method, bias in (("reference", 0.0), ("ours", 1.0), ("theirs", 5.0)):
            measured = truth if method == "reference" else truth + bias + rng.normal()
            made.append(Figure(f"case {case}", method, "volume", "ventricle", measured, "ml"))
    return made


def test_summaries_are_paired_over_cases() -> None:
    made = figures(12)
    by_method = {m: [f.value for f in made if f.method == m] for m in ("reference", "ours", "theirs")}
    found = summarise(made[::-1][:0] + made)
    assert isinstance(found, Summary) and (found.cases, found.methods) == (12, ["ours", "theirs"])
    (compared,) = found.comparisons
    assert (compared.method, compared.against) == ("ours", "theirs")
    assert compared.found.p == pytest.approx(wilcoxon(by_method["ours"], by_method["theirs"]).pvalue)
    assert [agreeing.method for agreeing in found.agreements] == ["ours", "theirs"]
    assert found.agreements[1].found == bland_altman(by_method["theirs"], by_method["reference"])
    means = {mean.method: mean for mean in found.means}
    assert means["ours"].mean == pytest.approx(np.mean(by_method["ours"]))
    low, high = means["ours"].interval
    assert low < means["ours"].mean < high


def test_a_case_that_lacks_a_figure_is_left_out_of_its_pairs_alone() -> None:
    made = figures(6)
    missing = next(f for f in made if f.case == "case 2" and f.method == "theirs")
    made.remove(missing)
    made = [replace(f, value=float("inf")) if (f.case, f.method) == ("case 4", "theirs") else f for f in made]
    found = summarise(made)
    assert found.comparisons[0].found.count == 4
    assert [agreeing.found.count for agreeing in found.agreements] == [6, 4]


def test_one_case_has_means_and_nothing_else() -> None:
    found = summarise(figures(1))
    assert found.comparisons == [] and found.agreements == []
    assert all(mean.count == 1 and mean.interval is None for mean in found.means)
    assert found.as_json()["means"][0]["std"] is None
