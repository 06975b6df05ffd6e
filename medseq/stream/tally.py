"""What became of the frames of one session, and how long they took: in memory that does not grow with them."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

# Latencies are counted in bins 1 % wide from 10 microseconds to about 1000 seconds, as HdrHistogram does.
_SHORTEST, _WIDTH, _BINS = 1e-5, math.log(1.01), 1852


class Latency:
    """A distribution of seconds, its quantiles true to 1 %."""

    def __init__(self) -> None:
        self._counts = [0] * _BINS
        self.count, self.longest = 0, 0.0

    def add(self, seconds: float) -> None:
        place = int(math.log(max(seconds, _SHORTEST) / _SHORTEST) / _WIDTH)
        self._counts[min(place, _BINS - 1)] += 1
        self.count += 1
        self.longest = max(self.longest, seconds)

    def quantile(self, share: float) -> float | None:
        """The latency that a `share` of all do not exceed (nearest rank); None of none."""
        wanted, seen = max(1, math.ceil(share * self.count)), 0
        for place, count in enumerate(self._counts):
            seen += count
            if seen >= wanted:
                return min(_SHORTEST * math.exp((place + 0.5) * _WIDTH), self.longest)
        return None


@dataclass
class Tally:
    """Counts of one session; each is raised by one thread only.

    frames: that came, whole or not. images: that were sent. dropped: frames that had waited too long behind others.
    missed: frames that never came. late: lines of a frame that was closed already. short: frames with fewer lines than
    any of the first ones. skipped: readouts that nothing is made of. latency: from the last line of a frame to its
    image sent, of frames that came once those held back for calibration were done. start: the same of all before.
    """

    frames: int = 0
    images: int = 0
    dropped: int = 0
    missed: int = 0
    late: int = 0
    short: int = 0
    skipped: int = 0
    latency: Latency = field(default_factory=Latency)
    start: Latency = field(default_factory=Latency)

    def sent(self, received: float, live: bool) -> None:
        """An image has been sent. received: its frame, in seconds of `time.monotonic`; live: as of `Done`."""
        self.images += 1
        (self.latency if live else self.start).add(time.monotonic() - received)

    def line(self) -> str:
        """For people, in one line."""
        return (
            f"{self.images} images; latency p50 {_shown(self.latency.quantile(0.5))}, "
            f"p99 {_shown(self.latency.quantile(0.99))}; {self.dropped} dropped, {self.missed} missed, "
            f"{self.late} late lines"
        )

    def content(self) -> dict[str, Any]:
        """For `run.json`; times in milliseconds."""
        counts = ("frames", "images", "dropped", "missed", "late", "short", "skipped")
        return {name: getattr(self, name) for name in counts} | {
            "latency_ms": {
                "p50": _milliseconds(self.latency.quantile(0.5)),
                "p99": _milliseconds(self.latency.quantile(0.99)),
                "longest": _milliseconds(self.latency.longest if self.latency.count else None),
                "of": self.latency.count,
            },
            "start_ms": {"longest": _milliseconds(self.start.longest if self.start.count else None)}
            | {"of": self.start.count},
        }


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(1e3 * seconds, 2)


def _shown(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1e3 * seconds:.1f} ms"
