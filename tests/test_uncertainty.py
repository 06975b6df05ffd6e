"""Std, support and mismatch against what is known in closed form: Gaussian priors, planted laws, white noise."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_posterior import GaussianPrior, exact_posterior
from torch import Tensor

from medseq.calibration import GAUSSIAN_90, SHARES, Calibration, Case, coverage, evidence, fit
from medseq.errors import InputError
from medseq.io.weights import load_prior, save_prior, save_trust
from medseq.mismatch import Expectation, expectation, left_out_measures, residual_measures, score
from medseq.network import VideoUNet
from medseq.noise import unit_noise
from medseq.operators import Identity, Mask
from medseq.prior import Prior, SpreadTable, Trust
from medseq.support import data_support

GAUSSIAN = tuple(math.sqrt(2) * float(torch.erfinv(torch.tensor(share))) for share in SHARES)
EVEN = Calibration({}, 0.0, 0.0, GAUSSIAN, 4)
GIVEN = Calibration({"change": 0.5, "edges": 0.2}, 0.1, 0.3, (0.6, 1.2, GAUSSIAN_90), 4, "nothing at all")


def gaussian_case(seed: int) -> Case:
    """Three of six frames measured: exact posterior mean, its error in the real channel, and the std of eight draws."""
    prior, g = GaussianPrior(), torch.Generator().manual_seed(seed)
    times = torch.tensor([1, 0, 1, 0, 1, 0], dtype=torch.bool).reshape(1, 1, 6, 1, 1)
    A, truth = Mask(times), prior.sample(g)
    mean, std = exact_posterior(prior, A, A(truth + 0.1 * unit_noise(truth, g)), 0.1)
    exact = std.float()
    draws = exact * torch.randn(8, len(exact), generator=g).std(0)
    level = torch.full_like(exact, float(exact.square().mean().sqrt()))
    return Case({"expected": level, "exact": exact, "draws": draws}, (mean.real - truth.real.flatten()).float())


def test_the_exact_posterior_std_covers_what_it_promises() -> None:
    """With the exact std in the place of the expected error, a calibration that changes nothing covers nominally."""
    cases = [gaussian_case(seed) for seed in range(12)]
    whole = Case(
        {"expected": torch.cat([case.found["exact"] for case in cases])}, torch.cat([case.error for case in cases])
    )
    assert coverage(EVEN, whole) == pytest.approx(SHARES, abs=0.03)


def test_a_fit_covers_cases_that_it_has_not_seen_and_tells_measured_from_missing() -> None:
    fitted = fit([gaussian_case(seed) for seed in range(10)], ("draws",), 4)
    new = [gaussian_case(seed) for seed in range(20, 32)]
    assert torch.tensor([coverage(fitted, case) for case in new]).mean(0).tolist() == pytest.approx(SHARES, abs=0.04)
    measured = torch.arange(384) // 64 % 2 == 0
    std = torch.stack([fitted.std(case.found) for case in new]).square().mean(0).sqrt()
    exact = new[0].found["exact"]
    assert float(std[measured].mean() / exact[measured].mean()) == pytest.approx(1, abs=0.25)
    assert float(std[~measured].mean() / exact[~measured].mean()) == pytest.approx(1, abs=0.25)


def test_a_planted_law_is_found_again() -> None:
    """std = 0.5 e^0.3 e^0.7 R^0.4, errors Laplace; worthless evidence gets no weight."""
    g = torch.Generator().manual_seed(0)

    def planted(acceleration: float) -> Case:
        expected, change, other = (torch.rand(4000, generator=g) + 0.5 for _ in range(3))
        scale = 0.5 * expected**0.3 * change**0.7 * acceleration**0.4
        sign = torch.rand(4000, generator=g) - 0.5
        error = -scale * sign.sign() * torch.log1p(-2 * sign.abs())
        return Case({"expected": expected, "change": change, "edges": other}, error, acceleration)

    found = fit([planted(r) for r in (1.0, 2.0, 4.0, 8.0, 12.0)], ("change", "edges"), 4)
    assert found.weights["change"] == pytest.approx(0.7, abs=0.08) and found.weights["edges"] < 0.06
    assert found.gain == pytest.approx(0.4, abs=0.05)
    # a Laplace distribution of scale 1 has its quantiles at -log(1 - share)
    assert found.factors[0] / found.factors[2] == pytest.approx(math.log(2) / math.log(10), rel=0.05)
    assert found.factors[2] == pytest.approx(GAUSSIAN_90)
    assert coverage(found, planted(6.0)) == pytest.approx(SHARES, abs=0.03)


@given(st.lists(st.floats(0.0, 3.0), min_size=2, max_size=2), st.floats(0.01, 10), st.floats(0.01, 10), st.floats(1, 4))
def test_more_evidence_never_means_less_std(weights: list[float], one: float, other: float, more: float) -> None:
    calibration = Calibration(dict(zip(("change", "edges"), weights, strict=True)), 0.2, 0.1, GAUSSIAN, 4)
    found = {name: torch.tensor([value]) for name, value in (("expected", 1.0), ("change", one), ("edges", other))}
    before = calibration.std(found)
    for name in ("change", "edges"):
        assert calibration.std({**found, name: more * found[name]}) >= before * (1 - 1e-6)


def test_std_has_the_units_of_the_result() -> None:
    g = torch.Generator().manual_seed(1)
    result, start = (torch.randn(1, 1, 6, 12, 10, generator=g, dtype=torch.complex64) for _ in range(2))
    small = GIVEN.std(evidence(result, start, 0.1, periodic=True))
    large = GIVEN.std(evidence(1000 * result, 1000 * start, 100.0, periodic=True))
    assert small.shape == result.shape and bool((small > 0).all())
    torch.testing.assert_close(large, 1000 * small, rtol=1e-4, atol=0.0)
    by_frame = evidence(result, start, torch.full((1, 1, 6, 1, 1), 0.1), periodic=True)
    torch.testing.assert_close(GIVEN.std(by_frame), small)


@pytest.mark.parametrize("wrong", [{"weights": {"edges": -0.1}}, {"factors": (1.0,)}, {"constant": math.nan}])
def test_a_calibration_that_could_mislead_is_refused(wrong: dict) -> None:
    right = {"weights": {"edges": 0.1}, "constant": 0.0, "gain": 0.0, "factors": GAUSSIAN, "steps": 1}
    with pytest.raises(ValueError, match="calibration"):
        Calibration(**{**right, **wrong})


def test_support_is_one_with_all_the_data_and_none_without() -> None:
    g, base = torch.Generator().manual_seed(0), torch.zeros(1, 1, 6, 24, 20, dtype=torch.complex64)
    everything = data_support(lambda change: base + change, base, 0.1, g)
    nothing = data_support(lambda change: base, base, 0.1, g)
    assert everything.shape == (1, 1, 1, 24, 20)
    torch.testing.assert_close(everything, torch.ones_like(everything))
    assert not bool(nothing.any())


def test_support_of_a_gaussian_prior_is_that_of_its_closed_form() -> None:
    """The posterior mean is linear: J is its gain, and details of spectrum P keep the share sum JP / sum P."""
    size, sigma = (12, 48, 48), 0.3
    axes = [torch.fft.fftfreq(n) * n for n in size]
    t, y, x = torch.meshgrid(*axes, indexing="ij")
    power = 3.0 / (1 + t**2 + 0.05 * (y**2 + x**2)) ** 1.5
    gain = power / (power + sigma**2)
    base = torch.zeros(1, 1, *size, dtype=torch.complex64)
    seen: list[Tensor] = []

    def respond(change: Tensor) -> Tensor:
        seen.append(change)
        return torch.fft.ifftn(torch.fft.fftn(change, dim=(-3, -2, -1)) * gain, dim=(-3, -2, -1))

    maps = [data_support(respond, base, 0.1, torch.Generator().manual_seed(s)) for s in range(4)]
    details = torch.stack([torch.fft.fftn(c, dim=(-3, -2, -1)).abs().square() for c in seen]).mean((0, 1, 2))
    expected = float((details * gain).sum() / details.sum())
    assert 0.1 < expected < 0.9
    assert float(torch.stack(maps).mean()) == pytest.approx(expected, abs=0.03)
    assert float(torch.stack(maps).std()) < 0.15


def test_expectations_find_a_planted_line_and_scores_follow_it() -> None:
    g = torch.Generator().manual_seed(3)
    facts = [{"log_noise": float(v), "one_frame": float(v > 0)} for v in torch.randn(400, generator=g)]
    values = [math.exp(0.5 + 0.3 * f["log_noise"] + 0.2 * float(torch.randn((), generator=g))) for f in facts]
    found = expectation(values, facts, ["log_noise"])
    assert found.slopes["log_noise"] == pytest.approx(0.3, abs=0.03) and found.width == pytest.approx(0.2, abs=0.02)
    scores = [score([found.surprise(value, fact)]) for value, fact in zip(values, facts, strict=True)]
    assert torch.tensor(scores).median() == pytest.approx(1, abs=0.1)
    assert sum(s > 2 for s in scores) / 400 == pytest.approx(0.02, abs=0.015)
    assert score([0.0, -3.0]) == 1 and score([0.0, 2.054]) == pytest.approx(2)


def test_lines_left_out_tell_a_prior_that_helps_from_one_that_does_not() -> None:
    truth = torch.zeros(1, 1, 4, 8, 8, dtype=torch.complex64)
    blind = 0.2 * unit_noise(truth, torch.Generator().manual_seed(0))

    def power(image: Tensor) -> float:
        return float(torch.view_as_real(image - truth).square().mean()) + 0.01**2

    useless = left_out_measures(lambda x, sigma: x, blind, 0.2, power, 0.01)
    helpful = left_out_measures(lambda x, sigma: x / 2, blind, 0.2, power, 0.01)
    harmful = left_out_measures(lambda x, sigma: 2 * x, blind, 0.2, power, 0.01)
    assert useless["gain"] == pytest.approx(1) and useless["unexplained"] == pytest.approx(0.2, rel=0.1)
    assert helpful["gain"] == pytest.approx(0.25, rel=0.01) and harmful["gain"] == pytest.approx(4, rel=0.01)


def test_noise_is_even_and_structure_among_it_is_not() -> None:
    g = torch.Generator().manual_seed(0)
    noise = 0.1 * unit_noise(torch.zeros(1, 1, 12, 64, 64, dtype=torch.complex64), g)
    even = residual_measures(noise, 0.1)["unevenness"]
    assert 1 < even < 1.2
    structured = noise.clone()
    structured[..., 20:36, 20:36] += 0.15
    assert residual_measures(structured, 0.1)["unevenness"] > 1.5
    sigma = torch.linspace(0.1, 1, 64)
    assert residual_measures(noise * sigma, 0.1 * sigma)["unevenness"] == pytest.approx(even, rel=1e-3)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    tiny = Prior(VideoUNet((8, 16), 1), 0.3, SpreadTable([0.01, 1.0], [0.005, 0.1]))
    return save_prior(tiny, tmp_path / "tiny.safetensors", {})


def test_trust_there_and_back(saved: Path) -> None:
    assert load_prior(saved).trust == Trust()  # no table: nothing is known, and that is no error
    trust = Trust({"denoise image": GIVEN}, {"gain": Expectation(0.1, {"log_noise": 0.2}, 0.3)})
    beside = save_trust(trust, saved, {"fitted on": "nothing"})
    back = load_prior(saved).trust
    assert beside.name == "tiny.trust.json" and len(back.sha256) == 64
    assert back.std == trust.std and back.expected == trust.expected


@pytest.mark.parametrize("text", ["", "[]", '{"weights": 1, "std": {"denoise image": {}}, "expected": {}}'])
def test_a_damaged_table_is_refused(saved: Path, text: str) -> None:
    saved.with_suffix(".trust.json").write_text(text)
    with pytest.raises(InputError, match=r"tiny\.trust\.json: not a trust table"):
        load_prior(saved)


def test_the_table_of_other_weights_is_refused(saved: Path) -> None:
    table = save_trust(Trust({"denoise image": GIVEN}), saved, {})
    table.write_text(json.dumps({**json.loads(table.read_text()), "weights": 64 * "0"}))
    with pytest.raises(InputError, match="other weights"):
        load_prior(saved)


def test_the_identity_measures_all_of_a_change() -> None:
    """What data_support is told by a denoiser that solves for the data alone."""
    A, base = Identity(), torch.zeros(1, 1, 4, 16, 16, dtype=torch.complex64)
    part = data_support(lambda change: 0.25 * A(change), base, 0.1, torch.Generator().manual_seed(0))
    torch.testing.assert_close(part, torch.full_like(part, 0.25))
