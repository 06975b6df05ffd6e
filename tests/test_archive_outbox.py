"""The outbox against archives that lose, change, or withhold what they are sent."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path

import pydicom
import pytest
from dicom_scanner import scan

from medseq.archive import Sent, SeriesUid, put, send, store
from medseq.archive.comparison import Kept, compare
from medseq.errors import InputError, MedseqWarning, ResourceError
from medseq.io.dicom.opening import open_header
from medseq.io.dicom.pixels import PixelReader


class Shelf:
    """An archive in a folder that does to each image what it is told when it is stored."""

    address, calling = "https://shelf/dicom-web", "MEDSEQ"

    def __init__(self, folder: Path, change: Callable[[pydicom.Dataset], None] = lambda _: None) -> None:
        folder.mkdir()
        self._folder, self._change = folder, change
        self.lost: set[str] = set()
        self.withheld: set[str] = set()
        self.stored = 0

    def search(self, level: str, keys: Mapping[str, str]) -> list[dict[str, str]]:
        return [{"SOPInstanceUID": path.name} for path in self._folder.iterdir()]

    def fetch(self, series: SeriesUid, instances: Sequence[str], folder: Path) -> Generator[Path, None, None]:
        for instance in set(instances) - self.withheld:
            yield Path(shutil.copy(self._folder / instance, folder / instance))

    def store(self, paths: Sequence[Path]) -> None:
        for path in paths:
            dataset = pydicom.dcmread(path)
            self.stored += 1
            if dataset.SOPInstanceUID not in self.lost:
                self._change(dataset)
                dataset.save_as(self._folder / dataset.SOPInstanceUID)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medseq.archive.transfer.WAITS", (0.01, 0.01))


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    scan(tmp_path / "scan", slices=1, frames=3)
    return sorted((tmp_path / "scan").iterdir())


def waiting(outbox: Path) -> int:
    return len(list(outbox.rglob("*.dcm")))


def test_what_was_stored_waits_no_longer(images: list[Path], tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "shelf")
    assert store(images, shelf, tmp_path / "outbox") == Sent(3, 3)
    assert waiting(tmp_path / "outbox") == 0 and shelf.stored == 3
    assert store(images, shelf, tmp_path / "outbox") == Sent(3, 0) and shelf.stored == 3


def test_an_image_that_the_archive_lost_waits(images: list[Path], tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "shelf")
    shelf.lost = {pydicom.dcmread(images[1]).SOPInstanceUID}
    with pytest.raises(ResourceError, match="has not taken 1 of 3 images"):
        store(images, shelf, tmp_path / "outbox")
    shelf.lost.clear()
    assert store(images, shelf, tmp_path / "outbox") == Sent(3, 1) and waiting(tmp_path / "outbox") == 0


def test_an_image_that_the_archive_withholds_waits(images: list[Path], tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "shelf")
    shelf.withheld = {pydicom.dcmread(images[1]).SOPInstanceUID}
    with pytest.raises(ResourceError, match=r"does not give back 1 images .* 1 images wait"):
        store(images, shelf, tmp_path / "outbox")
    assert waiting(tmp_path / "outbox") == 1
    assert store(images, shelf, tmp_path / "other", verify=False) == Sent(3, 0)  # its word is taken for it
    shelf.withheld.clear()
    assert store(images, shelf, tmp_path / "outbox") == Sent(3, 0) and waiting(tmp_path / "outbox") == 0


def shifted(dataset: pydicom.Dataset) -> None:
    dataset.ImagePositionPatient = [1, 2, 3]


def another_pixel(dataset: pydicom.Dataset) -> None:
    dataset.PixelData = dataset.PixelData[:-2] + b"\x01\x02"


def another_time(dataset: pydicom.Dataset) -> None:
    dataset.TriggerTime = "1"


@pytest.mark.parametrize("change", [shifted, another_pixel, another_time])
def test_an_archive_that_changes_the_image_is_not_believed(
    images: list[Path], tmp_path: Path, change: Callable[[pydicom.Dataset], None]
) -> None:
    with pytest.raises(InputError, match=r"other images under the UIDs of 3 .* 3 images wait"):
        store(images, Shelf(tmp_path / "shelf", change), tmp_path / "outbox")


def corrected(dataset: pydicom.Dataset) -> None:
    dataset.PatientName, dataset.PatientID, dataset.StudyID = "Right^Name", "42", "7"


def test_an_archive_may_correct_the_patient(images: list[Path], tmp_path: Path) -> None:
    with pytest.warns(MedseqWarning, match="corrected attributes of 3 images") as heard:
        assert store(images, Shelf(tmp_path / "shelf", corrected), tmp_path / "outbox") == Sent(3, 3)
    assert len(heard) == 1 and "Right" not in str(heard[0].message)


def compressed(dataset: pydicom.Dataset) -> None:
    dataset.compress(pydicom.uid.RLELossless, generate_instance_uid=False)


def test_an_archive_may_compress(images: list[Path], tmp_path: Path) -> None:
    assert store(images, Shelf(tmp_path / "shelf", compressed), tmp_path / "outbox") == Sent(3, 3)


def test_an_image_without_its_pixels_is_another(images: list[Path], tmp_path: Path) -> None:
    dataset = pydicom.dcmread(images[0])
    del dataset.PixelData
    dataset.save_as(tmp_path / "bare.dcm")
    one, other = open_header(images[0]), open_header(tmp_path / "bare.dcm")
    assert one is not None and other is not None
    with PixelReader() as reader:
        assert compare(reader, images[0], one, tmp_path / "bare.dcm", other) is Kept.OTHER
        assert compare(reader, images[0], one, images[0], one) is Kept.SAME


def test_the_outbox_is_for_nobody_else_and_says_nothing(images: list[Path], tmp_path: Path) -> None:
    entry = put(images, Shelf(tmp_path / "shelf"), tmp_path / "outbox")
    assert (tmp_path / "outbox").stat().st_mode & 0o077 == 0
    header = pydicom.dcmread(images[0], stop_before_pixels=True)
    names = " ".join(str(path.relative_to(tmp_path)) for path in entry.rglob("*"))
    for secret in (header.PatientID, str(header.PatientName), header.SOPInstanceUID, images[0].name):
        assert secret and secret not in names
    assert json.loads((entry / "to.json").read_text()) == {"address": Shelf.address, "calling": Shelf.calling}


def test_the_same_result_waits_once_and_another_beside_it(images: list[Path], tmp_path: Path) -> None:
    shelf, outbox = Shelf(tmp_path / "shelf"), tmp_path / "outbox"
    assert put(images, shelf, outbox) == put(list(reversed(images)), shelf, outbox)
    assert put(images[:2], shelf, outbox) != put(images, shelf, outbox)
    assert waiting(outbox) == 5


def test_nothing_is_put_that_is_not_whole(images: list[Path], tmp_path: Path) -> None:
    shelf, outbox = Shelf(tmp_path / "shelf"), tmp_path / "outbox"
    note = tmp_path / "note.txt"
    note.write_text("not DICOM")
    scan(tmp_path / "bare", slices=1, frames=1, encoding="bare")
    scan(tmp_path / "packed", slices=1, frames=1, encoding="gzip")
    (bare,), (packed,) = (tmp_path / "bare").iterdir(), (tmp_path / "packed").iterdir()
    for bad in (note, bare, packed, tmp_path / "absent.dcm"):
        with pytest.raises(InputError, match=bad.name):
            put([*images, bad], shelf, outbox)
    with pytest.raises(InputError, match="1 of 4 images have the UID of another"):
        put([*images, Path(shutil.copy(images[0], tmp_path / "twin.dcm"))], shelf, outbox)
    with pytest.raises(InputError, match="no DICOM image"):
        put([], shelf, outbox)
    assert not outbox.exists()


def test_an_outbox_that_cannot_be_written_is_named(images: list[Path], tmp_path: Path) -> None:
    (tmp_path / "outbox").write_text("a file")
    with pytest.raises(ResourceError, match="outbox"):
        put(images, Shelf(tmp_path / "shelf"), tmp_path / "outbox")
    with pytest.raises(InputError, match="no such outbox"):
        send(tmp_path / "absent")


def test_one_process_sends_at_a_time(images: list[Path], tmp_path: Path) -> None:
    shelf, outbox = Shelf(tmp_path / "shelf"), tmp_path / "outbox"
    put(images, shelf, outbox)
    with (outbox / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ResourceError, match="another process"):
            store(images, shelf, outbox)
    store(images, shelf, outbox)


def test_one_bad_archive_does_not_hold_up_the_others(
    images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, down, outbox = Shelf(tmp_path / "good"), Shelf(tmp_path / "down"), tmp_path / "outbox"
    down.address = "https://down/dicom-web"
    down.lost = {pydicom.dcmread(path).SOPInstanceUID for path in images}
    entries = [put(images, peer, outbox) for peer in (good, down)]
    broken = outbox / "broken"
    broken.mkdir()
    (broken / "to.json").write_text("{")
    peers = {good.address: good, down.address: down}
    monkeypatch.setattr("medseq.archive.outbox.connect", lambda address, **_: peers[address])
    with pytest.raises((ResourceError, InputError), match="3 images wait"):
        send(outbox)
    assert good.stored == 3 and not entries[0].exists() and waiting(entries[1]) == 3
    shutil.rmtree(broken)
    down.lost.clear()
    assert send(outbox) == Sent(3, 3)
