"""The classic DICOM network (PS3.7, PS3.8): queries by C-FIND, files out by C-GET, files in by C-STORE.

C-GET and not C-MOVE, which makes the archive call back to a port of ours that it must know beforehand.
"""

from __future__ import annotations

import socket
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING, Any

from pydicom import Dataset, dcmread
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    EnhancedMRColorImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    LegacyConvertedEnhancedMRImageStorage,
    MRImageStorage,
    ParametricMapStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from medseq.archive.peer import Level, Limits, SeriesUid, too_large, too_many, unasked
from medseq.errors import InputError, ResourceError
from medseq.io.dicom.values import dicom_faults_named, quiet, text

if TYPE_CHECKING:  # an extra: imported where it is used
    from pynetdicom.association import Association
    from pynetdicom.events import Event

_FIND = UID("1.2.840.10008.5.1.4.1.2.2.1")  # Study Root Query/Retrieve Information Model
_GET = UID("1.2.840.10008.5.1.4.1.2.2.3")
_SOCKET_SECONDS = 30.0
_GOING_ON = {0xFF00, 0xFF01}
_DONE = {0x0000, 0xB000}  # the latter: but some images could not be sent
_RETRIEVED = (
    MRImageStorage,
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    EnhancedMRColorImageStorage,
    ParametricMapStorage,
    SecondaryCaptureImageStorage,
)
_SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    JPEG2000Lossless,
    JPEG2000,
    RLELossless,
)


class NetworkArchive:
    """An archive behind a host, a port and an application entity title of its own. See `Peer`."""

    def __init__(self, address: str, title: str, host: str, port: int, calling: str, limits: Limits) -> None:
        self.address = address
        self.calling = calling
        self._peer = (host, port, title)
        self._limits = limits

    def search(self, level: Level, keys: Mapping[str, str]) -> list[dict[str, str]]:
        """C-FIND in the Study Root model (PS3.4 section C.6.2)."""
        found: list[dict[str, str]] = []
        with self._association([(_FIND, ImplicitVRLittleEndian)], _Inbox(self.address, self._limits)) as association:
            for status, match in association.send_c_find(_identifier(level, keys), _FIND):
                self._check(status)
                if match is not None:
                    with dicom_faults_named(self.address):
                        found.append({keyword: text(match, keyword) or "" for keyword in keys})
                if len(found) > self._limits.matches:
                    association.abort()
                    raise too_many(self.address, self._limits)
        return found

    def fetch(self, series: SeriesUid, instances: Sequence[str], folder: Path) -> Generator[Path, None, None]:
        """C-GET of a list of instances (PS3.4 section C.4.3)."""
        keys = {
            "StudyInstanceUID": series.study,
            "SeriesInstanceUID": series.series,
            "SOPInstanceUID": "\\".join(instances),
        }
        services = [(_GET, ImplicitVRLittleEndian), *product(_RETRIEVED, _SYNTAXES)]
        inbox = _Inbox(self.address, self._limits, folder, len(instances))
        with self._association(services, inbox) as association:
            for status, _ in association.send_c_get(_identifier("IMAGE", keys), _GET):
                yield from inbox.taken()
                self._check(status)

    def store(self, paths: Sequence[Path]) -> None:
        """C-STORE, each file in the transfer syntax that it has (PS3.4 annex B)."""
        kinds = {(meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID) for meta in map(_meta, paths)}
        with self._association(sorted(kinds), _Inbox(self.address, self._limits)) as association:
            for path in paths:
                try:
                    status = association.send_c_store(path)
                except ValueError:  # pynetdicom's, for a context that was not accepted
                    raise InputError(
                        f"{self.address}: does not take this kind of image or its transfer syntax; try its DICOMweb"
                    ) from None
                # What the status says is left to a query, as with DICOMweb: what counts is what the archive has.
                if "Status" not in status:
                    raise self._silent()

    @contextmanager
    def _association(self, services: Sequence[tuple[UID, UID]], inbox: _Inbox) -> Iterator[Association]:
        """services: SOP classes, each with a transfer syntax. Images come in when the inbox has a folder for them."""
        from pynetdicom import AE, _config, build_context, build_role

        # Files go out as they are on disk, never parsed and written again. (Received ones would so lie in the system's
        # folder of temporary files, for anybody to find; they come through memory.)
        _config.STORE_SEND_CHUNKED_DATASET = True
        host, port, title = self._peer
        # A context for each pair: of several syntaxes in one an archive picks one, and converts or drops the rest.
        contexts = [build_context(service, syntax) for service, syntax in services]
        roles = [build_role(kind, scp_role=True) for kind in _RETRIEVED] if inbox.folder else []
        entity = AE(self.calling)
        patience = min(_SOCKET_SECONDS, self._limits.seconds)
        entity.connection_timeout = entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = patience
        association = entity.associate(
            host, port, contexts, ae_title=title, ext_neg=list(roles), evt_handlers=inbox.handlers
        )
        if not association.is_established:
            raise ResourceError(
                f"{self.address}: no association; check address, titles, and whether the archive knows and permits"
                f" {self.calling!r}"
            )
        # The timeouts above start again with every byte.
        watchdog = Timer(self._limits.seconds, association.abort)
        watchdog.daemon = True
        watchdog.start()
        try:
            yield association
            association.release()
        except BaseException:
            association.abort()
            raise
        finally:
            watchdog.cancel()
            inbox.raise_fault()

    def _check(self, status: Dataset) -> None:
        """An answer to a query or a retrieval: none, one of many, the last one, or a refusal (PS3.4 annex C)."""
        if "Status" not in status:
            raise self._silent()
        if status.Status not in _GOING_ON | _DONE:
            raise ResourceError(f"{self.address}: refuses the request (status 0x{status.Status:04X}); ask its keeper")

    def _silent(self) -> ResourceError:
        return ResourceError(f"{self.address}: broke off or fell silent; try again later")


