"""Versions of one series beside a reference: images, errors on one scale, x-t profiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from medseq.clip import Clip
from medseq.report.blocks import Block, Panel
from medseq.report.stage import Stage, unsigned, white

_SAID = "The error is version minus reference, on one scale for all versions. "


@dataclass(frozen=True)
class Version:
    """One version of a series: its name, its data (B, 1, T, Y, X), and a figure or two for below its picture."""

    title: str
    data: Tensor
    caption: str = ""


def compared(reference: Clip, versions: Sequence[Version], *, note: str = "") -> list[Block]:
    """Players of the versions, the reference and the errors below, and the x-t profiles of the images.

    One grey scale, set by the reference; errors go to the 99.5th percentile of those of the last version but one, so
    that a better version is seen to be better. Raises UsageError for versions of another shape.
    """
    stage = Stage.moving(reference)
    truth = stage.frames(reference.data)
    high = white(truth)
    frames = [stage.frames(version.data) for version in versions]
    images = [
        unsigned(version.title, each, high, "grey", caption=version.caption)
        for version, each in zip(versions, frames, strict=True)
    ]
    images.append(unsigned("Reference", truth, high, "grey"))
    errors = [each - truth for each in frames]
    limit = white(np.abs(errors[max(0, len(errors) - 2)]))
    panels = images + [
        Panel(f"Error, {version.title}", error, -limit, limit, "diverging")
        for version, error in zip(versions, errors, strict=True)
    ]
    worst = int(np.square(errors[-1]).sum((1, 2)).argmax())
    return [
        stage.players("Images and errors", panels, _SAID + note, still=worst, columns=len(images)),
        stage.profiles("Motion along one line", images),
    ]
