"""BOLD series with known activation, noise and smoothness are told as what they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from medseq.activation import Stimuli, inject
from medseq.bold_evaluation import evaluate_bold
from medseq.clip import Clip
from medseq.errors import InputError, UsageError
from medseq.evaluate import Evaluation
from medseq.io.events import load_events
from medseq.phantoms.fluctuations import response_course

FRAMES, TR = 80, 2.0
TASK = Stimuli(torch.arange(10.0, 150, 40), torch.full((4,), 20.0))
OTHER = Stimuli(torch.tensor([3.0, 61.0, 119.0]), torch.tensor([0.0, 1.0, 2.0]))


def head() -> torch.Tensor:
    inside = torch.zeros(3, 1, 1, 20, 20, dtype=torch.bool)
    inside[..., 2:18, 2:18] = True
    return inside


def spot() -> torch.Tensor:
    there = torch.zeros_like(head())
    there[:2, ..., 8:12, 8:12] = True
    return there


def run(noise: float = 10.0, change: float = 0.03, seed: int = 0) -> Clip:
    """A head of 1000 with thermal noise and a response of `change` in the spot."""
    g = torch.Generator().manual_seed(seed)
    seconds = TR * torch.arange(FRAMES)
    still = (1000.0 * head()).expand(3, 1, FRAMES, 20, 20)
    data = inject(still, spot().float(), response_course(TASK.onsets, TASK.durations, seconds), change)
    data = (data + noise * torch.randn(data.shape, generator=g)).abs()
    return Clip(data, np.diag([3.0, 3.0, 3.0, 1.0]), TR * np.arange(FRAMES))


def smoothed(clip: Clip) -> Clip:
    return clip.with_data(torch.from_numpy(gaussian_filter(clip.data.numpy(), (0.8, 0, 0, 0.8, 0.8))))


def value(found: Evaluation, method: str, metric: str, region: str = "brain") -> float:
    (one,) = (f.value for f in found.figures if (f.method, f.metric, f.region) == (method, metric, region))
    return one


def test_activation_smoothness_and_signal_to_noise_are_as_they_were_made() -> None:
    found = evaluate_bold({"smoothed": smoothed(run())}, run(), task=TASK, others=[OTHER], regions={"spot": spot()})
    assert value(found, "reference", "tSNR") == pytest.approx(100, rel=0.05)
    assert value(found, "reference", "amplitude", "spot") == pytest.approx(3, rel=0.05)
    assert value(found, "smoothed", "amplitude", "spot") < 2.7
    assert value(found, "smoothed", "FWHM") == pytest.approx(0.8 * 2.355 * 3, rel=0.15)
    assert value(found, "reference", "FWHM") < 3
    assert value(found, "reference", "split-half reliability") > 0.3
    assert value(found, "reference", "active voxels") == pytest.approx(100 * 32 / (3 * 16 * 16), abs=0.3)
    assert (found.regions["active"] & spot()).sum() == spot().sum()


def test_what_was_removed_is_noise_or_has_a_structure() -> None:
    g = torch.Generator().manual_seed(1)
    edges = torch.stack(torch.gradient(head().float(), dim=(-2, -1))).norm(dim=0)
    noise = torch.randn(run().data.shape, generator=g)
    results = {
        "white": run().with_data(run().data + 5 * noise),
        "at the edges": run().with_data(run().data + 20 * edges * noise),
        "neighbours": smoothed(run()),
        "nothing": run(),
    }
    found = evaluate_bold(results, run())
    white, rough = (value(found, method, "difference: neighbours") for method in ("white", "neighbours"))
    assert white == pytest.approx(0, abs=0.02) and rough < -0.1  # what blurring takes away is rough
    assert value(found, "white", "difference: edges") == pytest.approx(0, abs=0.1)
    assert value(found, "at the edges", "difference: edges") > 0.5
    assert not [f for f in found.figures if f.method == "nothing" and f.metric.startswith("difference")]


def test_without_a_task_nothing_is_said_of_activation() -> None:
    found = evaluate_bold({"one": run()})
    told = {figure.metric for figure in found.figures}
    assert told == {"tSNR", "FWHM", "lag-1 autocorrelation"}
    assert value(found, "one", "lag-1 autocorrelation") == pytest.approx(0, abs=0.06)


def test_lost_degrees_of_freedom_lower_t_by_their_root() -> None:
    regions = {"spot": spot()}
    free = evaluate_bold({"one": run()}, task=TASK, regions=regions)
    lost = torch.full((3, 1, 1, 20, 20), 20.0)
    fewer = evaluate_bold({"one": run()}, task=TASK, regions=regions, dof_lost={"one": lost})
    dof = FRAMES - 1 - 3  # one task, a constant and floor(2 * 160 / 128) = 2 cosines
    ratio = value(fewer, "one", "t", "spot") / value(free, "one", "t", "spot")
    assert ratio == pytest.approx(((dof - 20) / dof) ** 0.5)
    assert value(fewer, "one", "degrees of freedom lost") == 20


def test_a_task_of_another_run_is_refused() -> None:
    with pytest.raises(UsageError, match="no stimulus of the task falls into the run"):
        evaluate_bold({"one": run()}, task=Stimuli(torch.tensor([900.0]), torch.tensor([10.0])))


def test_events_are_read_by_condition(tmp_path: Path) -> None:
    path = tmp_path / "sub-01_task-x_events.tsv"
    path.write_text("onset\tduration\ttrial_type\n1.5\t0\tface\n4\t2\thouse\n9\t1\tn/a\n12.5\t3\tface\n")
    events = load_events(path)
    assert list(events) == ["face", "house"]
    assert events["face"].onsets.tolist() == [1.5, 12.5] and events["face"].durations.tolist() == [0, 3]
    path.write_text("onset\tduration\n1\t2\n")
    assert load_events(path)["task"].durations.tolist() == [2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("onset,duration\n1,2\n", "lacks the columns"),
        ("", "lacks the columns"),
        ("onset\tduration\n", "holds no event"),
        ("onset\tduration\nsoon\t2\n", "no BIDS events"),
        ("onset\tduration\n1\t-2\n", "line 2"),
        ("onset\tduration\n1\tnan\n", "line 2"),
        ("onset\tduration\n1\n", "no BIDS events"),
    ],
)
def test_bad_events_are_refused_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "events.tsv"
    path.write_text(text)
    with pytest.raises(InputError, match=words) as error:
        load_events(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)
    with pytest.raises(InputError, match="no such file"):
        load_events(tmp_path / "missing.tsv")
