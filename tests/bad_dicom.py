"""DICOM files and folders of which no series can be made."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from bad_case import DICOM, LIKE, Case, Make, deflate_bomb, foreign, gzip_bomb, others
from cli_shelf import noisy_scan
from dicom_files import ITEM, ITEM_END, SEQUENCE_END, UNDEFINED, body, element, head, mr_image
from dicom_scanner import scan
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    MediaStorageDirectoryStorage,
    RLELossless,
)

FRAMES = 4
Change = Callable[[pydicom.Dataset], object]
NONE = "no MR image series"


def series(folder: Path, vendor: str = "ge", kind: str = "cine", **options: Any) -> list[Path]:
    """The files of a good series."""
    noisy_scan(folder, vendor, kind, **{"slices": 1, "frames": FRAMES, **options})
    return sorted(folder.iterdir())


def changed(change: Change, *which: int, vendor: str = "ge", kind: str = "cine", **options: Any) -> Make:
    """A series of which every image is changed, or some by number."""

    def made(folder: Path) -> None:
        files = series(folder, vendor, kind, **options)
        for path in [files[number] for number in which] or files:
            dataset = pydicom.dcmread(path)
            change(dataset)
            dataset.save_as(path, enforce_file_format=False)

    return made


def without(keyword: str) -> Change:
    return lambda dataset: dataset.pop(keyword, None)


def put(**attributes: Any) -> Change:
    def change(dataset: pydicom.Dataset) -> None:
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)

    return change


def raw(keyword: str, vr: str, value: bytes) -> Make:
    """A series in whose files an element stands as these bytes."""

    def made(folder: Path) -> None:
        for path in series(folder):
            dataset = pydicom.dcmread(path)
            tag = pydicom.tag.Tag(keyword)
            dataset.pop(tag, None)
            # In front of everything: pydicom does not mind the order.
            path.write_bytes(head() + element(tag, vr, value) + body(dataset))

    return made


def bytes_of(change: Callable[[bytes], bytes], *which: int) -> Make:
    """A series of whose files the bytes are changed."""

    def made(folder: Path) -> None:
        files = series(folder)
        for path in [files[number] for number in which] or files:
            path.write_bytes(change(path.read_bytes()))

    return made


def alone(data: Callable[[], bytes]) -> Make:
    """A folder with one file."""

    def made(folder: Path) -> None:
        folder.mkdir()
        (folder / "a.dcm").write_bytes(data())

    return made


def nested(depth: int, undefined: bool) -> bytes:
    inner = b""
    for _ in range(depth):
        length = b"\xff" * 4 if undefined else len(inner).to_bytes(4, "little")
        inner = ITEM[:4] + length + inner + (ITEM_END + SEQUENCE_END if undefined else b"")
        inner = element(0x00089215, "SQ", inner, UNDEFINED if undefined else None)
    groups = element(0x52009229, "SQ", ITEM[:4] + len(inner).to_bytes(4, "little") + inner)
    return head() + groups + body(mr_image())


def _attributes() -> Iterator[tuple[str, Make, str]]:
    for keyword in ("Rows", "Columns", "BitsAllocated"):
        yield f"no {keyword}", changed(without(keyword)), "without Rows, Columns or BitsAllocated"
        yield f"a {keyword} of zero", changed(put(**{keyword: 0})), "announces"
    yield "no ImagePositionPatient", changed(without("ImagePositionPatient")), "says nowhere where"
    yield "no ImageOrientationPatient", changed(without("ImageOrientationPatient")), "says nowhere how"
    yield "no PixelSpacing", changed(without("PixelSpacing")), ""
    yield "no PixelData", changed(without("PixelData")), NONE
    yield "no Modality, and a SOP class of CT", changed(put(Modality=None, SOPClassUID="1.2.840.10008.5.1.4.1.1.2")), ""
    yield "another modality", changed(put(Modality="CT", SOPClassUID="1.2.840.10008.5.1.4.1.1.2")), "modality CT"
    yield "a report", changed(put(Modality="SR", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11")), ""
    yield "no SOP class and no modality", changed(lambda d: (d.pop("SOPClassUID"), d.pop("Modality"))), ""
    yield "colour", changed(put(SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)), ""
    yield "a palette", changed(put(PhotometricInterpretation="PALETTE COLOR")), ""
    for bits in (1, 7, 12, 24, 64, 128):
        yield f"{bits} bits a value", changed(put(BitsAllocated=bits)), ""
    yield "more bits stored than there are", changed(put(BitsStored=17, HighBit=16)), ""
    yield "no bits stored", changed(put(BitsStored=0)), ""
    yield "a sign that is none", changed(put(PixelRepresentation=7)), ""
    yield "65535 rows and columns", changed(put(Rows=65535, Columns=65535)), "announces"
    yield "a row more than there is", changed(put(Rows=21)), "truncated"
    yield "100000 frames", changed(put(NumberOfFrames=100000)), "frames"
    yield "-1 frames", changed(put(NumberOfFrames=-1)), "frames"
    yield "0 frames", changed(put(NumberOfFrames=0)), "frames"
    yield "a slope beyond all bounds", changed(put(RescaleSlope="1e300", RescaleIntercept="0")), ""
    yield "half the pixels", changed(lambda d: setattr(d, "PixelData", d.PixelData[: len(d.PixelData) // 2])), ""
    yield "pixels of no length", changed(put(PixelData=b"")), ""
    yield "nothing but zeros", changed(lambda d: setattr(d, "PixelData", bytes(len(d.PixelData)))), "zero"


def _geometry() -> Iterator[tuple[str, Make, str]]:
    cosines = {
        "parallel": [1, 0, 0, 1, 0, 0],
        "of no length": [0, 0, 0, 0, 0, 0],
        "too long": [2, 0, 0, 0, 1, 0],
        "not perpendicular": [1, 0, 0, 0.7, 0.7, 0],
        "five": [1, 0, 0, 0, 1],
    }
    for name, values in cosines.items():
        yield f"direction cosines {name}", changed(put(ImageOrientationPatient=values)), ""
    yield "a position of two numbers", changed(put(ImagePositionPatient=[1, 2])), "ImagePositionPatient"
    yield "a position of 1e30 mm", changed(put(ImagePositionPatient=["1e30", "0", "0"])), ""
    for spacing in (["0", "1"], ["-1", "1"], ["1"], ["1", "1", "1"], ["1e-30", "1"], ["1e20", "1"]):
        yield f"a pixel spacing of {spacing}", changed(put(PixelSpacing=spacing)), ""
    for keyword in ("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "RescaleSlope", "TriggerTime"):
        for value in ("nan", "inf", "-Infinity", "1e999"):
            number = {"PixelSpacing": 2, "ImagePositionPatient": 3, "ImageOrientationPatient": 6}.get(keyword, 1)
            text = "\\".join([value] * number).encode()
            yield f"{keyword} is {value}", raw(keyword, "DS", text + b" " * (len(text) % 2)), "not finite"
    for value in (b"much", b"1,5 ", b"0x10", b"\xff\xfe"):
        yield f"a pixel spacing of {value!r}", raw("PixelSpacing", "DS", value + b"\\2" * 1), ""
    yield "a slope of zero", changed(put(RescaleSlope="0", RescaleIntercept="0")), "slope is zero"
    yield "slices unevenly apart", _shifted, ""


def _shifted(folder: Path) -> None:
    """A slice further away than the others, in every frame."""
    for path in series(folder, slices=4, frames=3):
        dataset = pydicom.dcmread(path)
        if dataset.InstanceNumber % 4 == 1:
            dataset.ImagePositionPatient = [300, -37.5, 22.75]
            dataset.save_as(path)


def _identity() -> Iterator[tuple[str, Make, str]]:
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"):
        for value in (b"../../etc/passwd", b"1.2..3", b"a ", b"1." * 40):
            yield f"{keyword} is {value.decode()!r}", raw(keyword, "UI", value), "not a UID"

    yield "other pixels under one UID", changed(put(SOPInstanceUID="1.2.3.4.5"), 0, 1), ""
    yield "every image under one UID", changed(put(SOPInstanceUID="1.2.3.4.5")), ""
    yield "a UID of two", changed(put(SeriesInstanceUID=["1.2.3", "1.2.4"])), "SeriesInstanceUID"


def _two_series(folder: Path) -> None:
    scan(folder, "ge", "cine", slices=1, frames=3, name="heart", number=3)
    scan(folder, "ge", "bold", slices=2, frames=3, name="brain", number=5)


def _missing() -> Iterator[tuple[str, Make, str]]:
    for slices, frames, missing in ((2, 4, ((0, 1),)), (3, 5, ((2, 4), (1, 4))), (3, 6, ((0, 2), (1, 4), (2, 0)))):
        where = ", ".join(f"{b + 1}/{t + 1}" for b, t in missing)
        yield (
            f"no images at slice/frame {where}",
            lambda folder, b=slices, t=frames, lost=missing: scan(
                folder, "ge", "bold", slices=b, frames=t, missing=lost
            ),
            "",
        )


def _encoding() -> Iterator[tuple[str, Make, str]]:
    for share in (0.02, 0.1, 0.3, 0.5, 0.6, 0.8, 0.99):
        yield f"every file cut after {share:.0%}", bytes_of(lambda raw, s=share: raw[: int(s * len(raw))]), ""
    yield "no preamble and no magic", bytes_of(lambda raw: raw[200:]), NONE
    yield "magic of another", bytes_of(lambda raw: raw[:128] + b"MCID" + raw[132:]), NONE
    yield "an unknown transfer syntax", bytes_of(_syntax(b"1.2.840.10008.1.2.4.999")), ""
    yield "a private transfer syntax", bytes_of(_syntax(b"1.3.46.670589.33.1.4.1\0")), ""
    yield "JPEG 2000 that is none", _compressed(JPEG2000Lossless), ""
    yield "RLE that is none", _compressed(RLELossless), ""
    yield "a fragment longer than the file", _compressed(RLELossless, b"\xf0\xff\xff\x7f"), "truncated"
    yield "pixels in the wrong VR", raw("PixelData", "LO", b"text"), ""
    yield "Rows as text", raw("Rows", "LO", b"many"), ""
    yield "Rows as a sequence", raw("Rows", "SQ", ITEM), ""
    yield "PixelSpacing as a float", raw("PixelSpacing", "FL", bytes(2)), ""
    yield "an unknown VR", raw("PixelSpacing", "ZZ", b"1\\1 "), ""
    yield "an element longer than the file", bytes_of(_longer), "truncated"
    yield "a deflate bomb", alone(lambda: head(DeflatedExplicitVRLittleEndian) + deflate_bomb(_HUGE, 2)), "inflates"
    yield "a gzip bomb", alone(lambda: gzip_bomb(head() + _HUGE, 2)), "inflates"
    yield "deflate cut short", _deflated_and_cut, ""
    yield "gzip cut short", bytes_of(lambda raw: gzip.compress(raw, mtime=0)[:-300]), ""
    yield "3000 nested sequences of undefined length", alone(lambda: nested(3000, True)), "nest"
    yield "3000 nested sequences of defined length", alone(lambda: nested(3000, False)), "nest"
    yield "400000 empty items", alone(_items), "more than"
    yield "an index of media", alone(lambda: head(kind=MediaStorageDirectoryStorage) + _RECORD), NONE


_HUGE = element(0x00089999, "OB", b"", 1 << 31)
_RECORD = element(0x00041500, "CS", b"..\\..\\SECRET ")


def _items() -> bytes:
    return head() + element(0x52009230, "SQ", ITEM * 400_000 + SEQUENCE_END, UNDEFINED) + body(mr_image())


def _longer(content: bytes) -> bytes:
    return content[:132] + content[132:].replace(b"\xe0\x7f\x10\0OW\0\0", b"\x09\0\x99\x99OB\0\0\xfe\xff\xff\xff" * 2)


def _syntax(uid: bytes) -> Callable[[bytes], bytes]:
    old = ExplicitVRLittleEndian.encode() + b"\0"
    return lambda content: content.replace(
        element(0x00020010, "UI", old), element(0x00020010, "UI", uid + b"\0" * (len(uid) % 2)), 1
    )


def _compressed(syntax: pydicom.uid.UID, length: bytes = b"\x40\0\0\0") -> Make:
    """A frame of noise in the place of what the decoder expects."""
    noise = np.random.default_rng(0).bytes(64)
    pixels = element(0x7FE00010, "OB", ITEM + ITEM[:4] + length + noise + SEQUENCE_END, UNDEFINED)

    def made(folder: Path) -> None:
        for path in series(folder):
            dataset = pydicom.dcmread(path)
            del dataset.PixelData
            path.write_bytes(head(syntax) + body(dataset) + pixels)

    return made


def _deflated_and_cut(folder: Path) -> None:
    for path in series(folder, encoding="deflated"):
        path.write_bytes(path.read_bytes()[:-200])


def _enhanced() -> Iterator[tuple[str, Make, str]]:
    def of(change: Change, vendor: str = "canon-enhanced") -> Make:
        return changed(change, vendor=vendor)

    def each(keyword: str, **values: Any) -> Change:
        def change(dataset: pydicom.Dataset) -> None:
            for group in [*dataset.SharedFunctionalGroupsSequence, *dataset.PerFrameFunctionalGroupsSequence]:
                for entry in group.get(keyword, ()):
                    for name, value in values.items():
                        setattr(entry, name, value)

        return change

    yield "enhanced without its groups", of(without("PerFrameFunctionalGroupsSequence")), ""
    yield (
        "enhanced with a group too few",
        of(lambda d: setattr(d, "PerFrameFunctionalGroupsSequence", d.PerFrameFunctionalGroupsSequence[:-1])),
        "",
    )
    yield "enhanced with a frame too many", of(put(NumberOfFrames=FRAMES + 1)), ""
    yield "enhanced whose frames have no place", of(each("PlanePositionSequence", ImagePositionPatient=None)), "where"
    yield "enhanced whose voxels have no size", of(each("PixelMeasuresSequence", PixelSpacing=["0", "0"])), "size"
    yield "enhanced whose slope is zero", of(each("PixelValueTransformationSequence", RescaleSlope="0")), "zero"
    yield (
        "enhanced whose frames lie twice",
        of(each("PlaneOrientationSequence", ImageOrientationPatient=[1, 0, 0, 1, 0, 0])),
        "",
    )
    yield "a mosaic that does not say of how many", _mosaic(0), "how many slices"
    yield "a mosaic of more than fit", _mosaic(400), "does not fit"


def _mosaic(slices: int) -> Make:
    def change(dataset: pydicom.Dataset) -> None:
        dataset[0x0019100A].value = slices

    return changed(change, vendor="siemens-mosaic-without-csa", kind="bold", slices=3, frames=2)


def cases() -> Iterator[Case]:
    families = (_attributes, _geometry, _identity, _missing, _encoding, _enhanced)
    for family in families:
        for fault, make, says in family():
            # Where frames are missing, `info` says so and is content.
            commands = DICOM[:3] if family is _missing else DICOM
            commands += LIKE if family in (_geometry, _identity) else ()
            yield Case("DICOM", fault, "study", make, says, commands)
    yield Case("DICOM", "two series and no telling which", "study", _two_series, "say which with --series N", DICOM[:3])
    yield from others("DICOM", "bad.dcm", DICOM, NONE)
    yield Case("DICOM", "an empty folder", "study", Path.mkdir, NONE, DICOM[:4])
    yield Case("DICOM", "a folder of other things", "study", _other_things, NONE, DICOM[:4])


def _other_things(folder: Path) -> None:
    folder.mkdir()
    for name, data in foreign().items():
        (folder / name).write_bytes(data)
