"""Stored values of every transfer syntax, against other decoders; codecs that die take nothing with them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from dicom_files import body, head, meta, mr_image, picture, save
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    JPEG2000,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from medseq.errors import InputError
from medseq.io.dicom import decoding
from medseq.io.dicom.opening import candidates, frame_count, open_header
from medseq.io.dicom.pixels import PixelReader

KINDS = [("u1", 8), ("i1", 8), ("u2", 16), ("i2", 16), ("u2", 12), ("i2", 12), ("i2", 13), ("u4", 32), ("i4", 32)]
LOSSLESS = [RLELossless, JPEG2000Lossless, JPEGLSLossless]


def read(path: Path, *indices: int) -> np.ndarray:
    with PixelReader() as reader:
        return reader.read(path, open_header(path), indices or (0,))


def compressed(values: np.ndarray, syntax: UID, bits: int | None = None) -> Dataset:
    dataset = mr_image(values, bits)
    dataset.file_meta = meta()
    dataset.compress(syntax, generate_instance_uid=False)
    return dataset


class TestNative:
    @pytest.mark.parametrize(("dtype", "bits"), KINDS)
    @pytest.mark.parametrize("order", ["<", ">"])
    def test_every_integer(self, tmp_path: Path, dtype: str, bits: int, order: str) -> None:
        """Odd counts of 8-bit values, too, whose second frame begins in the middle of a word."""
        stored = np.stack([picture(3, 5, dtype, bits), picture(3, 5, dtype, bits)[::-1]])
        dataset = mr_image(stored, bits)
        raw = stored.astype(np.dtype(dtype).newbyteorder(order)).tobytes()
        if dtype[1] == "1" and order == ">":  # PS3.5 section 8.2: bytes of a big-endian word are swapped
            raw = np.frombuffer(raw, "<u2").astype(">u2").tobytes()
        dataset.PixelData = raw
        path = save(dataset, tmp_path / "a.dcm", ExplicitVRBigEndian if order == ">" else ExplicitVRLittleEndian)
        found = read(path, 1, 0)
        assert found.dtype == np.dtype(dtype) and np.array_equal(found, stored[::-1])

    @pytest.mark.parametrize("dtype", ["u2", "i2"])
    @pytest.mark.parametrize("shift", [0, 4])
    def test_unused_bits_are_left_out(self, tmp_path: Path, dtype: str, shift: int) -> None:
        """An overlay in the bits above or below the 12 that are stored (retired in PS3.5 2004, and still met)."""
        values = picture(dtype=dtype, bits=12)
        dataset = mr_image(values, 12)
        overlay = np.uint16(0xF000 if shift == 0 else 0x000A)
        raw = (values.view("u2") & 0x0FFF) << shift | overlay
        dataset.HighBit, dataset.PixelData = 11 + shift, raw.tobytes()
        assert np.array_equal(read(save(dataset, tmp_path / "a.dcm"))[0], values)

    @pytest.mark.parametrize(("dtype", "keyword"), [("f4", "FloatPixelData"), ("f8", "DoubleFloatPixelData")])
    def test_floats(self, tmp_path: Path, dtype: str, keyword: str) -> None:
        values = np.random.default_rng(0).normal(size=(6, 5)).astype(dtype)
        dataset = mr_image(values.view(dtype.replace("f", "u")))
        del dataset.PixelData
        setattr(dataset, keyword, values.tobytes())
        found = read(save(dataset, tmp_path / "a.dcm"))
        assert found.dtype == values.dtype and np.array_equal(found[0], values)

    def test_only_the_wanted_frames_take_memory(self, tmp_path: Path) -> None:
        """A file of 4 TB, of which all but its last frame is a hole."""
        dataset = mr_image(np.zeros((1, 512, 512), np.uint16))
        frames = 8000
        dataset.NumberOfFrames = frames
        path = save(dataset, tmp_path / "a.dcm")
        header = path.read_bytes()[: -2 * 512 * 512]
        with path.open("wb") as file:
            file.write(header[:-4] + (2 * 512 * 512 * frames % 2**32).to_bytes(4, "little"))
            file.seek(2 * 512 * 512 * (frames - 1), os.SEEK_CUR)
            file.write(picture(512, 512).tobytes())
        assert np.array_equal(read(path, frames - 1)[0], picture(512, 512))


class TestCompressed:
    @pytest.mark.parametrize(("dtype", "bits"), [kind for kind in KINDS if kind[0][1] != "4"])
    @pytest.mark.parametrize("syntax", LOSSLESS, ids=["rle", "jpeg 2000", "jpeg-ls"])
    def test_what_pydicom_packed(self, reader: PixelReader, tmp_path: Path, syntax: UID, dtype: str, bits: int) -> None:
        stored = np.stack([picture(36, 40, dtype, bits), picture(36, 40, dtype, bits)[::-1]])
        path = save(compressed(stored, syntax, bits), tmp_path / "a.dcm", syntax)
        found = reader.read(path, None, [1, 0, 1])
        assert found.dtype == np.dtype(dtype) and np.array_equal(found, stored[[1, 0, 1]])

    @pytest.mark.parametrize("option", ["--rle", "--jpeg", "--jpegls", "--j2k"])
    @pytest.mark.parametrize(("dtype", "bits"), [("u2", 12), ("u2", 16), ("u1", 8), ("i2", 16)])
    def test_what_gdcm_packed(self, reader: PixelReader, tmp_path: Path, option: str, dtype: str, bits: int) -> None:
        values = picture(36, 40, dtype, bits)
        plain = save(mr_image(values, bits), tmp_path / "plain.dcm")
        judge("gdcmconv", option, plain, tmp_path / "packed.dcm")
        header = open_header(tmp_path / "packed.dcm")
        assert header is not None and header.file_meta.TransferSyntaxUID != ExplicitVRLittleEndian
        assert np.array_equal(reader.read(tmp_path / "packed.dcm", header, [0])[0], values)

    @pytest.mark.parametrize(("option", "bits", "loss"), [("+e1", 12, 0), ("+el", 12, 0), ("+eb", 8, 8), ("+ee", 8, 8)])
    def test_jpeg_of_dcmtk(self, reader: PixelReader, tmp_path: Path, option: str, bits: int, loss: int) -> None:
        """Lossless by first-order prediction, and lossy: equal to what dcmdjpeg makes of it."""
        smooth = np.add.outer(np.arange(24), np.arange(32)).astype("u1" if bits == 8 else "u2") * 3
        plain = save(mr_image(smooth, bits), tmp_path / "plain.dcm")
        judge("dcmcjpeg", option, plain, tmp_path / "packed.dcm")
        judge("dcmdjpeg", tmp_path / "packed.dcm", tmp_path / "unpacked.dcm")
        expected = np.frombuffer(dcmread(tmp_path / "unpacked.dcm").PixelData, smooth.dtype).reshape(smooth.shape)
        assert np.array_equal(reader.read(tmp_path / "packed.dcm", None, [0])[0], expected)
        assert np.abs(expected.astype(int) - smooth).max() <= loss

    def test_lossy_jpeg_of_12_bits_is_refused(self, reader: PixelReader, tmp_path: Path) -> None:
        """No decoder with a licence like ours reads it."""
        plain = save(mr_image(picture(24, 32, "u2", 12), 12), tmp_path / "plain.dcm")
        judge("dcmcjpeg", "+ee", plain, tmp_path / "packed.dcm")
        with pytest.raises(InputError, match="JPEG Extended.*decompress it with another program"):
            reader.read(tmp_path / "packed.dcm", None, [0])

    def test_frames_in_several_fragments(self, reader: PixelReader, tmp_path: Path) -> None:
        stored = np.stack([picture(36, 40), picture(36, 40)[::-1]])
        dataset = compressed(stored, JPEG2000Lossless)
        frames = list(generate_frames(dataset.PixelData, number_of_frames=2))
        for has_table in (True, False):
            dataset.PixelData = encapsulate(frames, fragments_per_frame=3, has_bot=has_table)
            path = save(dataset, tmp_path / "a.dcm", JPEG2000Lossless)
            assert np.array_equal(reader.read(path, None, [0, 1]), stored)


@pytest.fixture(scope="module")
def reader():
    with PixelReader() as shared:
        yield shared


def judge(name: str, *words: object) -> None:
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not on PATH")
    done = subprocess.run([name, *map(str, words)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


class TestRefusals:
    def refusal(self, path: Path, *indices: int) -> str:
        with pytest.raises(InputError) as refused:
            read(path, *indices)
        message = str(refused.value)
        assert message.startswith(f"{path}: ") and "\n" not in message
        return message.removeprefix(f"{path}: ")

    @pytest.mark.parametrize(("samples", "photometric"), [(3, "RGB"), (1, "PALETTE COLOR"), (3, "YBR_FULL_422")])
    def test_colour(self, tmp_path: Path, samples: int, photometric: str) -> None:
        dataset = mr_image()
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = samples, photometric
        dataset.PixelData *= samples
        assert self.refusal(save(dataset, tmp_path / "a.dcm")).startswith("in colour")

    def test_low_values_that_are_bright_are_kept_as_stored(self, tmp_path: Path) -> None:
        dataset = mr_image()
        dataset.PhotometricInterpretation = "MONOCHROME1"
        assert np.array_equal(read(save(dataset, tmp_path / "a.dcm"))[0], picture())

    def test_frames_that_are_not_there(self, tmp_path: Path) -> None:
        path = save(mr_image(), tmp_path / "a.dcm")
        assert "1 frames" in self.refusal(path, 1) and "1 frames" in self.refusal(path, -1)

    def test_no_pixels_and_no_dicom(self, tmp_path: Path) -> None:
        dataset = mr_image()
        del dataset.PixelData
        assert "no pixels" in self.refusal(save(dataset, tmp_path / "a.dcm"))
        (tmp_path / "b.dcm").write_bytes(b"text" * 100)
        assert "not a DICOM image" in self.refusal(tmp_path / "b.dcm")

    @pytest.mark.parametrize("bits", [(1, 1, 0), (16, 17, 16), (16, 12, 10), (16, 0, 15), (64, 64, 63)])
    def test_bits_that_do_not_fit(self, tmp_path: Path, bits: tuple[int, int, int]) -> None:
        dataset = mr_image(picture(16, 16))
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits
        dataset.PixelData *= 4
        assert "bits" in self.refusal(save(dataset, tmp_path / "a.dcm"))

    def test_an_unknown_compression(self, tmp_path: Path) -> None:
        dataset = compressed(picture(), RLELossless)
        for syntax in (UID("1.2.840.10008.1.2.4.100"), UID("1.2.3.4.5")):
            path = tmp_path / "a.dcm"
            path.write_bytes(head(syntax) + body(dataset))
            assert "cannot be read" in self.refusal(path)

    def test_compressed_and_said_not_to_be(self, tmp_path: Path) -> None:
        dataset = compressed(picture(), RLELossless)
        path = save(dataset, tmp_path / "a.dcm", RLELossless)
        path.write_bytes(head() + path.read_bytes()[len(head(RLELossless)) :])
        assert "not stored as it says" in self.refusal(path)


FALSE_CODEC = """
import os, numpy as np
class get_decoder:
    def __init__(self, syntax): pass
    def as_array(self, packed, index, raw, rows, columns, **options):
        {codec}
        return np.zeros((rows, columns)), {{}}
