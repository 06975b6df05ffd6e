"""The server: listens, and serves one client after the other, whatever any of them does."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Thread

import numpy as np

from medseq import __version__, terminal
from medseq.errors import InputError, ResourceError, UsageError
from medseq.io.ismrmrd_library import ismrmrd
from medseq.stream.collector import Collector
from medseq.stream.connection import Connection, Gone
from medseq.stream.session import Begin, Done, reconstructed
from medseq.stream.tally import Tally
from medseq.stream.waiting import Stopped, Waiting

_BACKLOG = 4  # clients that may wait for their turn


@dataclass(frozen=True)
class Manner:
    """How clients are served.

    first: frames of each slice that calibrate. room: frames that may wait for reconstruction before the oldest is
    dropped, or if `patient` before the client has to wait. timeout: seconds without a byte after which it has stalled.
    """

    first: int = 12
    room: int = 2
    patient: bool = False
    timeout: float = 30.0


def parse_address(text: str) -> tuple[str, int]:
    """`HOST:PORT` -> host and port; an IPv6 host in brackets. Raises UsageError for anything else."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise UsageError(f"{text}: is no address; give HOST:PORT, as in localhost:9002")
    return host, int(port)


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens; port 0 is any that is free. Raises ResourceError when it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        server = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        why = str(error.strerror).partition(" (while")[0]  # Python names the address once more
        raise ResourceError(f"{host}:{port}: cannot be listened on ({why}); choose another with --listen") from error
    with server:
        yield server


def serve(line: socket.socket, begin: Begin, manner: Manner, tally: Tally, show: Callable[[Tally], None]) -> str | None:
    """Serve one client to its end. Returns what was wrong, in one line, or None.

    tally: what becomes of its frames. show: is called with it after each image. Faults of the client, and everything
    that fails here, are told to the client and returned; only an interruption is raised.
    """
    connection, waiting = Connection(line, manner.timeout), Waiting(manner.room, tally, patient=manner.patient)
    receiver = Thread(target=_receive, args=(connection, waiting, manner.first, tally), daemon=True)
    receiver.start()
    try:
        return _answer(connection, reconstructed(waiting, begin), tally, show)
    finally:
        waiting.stop()
        connection.part()
        receiver.join()


def _receive(connection: Connection, waiting: Waiting, first: int, tally: Tally) -> None:
    """Make frames of what the client sends, until it closes, errs or nobody wants them."""
    try:
        collector = Collector(connection.greet(), first, tally)
        for readout in connection.readouts():
            for item in collector.add(readout):
                waiting.put(item)
        for item in collector.end():
            waiting.put(item)
        waiting.end()
    except Stopped:
        pass
    except BaseException as error:  # noqa: BLE001 - it is raised where frames are taken
        waiting.end(error)


def _answer(connection: Connection, images: Iterable[Done], tally: Tally, show: Callable[[Tally], None]) -> str | None:
    """Send each image as soon as it is done, and in the end, or when something fails, say so and close."""
    try:
        for number, done in enumerate(images, start=1):
            connection.send(image_message(done, number))
            tally.sent(done.frame.received, done.live)
            show(tally)
        connection.close()
        return None
    except Gone:
        return "the client went away before it closed"
    except Exception as error:  # noqa: BLE001 - whatever it is, the next client is to be served
        fault = terminal.explained(error)
        _last_words(connection, fault)
        return fault
    except BaseException:
        _last_words(connection, "the server is being stopped; connect again later")
        raise


def _last_words(connection: Connection, words: str) -> None:
    with suppress(Gone, InputError):
        connection.send(f"medseq: {terminal.printable(words)}")
        connection.close()


def image_message(done: Done, number: int) -> ismrmrd.Image:
    """The magnitude (float32) of an image of the stream, with the place, time and counters of its readouts.

    number: of the image in its stream, from 1. Its attributes say the latency so far and what was lost before it.
    """
    frame, magnitude = done.frame, done.image.abs()[0, 0, 0].float().numpy()
    height, width = magnitude.shape
    image = ismrmrd.Image.from_array(
        np.ascontiguousarray(magnitude),
        frame.head,
        image_type=ismrmrd.IMTYPE_MAGNITUDE,
        image_index=number % (1 << 16),
        image_series_index=1,
        field_of_view=tuple(np.linalg.norm(done.affine[:3, :3], axis=0) * (width, height, 1)),
    )
    image.meta = ismrmrd.Meta(
        {
            "DataRole": "Image",
            "ImageProcessingHistory": "medseq",
            "medseq_version": __version__,
            "medseq_frame": frame.number,
            "medseq_lines": int(frame.keep.sum()),
            "medseq_lost_before": done.lost,
            "medseq_latency_ms": round(1e3 * (time.monotonic() - frame.received), 2),
        }
    )
    return image
