"""The numbers under a derived series: 16-bit scales that neither clip nor coarsen, and moments in time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from medseq.io.dicom.kept import KEPT
from medseq.io.dicom.moments import moments
from medseq.io.dicom.scale import choose_scale
from medseq.io.dicom.series import Frame
from medseq.io.dicom.uids import IMPLEMENTATION


@given(
    exponent=st.integers(-8, 8),
    slope=st.floats(1e-3, 1e3),
    intercept=st.sampled_from([0.0, -1024.0, 3.5]),
    signed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_no_value_is_clipped_or_off_by_more_than_half_a_step(exponent, slope, intercept, signed, seed) -> None:
    values = 10.0**exponent * np.random.default_rng(seed).random((2, 3, 4)) + intercept
    if signed:
        values[0] = 2 * intercept - values[0]
    scale = choose_scale(values, slope, intercept)
    stored = scale.stored(values)
    found = stored.astype(np.float64) * scale.slope + scale.intercept
    assert np.abs(found - values).max() <= scale.slope * 0.500001
    steps = np.abs(stored.astype(np.int64)).max()
    assert 1000 <= steps + 1 <= 65536 or np.ptp(values) == 0
    # A power of two: whatever the source's scale could hold, a finer one holds exactly.
    assert float(np.log2(scale.slope / slope)) == round(float(np.log2(scale.slope / slope)))


def test_a_source_that_is_fine_enough_keeps_its_scale() -> None:
    values = np.arange(4000.0).reshape(4, 10, 10, 10)
    assert choose_scale(values, 1.0, 0.0).is_identity
    assert choose_scale(values / 100, 1.0, 0.0).slope == 1 / 32
    assert choose_scale(values * 100, 1.0, 0.0).slope == 8
    assert choose_scale(values - 1, 1.0, 0.0).dtype == np.int16
    assert choose_scale(np.zeros((1, 2, 2, 2)), 0.25, 0.0).slope == 0.25


def test_moments_of_a_single_frame_and_beyond_the_ends() -> None:
    frame = Frame(Path("x"), 0, (0.0, 0.0, 0.0), 5.0)
    (alone,) = moments((frame,), np.array([1.0]), None, np.array([1.5]))
    assert alone.sources == (0,) and alone.synthetic and alone.time == 5.5
    (same,) = moments((frame,), np.array([1.0]), None, np.array([1.00005]))
    assert same.sources == (0,) and not same.synthetic and same.time == 5.0


def test_the_conformance_statement_lists_what_is_kept() -> None:
    statement = (Path(__file__).parent.parent / "docs" / "dicom-conformance.md").read_text(encoding="utf-8")
    assert [keyword for keyword in KEPT if keyword not in statement] == []
    assert IMPLEMENTATION in statement
