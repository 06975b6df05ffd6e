"""What happens to a folder of DICOM files before medseq sees it, and what medseq sees."""

from __future__ import annotations

from pathlib import Path

import pydicom

from medseq.io.dicom import DicomSeries, find_series


def edit(folder: Path, chosen: slice = slice(None), **attributes: object) -> None:
    """Change attributes in some of the files, by name."""
    for path in sorted(folder.iterdir())[chosen]:
        dataset = pydicom.dcmread(path)
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)
        dataset.save_as(path)


def only(folder: Path) -> DicomSeries:
    """The one series that is there, nothing being refused."""
    found = find_series(folder)
    assert not found.refused
    (series,) = found.series
    return series


def refusal(folder: Path) -> str:
    """Why the one thing that is there is refused."""
    found = find_series(folder)
    assert not found.series
    (refused,) = found.refused
    return refused.reason
