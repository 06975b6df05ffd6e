"""Finding series in an archive, and fetching them into a folder."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from medseq.archive.peer import Peer, SeriesUid, is_uid, unasked
from medseq.errors import InputError, ResourceError, UsageError
from medseq.io.dicom.opening import Header, open_header
from medseq.io.files import atomic_write

T = TypeVar("T")
WAITS = (0.5, 2.0)  # seconds before a second and a third attempt
BATCH = 50  # instances a request: what has to be done again when it fails


@dataclass(frozen=True)
class Query:
    """What to look for; "" is anything, and * and ? stand for any characters.

    study: Study Instance UID. patient: Patient ID. accession: Accession Number. date: of the study, YYYYMMDD, or two of
    them joined by a hyphen. modality: as in DICOM.
    """

    study: str = ""
    patient: str = ""
    accession: str = ""
    date: str = ""
    modality: str = "MR"


@dataclass(frozen=True)
class ArchivedSeries:
    """A series that an archive has; nothing in it says whose.

    date: of the study, YYYYMMDD. number: None if unknown. description: what the scanner's user typed.
    """

    uid: SeriesUid
    date: str
    modality: str
    number: int | None
    description: str


def find(peer: Peer, query: Query) -> list[ArchivedSeries]:
    """The series that match, by date, study and number.

    Raises UsageError for a query that asks for everything, else as `Peer` does.
    """
    criteria = {
        "StudyInstanceUID": query.study,
        "PatientID": query.patient,
        "AccessionNumber": query.accession,
        "StudyDate": query.date,
    }
    if not any(criteria.values()):
        raise UsageError(f"{peer.address}: this asks for every study; name a study, patient, accession number or date")
    found = [
        series
        for study in persistently(lambda: peer.search("STUDY", criteria))
        for series in _series_of(peer, study, query.modality)
    ]
    return sorted(found, key=lambda series: (series.date, series.uid.study, series.number or 0, series.uid.series))


def fetch(peer: Peer, series: SeriesUid, folder: Path) -> list[Path]:
    """The files of a series, in `folder`; those that are there from an earlier call are not fetched again.

    They have names of our own, which say nothing of what is in them. Each appears when it is complete and has proved to
    be what was asked for. Raises InputError for a series that the archive does not have and for files that are none of
    it, ResourceError when some do not come, else as `Peer` does: what has come stays.
    """
    instances = instances_of(peer, series)
    if not instances:
        raise InputError(f"{peer.address}: has no such series; look for it again")

    def fetch_missing() -> None:
        missing = [instance for instance in instances if not (folder / file_name(instance)).exists()]
        with closing(received(peer, series, missing, folder)) as images:
            for path, header in images:
                with atomic_write(folder / file_name(header.SOPInstanceUID)) as temporary:
                    os.replace(path, temporary)

    with written(folder):
        folder.mkdir(parents=True, exist_ok=True)
        persistently(fetch_missing)
    paths = [folder / file_name(instance) for instance in instances]
    if missing := sum(not path.exists() for path in paths):
        raise ResourceError(f"{peer.address}: {missing} of {len(paths)} images did not come; fetch again")
    return paths


def instances_of(peer: Peer, series: SeriesUid) -> list[str]:
    """The SOP Instance UIDs that an archive has of a series, sorted."""
    keys = {"StudyInstanceUID": series.study, "SeriesInstanceUID": series.series, "SOPInstanceUID": ""}
    matches = persistently(lambda: peer.search("IMAGE", keys))
    return sorted({_uid(peer, match["SOPInstanceUID"]) for match in matches})


def received(
    peer: Peer, series: SeriesUid, instances: Sequence[str], folder: Path
) -> Generator[tuple[Path, Header], None, None]:
    """Each of these instances as it comes, with its header: a file inside `folder` that is gone after its turn.

    Close it (`contextlib.closing`): it holds a connection and a temporary folder.
    """
    wanted = set(instances)
    for start in range(0, len(instances), BATCH):
        with (
            tempfile.TemporaryDirectory(prefix=".medseq-", dir=folder) as scratch,
            closing(peer.fetch(series, instances[start : start + BATCH], Path(scratch))) as files,
        ):
            for path in files:
                yield path, _checked_header(peer, path, series, wanted)
                path.unlink(missing_ok=True)


def file_name(instance: str) -> str:
    """What the file of an instance is called: it tells two instances apart and nothing else."""
    return f"{hashlib.sha256(instance.encode()).hexdigest()[:32]}.dcm"


@contextmanager
def written(folder: Path) -> Iterator[None]:
    """Turn every OSError of the block into a ResourceError that names the folder."""
    try:
        yield
    except OSError as error:
        raise ResourceError(f"{folder}: cannot be written ({error.strerror}); check its rights and the disk") from error


def persistently(call: Callable[[], T]) -> T:
    """The result of `call()`, which is repeated when an archive is busy or the network fails; it must be idempotent."""
    for wait in WAITS:
        try:
            return call()
        except ResourceError:
            time.sleep(wait)
    return call()


def _series_of(peer: Peer, study: dict[str, str], modality: str) -> Iterator[ArchivedSeries]:
    keys = {
        "StudyInstanceUID": _uid(peer, study["StudyInstanceUID"]),
        "Modality": modality,
        "SeriesInstanceUID": "",
        "SeriesNumber": "",
        "SeriesDescription": "",
    }
    for match in persistently(lambda: peer.search("SERIES", keys)):
        number = match["SeriesNumber"].strip()
        yield ArchivedSeries(
            uid=SeriesUid(keys["StudyInstanceUID"], _uid(peer, match["SeriesInstanceUID"])),
            date=_printable(study["StudyDate"]),
            modality=_printable(match["Modality"]),
            number=int(number) if number.lstrip("-").isdecimal() else None,
            description=_printable(match["SeriesDescription"]),
        )


def _uid(peer: Peer, text: str) -> str:
    if not is_uid(text):
        raise InputError(f"{peer.address}: answers with an identifier that is none; do not use this archive")
    return text


def _printable(text: str) -> str:
    """Without what could move the cursor of a terminal."""
    return "".join(character for character in text if character.isprintable())[:64]


def _checked_header(peer: Peer, path: Path, series: SeriesUid, wanted: set[str]) -> Header:
    try:
        header = open_header(path)
    except InputError as fault:
        reason = str(fault).replace(str(path), "an image")
        raise InputError(f"{peer.address}: sends what cannot be used ({reason})") from fault
    if header is None:
        raise InputError(f"{peer.address}: sends files that are not DICOM; do not use this archive")
    own = SeriesUid(str(header.get("StudyInstanceUID")), str(header.get("SeriesInstanceUID")))
    if own != series or header.get("SOPInstanceUID") not in wanted:
        raise unasked(peer.address)
    return header
