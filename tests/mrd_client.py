"""A client of the MRD streaming protocol, made of the published description with `struct` alone, and a server for it.

Layouts: doc/mrd_messages.md, doc/mrd_raw_data.md and doc/mrd_image_data.md of https://github.com/ismrmrd/ismrmrd.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Thread
from typing import Any

import numpy as np
import torch
from scanner import PHASE, POSITION, QUIET, READ, SOURCE, Scanner

from medseq.clip import KSpace
from medseq.operators import Fourier
from medseq.stream.server import Manner, listening, serve
from medseq.stream.session import Begin
from medseq.stream.tally import Tally

ACQUISITION = struct.Struct("<HQIII3IHHH16QHHHHHf3f3f3f3f3f17H8i8f")
IMAGE = struct.Struct("<HHQI3H3fH3f3f3f3f3f6HI3IHHH8i8fI")
LAST_IN_REPETITION, NOISE, CALIBRATION = (1 << (flag - 1) for flag in (14, 19, 20))
HERE = "127.0.0.1"


def text(kind: int, content: bytes | str) -> bytes:
    content = content.encode() if isinstance(content, str) else content
    return struct.pack("<HI", kind, len(content)) + content


CONFIG = struct.pack("<H", 1) + b"default.xml".ljust(1024, b"\0")
CLOSE = struct.pack("<H", 4)


def header(scanner: Scanner = QUIET) -> bytes:
    return text(3, scanner.xml().toXML())


def acquisition(data: np.ndarray, line: int, repetition: int, **fields: Any) -> bytes:
    """One readout (coils, samples). fields: flags, phase, slice, position, encoding, centre, time, trajectory, or the
    samples and channels that its header tells in place of its own."""
    channels, samples = data.shape
    trajectory = fields.get("trajectory", np.zeros((samples, 0)))
    centre = fields.get("centre", samples // 2)
    counters = [line, 0, 0, fields.get("slice", 0), 0, fields.get("phase", 0), repetition % 65536, 0, 0, *([0] * 8)]
    told = fields.get("samples", samples), fields.get("channels", channels), fields.get("channels", channels)
    vectors = [*fields.get("position", POSITION), *READ, *PHASE, *np.cross(READ, PHASE), 0, 0, 0]
    head = ACQUISITION.pack(
        *(1, fields.get("flags", 0), 77, 0, fields.get("time", 0), 0, 0, 0, *told, *([0] * 16), 0, 0, centre),
        *(fields.get("encoding", 0), trajectory.shape[1], 4.0, *vectors, *counters, *([0] * 8), *([0.0] * 8)),
    )
    return struct.pack("<H", 1008) + head + trajectory.astype("<f4").tobytes() + data.astype("<c8").tobytes()


SAMPLES = [readout.data for readout in QUIET.lines(SOURCE[None])]


def frame(repetition: int, lines: Any = range(QUIET.encoded[1]), **fields: Any) -> bytes:
    """All lines of a frame, or some, of one bright point; brighter in each frame."""
    return b"".join(acquisition((1 + repetition) * SAMPLES[line], line, repetition, **fields) for line in lines)


def stream(count: int, first: int = 0, **fields: Any) -> bytes:
    """A whole session of `count` frames."""
    return CONFIG + header() + b"".join(frame(first + t, **fields) for t in range(count)) + CLOSE


@dataclass
class Answer:
    """What the server said. closed: it said that no more will come, rather than to be gone."""

    images: list[tuple[dict[str, Any], np.ndarray, str]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    closed: bool = False


class Client:
    def __init__(self, port: int) -> None:
        self.line = socket.create_connection((HERE, port), timeout=60)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.line.close()

    def say(self, content: bytes) -> Client:
        self.line.sendall(content)
        return self

    def read(self, count: int) -> bytes:
        content = b""
        while len(content) < count:
            piece = self.line.recv(count - len(content))
            if not piece:
                raise EOFError
            content += piece
        return content

    def image(self) -> tuple[dict[str, Any], np.ndarray, str]:
        """(header, pixels (Y, X), attributes) of the image message whose kind was read."""
        values = IMAGE.unpack(self.read(IMAGE.size))
        (length,) = struct.unpack("<Q", self.read(8))
        attributes = self.read(length).decode()
        assert values[-1] == length and values[0] == 1 and values[1] == 5, "version 1, float32"
        names = {"matrix": (4, 7), "fov": (7, 10), "channels": (10, 11), "position": (11, 14), "read": (14, 17)}
        names |= {"phase": (17, 20), "slice": (20, 23), "counters": (26, 32), "time": (32, 33), "type": (36, 37)}
        names |= {"index": (37, 38), "series": (38, 39)}
        head = {name: np.array(values[low:high]) for name, (low, high) in names.items()}
        width, height, _ = head["matrix"]
        return head, np.frombuffer(self.read(4 * width * height), "<f4").reshape(height, width), attributes

    def listen(self) -> Answer:
        """Everything up to the server's close."""
        answer = Answer()
        try:
            while True:
                (kind,) = struct.unpack("<H", self.read(2))
                if kind == 4:
                    answer.closed = True
                    assert self.line.recv(1) == b""
                    return answer
                if kind == 5:
                    answer.texts.append(self.read(struct.unpack("<I", self.read(4))[0]).decode())
                else:
                    assert kind == 1022, kind
                    answer.images.append(self.image())
        except (EOFError, ConnectionError):
            return answer


class Quick:
    """In the place of a reconstruction: each fully sampled frame on its own. told: what it was called with."""

    def __init__(self, kspace: KSpace) -> None:
        self.kspace, self.told = kspace, []

    def first(self, y: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.frame(*each) for each in zip(y.split(1, 2), keep.split(1, 2), strict=True)], 2)

    def frame(self, y: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        self.told.append(int(keep.sum()))
        return Fourier().adjoint(y).abs().square().sum(1, keepdim=True).sqrt().to(torch.complex64)

    def missed(self, count: int = 1) -> None:
        self.told.append(-count)


@dataclass
class Served:
    """A server in this process. ended: (fault, tally) of each client, in order. tally: of the one that is served."""

    port: int
    ended: list[tuple[str | None, Tally]] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    serving: bool = False

    def outcome(self, client: int) -> tuple[str | None, Tally]:
        """How the session of a client ended, once it has; -1 is the last that was begun."""
        while len(self.ended) <= client or (client < 0 and self.serving):
            time.sleep(0.001)
        return self.ended[client]

    def ask(self, content: bytes) -> Answer:
        with Client(self.port) as client:
            return client.say(content).listen()


@contextmanager
def serving(begin: Begin = Quick, **manner: Any) -> Iterator[Served]:
    """Serves as many clients as come; ends when the block does."""
    with listening(HERE, 0) as server:
        served = Served(server.getsockname()[1])

        def work() -> None:
            while True:
                try:
                    line, _ = server.accept()
                except OSError:
                    return
                served.tally, served.serving = Tally(), True
                with line:
                    fault = serve(line, begin, Manner(**manner), served.tally, lambda tally: None)
                served.ended.append((fault, served.tally))
                served.serving = False

        thread = Thread(target=work, daemon=True)
        thread.start()
        try:
            yield served
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(60)
            assert not thread.is_alive(), "the server hangs"
