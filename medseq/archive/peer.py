"""What an archive is asked to do, and how far its answers are trusted."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Literal, Protocol, TypeVar

from medseq.errors import InputError, ResourceError, UsageError

T = TypeVar("T")
Level = Literal["STUDY", "SERIES", "IMAGE"]

# PS3.5 section 9.1, but for leading zeros: some scanners write them. Neither a folder nor a URL can hide in this.
_UID = re.compile(r"\d+(\.\d+)*", re.ASCII)


@dataclass(frozen=True)
class Limits:
    """seconds: for one request and its whole answer. bytes: of one answer, so of one file. matches: of one query."""

    seconds: float = 300.0
    bytes: int = 2**30
    matches: int = 200_000


TRUSTED = Limits()


@dataclass(frozen=True)
class SeriesUid:
    """What names a series to an archive: the UIDs of its study and its own. Raises UsageError when one is none."""

    study: str
    series: str

    def __post_init__(self) -> None:
        if not is_uid(self.study) or not is_uid(self.series):
            raise UsageError("studies and series are named by UIDs, digits and dots; `medseq archive find` shows them")


class Peer(Protocol):
    """An archive, by whatever protocol. Every method raises InputError when the answer is not what the protocol
    promises or passes the limits, and ResourceError when the archive is down, silent or refuses us."""

    @property
    def address(self) -> str:
        """As the user typed it; free of credentials."""

    @property
    def calling(self) -> str:
        """Our own application entity title."""

    def search(self, level: Level, keys: Mapping[str, str]) -> list[dict[str, str]]:
        """Matches as {keyword: text}, with every keyword of `keys`; a key of "" matches everything."""

    def fetch(self, series: SeriesUid, instances: Sequence[str], folder: Path) -> Generator[Path, None, None]:
        """The files of these instances, each as it comes, in `folder`. What is in them is unchecked. Close it."""

    def store(self, paths: Sequence[Path]) -> None:
        """Send these files. That it returns is no proof that the archive has them."""


def is_uid(text: str) -> bool:
    """Whether this is a unique identifier, safe in a URL: digits in groups, at most 64 characters."""
    return len(text) <= 64 and _UID.fullmatch(text) is not None


def within(seconds: float, call: Callable[[], T], address: str) -> T:
    """The result of `call()`, or ResourceError after so many seconds.

    The timeouts of sockets start again with every byte, so that a peer that drips would hold us for days. The thread
    is left behind then; it dies with the process.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    try:
        return future.result(seconds)
    except Late:
        if future.done():  # the call's own
            raise
        raise ResourceError(f"{address}: did not answer within {seconds:g} s; try again later") from None


def too_many(address: str, limits: Limits) -> InputError:
    """The refusal of a query's answer."""
    return InputError(f"{address}: has more than {limits.matches} matches; ask for less")


def too_large(address: str, limits: Limits) -> InputError:
    """The refusal of an endless answer."""
    return InputError(f"{address}: an answer has more than {limits.bytes} bytes; raise the limit if that is right")


def unasked(address: str) -> InputError:
    """The refusal of what nobody asked for."""
    return InputError(f"{address}: sends images that were not asked for; do not use this archive")
