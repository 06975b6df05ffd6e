"""What goes from those who receive to those who reconstruct."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from medseq.clip import KSpace
from medseq.io.ismrmrd_library import ismrmrd


@dataclass(frozen=True)
class Frame:
    """One frame of one slice.

    slice: as the stream numbers it. number: of the frame, counted on from the first one of the slice, those that never
    came included. y: (1, C, 1, Y, X) k-space, keep: bool (1, 1, 1, Y, 1). received: when its last line had come, in
    seconds of `time.monotonic`. head: of its readout next to the centre of k-space; None from a file.
    """

    slice: int
    number: int
    y: Tensor
    keep: Tensor
    received: float
    head: ismrmrd.AcquisitionHeader | None = None


@dataclass(frozen=True)
class Start:
    """The first frames of a slice: what is to be known before any is reconstructed comes from them.

    kspace: they (1, C, T, Y, X), with all that is known of noise, geometry and calibration scan. frames: the same one
    by one, to be reconstructed too.
    """

    slice: int
    kspace: KSpace
    frames: Sequence[Frame]


Item = Start | Frame
