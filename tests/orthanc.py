"""A real archive for tests: Orthanc with its DICOMweb plugin (Debian: orthanc, orthanc-dicomweb).

It runs on free ports of this machine and in a temporary folder. Older than its latest security fixes: a peer for tests,
never an archive for patients.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from medseq.archive import Peer, SeriesUid, fetch

PROGRAM = shutil.which("Orthanc", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


class Orthanc:
    """An archive that can be killed and started again without losing what it has."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._http, self._dicom = free_port(), free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def web(self) -> str:
        return f"http://127.0.0.1:{self._http}/dicom-web"

    @property
    def network(self) -> str:
        return f"dicom://ORTHANC@127.0.0.1:{self._dicom}"

    def start(self) -> None:
        """Return once it answers."""
        settings = self._folder / "orthanc.json"
        settings.write_text(json.dumps(self._settings()))
        words = [str(PROGRAM), str(settings)]
        self._process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(200):
            try:
                self.ask("/system")
                return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError("Orthanc did not start within 10 s")

    def kill(self) -> None:
        """As when the power goes."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def ask(self, path: str, method: str = "GET") -> Any:
        """Its own interface, which medseq does not use: an account of what it has that is none of ours."""
        request = urllib.request.Request(f"http://127.0.0.1:{self._http}{path}", method=method)
        with urllib.request.urlopen(request, timeout=10) as response:
            body = response.read()
        return json.loads(body) if response.headers.get_content_type() == "application/json" else body

    def holdings(self) -> list[tuple[str, str]]:
        """(SOP Instance UID, MD5 of the stored file) of everything it has, sorted."""
        return sorted(
            (
                self.ask(f"/instances/{name}")["MainDicomTags"]["SOPInstanceUID"],
                self.ask(f"/instances/{name}/attachments/dicom/md5").decode(),
            )
            for name in self.ask("/instances")
        )

    def clear(self) -> None:
        for name in self.ask("/patients"):
            self.ask(f"/patients/{name}", method="DELETE")

    def _settings(self) -> dict[str, object]:
        return {
            "StorageDirectory": str(self._folder / "storage"),
            "IndexDirectory": str(self._folder / "storage"),
            "HttpPort": self._http,
            "DicomPort": self._dicom,
            "DicomAet": "ORTHANC",
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomAlwaysAllowFind": True,
            "DicomAlwaysAllowGet": True,
            "DicomAlwaysAllowStore": True,
            "Plugins": [str(PLUGIN)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def running_orthanc(folder: Path) -> Iterator[Orthanc]:
    """An archive until the block ends. Skips the test, saying why, where Orthanc or its DICOMweb is not installed."""
    if PROGRAM is None or not PLUGIN.exists():
        pytest.skip("Orthanc with DICOMweb is not installed (Debian: orthanc orthanc-dicomweb)")
    archive = Orthanc(folder)
    try:
        archive.start()
        yield archive
    finally:
        archive.kill()


def images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def series_of(paths: Sequence[Path]) -> list[SeriesUid]:
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]
    return sorted({SeriesUid(h.StudyInstanceUID, h.SeriesInstanceUID) for h in headers}, key=str)


def fetched(peer: Peer, paths: Sequence[Path], folder: Path) -> list[Path]:
    return [path for series in series_of(paths) for path in fetch(peer, series, folder)]


def datasets(paths: Sequence[Path]) -> dict[str, pydicom.Dataset]:
    found = {str(dataset.SOPInstanceUID): dataset for dataset in map(pydicom.dcmread, paths)}
    assert len(found) == len(paths)
    return found


def assert_same(sent: Sequence[Path], back: Sequence[Path]) -> None:
    """Every tag and every pixel; only the file meta information may differ."""
    one, other = datasets(sent), datasets(back)
    assert one.keys() == other.keys()
    for uid, dataset in one.items():
        assert dataset == other[uid]  # pydicom compares every element, PixelData and private ones among them
        assert np.array_equal(dataset.pixel_array, other[uid].pixel_array)
