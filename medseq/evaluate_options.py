"""What an evaluation is told beside the series: where to look, what was shown, what to call things."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter


@Parameter(name="*")
@dataclass(frozen=True)
class EvaluateOptions:
    """Options of `medseq evaluate`; masks are NIfTI on the grid of the series, where what is above 0.5 belongs to them.

    names: of the methods, in the order of the results. case: what the case is called. kind: what the series shows.
    regions: further regions to tell figures of. ventricle: a region around the left ventricle. masks: of the blood
    in it, one for each series, that of the reference first. design: BIDS events of the task; condition: which of its
    `trial_type` is tested.
    """

    names: Annotated[
        tuple[str, ...],
        Parameter(
            name="--name", negative="", show_default=False, help="A method's name; once for each RESULT, in order."
        ),
    ] = ()
    case: Annotated[str | None, Parameter(help="What the case is called [default: by its file].")] = None
    kind: Annotated[
        Literal["auto", "cine", "perfusion", "bold"],
        Parameter(help="What it shows; auto: bold for BOLD (by DICOM header or BIDS name), else cine."),
    ] = "auto"
    regions: Annotated[
        tuple[Path, ...],
        Parameter(
            name="--region", negative="", show_default=False, help="Mask of a region to look at; may be repeated."
        ),
    ] = ()
    ventricle: Annotated[
        Path | None, Parameter(help="Mask around the left ventricle, whose blood is found in it by a threshold.")
    ] = None
    masks: Annotated[
        tuple[Path, ...],
        Parameter(
            name="--mask",
            negative="",
            show_default=False,
            help="Series of masks of the ventricle's blood: once for each series, reference first.",
        ),
    ] = ()
    design: Annotated[Path | None, Parameter(help="BOLD: BIDS events (.tsv) of the task.")] = None
    condition: Annotated[str | None, Parameter(help="BOLD: which trial_type of the events is tested.")] = None
