"""Targets of DICOM: one file, a folder of them, and compressed pixels, which a child process decodes."""

from __future__ import annotations

import atexit
import io
import random
from collections.abc import Sequence
from pathlib import Path

import gdcm
from dicom_files import meta, mr_image, picture, save
from dicom_scanner import scan
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless, RLELossless

from fuzz import dicom_tree
from fuzz.chance import changed_bytes
from fuzz.target import Target
from medseq.errors import InputError
from medseq.io.dicom.load import Found, find_series, load_series
from medseq.io.dicom.opening import open_header
from medseq.io.dicom.pixels import PixelReader

_ONE = ("siemens-mosaic", "siemens-xa30", "philips-enhanced", "ge-enhanced", "legacy")
_MANY = ("siemens", "siemens-xa", "philips", "ge", "uih")
_ODD_ENCODINGS = ("implicit", "big", "deflated", "bare", "gzip")


def fuzz_dicom(data: bytes, folder: Path) -> None:
    """Every series of one file, with its pixels."""
    path = folder / "a.dcm"
    path.write_bytes(data)
    _load_all(find_series(path))


def fuzz_series(data: bytes, folder: Path) -> None:
    """Every series of a folder, with its pixels."""
    for old in folder.glob("*.dcm"):
        old.unlink()
    for number, content in enumerate(dicom_tree.files_of(data)):
        (folder / f"{number}.dcm").write_bytes(content)
    _load_all(find_series(folder, precise=len(data) % 4 == 0))


def _load_all(found: Found) -> None:
    for each in found.refused:
        assert "\n" not in each.reason, each.reason
    for series in found.series:
        load_series(series, allow_missing=True)
    if not found.series:
        raise InputError("no series")


_reader = PixelReader()
atexit.register(_reader.__exit__, None, None, None)


def fuzz_codec(data: bytes, folder: Path) -> None:
    """The first frame of one file; the child that decodes it lives on from one input to the next."""
    path = folder / "a.dcm"
    path.write_bytes(data)
    header = open_header(path)
    if header is not None:
        _reader.read(path, header, [0])


def _whole(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.iterdir()))


def _files(folder: Path) -> Sequence[bytes]:
    made = []
    for vendor in _ONE:
        for kind in ("cine", "bold"):
            scan(folder / f"{vendor}-{kind}", vendor, kind, slices=2, frames=1 if "mosaic" in vendor else 2)
            made.append(_whole(folder / f"{vendor}-{kind}"))
    for encoding in _ODD_ENCODINGS:
        scan(folder / encoding, "siemens-mosaic", "bold", slices=2, frames=1, encoding=encoding)
        made.append(_whole(folder / encoding))
    return made


def _folders(folder: Path) -> Sequence[bytes]:
    made = []
    for vendor in _MANY:
        for kind in ("cine", "bold"):
            parts = ("M", "P") if (vendor, kind) == ("siemens", "cine") else ("M",)
            scan(folder / f"{vendor}-{kind}", vendor, kind, slices=2, frames=2, components=parts)
            made.append(_whole(folder / f"{vendor}-{kind}"))
    return made


def _compressed(folder: Path) -> Sequence[bytes]:
    made = []
    for syntax in (RLELossless, JPEG2000Lossless, JPEGLSLossless):
        for dtype, bits in (("u1", 8), ("u2", 12), ("i2", 16)):
            dataset = mr_image(picture(32, 32, dtype, bits), bits)
            dataset.file_meta = meta()
            dataset.compress(syntax, generate_instance_uid=False)
            made.append(save(dataset, folder / "a.dcm", syntax).read_bytes())
    baseline = mr_image(picture(dtype="u1"))
    stream = io.BytesIO()
    Image.fromarray(picture(dtype="u1")).save(stream, "JPEG")
    baseline.PixelData = encapsulate([stream.getvalue()])
    made.append(save(baseline, folder / "a.dcm", JPEGBaseline8Bit).read_bytes())
    plain = save(mr_image(picture(bits=12), 12), folder / "plain.dcm")
    for kind in (gdcm.TransferSyntax.JPEGLosslessProcess14_1, gdcm.TransferSyntax.JPEGLosslessProcess14):
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(str(plain))
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(kind))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        writer.SetFileName(str(folder / "packed.dcm"))
        assert writer.Write()
        made.append((folder / "packed.dcm").read_bytes())
    return made


def _changed_stream(data: bytes, chance: random.Random) -> bytes:
    """The compressed bits changed, behind the header of their first item, or, seldom, the header of the file."""
    start = data.rfind(b"\xe0\x7f\x10\x00")
    if start < 0 or chance.random() < 0.05:
        return dicom_tree.mutate(data, chance)
    return changed_bytes(data, chance, min(start + 28, len(data) - 9), len(data) - 8)


DICOM = Target("dicom", 20_000, _files, fuzz_dicom, dicom_tree.mutate)
SERIES = Target("series", 5_000, _folders, fuzz_series, dicom_tree.mutate)
CODEC = Target("codec", 20_000, _compressed, fuzz_codec, _changed_stream, seconds=60)
