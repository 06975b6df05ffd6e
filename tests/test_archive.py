"""Archives against a real one: what comes back from Orthanc is what was sent, once, whatever fails in between."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pydicom
import pytest
from dicom_scanner import scan
from orthanc import Orthanc, assert_same, datasets, fetched, images, series_of

from medseq.archive import Peer, Query, Sent, SeriesUid, connect, fetch, find, send, store
from medseq.errors import InputError, ResourceError, UsageError

VENDORS = [
    ("siemens", "cine", "explicit"),
    ("ge", "bold", "implicit"),
    ("philips-enhanced", "bold", "explicit"),
    ("canon", "cine", "rle"),
    ("uih", "bold", "deflated"),
    ("siemens-mosaic", "bold", "big"),
]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medseq.archive.transfer.WAITS", (0.01, 0.01))


@pytest.fixture(params=["web", "network"])
def peer(request: pytest.FixtureRequest, orthanc: Orthanc) -> Peer:
    """The same archive by both protocols."""
    return connect(getattr(orthanc, request.param))


@pytest.mark.parametrize(("vendor", "kind", "encoding"), VENDORS)
def test_what_was_stored_comes_back_with_all_tags_and_pixels(
    peer: Peer, orthanc: Orthanc, tmp_path: Path, vendor: str, kind: str, encoding: str
) -> None:
    scan(tmp_path / "scan", vendor, kind, slices=1, frames=2, encoding=encoding)
    sent = images(tmp_path / "scan")
    assert store(sent, peer, tmp_path / "outbox") == Sent(len(sent), len(sent))
    assert len(orthanc.holdings()) == len(sent)
    assert_same(sent, fetched(peer, sent, tmp_path / "back"))
    assert [path.name for path in (tmp_path / "outbox").iterdir()] == [".lock"]


def test_real_series_come_back_with_all_tags_and_pixels(peer: Peer, real_data: Path, tmp_path: Path) -> None:
    """GE, Siemens mosaics and Philips, with their private tags."""
    study = real_data / "dcm_qa_nih" / "In"
    sent = [
        *sorted((study / "20180918GE").glob("*/*-00001.dcm"))[:1],
        *sorted((study / "20180918Si").glob("*/*.dcm"))[:1],
        *sorted((real_data / "fmri_rest_dicom").glob("*.dcm"))[:1],
    ]
    assert len(sent) == 3
    store(sent, peer, tmp_path / "outbox")
    assert_same(sent, fetched(peer, sent, tmp_path / "back"))


COMPRESSED = ("emri_small_jpeg_ls_lossless", "MR2_J2KR")


def test_files_stay_in_the_transfer_syntax_that_they_have(peer: Peer, real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "badinput"
    for name in COMPRESSED:
        (sent,) = folder.glob(f"pydicom*/**/{name}.dcm")
        store([sent], peer, tmp_path / "outbox")
        (back,) = fetched(peer, [sent], tmp_path / name)
        one, other = pydicom.dcmread(sent), pydicom.dcmread(back)
        assert one.file_meta.TransferSyntaxUID == other.file_meta.TransferSyntaxUID
        # Data Set Trailing Padding says nothing, and comes after everything.
        assert values(one) == values(other)


def values(dataset: pydicom.Dataset) -> dict[int, object]:
    """Of every element but the padding after the last, which C-STORE drops. Their VR may be put right."""
    return {element.tag: element.value for element in dataset if element.keyword != "DataSetTrailingPadding"}


def test_an_image_cut_short_is_not_sent(peer: Peer, orthanc: Orthanc, real_data: Path, tmp_path: Path) -> None:
    """Orthanc would take it without a word."""
    (sent,) = (real_data / "badinput").glob("pydicom*/**/MR_truncated.dcm")
    with pytest.raises(InputError, match="truncated"):
        store([sent], peer, tmp_path / "outbox")
    assert orthanc.holdings() == [] and not (tmp_path / "outbox").exists()


def test_dicomweb_changes_no_byte(orthanc: Orthanc, tmp_path: Path) -> None:
    scan(tmp_path / "scan", "philips-enhanced", "bold")
    (sent,) = images(tmp_path / "scan")
    peer = connect(orthanc.web)
    store([sent], peer, tmp_path / "outbox")
    (back,) = fetched(peer, [sent], tmp_path / "back")
    (name,) = orthanc.ask("/instances")
    assert sent.read_bytes() == back.read_bytes() == orthanc.ask(f"/instances/{name}/file")


def test_a_second_store_sends_nothing_and_changes_nothing(peer: Peer, orthanc: Orthanc, tmp_path: Path) -> None:
    scan(tmp_path / "scan", slices=1, frames=3)
    sent = images(tmp_path / "scan")
    store(sent, peer, tmp_path / "outbox")
    before = orthanc.holdings()
    assert store(sent, peer, tmp_path / "outbox") == Sent(images=3, new=0)
    assert orthanc.holdings() == before


def test_both_protocols_see_the_same_archive(orthanc: Orthanc, tmp_path: Path) -> None:
    scan(tmp_path / "one", "ge", "bold", slices=1, frames=2, name="one", number=3)
    scan(tmp_path / "two", "philips", "bold", slices=1, frames=2, name="two", number=9)
    web, network = connect(orthanc.web), connect(orthanc.network)
    store(images(tmp_path / "one"), web, tmp_path / "outbox")
    store(images(tmp_path / "two"), network, tmp_path / "outbox")
    for path, number in ((tmp_path / "one", 3), (tmp_path / "two", 9)):
        header = pydicom.dcmread(images(path)[0])
        for query in (
            Query(study=header.StudyInstanceUID),
            Query(patient=header.PatientID, date=header.StudyDate),
            Query(accession=header.AccessionNumber, study=header.StudyInstanceUID, modality="M?"),
        ):
            found = find(web, query)
            assert found == find(network, query)
            assert SeriesUid(header.StudyInstanceUID, header.SeriesInstanceUID) in [series.uid for series in found]
            assert number in [series.number for series in found]
            assert header.SeriesDescription in [series.description for series in found]
    assert find(web, Query(date="19000101")) == find(network, Query(date="19000101")) == []
    assert find(web, Query(study=header.StudyInstanceUID, modality="CT")) == []


def test_an_independent_client_finds_the_same(orthanc: Orthanc, tmp_path: Path) -> None:
    dicomweb = pytest.importorskip("dicomweb_client", reason="dicomweb-client is not installed")
    scan(tmp_path / "scan", slices=2, frames=2)
    sent = images(tmp_path / "scan")
    store(sent, connect(orthanc.web), tmp_path / "outbox")
    client = dicomweb.DICOMwebClient(orthanc.web)
    found = {SeriesUid(row["0020000D"]["Value"][0], row["0020000E"]["Value"][0]) for row in client.search_for_series()}
    assert found == set(series_of(sent))
    back = [instance for uid in found for instance in client.retrieve_series(uid.study, uid.series)]
    assert {instance.SOPInstanceUID: instance for instance in back} == datasets(sent)


def test_more_than_a_page_of_matches_is_found(
    orthanc: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan(tmp_path / "scan", slices=1, frames=7)
    sent = images(tmp_path / "scan")
    peer = connect(orthanc.web)
    store(sent, peer, tmp_path / "outbox")
    monkeypatch.setattr("medseq.archive.web._PAGE", 3)
    assert len(fetched(peer, sent, tmp_path / "back")) == 7


def test_a_fetch_goes_on_where_it_stopped(peer: Peer, orthanc: Orthanc, tmp_path: Path) -> None:
    scan(tmp_path / "scan", slices=1, frames=3)
    sent = images(tmp_path / "scan")
    store(sent, peer, tmp_path / "outbox")
    first, *others = fetched(peer, sent, tmp_path / "back")
    first.unlink()
    stamps = [path.stat().st_mtime_ns for path in others]
    fetched(peer, sent, tmp_path / "back")
    assert [path.stat().st_mtime_ns for path in others] == stamps
    assert_same(sent, images(tmp_path / "back"))


def test_what_the_archive_lacks_is_named(peer: Peer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no such series"):
        fetch(peer, SeriesUid("1.2.3", "1.2.4"), tmp_path / "back")
    with pytest.raises(UsageError, match="asks for every study"):
        find(peer, Query())


# pynetdicom drops the socket of a refused connection without closing it.
refused = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@refused
def test_an_archive_that_is_down_loses_nothing(orthanc: Orthanc, tmp_path: Path, peer: Peer) -> None:
    scan(tmp_path / "scan", slices=1, frames=3)
    sent, outbox = images(tmp_path / "scan"), tmp_path / "outbox"
    orthanc.kill()
    try:
        with pytest.raises(ResourceError, match=r"3 images wait: `medseq archive send --outbox .*outbox`") as fault:
            store(sent, peer, outbox)
        assert "\n" not in str(fault.value)
        with pytest.raises(ResourceError, match="3 images wait"):
            send(outbox)
    finally:
        orthanc.start()
    for path in sent:
        path.unlink()  # what waits is a copy
    assert send(outbox) == Sent(images=3, new=3)
    assert send(outbox) == Sent()
    assert len(orthanc.holdings()) == 3


class Dying:
    """A peer whose archive is killed when it has half of the images."""

    def __init__(self, peer: Peer, archive: Orthanc) -> None:
        self.address, self.calling = peer.address, peer.calling
        self.search, self.fetch = peer.search, peer.fetch
        self._peer, self._archive = peer, archive

    def store(self, paths: Sequence[Path]) -> None:
        self._peer.store(paths[: len(paths) // 2])
        self._archive.kill()
        self._peer.store(paths)


@refused
def test_an_archive_killed_in_the_middle_of_a_store_ends_with_everything_once(
    orthanc: Orthanc, tmp_path: Path, peer: Peer
) -> None:
    scan(tmp_path / "scan", slices=1, frames=4)
    sent, outbox = images(tmp_path / "scan"), tmp_path / "outbox"
    try:
        with pytest.raises(ResourceError, match="4 images wait"):
            store(sent, Dying(peer, orthanc), outbox)
    finally:
        orthanc.start()
    assert 0 < len(orthanc.holdings()) < 4
    result = send(outbox)
    assert result.images == 4 and 0 < result.new < 4
    assert [uid for uid, _ in orthanc.holdings()] == sorted(datasets(sent))
    assert_same(sent, fetched(peer, sent, tmp_path / "back"))


def test_a_sender_killed_in_the_middle_of_a_store_ends_with_everything_once(orthanc: Orthanc, tmp_path: Path) -> None:
    scan(tmp_path / "scan", slices=1, frames=4)
    sent, outbox = images(tmp_path / "scan"), tmp_path / "outbox"
    script = """
