"""`pipelines/study_efficiency.py`: the time of a study, and its whole course on one small unit."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from medseq.study.ledger import Entry

sys.path.insert(0, str(Path(__file__).parent.parent / "pipelines"))
import study_efficiency


def entry(started: str, seconds: float) -> Entry:
    return Entry(unit="a", state="done", key="", run="", started=f"2026-01-01T{started}+00:00", seconds=seconds)


def test_time_counts_from_the_first_start_to_the_last_end():
    entries = [entry("00:00:10", 20.0), entry("23:00:00", 1.0), entry("22:59:00", 120.5)]
    assert study_efficiency.seconds_of(entries) == 23 * 3600 + 60.5 - 10
    assert study_efficiency.seconds_of(entries[:1]) == 20.0


def test_the_same_units_are_done_by_one_worker_and_by_two(tmp_path, monkeypatch, capsys):
    words = ["study_efficiency", "-o", str(tmp_path / "new"), "--units", "1", "--frames", "2", "--size", "64"]
    monkeypatch.setattr(sys, "argv", words)
    assert study_efficiency.main() == 0
    told = capsys.readouterr()
    assert re.search(r"^1 at a time: .* at work for 1\.\d+ of it$", told.out, re.M), "the only unit is all of the time"
    assert re.search(r"^2 at a time: .* at work for 0\.5\d* of it$", told.out, re.M)
    assert float(told.out.split()[-1]) > 0 and "less than 20 s" in told.err
    assert study_efficiency.main() == 2 and "exists" in capsys.readouterr().err
