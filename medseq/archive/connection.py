"""From the address of an archive to the peer behind it."""

from __future__ import annotations

import re
from importlib.util import find_spec
from urllib.parse import SplitResult, urlsplit

from medseq.archive.peer import TRUSTED, Limits, Peer
from medseq.errors import UsageError

# PS3.5 table 6.2-1: the value representation AE.
_TITLE = re.compile(r"[ -\[\]-~]{1,16}")


def connect(address: str, *, calling: str = "MEDSEQ", limits: Limits = TRUSTED) -> Peer:
    """The archive at an address; nothing is sent yet.

    address: https://host/dicom-web for DICOMweb, or dicom://TITLE@host:port for the classic network, whose TITLE is the
    archive's application entity title. calling: our own, which a classic archive may have to know. Credentials for
    DICOMweb come from MEDSEQ_ARCHIVE_TOKEN, from MEDSEQ_ARCHIVE_USER and MEDSEQ_ARCHIVE_PASSWORD, or from netrc.
    Raises UsageError for an address or title that is none, for credentials in the address or over plain http, and when
    the packages of the extra are missing.
    """
    if not _TITLE.fullmatch(calling) or not calling.strip():
        raise UsageError("the calling title has 1 to 16 printable ASCII characters; shorten it")
    parts, port = _split(address)
    if parts.scheme in {"http", "https"}:
        if "@" in parts.netloc:
            # The address itself is not repeated: it holds a password.
            raise UsageError("an address with credentials ends up in logs; set MEDSEQ_ARCHIVE_USER and _PASSWORD")
        _need("requests")
        from medseq.archive.web import WebArchive

        return WebArchive(address, calling, limits)
    if parts.scheme != "dicom" or port is None or not parts.username or not _TITLE.fullmatch(parts.username):
        raise UsageError(f"{address}: is no address; write https://host/dicom-web or dicom://TITLE@host:port")
    _need("pynetdicom")
    from medseq.archive.network import NetworkArchive

    return NetworkArchive(address, parts.username, str(parts.hostname), port, calling, limits)


def _split(address: str) -> tuple[SplitResult, int | None]:
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        raise UsageError("the address is none; write https://host/dicom-web or dicom://TITLE@host:port") from None
    if not parts.hostname:
        raise UsageError("the address names no host; write https://host/dicom-web or dicom://TITLE@host:port")
    return parts, port


def _need(package: str) -> None:
    if find_spec(package) is None:
        raise UsageError(f"archives need the package {package}; install it with: pip install medseq[archive]")