"""


class TestChild:
    def test_it_starts_without_torch_and_only_when_needed(self, tmp_path: Path) -> None:
        path = save(mr_image(), tmp_path / "plain.dcm")
        with PixelReader() as reader:
            reader.read(path, None, [0])
            assert reader._decoder._child is None
        program = f"import runpy, sys; runpy.run_path({str(decoding._PROGRAM)!r}); print('torch' in sys.modules)"
        done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, timeout=60)
        assert done.stdout == "False\n", done.stderr

    @pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
    def test_its_death_costs_one_file(self, tmp_path: Path, how: int) -> None:
        path = save(compressed(picture(), RLELossless), tmp_path / "a.dcm", RLELossless)
        with PixelReader() as reader:
            expected = reader.read(path, None, [0])
            child = reader._decoder._child
            assert child is not None
            child.send_signal(how)
            child.wait()
            with pytest.raises(InputError, match="crashes its decoder"):
                reader.read(path, None, [0])
            assert np.array_equal(reader.read(path, None, [0]), expected)

    @pytest.mark.parametrize(
        ("codec", "reason"),
        [
            ("while True: pass", "takes too long"),
            ("bytearray(8 << 30)", "cannot be decoded"),
            ("raise BaseException('panic')", "cannot be decoded"),
            ("os.abort()", "crashes its decoder"),
            ("os._exit(0)", "crashes its decoder"),
            ("return np.zeros(3), {}", "crashes its decoder"),
            ("os.write(1, b'{noise')", None),
        ],
    )
    def test_a_codec_may_do_what_it_likes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str, reason: str | None
    ) -> None:
        """The real child with a false pydicom, whose codec hangs, swells, panics, aborts, lies or talks."""
        path = save(compressed(picture(), RLELossless), tmp_path / "a.dcm", RLELossless)
        (tmp_path / "pydicom").mkdir()
        (tmp_path / "pydicom" / "__init__.py").touch()
        (tmp_path / "pydicom" / "encaps.py").write_text("def encapsulate(frames, has_bot): pass")
        (tmp_path / "pydicom" / "pixels.py").write_text(FALSE_CODEC.format(codec=codec))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.setattr("medseq.io.dicom.pixels._PATIENCE", 2.0)
        with PixelReader() as reader:
            if reason is None:
                assert not reader.read(path, None, [0]).any()
            else:
                with pytest.raises(InputError, match=reason):
                    reader.read(path, None, [0])

    def test_it_ends_with_its_reader(self, tmp_path: Path) -> None:
        path = save(compressed(picture(), RLELossless), tmp_path / "a.dcm", RLELossless)
        with PixelReader() as reader:
            reader.read(path, None, [0])
            child = reader._decoder._child
            assert child is not None and child.poll() is None
        assert child.poll() == 0

    @pytest.mark.parametrize("syntax", [RLELossless, JPEG2000, JPEGLSNearLossless], ids=["rle", "jpeg 2000", "jpeg-ls"])
    def test_damaged_streams_are_read_or_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, syntax: UID
    ) -> None:
        """Among the damaged JPEG-LS streams are some that its decoder never finishes."""
        monkeypatch.setattr("medseq.io.dicom.pixels._PATIENCE", 3.0)
        values = picture(36, 40, "u2", 12)
        options = {JPEG2000: {"j2k_cr": [2]}, JPEGLSNearLossless: {"jls_error": 2}}.get(syntax, {})
        dataset = mr_image(values, 12)
        dataset.file_meta = meta()
        dataset.compress(syntax, generate_instance_uid=False, **options)
        frame = np.frombuffer(next(generate_frames(dataset.PixelData, number_of_frames=1)), np.uint8)
        rng = np.random.default_rng(1)
        outcomes = set()
        with PixelReader() as reader:
            for _ in range(50):
                damaged = frame.copy()
                places = rng.integers(0, min(len(frame), 120), 2)  # the parameters of the stream come first
                damaged[places] ^= 1 << rng.integers(0, 8, 2).astype(np.uint8)
                dataset.PixelData = encapsulate([damaged.tobytes()])
                outcomes.add(outcome(reader, save(dataset, tmp_path / "a.dcm", syntax)))
        assert outcomes == {"read", "refused"}

    def test_a_stream_larger_than_its_header_says(self, tmp_path: Path) -> None:
        """JPEG 2000 of 60,000 x 60,000 voxels (Xsiz and Ysiz, ISO 15444-1 A.5.1) in a file that announces 36 x 40."""
        dataset = compressed(picture(36, 40), JPEG2000Lossless)
        (frame,) = generate_frames(dataset.PixelData, number_of_frames=1)
        assert frame[2:4] == b"\xff\x51"
        dataset.PixelData = encapsulate([frame[:8] + 2 * (60_000).to_bytes(4, "big") + frame[16:]])
        bomb = save(dataset, tmp_path / "bomb.dcm", JPEG2000Lossless)
        plain = save(compressed(picture(), RLELossless), tmp_path / "a.dcm", RLELossless)
        with PixelReader() as reader:
            with pytest.raises(InputError, match="decode"):
                reader.read(bomb, None, [0])
            assert np.array_equal(reader.read(plain, None, [0])[0], picture())


def outcome(reader: PixelReader, path: Path) -> str:
    try:
        header = open_header(path)
        if header is None or header.pixels is None:
            return "no image"
        reader.read(path, header, range(frame_count(header)))
        return "read"
    except InputError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
        return "refused"


@pytest.mark.timeout(120)
def test_each_bad_file_is_read_or_refused(real_data: Path) -> None:
    """Real test files of two libraries, DICOM, NIfTI and others; what opens equals what pydicom decodes."""
    outcomes: dict[str, int] = {}
    with PixelReader() as reader:
        for path in candidates(real_data / "badinput"):
            told = outcome(reader, path)
            outcomes[told] = outcomes.get(told, 0) + 1
            if told == "read" and path.suffix != ".gz":
                assert np.array_equal(reader.read(path, None, [0])[0], by_pydicom(path)), path.name
    assert outcomes["read"] >= 40 and outcomes["refused"] >= 40 and outcomes["no image"] >= 40


def by_pydicom(path: Path) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = dcmread(path, force=True)
        dataset.convert_pixel_data()
        found = dataset.pixel_array
    return found if found.ndim == 2 else found[0]


def test_real_compressed_files_equal_what_gdcm_makes_of_them(real_data: Path, tmp_path: Path) -> None:
    syntaxes = set()
    with PixelReader() as reader:
        for path in candidates(real_data / "badinput"):
            if not is_packed_grey(path):
                continue
            header = dcmread(path, stop_before_pixels=True)
            found = reader.read(path, None, range(frame_count(header)))
            judge("gdcmconv", "--raw", path, tmp_path / "raw.dcm")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                raw = np.frombuffer(dcmread(tmp_path / "raw.dcm").PixelData, found.dtype)
            unused = header.BitsAllocated - header.BitsStored  # gdcm does not extend the sign into them
            assert np.array_equal(found.ravel(), raw[: found.size] << unused >> unused), path.name
            syntaxes.add(header.file_meta.TransferSyntaxUID)
    assert {RLELossless, JPEG2000Lossless, JPEGLSLossless} <= syntaxes


# One whose stream is cut short, which gdcm completes with zeros; ones of a bit a voxel.
ODD = {"JPEG2000-embedded-sequence-delimiter.dcm", "bad_sequence.dcm"}


def is_packed_grey(path: Path) -> bool:
    try:
        header = open_header(path)
    except InputError:
        return False
    if header is None or header.pixels is None or path.name in ODD or header.BitsAllocated == 1:
        return False
    return header.pixels.length is None and header.PhotometricInterpretation.startswith("MONOCHROME")
