"""What medseq writes it reads back: values to half a step, place, time and phase, classic and enhanced."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dicom_scanner import scan

from medseq.io.dicom import Derivation, choose_series, load_dicom, load_series, save_derived

EXAMS = [
    ("ge", "cine", ("M", "P")),
    ("ge", "cine", ("R", "I")),
    ("siemens", "cine", ("M", "P")),
    ("siemens-mosaic", "bold", ("M",)),
    ("siemens-xa", "bold", ("M",)),
    ("philips", "bold", ("M",)),
    ("philips", "cine", ("M", "P")),
    ("philips-enhanced", "bold", ("M", "P")),
    ("canon", "cine", ("M",)),
    ("uih-enhanced", "cine", ("M",)),
    ("legacy", "cine", ("M",)),
]


@pytest.mark.filterwarnings("ignore::medseq.errors.MedseqWarning")  # of one series a slice, say
@pytest.mark.parametrize("multiframe", [False, True], ids=["classic", "enhanced"])
@pytest.mark.parametrize(("vendor", "kind", "components"), EXAMS)
def test_a_derived_series_comes_back(tmp_path: Path, vendor: str, kind: str, components: tuple, multiframe: bool):
    scan(tmp_path / "study", vendor, kind, components=components)
    source = choose_series(tmp_path / "study")
    series = load_series(source)
    # Of fewer values than the source, so that a finer scale than its own is written.
    made = series.with_data(series.data * 0.11)
    (tmp_path / "out").mkdir()
    save_derived(made, tmp_path / "out", source, Derivation("denoise", "Scaled."), multiframe=multiframe)
    back = load_dicom(tmp_path / "out")
    assert back.is_complex == made.is_complex
    peak = float(made.data.abs().max())
    half_a_step = peak / 1000 / 2  # at least 1000 steps are written
    half_a_turn_step = peak * 2 * np.pi / 1000 / 2 if made.is_complex else 0.0
    assert float((back.data - made.data).abs().max()) < 1.01 * np.hypot(half_a_step, half_a_turn_step)
    np.testing.assert_allclose(back.affine, made.affine, atol=1e-3)
    np.testing.assert_allclose(back.times, made.times, atol=1e-4)
    assert back.period == pytest.approx(made.period)
