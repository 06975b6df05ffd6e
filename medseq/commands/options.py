"""What the options of several commands have in common."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from medseq.command_line import new_app


def _check_device(_: type, device: str) -> None:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise ValueError("Choose auto, cpu, cuda or cuda:N.")


def _check_finite_positive(_: type, value: float | None) -> None:
    if value is not None and not 0 < value < float("inf"):
        raise ValueError("Must be a finite number > 0.")


Output = Annotated[Path, Parameter(name=("--output", "-o"), help="File to write; missing folders are made.")]
SeriesOutput = Annotated[
    Path, Parameter(name=("--output", "-o"), help="NIfTI file, or for DICOM and BIDS a folder; missing ones are made.")
]
Count = Annotated[int, Parameter(validator=Number(gte=1))]
Steps = Annotated[int, Parameter(validator=Number(gte=1), help="Noise levels: more is slower and sharper.")]
Device = Annotated[str, Parameter(validator=_check_device, help="auto, cpu, cuda or cuda:N.")]
Kind = Annotated[
    Literal["auto", "cine", "bold"],
    Parameter(help="What it shows; auto: bold for BOLD (by DICOM header or BIDS name), else cine."),
]
Report = Annotated[bool, Parameter(help="Write a page to look at, too: OUT.html, or report.html in a folder of DICOM.")]
Goal = Annotated[
    Literal["activation", "fluctuations"],
    Parameter(help="BOLD: what must stay as it is: responses, or all that fluctuates, with the least error."),
]
Support = Annotated[
    bool, Parameter(help="Also map how much of each voxel came from the data: OUT_support. Doubles the time.")
]
Positive = Annotated[float, Parameter(validator=_check_finite_positive)]
UpToADay = Annotated[float, Parameter(validator=(_check_finite_positive, Number(lte=86_400)))]  # seconds


@Parameter(name="*")
@dataclass(frozen=True)
class PriorOptions:
    """What every command that runs the prior takes."""

    seed: Annotated[int, Parameter(validator=Number(gte=0), help="The same seed gives the same result.")] = 0
    device: Device = "auto"
    precision: Annotated[Literal["auto", "float32", "bfloat16"], Parameter(help="What the network computes in.")] = (
        "auto"
    )
    prior: Annotated[str | None, Parameter(help="Name or file of another prior than the one that medseq ships.")] = None


@Parameter(name="*")
@dataclass(frozen=True)
class Options(PriorOptions):
    """What every restoring command takes."""

    samples: Annotated[Count, Parameter(help="Draws; with more than one, their mean. The std is in OUT_std.")] = 1
    strict: Annotated[bool, Parameter(help="Refuse a series unlike those that the prior has learnt.")] = False


app = new_app("medseq", "Restores dynamic medical image series with one video diffusion prior.")


def examples(*lines: str) -> str:
    return "Examples:\n\n" + "\n".join(f"    medseq {line}" for line in lines)
