"""Files made to do harm: each is refused in one line, in under 10 seconds and 2 GiB. Both are measured.

Every file is opened and its first frame read in a process of its own, forked from one that has imported everything.
The seconds are those of its processor: those of the clock depend on who else uses the machine.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from dicom_files import ITEM, ITEM_END, SEQUENCE_END, UNDEFINED, body, element, head, meta, mr_image, save
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
    RLELossless,
)

from medseq.io.dicom.opening import candidates, open_header

WATCHMAN = """
import json, os, sys, time
from pathlib import Path
from medseq.errors import InputError
from medseq.io.dicom.opening import open_header
from medseq.io.dicom.pixels import PixelReader

def outcome(path):
    try:
        header = open_header(path)
        if header is None:
            return "not DICOM"
        with PixelReader() as reader:
            return f"read {reader.read(path, header, [0]).shape}"
    except InputError as error:
        return f"refused {error}"

for line in sys.stdin:
    start = time.monotonic()
    pipe, end = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(end, outcome(Path(line.rstrip())).encode())
        os._exit(0)
    os.close(end)
    told = os.fdopen(pipe).read()
    _, status, usage = os.wait4(child, 0)
    report = {"told": told, "status": status, "seconds": usage.ru_utime + usage.ru_stime,
              "waited": time.monotonic() - start, "peak": usage.ru_maxrss * 1024}
    print(json.dumps(report), flush=True)
