"""A file played at its own pace, as if its frames came from the scanner."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from threading import TIMEOUT_MAX, Event, Thread

import torch
from torch import Tensor

from medseq.clip import Clip, KSpace
from medseq.errors import InputError
from medseq.stream.frames import Frame, Start
from medseq.stream.session import Begin, reconstructed
from medseq.stream.tally import Tally
from medseq.stream.waiting import Stopped, Waiting


def replay(
    kspace: KSpace,
    begin: Begin,
    tally: Tally,
    *,
    first: int = 12,
    room: int = 2,
    speed: float | None = 1.0,
    show: Callable[[Tally], None] = lambda tally: None,
) -> Clip:
    """Reconstruct each frame when it has come; gives the complex images, zeros where a frame was dropped (`present`).

    speed: how many times as fast as measured frames come; None: as fast as they are taken, so that none is dropped.
    first, room: as in `medseq.stream.server.Manner`. tally: what became of the frames. show: is called with it after
    each image. Raises InputError for k-space on no grid or of partial echoes, and what `begin` raises.
    """
    _check(kspace)
    slices, _, frames, *_ = kspace.data.shape
    images = torch.zeros(slices, 1, frames, *kspace.size, dtype=torch.complex64)
    present = torch.zeros(slices, frames, dtype=torch.bool)
    with _playing(kspace, first, speed, Waiting(room, tally, patient=speed is None), tally) as waiting:
        for done in reconstructed(waiting, begin):
            b, t = done.frame.slice, done.frame.number
            images[b, :, t], present[b, t] = done.image[0, :, 0], True
            tally.sent(done.frame.received, done.live)
            show(tally)
    clip = Clip(images, kspace.affine, kspace.times, kspace.period)
    return clip if bool(present.all()) else replace(clip, present=present)


def _check(kspace: KSpace) -> None:
    if kspace.trajectory is not None:
        raise InputError("readouts along a trajectory, where medseq stream takes Cartesian lines; use reconstruct")
    if kspace.keep.shape[1] != 1 or kspace.keep.shape[-1] != 1:
        raise InputError("lines that are not measured as a whole, which medseq stream cannot use; use reconstruct")


@contextmanager
def _playing(kspace: KSpace, first: int, speed: float | None, waiting: Waiting, tally: Tally) -> Iterator[Waiting]:
    """Frames come into `waiting` at their time, until the block ends."""
    halt = Event()

    def play() -> None:
        try:
            begun, late = time.monotonic(), kspace.times - kspace.times[0]
            held: list[list[Frame]] = [[] for _ in kspace.data]
            for t in range(kspace.frames):
                if speed is not None:
                    left = begun + float(late[t]) / speed - time.monotonic()
                    halt.wait(min(max(left, 0.0), TIMEOUT_MAX))
                for b in range(len(held)):
                    tally.frames += 1
                    frame = _frame(kspace, b, t)
                    if t >= first:
                        waiting.put(frame)
                        continue
                    held[b].append(frame)
                    if len(held[b]) == min(first, kspace.frames):
                        waiting.put(Start(b, _first_frames(kspace, b, len(held[b])), held[b]))
            waiting.end()
        except Stopped:
            pass
        except BaseException as error:  # noqa: BLE001 - it is raised where frames are taken
            waiting.end(error)

    player = Thread(target=play, daemon=True)
    player.start()
    try:
        yield waiting
    finally:
        halt.set()
        waiting.stop()
        player.join()


def _frame(kspace: KSpace, b: int, t: int) -> Frame:
    return Frame(b, t, kspace.data[b : b + 1, :, t : t + 1], _lines(kspace)[b : b + 1, :, t : t + 1], time.monotonic())


def _first_frames(kspace: KSpace, b: int, count: int) -> KSpace:
    maps, calibration = (
        part if part is None or part.shape[0] == 1 else part[b : b + 1] for part in (kspace.maps, kspace.calibration)
    )
    return replace(
        kspace,
        data=kspace.data[b : b + 1, :, :count],
        keep=_lines(kspace)[b : b + 1, :, :count],
        maps=maps,
        calibration=calibration,
        times=kspace.times[:count],
        period=None,
    )


def _lines(kspace: KSpace) -> Tensor:
    """The mask of every slice and frame, (B, 1, T, Y, 1)."""
    slices, _, frames, height, _ = kspace.data.shape
    return kspace.keep.expand(slices, 1, frames, height, 1)
