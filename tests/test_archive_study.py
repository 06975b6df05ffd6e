"""A study from a real archive, restored, and back: what medseq writes is what the archive keeps."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_scanner import scan
from orthanc import Orthanc, assert_same, datasets, fetched, images, series_of

from medseq import denoise
from medseq.archive import Query, Sent, connect, fetch, find, store
from medseq.io.dicom import find_series, load_series
from medseq.io.dicom.derived import Derivation
from medseq.io.dicom.write import save_derived

sys.path.insert(0, str(Path(__file__).parent.parent / "pipelines"))
from restore_archive_study import main  # noqa: E402  (a recipe, not part of the package)

DERIVATION = Derivation("denoise", "A test", "none", "0" * 64, {}, 0)


@pytest.mark.parametrize(
    ("protocol", "vendor", "kind"),
    [
        ("web", "ge", "cine"),
        ("web", "siemens-mosaic", "bold"),
        ("web", "philips", "bold"),
        ("web", "canon", "cine"),
        ("network", "siemens", "bold"),
    ],
)
def test_derived_series_come_back_with_all_tags_and_pixels(
    orthanc: Orthanc, tmp_path: Path, protocol: str, vendor: str, kind: str
) -> None:
    scan(tmp_path / "scan", vendor, kind, slices=2, frames=2)
    (source,) = find_series(tmp_path / "scan").series
    (tmp_path / "derived").mkdir()
    written = save_derived(load_series(source), tmp_path / "derived", source, DERIVATION)
    peer = connect(getattr(orthanc, protocol))
    assert store(written, peer, tmp_path / "outbox") == Sent(4, 4)
    assert_same(written, fetched(peer, written, tmp_path / "back"))
    assert store(written, peer, tmp_path / "outbox") == Sent(4, 0)


@pytest.mark.parametrize("protocol", ["web", "network"])
def test_enhanced_images_and_uncertainty_maps_come_back(orthanc: Orthanc, tmp_path: Path, protocol: str) -> None:
    scan(tmp_path / "scan", "siemens-xa", "bold", slices=2, frames=2)
    (source,) = find_series(tmp_path / "scan").series
    clip = load_series(source)
    (tmp_path / "derived").mkdir()
    std = replace(clip, data=clip.data * 0.01)
    written = save_derived(clip, tmp_path / "derived", source, DERIVATION, std=std, multiframe=True)
    assert len(series_of(written)) == 2
    peer = connect(getattr(orthanc, protocol))
    store(written, peer, tmp_path / "outbox")
    assert_same(written, fetched(peer, written, tmp_path / "back"))


@pytest.fixture
def noisy_scan(tmp_path: Path) -> list[Path]:
    """A series with noise to take out."""
    scan(tmp_path / "scan", "ge", "bold", slices=1, frames=5)
    random = np.random.default_rng(0)
    for path in images(tmp_path / "scan"):
        dataset = pydicom.dcmread(path)
        stored = dataset.pixel_array
        dataset.PixelData = (stored + random.integers(0, 40, stored.shape)).astype(stored.dtype).tobytes()
        dataset.save_as(path)
    return images(tmp_path / "scan")


@pytest.mark.parametrize("protocol", ["web", "network"])
def test_a_study_is_restored_in_its_archive_once(
    orthanc: Orthanc,
    tmp_path: Path,
    noisy_scan: list[Path],
    protocol: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    address = getattr(orthanc, protocol)
    peer = connect(address)
    store(noisy_scan, peer, tmp_path / "outbox")
    header = pydicom.dcmread(noisy_scan[0])
    monkeypatch.setattr(sys, "argv", ["recipe", address, header.StudyInstanceUID, "-w", str(tmp_path / "work")])
    assert main() == 0
    assert capsys.readouterr().out == "series 7 (bold): 5 images are in the archive, 5 of them new\n"
    _, derived = find(peer, Query(study=header.StudyInstanceUID))
    assert derived.number == 701
    back = datasets(fetch(peer, derived.uid, tmp_path / "back"))
    for dataset in back.values():
        assert dataset.PatientID == header.PatientID and dataset.FrameOfReferenceUID == header.FrameOfReferenceUID
        assert dataset.ImageType[0] == "DERIVED"
        references = {item.ReferencedSOPInstanceUID for item in dataset.SourceImageSequence}
        assert references <= datasets(noisy_scan).keys()

    (source,), (result,) = find_series(tmp_path / "scan").series, find_series(tmp_path / "back").series
    noisy, restored = load_series(source), load_series(result)
    assert np.abs(restored.affine - noisy.affine).max() < 1e-3 and np.abs(restored.times - noisy.times).max() < 1e-4
    expected = denoise(noisy, seed=0).clip.data
    assert (restored.data - expected).abs().max() < 0.1 * (noisy.data - expected).abs().max()
    before = orthanc.holdings()
    assert main() == 0
    assert "5 images are in the archive, 0 of them new" in capsys.readouterr().out
    assert orthanc.holdings() == before


def test_a_study_that_is_not_there_is_named(
    orthanc: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["recipe", orthanc.web, "1.2.3", "-w", str(tmp_path / "work")])
    assert main() == 4
    assert capsys.readouterr().err.count("\n") == 1