class _Inbox:
    """What comes in over one association: counted, cut off when there is no end to it, and kept in `folder`."""

    def __init__(self, address: str, limits: Limits, folder: Path | None = None, expected: int = 0) -> None:
        self.folder = folder
        self._address = address
        self._limits = limits
        self._expected = expected
        self._size = 0
        self._number = 0
        self._waiting: list[Path] = []
        self._fault: Exception | None = None

    @property
    def handlers(self) -> list[Any]:
        """What pynetdicom shall call, and when."""
        from pynetdicom import evt

        return [
            (evt.EVT_CONN_OPEN, _send_at_once),
            (evt.EVT_DATA_RECV, self._count),
            (evt.EVT_C_STORE, self._keep),
        ]

    def taken(self) -> list[Path]:
        """What has come since the last call."""
        waiting, self._waiting = self._waiting, []
        return waiting

    def raise_fault(self) -> None:
        """What went wrong in a handler, where an exception would only be logged."""
        if isinstance(self._fault, OSError):
            raise ResourceError(f"{self._address}: its files cannot be kept ({self._fault.strerror}); check the disk")
        if self._fault is not None:
            raise self._fault

    def _count(self, event: Event) -> None:
        self._size += len(event.data)
        if self._size > self._limits.bytes:
            self._stop(event, too_large(self._address, self._limits))

    def _keep(self, event: Event) -> int:
        """Answer a C-STORE request: 0x0000 is success, 0xA700 out of resources (PS3.4 table B.2-1)."""
        self._size = 0
        self._number += 1
        if self.folder is None or self._number > self._expected:
            self._stop(event, unasked(self._address))
            return 0xA700
        try:
            path = self.folder / f"{self._number}.dcm"
            path.write_bytes(event.encoded_dataset())
            self._waiting.append(path)
        except OSError as error:
            self._stop(event, error)
            return 0xA700
        return 0x0000

    def _stop(self, event: Event, fault: Exception) -> None:
        self._fault = fault
        event.assoc.abort()


def _send_at_once(event: Event) -> None:
    """No waiting for more to send (Nagle): with the other side's delayed acknowledgement it takes 40 ms an image."""
    connection = event.assoc.dul.socket
    if connection is not None and connection.socket is not None:
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _identifier(level: Level, keys: Mapping[str, str]) -> Dataset:
    query = Dataset()
    query.QueryRetrieveLevel = level
    with quiet():  # wildcards are not values that an attribute may have
        for keyword, value in keys.items():
            setattr(query, keyword, value)
    return query


def _meta(path: Path) -> Dataset:
    return dcmread(path, specific_tags=[], stop_before_pixels=True).file_meta