import os, signal, sys
from pathlib import Path
from medseq.archive import connect, store
peer = connect(sys.argv[1])
whole = peer.store
def half(paths):
    whole(paths[:3])
    os.kill(os.getpid(), signal.SIGKILL)
peer.store = half
store(sorted(Path(sys.argv[2]).iterdir()), peer, Path(sys.argv[3]))
"""
    words = [sys.executable, "-c", script, orthanc.web, str(tmp_path / "scan"), str(outbox)]
    assert subprocess.run(words, timeout=60).returncode == -9
    assert len(orthanc.holdings()) == 3
    assert send(outbox) == Sent(images=4, new=1)
    assert [uid for uid, _ in orthanc.holdings()] == sorted(datasets(sent))


def test_other_pixels_under_a_uid_that_the_archive_has_are_not_called_stored(
    peer: Peer, orthanc: Orthanc, tmp_path: Path
) -> None:
    """Orthanc answers with success and keeps the first: only looking tells."""
    scan(tmp_path / "scan", slices=1, frames=3)
    sent, outbox = images(tmp_path / "scan"), tmp_path / "outbox"
    store(sent, peer, outbox)
    before = orthanc.holdings()
    dataset = pydicom.dcmread(sent[0])
    dataset.PixelData = bytes(reversed(dataset.PixelData))
    dataset.save_as(sent[0])
    with pytest.raises(InputError, match=r"other images under the UIDs of 1 .* 1 images wait"):
        store(sent, peer, outbox)
    assert orthanc.holdings() == before


def test_a_kind_of_image_that_no_context_was_accepted_for_is_named(orthanc: Orthanc, tmp_path: Path) -> None:
    """A private transfer syntax: no archive knows it."""
    scan(tmp_path / "scan", slices=1, frames=2)
    first, second = images(tmp_path / "scan")
    dataset = pydicom.dcmread(second)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID("1.2.3.4.5.6")
    dataset.save_as(second, implicit_vr=False, little_endian=True)
    with pytest.raises(InputError, match="does not take this kind of image"):
        connect(orthanc.network).store([first, second])
