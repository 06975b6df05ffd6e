"""DICOMweb (PS3.18): queries by QIDO-RS, files out by WADO-RS, files in by STOW-RS.

On requests rather than on dicomweb-client, which holds every answer in memory and parses and writes each file again:
here files stream between disk and network, byte by byte as they are, and an answer without an end is cut off.
"""

from __future__ import annotations

import ipaddress
import json
import mmap
import os
import re
import secrets
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

from pydicom.datadict import tag_for_keyword

from medseq.archive.peer import Level, Limits, SeriesUid, too_large, too_many, within
from medseq.errors import InputError, MedseqError, ResourceError, UsageError

if TYPE_CHECKING:  # an extra: imported where it is used
    import requests

    _Auth = Callable[[requests.PreparedRequest], requests.PreparedRequest]

_CHUNK = 2**20
_PAGE = 1000
_HEAD = 2**14  # bytes in which the headers of a part must end
_SOCKET_SECONDS = 30.0
_RETRY_LATER = {408, 429}
_PATHS: dict[Level, str] = {
    "STUDY": "studies",
    "SERIES": "studies/{StudyInstanceUID}/series",
    "IMAGE": "studies/{StudyInstanceUID}/series/{SeriesInstanceUID}/instances",
}


class WebArchive:
    """An archive behind a DICOMweb address, such as https://host/dicom-web. See `Peer`."""

    def __init__(self, address: str, calling: str, limits: Limits) -> None:
        import requests

        self.address = address.rstrip("/")
        self.calling = calling
        self._limits = limits
        self._session = requests.Session()
        self._session.auth = _credentials(self.address)
        self._patience = min(_SOCKET_SECONDS, limits.seconds)
        self._session.max_redirects = 0  # credentials and images go where the user said, nowhere else
        self._session.headers["Accept-Encoding"] = "identity"  # no bodies that grow when they are unpacked

    def search(self, level: Level, keys: Mapping[str, str]) -> list[dict[str, str]]:
        """QIDO-RS (PS3.18 section 10.6), page by page."""
        path = _PATHS[level].format_map(keys)
        filters = {keyword: text for keyword, text in keys.items() if text and f"{{{keyword}}}" not in _PATHS[level]}
        found: list[dict[str, str]] = []
        while True:
            window = {"limit": str(_PAGE), "offset": str(len(found))}
            answer = self._json(path, filters | window | {"includefield": ",".join(keys)})
            with self._translated():
                page = [_row(item, keys) for item in answer]
            # The end; or a server that knows no pages and begins again.
            if not page or page[0] in found:
                return found
            found += page
            if len(found) > self._limits.matches:
                raise too_many(self.address, self._limits)

    def fetch(self, series: SeriesUid, instances: Sequence[str], folder: Path) -> Generator[Path, None, None]:
        """WADO-RS (PS3.18 section 10.4), one instance a request, in the transfer syntax that the archive keeps."""
        for number, instance in enumerate(instances):
            path = f"studies/{series.study}/series/{series.series}/instances/{instance}"
            body, target = folder / f"{number}.body", folder / f"{number}.dcm"
            boundary = within(self._limits.seconds, partial(self._download, path, body), self.address)
            with self._translated():
                _only_part(body, boundary, target)
            body.unlink()
            yield target

    def store(self, paths: Sequence[Path]) -> None:
        """STOW-RS (PS3.18 section 10.5). Which instances were taken is left to a query."""
        boundary = secrets.token_hex(16)
        headers = {
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Accept": "application/dicom+json",
        }

        def post() -> None:
            with self._translated():
                url = f"{self.address}/studies"
                parts = _parts(paths, boundary)
                with self._session.post(url, parts, headers=headers, timeout=self._patience, stream=True) as response:
                    if response.status_code != 409:  # some were refused; the query will say which
                        response.raise_for_status()

        within(self._limits.seconds, post, self.address)

    def _json(self, path: str, parameters: Mapping[str, str]) -> list[Any]:
        def get() -> list[Any]:
            with self._translated(), self._get(path, "application/dicom+json", parameters) as response:
                body = bytearray()
                for chunk in self._chunks(response):
                    body += chunk
                answer = json.loads(body) if response.status_code != 204 and body else []
                return answer if isinstance(answer, list) else [answer]

        return within(self._limits.seconds, get, self.address)

    def _download(self, path: str, target: Path) -> bytes:
        """The body of an answer into a file; returns what separates its parts."""
        accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        with self._translated(), self._get(path, accept, {}) as response:
            found = re.search(r'boundary="?([^";]+)"?', response.headers.get("Content-Type", ""))
            if found is None:
                raise ValueError("not multipart")
            with target.open("wb") as stream:
                for chunk in self._chunks(response):
                    stream.write(chunk)
        return found[1].encode("ascii")

    @contextmanager
    def _get(self, path: str, accept: str, parameters: Mapping[str, str]) -> Iterator[requests.Response]:
        # Wildcards and commas may stand in a query as they are (RFC 3986), and some archives only take them so.
        query = urlencode(parameters, safe="*?,", quote_via=quote)
        url, headers = f"{self.address}/{path}", {"Accept": accept}
        with self._session.get(url, params=query, headers=headers, timeout=self._patience, stream=True) as response:
            response.raise_for_status()
            yield response

    def _chunks(self, response: requests.Response) -> Iterator[bytes]:
        size = 0
        for chunk in response.iter_content(_CHUNK):
            size += len(chunk)
            if size > self._limits.bytes:
                raise too_large(self.address, self._limits)
            yield chunk

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Everything that a server or the way to it can do wrong, as one line that repeats none of its words."""
        import requests

        try:
            yield
        except MedseqError:
            raise
        except requests.HTTPError as error:
            raise self._refusal(error.response) from None
        except requests.TooManyRedirects:
            raise InputError(f"{self.address}: redirects elsewhere; give the address it redirects to") from None
        except requests.exceptions.SSLError:
            raise ResourceError(
                f"{self.address}: its certificate cannot be verified; name your authority's file in REQUESTS_CA_BUNDLE"
            ) from None
        except requests.exceptions.InvalidURL:
            raise UsageError(f"{self.address}: is no address; write https://host/dicom-web") from None
        except requests.RequestException:
            raise ResourceError(f"{self.address}: cannot be reached; check the address and the network") from None
        except OSError as error:
            raise ResourceError(
                f"{self.address}: its files cannot be kept ({error.strerror}); check the disk"
            ) from None
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            raise InputError(f"{self.address}: does not answer in DICOMweb; check the address") from None

    def _refusal(self, response: requests.Response | None) -> MedseqError:
        status = 0 if response is None else response.status_code
        if status in {401, 403}:
            return ResourceError(
                f"{self.address}: refuses us (HTTP {status}); set MEDSEQ_ARCHIVE_TOKEN, or MEDSEQ_ARCHIVE_USER and"
                " MEDSEQ_ARCHIVE_PASSWORD, or write ~/.netrc"
            )
        if status >= 500 or status in _RETRY_LATER:
            return ResourceError(f"{self.address}: is in trouble (HTTP {status}); try again later")
        return InputError(f"{self.address}: refuses the request (HTTP {status}); check the address and what is asked")


def _credentials(address: str) -> _Auth | None:
    """From the environment, else from netrc: command lines and addresses end up in logs."""
    from requests.auth import HTTPBasicAuth
    from requests.utils import get_netrc_auth

    def bear(request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {token}"  # RFC 6750
        return request

    parts = urlsplit(address)
    if token := os.environ.get("MEDSEQ_ARCHIVE_TOKEN"):
        found: _Auth | None = bear
    elif user := os.environ.get("MEDSEQ_ARCHIVE_USER"):
        found = HTTPBasicAuth(user, os.environ.get("MEDSEQ_ARCHIVE_PASSWORD", ""))
    else:
        login = get_netrc_auth(address)
        found = HTTPBasicAuth(*login) if login else None
    if found and parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
        raise UsageError(f"{address}: credentials go over https only; write https://")
    return found


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _row(item: dict[str, Any], keys: Mapping[str, str]) -> dict[str, str]:
    """The DICOM JSON model (PS3.18 annex F), first values only."""
    row = {}
    for keyword in keys:
        values = item.get(f"{tag_for_keyword(keyword):08X}", {}).get("Value") or [""]
        row[keyword] = "" if values[0] is None else str(values[0])
    return row


def _only_part(body: Path, boundary: bytes, target: Path) -> None:
    """The content of a multipart message (RFC 2046 section 5.1) of one part. Raises ValueError for any other."""
    mark = b"--" + boundary
    with body.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as message:
        opening = message.find(mark, 0, _HEAD)
        start = message.find(b"\r\n\r\n", opening, opening + _HEAD) + 4
        end = message.find(b"\r\n" + mark, start)
        after = end + 2 + len(mark)
        if opening < 0 or start < 4 or end < 0 or message[after : after + 2] != b"--":
            raise ValueError("not one whole part")
    os.truncate(body, end)
    with body.open("rb") as stream, target.open("wb") as content:
        stream.seek(start)
        shutil.copyfileobj(stream, content, _CHUNK)


def _parts(paths: Sequence[Path], boundary: str) -> Iterator[bytes]:
    for path in paths:
        yield f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                yield chunk
        yield b"\r\n"
    yield f"--{boundary}--\r\n".encode()
