"""The report of what a command restored: one section a series, with a legend that says what is what."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from medseq import terminal
from medseq.clip import Clip, KSpace
from medseq.errors import MedseqWarning
from medseq.gathering import Restored
from medseq.provenance import RunRecord
from medseq.report.blocks import Block, Page, Section
from medseq.report.bold import bold_denoised
from medseq.report.page import write_page
from medseq.report.record import provenance
from medseq.report.series import denoised, interpolated, reconstructed

ImageTask = Literal["denoise", "interpolate"]

_DONE = {
    "reconstruct": "Reconstructed",
    "denoise": "Denoised",
    "interpolate": "Interpolated",
    "demo": "A simulated series, restored",
}
_GREY = "Panels in grey share one scale, in the units of the series; blue is below zero, orange above."
_LEADS = {
    "reconstruct": f"Reconstructed from undersampled k-space with a learned video prior. {_GREY}",
    "denoise": f"Noise removed with a learned video prior. {_GREY} What was removed should look like noise: without "
    "edges, without anatomy.",
    "interpolate": f"Frames filled in with a learned video prior. {_GREY}",
    "denoise bold": "Noise reduced in what cannot be a haemodynamic response; no learned prior took part. "
    "Blue is below zero, orange above.",
    "interpolate bold": "Resampled in time, band-limited, the slices' own times taken into account; no learned prior "
    f"took part. {_GREY}",
}


def series_section(title: str, task: ImageTask, before: Clip, restored: Restored) -> Section:
    """A series that was denoised or interpolated. before: as it was read."""
    by_bold = restored.info.get("method") == "bold"
    blocks: list[Block]
    if task == "interpolate":
        blocks = interpolated(before, restored)
    else:
        blocks = bold_denoised(before, restored) if by_bold else denoised(before, restored)
    return Section(title, blocks, _LEADS[f"{task} bold" if by_bold else task])


def kspace_section(title: str, kspace: KSpace, restored: Restored) -> Section:
    """A series that was reconstructed; where it is complex, its fit to the data is told."""
    return Section(title, reconstructed(kspace, restored), _LEADS["reconstruct"])


def write_report(path: Path, title: str, sections: Sequence[Section], content: Mapping[str, Any]) -> None:
    """The page of one run. content: of its record (`RunRecord.content`). Raises ResourceError like `write_page`."""
    subtitle = f"{_DONE[content['command']]} with medseq {content['medseq']}"
    write_page(Page(title, subtitle, sections, content["warnings"], provenance(content)), path)


def attempt_report(
    path: Path, title: str, record: RunRecord, make: Callable[[], Sequence[Section]], older: Path | None = None
) -> None:
    """Write the page of one run with the sections that `make` returns.

    Whatever goes wrong becomes a MedseqWarning: a result is worth more than its report. older: the page of an earlier
    result, which must not stay beside this one then.
    """
    try:
        with record.timed("report"):
            write_report(path, title, make(), record.content())
    except Exception as error:
        why = terminal.explained(error).replace(f"{path}: ", "")  # the user knows nothing of a hidden folder
        warnings.warn(f"{path.name}: no report was written ({why})", MedseqWarning, stacklevel=2)
        if older is not None:
            older.unlink(missing_ok=True)
