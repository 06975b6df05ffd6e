"""The few frames that wait for reconstruction: between the thread that receives and the one that reconstructs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from threading import Condition

from medseq.stream.frames import Frame, Item
from medseq.stream.tally import Tally


class Stopped(Exception):
    """Nobody takes frames any more."""


class Waiting:
    """A queue of at most `room` frames. When it is full the oldest one is dropped, so that none waits for long; or, if
    `patient`, whoever brings the next one waits."""

    def __init__(self, room: int, tally: Tally, *, patient: bool = False) -> None:
        self._room, self._tally, self._patient = room, tally, patient
        self._items: deque[Item] = deque()
        self._changed = Condition()
        self._error: BaseException | None = None
        self._ended = self._stopped = False

    def put(self, item: Item) -> None:
        """Add one; the start of a slice is never dropped. Raises Stopped."""
        with self._changed:
            if isinstance(item, Frame):
                self._make_room()
            if self._stopped:
                raise Stopped
            self._items.append(item)
            self._changed.notify_all()

    def end(self, error: BaseException | None = None) -> None:
        """No more will come; those who take get the rest, or at once the error."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def stop(self) -> None:
        """No more will be taken."""
        with self._changed:
            self._stopped = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Item]:
        """Take one after the other, waiting for each. Raises what `end` was told."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._items or self._ended)
                if self._error is not None:
                    raise self._error
                if not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item

    def _make_room(self) -> None:
        waiting = [item for item in self._items if isinstance(item, Frame)]
        if len(waiting) < self._room:
            return
        if self._patient:
            self._changed.wait_for(lambda: len(self._items) < self._room or self._stopped)
            return
        self._items.remove(waiting[0])
        self._tally.dropped += 1
