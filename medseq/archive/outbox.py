"""Storing that loses nothing: results wait in a folder until the archive has proved to have them.

    OUTBOX/<hash>/to.json       where to; no credentials
    OUTBOX/<hash>/<hash>.dcm    an image that the archive is not yet known to have

A folder appears in one rename with everything in it; an image goes when the archive has given back the same image. So
whatever stops us, and wherever, sending again goes on from there, and sending twice sends nothing twice.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import file_digest, sha256
from pathlib import Path

from medseq.archive.comparison import Kept, compare
from medseq.archive.connection import connect
from medseq.archive.peer import TRUSTED, Limits, Peer, SeriesUid
from medseq.archive.transfer import BATCH, file_name, instances_of, persistently, received, written
from medseq.errors import InputError, MedseqError, MedseqWarning, ResourceError
from medseq.io.dicom.opening import Header, open_header
from medseq.io.dicom.pixels import PixelReader
from medseq.io.files import atomic_write

_ADDRESS = "to.json"
_UIDS = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")


@dataclass(frozen=True)
class Sent:
    """images: that the archive has now. new: how many of them it did not have before."""

    images: int = 0
    new: int = 0

    def __add__(self, other: Sent) -> Sent:
        return Sent(self.images + other.images, self.new + other.new)


def store(paths: Sequence[Path], peer: Peer, outbox: Path, *, verify: bool = True) -> Sent:
    """Store DICOM images in an archive by way of the outbox, and return when the archive has them.

    verify: also have each image sent back and compare it. Warns with MedseqWarning of attributes that the archive
    corrects. Raises as `put` and `send`; whatever happens after `put`, the images wait for `send`.
    """
    entry = put(paths, peer, outbox)
    with _locked(outbox), _waiting(outbox):
        return _emptied(entry, peer, verify)


def put(paths: Sequence[Path], peer: Peer, outbox: Path) -> Path:
    """Copy these DICOM files into a folder of the outbox, all or none; returns that folder.

    The same files for the same archive are put there once. Raises InputError when a file is broken or no DICOM image or
    there is none, ResourceError when the outbox cannot be written.
    """
    names = {path: file_name(_opened(path).SOPInstanceUID) for path in paths}
    if not names:
        raise InputError("there is no DICOM image to store; give the files of a result")
    if twins := len(names) - len(set(names.values())):
        raise InputError(f"{twins} of {len(names)} images have the UID of another one; give each image once")
    digests = sorted(_digest(path) for path in paths)
    entry = outbox / sha256("\n".join([peer.address, peer.calling, *digests]).encode()).hexdigest()[:32]
    with written(outbox):
        outbox.mkdir(mode=0o700, parents=True, exist_ok=True)  # images of patients are nobody else's business
        with tempfile.TemporaryDirectory(prefix=".medseq-", dir=outbox) as scratch:
            staged = Path(scratch, "entry")
            staged.mkdir()
            for path, name in names.items():
                with atomic_write(staged / name) as temporary:
                    shutil.copyfile(path, temporary)
            with atomic_write(staged / _ADDRESS) as temporary:
                temporary.write_text(json.dumps({"address": peer.address, "calling": peer.calling}), encoding="utf-8")
            if not entry.exists():
                os.rename(staged, entry)
            else:  # half sent, perhaps; an archive that has those images says so
                for path in staged.iterdir():
                    os.replace(path, entry / path.name)
    return entry


def send(outbox: Path, *, limits: Limits = TRUSTED, verify: bool = True) -> Sent:
    """Send everything that waits in the outbox to where it shall go, and go on past what fails.

    verify: as in `store`. Raises the first fault once everything has been tried: InputError when an archive keeps other
    images under the same UIDs, ResourceError when one is down, does not take an image, or another process is sending.
    """
    total, faults = Sent(), []
    with _locked(outbox), _waiting(outbox):
        for entry in sorted(path for path in outbox.iterdir() if (path / _ADDRESS).exists()):
            try:
                total += _emptied(entry, _peer_of(entry, limits), verify)
            except MedseqError as fault:
                faults.append(fault)
        if faults:
            raise faults[0]
    return total


def _emptied(entry: Path, peer: Peer, verify: bool) -> Sent:
    """Send what is in a folder of the outbox, and remove it."""
    sent = Sent()
    for series, images in _by_series(entry).items():
        known = set(instances_of(peer, series))
        new = [path for instance, path in images.items() if instance not in known]
        for start in range(0, len(new), BATCH):
            batch = new[start : start + BATCH]
            persistently(partial(peer.store, batch))
        if lost := len(images.keys() - set(instances_of(peer, series))):
            raise ResourceError(f"{peer.address}: has not taken {lost} of {len(images)} images; ask its keeper why")
        if verify:
            _verify(peer, series, images, entry)
        for path in images.values():
            path.unlink(missing_ok=True)
        sent += Sent(len(images), len(new))
    shutil.rmtree(entry)
    return sent


def _verify(peer: Peer, series: SeriesUid, images: Mapping[str, Path], entry: Path) -> None:
    """Have the images sent back, and remove each that the archive has indeed."""
    results = dict.fromkeys(Kept, 0)

    def verify_waiting() -> None:
        results[Kept.OTHER] = 0
        waiting = sorted(instance for instance, path in images.items() if path.exists())
        with closing(received(peer, series, waiting, entry)) as back, PixelReader() as reader:
            for stored, found in back:
                path = images[found.SOPInstanceUID]
                kept = compare(reader, path, _opened(path), stored, found)
                results[kept] += 1
                if kept is not Kept.OTHER:
                    path.unlink()

    persistently(verify_waiting)
    if others := results[Kept.OTHER]:
        raise InputError(
            f"{peer.address}: has other images under the UIDs of {others} of these; give the new ones UIDs of their"
            " own, or have the old ones removed"
        )
    if unseen := sum(path.exists() for path in images.values()):
        raise ResourceError(f"{peer.address}: does not give back {unseen} images that it says it has; ask its keeper")
    if corrected := results[Kept.CORRECTED]:
        warnings.warn(
            f"{peer.address}: corrected attributes of {corrected} images, such as patient or study; pixels, geometry"
            " and acquisition are as sent",
            MedseqWarning,
            stacklevel=2,
        )


def _by_series(entry: Path) -> dict[SeriesUid, dict[str, Path]]:
    found: dict[SeriesUid, dict[str, Path]] = {}
    for path in sorted(entry.glob("*.dcm")):
        header = _opened(path)
        uid = SeriesUid(str(header.StudyInstanceUID), str(header.SeriesInstanceUID))
        found.setdefault(uid, {})[str(header.SOPInstanceUID)] = path
    return found


def _opened(path: Path) -> Header:
    """The header of an image that can be stored: an archive takes truncated ones without a word."""
    header = open_header(path)
    if header is None or any(not header.get(keyword) for keyword in _UIDS) or not _has_meta(path, header):
        raise InputError(f"{path}: not a complete DICOM file (PS3.10); give files that medseq or a scanner has written")
    return header


def _has_meta(path: Path, header: Header) -> bool:
    """Whether it begins as an archive expects: `open_header` also takes files without preamble, and gzipped ones."""
    with path.open("rb") as stream:
        return stream.read(132).endswith(b"DICM") and "MediaStorageSOPInstanceUID" in header.file_meta


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return file_digest(stream, "sha256").hexdigest()


def _peer_of(entry: Path, limits: Limits) -> Peer:
    try:
        to = json.loads((entry / _ADDRESS).read_text(encoding="utf-8"))
        return connect(to["address"], calling=to["calling"], limits=limits)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{entry / _ADDRESS}: does not say where to; store the result again") from error


@contextmanager
def _waiting(outbox: Path) -> Iterator[None]:
    """Say in every fault what is still there, and how to go on."""
    try:
        with written(outbox):
            yield
    except MedseqError as fault:
        count = sum(1 for _ in outbox.glob("*/*.dcm"))
        raise type(fault)(
            f"{fault}; {count} images wait: `medseq archive send --outbox {outbox}` goes on with them"
        ) from fault


@contextmanager
def _locked(outbox: Path) -> Iterator[None]:
    """Only one process sends from an outbox; the lock goes with the process, however that ends."""
    if not outbox.is_dir():
        raise InputError(f"{outbox}: no such outbox; check the name")
    with written(outbox), (outbox / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ResourceError(f"{outbox}: another process is sending from it; wait for it to end") from None
        yield
