"""The MRD (ISMRMRD) streaming protocol: messages between a scanner and a reconstruction, over one connection.

Each message is a 16-bit number of its kind, then its content; all numbers are little-endian:

    1     config file   its name, 1024 bytes filled up with zeros
    2     config text   32-bit length, text
    3     header        32-bit length, the XML header
    4     close         nothing: no more will come from this side
    5     text          32-bit length, text for people
    1008  acquisition   header of 340 bytes, trajectory, samples
    1022  image         header of 198 bytes, 64-bit length, attributes (XML), pixels
    1026  waveform      header of 40 bytes, samples

What comes is not trusted: every length is checked against a limit before memory is taken.
Source: doc/mrd_streaming_protocol.md and doc/mrd_messages.md in https://github.com/ismrmrd/ismrmrd.
"""

from __future__ import annotations

import ctypes
import io
import struct
import warnings
from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np

from medseq.errors import InputError
from medseq.io.ismrmrd_library import ismrmrd, xsd

Read = Callable[[int], bytes]
Message: TypeAlias = (
    xsd.ismrmrdHeader | ismrmrd.Acquisition | ismrmrd.Image | ismrmrd.ConfigFile | ismrmrd.ConfigText | str
)

CONFIG_FILE, CONFIG_TEXT, HEADER, CLOSE, TEXT, ACQUISITION, IMAGE, WAVEFORM = 1, 2, 3, 4, 5, 1008, 1022, 1026

# Beyond what any scanner sends: characters of a text, samples and channels of a readout, bytes of a readout or image.
_LONGEST_TEXT, _MOST_SAMPLES, _MOST_CHANNELS, _MOST_DIMENSIONS = 4 << 20, 1 << 15, 1024, 8
_MOST_BYTES = 64 << 20
_CONFIG_NAME = 1024


def messages(read: Read) -> Iterator[Message]:
    """What the other side sends until it closes; waveforms are read and skipped.

    read: exactly so many bytes, or raises. Config and text come as text, of which nothing here obeys a word.
    Raises InputError, naming the fault, on what is no message, contradicts itself or is beyond the limits.
    """
    kinds: dict[int, Callable[[Read], Message]] = {
        CONFIG_FILE: lambda read: ismrmrd.ConfigFile(_decoded(read(_CONFIG_NAME))),
        CONFIG_TEXT: lambda read: ismrmrd.ConfigText(_text(read, "config text")),
        HEADER: lambda read: parse_header(_bytes(read, "header")),
        TEXT: lambda read: _text(read, "text"),
        ACQUISITION: _acquisition,
        IMAGE: _image,
    }
    while True:
        (kind,) = struct.unpack("<H", read(2))
        if kind == CLOSE:
            return
        if kind == WAVEFORM:
            _skip_waveform(read)
            continue
        if kind not in kinds:
            raise InputError(f"a message of kind {kind}, which the MRD streaming protocol does not have; send others")
        yield kinds[kind](read)


def encoded(message: Message) -> bytes:
    """A message as it goes over the line."""
    stream = io.BytesIO()
    ismrmrd.ProtocolSerializer(stream).serialize(message)
    return stream.getvalue()


def encoded_close() -> bytes:
    """The message that no more will come from this side."""
    return struct.pack("<H", CLOSE)


def parse_header(document: bytes) -> xsd.ismrmrdHeader:
    """The XML header. Raises InputError for what is none; its text, which may hold a name, is not repeated."""
    if b"<!DOCTYPE" in document or b"<!ENTITY" in document:
        raise InputError("a header with a document type, which no ISMRMRD header has; send one without")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a value that is none
            return xsd.CreateFromDocument(document)
    except Exception as error:  # noqa: BLE001 - the parsers' faults share no base class
        raise InputError("a header that is no valid ISMRMRD header; check it against ismrmrd.xsd") from error


def _bytes(read: Read, what: str) -> bytes:
    (length,) = struct.unpack("<I", read(4))
    if length > _LONGEST_TEXT:
        raise InputError(f"a {what} of {length} bytes; no more than {_LONGEST_TEXT} are taken")
    return read(length)


def _text(read: Read, what: str) -> str:
    return _decoded(_bytes(read, what))


def _decoded(text: bytes) -> str:
    """Without the zeros that fill it up or, in some programs, end it."""
    return text.rstrip(b"\0").decode("utf-8", "replace")


def _acquisition(read: Read) -> ismrmrd.Acquisition:
    head = ismrmrd.AcquisitionHeader.from_buffer_copy(read(ctypes.sizeof(ismrmrd.AcquisitionHeader)))
    samples, channels, dimensions = head.number_of_samples, head.active_channels, head.trajectory_dimensions
    if not (0 < samples <= _MOST_SAMPLES and 0 < channels <= _MOST_CHANNELS and dimensions <= _MOST_DIMENSIONS):
        raise InputError(
            f"a readout of {samples} samples, {channels} channels and {dimensions} dimensions of its trajectory; "
            f"it needs 1 to {_MOST_SAMPLES}, 1 to {_MOST_CHANNELS} and at most {_MOST_DIMENSIONS}"
        )
    _check_size(8 * samples * channels, "readout")
    trajectory = np.frombuffer(read(4 * samples * dimensions), np.float32).reshape(samples, dimensions)
    data = np.frombuffer(read(8 * samples * channels), np.complex64).reshape(channels, samples)
    return ismrmrd.Acquisition(head, data, trajectory)


def _image(read: Read) -> ismrmrd.Image:
    head = ismrmrd.ImageHeader.from_buffer_copy(read(ctypes.sizeof(ismrmrd.ImageHeader)))
    try:
        dtype = ismrmrd.image.get_dtype_from_data_type(head.data_type)
    except TypeError:
        raise InputError(f"an image whose pixels are of the unknown type {head.data_type}") from None
    (attributes,) = struct.unpack("<Q", read(8))
    if attributes > _LONGEST_TEXT:
        raise InputError(f"an image with attributes of {attributes} bytes; no more than {_LONGEST_TEXT} are taken")
    told = read(attributes)
    shape = (head.channels, *reversed(head.matrix_size))
    size = dtype.itemsize * head.channels * int(np.prod(head.matrix_size[:], dtype=np.int64))
    _check_size(size, "image")
    pixels = np.frombuffer(read(size), dtype).reshape(shape)
    try:
        image = ismrmrd.Image(head, _decoded(told))
    except Exception as error:  # noqa: BLE001 - the parser's faults share no base class
        raise InputError("an image whose attributes are no ISMRMRD meta attributes") from error
    image.data[:] = pixels
    return image


def _skip_waveform(read: Read) -> None:
    head = ismrmrd.WaveformHeader.from_buffer_copy(read(ctypes.sizeof(ismrmrd.WaveformHeader)))
    size = 4 * head.channels * head.number_of_samples
    _check_size(size, "waveform")
    read(size)


def _check_size(size: int, what: str) -> None:
    if size > _MOST_BYTES:
        raise InputError(f"{'an' if what == 'image' else 'a'} {what} of {size} bytes; at most {_MOST_BYTES} are taken")
