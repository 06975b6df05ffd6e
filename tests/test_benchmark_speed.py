"""`pipelines/benchmark_speed.py`: its whole course on a few voxels, its counts and slopes; no time is judged."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "pipelines"))
import benchmark_speed
import speed_parts
import speed_roofline
from speed_cases import Setting, in_turns, peak_memory

SMALL = ["--sizes", "32x32", "--frames", "4", "--coils", "2", "--acceleration", "2", "--steps", "1", "--repeats", "1"]


@pytest.fixture(autouse=True)
def as_many_threads_afterwards() -> Iterator[None]:
    """Other tests in this process ask for equal bits, which depend on the number of threads."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_the_combinations_are_timed_beside_l_plus_s(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmark_speed", "-o", str(tmp_path), *SMALL, "--threads", "1"])
    assert benchmark_speed.main() == 0
    (row,) = json.loads((tmp_path / "speed.json").read_text("utf-8"))["speed"]
    assert (row["size"], row["coils"], row["steps"], row["threads"]) == ("32x32", 2, 1, "1")
    assert row["frames/s"] == pytest.approx(4 / row["seconds"])
    assert row["ratio to L+S"] == pytest.approx(row["seconds"] / row["L+S seconds"])
    assert (tmp_path / "speed.md").read_text("utf-8") == capsys.readouterr().out


def test_an_impossible_case_is_told_in_one_line(tmp_path, monkeypatch, capsys):
    words = ["benchmark_speed", "-o", str(tmp_path / "new"), *SMALL, "--acceleration", "8"]
    monkeypatch.setattr(sys, "argv", words)
    assert benchmark_speed.main() == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1 and not (tmp_path / "new").exists()


def test_profile_and_roofline_have_every_part(tmp_path, monkeypatch):
    most = {"float32": 1e9, "bfloat16": 1e9, "bandwidth": 1e9}
    monkeypatch.setattr(benchmark_speed, "peaks", lambda *_: most)
    words = ["benchmark_speed", "-o", str(tmp_path), *SMALL, "--profile", "--roofline"]
    monkeypatch.setattr(sys, "argv", words)
    assert benchmark_speed.main() == 0
    found = json.loads((tmp_path / "profile-peaks-roofline.json").read_text("utf-8"))
    shares = {row["part"]: row["share"] for row in found["profile"]}
    assert sum(share for part, share in shares.items() if part != "whole") == pytest.approx(1)
    assert {"network", "warm start", "left over"} <= set(shares)
    pieces = {row["piece"]: row for row in found["roofline"]}
    assert pieces["network: convolutions"]["GFLOP"] > 100 * pieces["network: the rest"]["GFLOP"]
    for row in pieces.values():
        assert row["bound GFLOP/s"] == pytest.approx(min(1, row["FLOP a byte"]))


def test_operations_are_counted_as_by_hand():
    a, b = torch.randn(3, 4, dtype=torch.complex64), torch.randn(4, 5, dtype=torch.complex64)
    with speed_roofline.Counted() as products:
        a @ b
    assert products.operations["the rest"] == 4 * 2 * 3 * 4 * 5
    assert products.bytes["the rest"] == 8 * (12 + 20 + 15)
    rows = torch.randn(2, 8, dtype=torch.complex64)
    with speed_roofline.Counted() as transform:
        torch.fft.fft(rows)
    assert transform.operations["the rest"] == 5 * 16 * 3
    image, kernel = torch.randn(1, 2, 6, 6), torch.randn(3, 2, 3, 3)
    with speed_roofline.Counted() as convolution:
        torch.nn.functional.conv2d(image, kernel)
    assert convolution.operations["convolutions"] == 2 * (3 * 4 * 4) * (2 * 9)


def test_slopes_are_exponents():
    amounts = [2, 4, 8]
    assert speed_parts.slope(amounts, [n**1.5 for n in amounts]) == pytest.approx(1.5)
    assert speed_parts.slope(amounts, [3 * n * math.log(n) for n in amounts]) > 1


def test_runs_take_turns_and_memory_is_that_of_the_run():
    order: list[str] = []
    in_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2, Setting())
    assert order == ["a", "b", "a", "b"]
    assert 90 <= peak_memory(lambda: torch.ones(100 * 2**18), "cpu") / 2**20 < 130
