"""The recipe that fits a prior's trust table, on one small phantom and an untrained prior."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from medseq.network import VideoUNet
from medseq.phantoms.phases import Stills
from medseq.prior import Prior, SpreadTable

sys.path.insert(0, str(Path(__file__).parent.parent / "pipelines"))
import calibrate  # noqa: E402  (a recipe, not part of the package)
from calibration_cases import acquisition, scenario  # noqa: E402

NONE = Stills.single(torch.zeros(1, 8, 8))
PHANTOM = 3  # every fourth scenario is one


def test_a_scenario_is_the_same_every_time() -> None:
    one, other = scenario(PHANTOM, NONE, (48, 56)), scenario(PHANTOM, NONE, (48, 56))
    assert one.kind == "phantom" and torch.equal(one.truth.data, other.truth.data)
    assert torch.equal(acquisition(one)[0].data, acquisition(other)[0].data)
    assert not torch.equal(one.truth.data, scenario(PHANTOM + 4, NONE, (48, 56)).truth.data[:, :, : one.truth.frames])


@pytest.mark.parametrize("task", list(calibrate.TASKS))
def test_what_is_kept_of_a_case_is_evidence_and_error(tmp_path: Path, monkeypatch, task: str) -> None:
    monkeypatch.setattr(calibrate, "SMALL", (48, 56))
    monkeypatch.setattr(calibrate, "SIZE", (48, 56))
    sigmas = [0.01, 0.1, 1.0, 10.0]
    prior = Prior(VideoUNet((8, 12), 1), 1.0, SpreadTable(sigmas, [s / (1 + s**2) ** 0.5 for s in sigmas]))
    bench = calibrate.Bench(prior, tmp_path)
    kept = bench.case(task, PHANTOM, NONE, 1)
    assert set(kept["found"]) == {"expected", "change", "bending", "edges"}
    assert all(len(values) == len(kept["error"]) == len(kept["moving"]) for values in kept["found"].values())
    assert 0 < kept["nrmse"] < 1 and kept["moving"].any() and not kept["moving"].all()
    assert float(kept["error"].square().mean().sqrt()) > 0
    measures = {"gain", "unexplained"} if task == "reconstruct" else {"unevenness"}
    assert set(kept["seen"]) == measures
    for name in measures:
        assert set(calibrate.FACTS[name]) <= set(kept["seen"][name][1])
    (tmp_path / f"{task}-image-{PHANTOM}.pt").rename(tmp_path / f"{task}-image-{PHANTOM + 1}.pt")
    assert torch.equal(bench.case(task, PHANTOM + 1, NONE, 1)["error"], kept["error"]), "what is there is not made anew"