"""

Opened = Callable[[Path], str]


@pytest.fixture(scope="module")
def opened() -> Iterator[Opened]:
    """What becomes of a file, having checked what it cost."""
    watchman = subprocess.Popen(
        [sys.executable, "-c", WATCHMAN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert watchman.stdin is not None and watchman.stdout is not None
    requests, answers = watchman.stdin, watchman.stdout

    def ask(path: Path) -> str:
        requests.write(f"{path}\n")
        requests.flush()
        report = json.loads(answers.readline())
        assert report["status"] == 0, report
        assert report["seconds"] < 10 and report["waited"] < 60, report
        assert report["peak"] < 2 * 2**30, report
        return report["told"]

    with watchman:
        yield ask
        requests.close()


def refusal(told: str, path: Path) -> str:
    """The reason, of one line that begins with the file."""
    assert told.startswith(f"refused {path}: "), told
    assert "\n" not in told
    return told.removeprefix(f"refused {path}: ")


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_what_is_meant_is_read(opened: Opened, tmp_path: Path) -> None:
    assert opened(save(mr_image(), tmp_path / "a.dcm")) == "read (1, 16, 12)"


@pytest.mark.parametrize("value", ["nan", "inf", "-Infinity", "1e999"])
@pytest.mark.parametrize("keyword", ["PixelSpacing", "RepetitionTime", "RescaleSlope", "TriggerTime"])
def test_what_is_not_finite(opened: Opened, tmp_path: Path, keyword: str, value: str) -> None:
    dataset = mr_image()
    setattr(dataset, keyword, "1")
    raw = body(dataset)
    place = raw.index(body(_only(dataset, keyword)))
    spoilt = element(dataset[keyword].tag, "DS", value.encode().ljust(len(value) + len(value) % 2))
    path = written(tmp_path / "a.dcm", head() + raw[:place] + spoilt + raw[place + 10 :])
    assert refusal(opened(path), path).startswith(f"{keyword} is not finite")


def _only(dataset: Dataset, keyword: str) -> Dataset:
    alone = Dataset()
    alone.add(dataset[keyword])
    return alone


def test_what_is_not_finite_in_a_functional_group(opened: Opened, tmp_path: Path) -> None:
    timing, frame, dataset = Dataset(), Dataset(), mr_image()
    timing.NominalCardiacTriggerDelayTime = float("nan")
    frame.CardiacSynchronizationSequence = [timing]
    dataset.PerFrameFunctionalGroupsSequence = [frame]
    path = save(dataset, tmp_path / "a.dcm")
    assert refusal(opened(path), path).startswith("NominalCardiacTriggerDelayTime is not finite")


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"])
@pytest.mark.parametrize("uid", ["../../etc/passwd", "1.2..3", "1.2/3", "a", "1." * 40 + "1"])
def test_a_uid_that_is_a_path(opened: Opened, tmp_path: Path, keyword: str, uid: str) -> None:
    dataset = mr_image()
    tag = dataset[keyword].tag
    del dataset[keyword]
    value = element(tag, "UI", uid.encode().ljust(len(uid) + len(uid) % 2, b"\0"))
    raw = body(dataset)
    # In front of everything: pydicom does not mind the order.
    path = written(tmp_path / "a.dcm", head() + value + raw)
    assert refusal(opened(path), path).startswith(f"{keyword} is not a UID")


def test_a_dicomdir_is_never_followed(opened: Opened, tmp_path: Path) -> None:
    record = element(0x00041430, "CS", b"IMAGE ") + element(0x00041500, "CS", b"..\\..\\SECRET ")
    records = element(0x00041220, "SQ", ITEM[:4] + len(record).to_bytes(4, "little") + record)
    for name in ("DICOMDIR", "disguised.dcm"):
        path = written(tmp_path / name, head(kind=MediaStorageDirectoryStorage) + records)
        assert opened(path) == "not DICOM"
    assert [path.name for path in candidates(tmp_path)] == ["disguised.dcm"]
    with pytest.raises(ValueError, match="index"):
        candidates(tmp_path / "DICOMDIR")


@pytest.mark.parametrize("length", ["undefined", "defined"])
def test_20000_nested_sequences(opened: Opened, tmp_path: Path, length: str) -> None:
    inner = b""
    for _ in range(20_000 if length == "undefined" else 5_000):
        if length == "undefined":
            inner = element(0x00089215, "SQ", ITEM[:4] + b"\xff" * 4 + inner + ITEM_END + SEQUENCE_END, UNDEFINED)
        else:
            inner = element(0x00089215, "SQ", ITEM[:4] + len(inner).to_bytes(4, "little") + inner)
    groups = element(0x52009229, "SQ", ITEM[:4] + len(inner).to_bytes(4, "little") + inner)
    path = written(tmp_path / "a.dcm", head() + groups + body(mr_image()))
    assert "nest" in refusal(opened(path), path)


def bomb(block: bytes, start: bytes) -> bytes:
    """Some megabytes of deflate that become a gigabyte of `block`, a megabyte, again and again behind `start`."""
    machine = zlib.compressobj(9, wbits=-15)
    first = machine.compress(start) + machine.flush(zlib.Z_FULL_FLUSH)
    again = machine.compress(block) + machine.flush(zlib.Z_FULL_FLUSH)  # knows nothing of what was before it
    packed = first + again * (1 << 10) + machine.flush()
    assert len(packed) < 4 << 20
    return packed


ZEROS = bytes(1 << 20), element(0x00089999, "OB", b"", 1 << 30)
ITEMS = ITEM * (1 << 17), element(0x00081140, "SQ", b"", UNDEFINED)


@pytest.mark.parametrize(("block", "start"), [ZEROS, ITEMS], ids=["zeros", "items"])
def test_a_deflate_bomb(opened: Opened, tmp_path: Path, block: bytes, start: bytes) -> None:
    path = written(tmp_path / "a.dcm", head(DeflatedExplicitVRLittleEndian) + bomb(block, start))
    assert "inflates to more than 512 MiB" in refusal(opened(path), path)


def test_a_gzip_bomb(opened: Opened, tmp_path: Path) -> None:
    block, start = ZEROS
    path = written(tmp_path / "a.dcm", gzip.compress(b"")[:10] + bomb(block, head() + start))
    assert "inflates to more than 512 MiB" in refusal(opened(path), path)


@pytest.mark.parametrize("length", ["undefined", "defined"])
def test_millions_of_empty_items(opened: Opened, tmp_path: Path, length: str) -> None:
    items = ITEM * 4_000_000
    groups = element(0x52009230, "SQ", items + SEQUENCE_END, UNDEFINED if length == "undefined" else len(items) + 8)
    path = written(tmp_path / "a.dcm", head() + groups + body(mr_image()))
    assert "more than" in refusal(opened(path), path)


@pytest.mark.parametrize("frames", [2, 10**6, 2**31 - 1, 0, -1])
@pytest.mark.parametrize("compressed", [False, True])
def test_frame_counts_that_lie(opened: Opened, tmp_path: Path, frames: int, compressed: bool) -> None:
    dataset = mr_image()
    if compressed:
        compress(dataset)
    dataset.NumberOfFrames = frames
    path = save(dataset, tmp_path / "a.dcm", RLELossless if compressed else ExplicitVRLittleEndian)
    told = opened(path)
    if compressed and frames == 2:  # one frame in two parts: that it is not the second is seen when that is read
        assert told == "read (1, 16, 12)" or "frames" in refusal(told, path)
    else:
        assert "frames" in refusal(told, path)


def compress(dataset: Dataset) -> None:
    dataset.file_meta = meta()
    dataset.compress(RLELossless)


@pytest.mark.parametrize("rows", [0, 65535])
@pytest.mark.parametrize("compressed", [False, True])
def test_huge_and_empty_dimensions(opened: Opened, tmp_path: Path, rows: int, compressed: bool) -> None:
    dataset = mr_image()
    if compressed:
        compress(dataset)
    dataset.Rows = dataset.Columns = rows
    dataset.NumberOfFrames = 10**6
    path = save(dataset, tmp_path / "a.dcm", RLELossless if compressed else ExplicitVRLittleEndian)
    assert refusal(opened(path), path).startswith(f"announces {rows} x {rows} voxels of 16 bits")


@pytest.mark.parametrize("place", ["header", "sequence", "pixels", "frame", "offsets"])
def test_lengths_beyond_the_file(opened: Opened, tmp_path: Path, place: str) -> None:
    plain = mr_image()
    long = element(0x00089999, "OB", b"", 0xFFFFFFFE)
    if place == "header":
        content = head() + long + body(plain)
    elif place == "sequence":
        inside = ITEM[:4] + b"\xff" * 4 + long + ITEM_END
        content = head() + element(0x52009229, "SQ", inside + SEQUENCE_END, UNDEFINED) + body(plain)
    elif place == "pixels":
        pixels = plain.PixelData
        del plain.PixelData
        content = head() + body(plain) + element(0x7FE00010, "OW", pixels[:-2], 0xFFFFFFFE)
    else:
        del plain.PixelData
        table = ITEM if place == "frame" else ITEM[:4] + b"\xfc\xff\xff\xff"
        frame = table + ITEM[:4] + b"\xf0\xff\xff\xff" + bytes(100)
        content = head(RLELossless) + body(plain) + element(0x7FE00010, "OB", frame, UNDEFINED)
    path = written(tmp_path / "a.dcm", content)
    assert "truncated" in refusal(opened(path), path)


def test_offsets_that_run_backwards(opened: Opened, tmp_path: Path) -> None:
    dataset = mr_image(np.zeros((3, 16, 12), np.uint16))
    dataset.PixelData = encapsulate([b"\0" * 64] * 3, has_bot=True)
    start = dataset.PixelData.index(ITEM[:4]) + 8
    backwards = b"".join(number.to_bytes(4, "little") for number in (0, 0xFFFFFFF0, 8))
    dataset.PixelData = dataset.PixelData[:start] + backwards + dataset.PixelData[start + 12 :]
    path = save(dataset, tmp_path / "a.dcm", RLELossless)
    assert "decoded" in refusal(opened(path), path)


def test_a_pipe_among_the_files_is_not_opened(tmp_path: Path) -> None:
    """Opening it would wait for somebody to write into it."""
    save(mr_image(), tmp_path / "a.dcm")
    os.mkfifo(tmp_path / "b.dcm")
    os.symlink("/dev/zero", tmp_path / "c.dcm")
    os.symlink("d.dcm", tmp_path / "d.dcm")
    assert [path.name for path in candidates(tmp_path)] == ["a.dcm"]
    for name in ("b.dcm", "c.dcm"):
        with pytest.raises(ValueError, match="not a file"):
            open_header(tmp_path / name)
