"""A client's connection: whole messages in and out, and nobody waited for longer than agreed."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import suppress

from medseq.errors import InputError
from medseq.io.ismrmrd_library import ismrmrd, xsd
from medseq.io.mrd_stream import Message, encoded, encoded_close, messages

_PARTING = 2.0  # seconds that a client has to read the last words and close
_PIECE = 1 << 20


class Gone(Exception):
    """The client is not there any more."""


class Connection:
    """The server's end. timeout: seconds without a byte, either way, after which a client has stalled."""

    def __init__(self, line: socket.socket, timeout: float) -> None:
        self._line, self._timeout = line, timeout
        line.settimeout(timeout)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._messages = messages(self._read)

    def greet(self) -> xsd.ismrmrdHeader:
        """Read up to the header; what configuration is asked for is left aside. Raises as `readouts`."""
        for message in self._messages:
            if isinstance(message, xsd.ismrmrdHeader):
                return message
            if not isinstance(message, str):
                raise InputError(f"{_called(message)} before the header; send the header first")
        raise InputError("the client closed before it sent a header")

    def readouts(self) -> Iterator[ismrmrd.Acquisition]:
        """The readouts up to the client's close. Raises InputError for faults of the client, Gone when it is not there
        any more."""
        for message in self._messages:
            if isinstance(message, ismrmrd.Acquisition):
                yield message
            elif type(message) is not str:  # text for people is for nobody here
                raise InputError(f"{_called(message)} after the header; send readouts")

    def send(self, message: Message) -> None:
        """Send one message. Raises InputError when the client does not read, Gone when it is not there any more."""
        self._write(encoded(message))

    def close(self) -> None:
        """Say that no more will come. Raises as `send`."""
        self._write(encoded_close())

    def part(self) -> None:
        """Let the client read what was said last, and end the connection.

        What it still sends is taken and forgotten: a connection that is closed with bytes unread is reset, and its last
        words are lost. Whoever reads in another thread finds the client gone.
        """
        with suppress(OSError):
            self._line.shutdown(socket.SHUT_WR)
            self._line.settimeout(_PARTING)
            until = time.monotonic() + _PARTING
            while time.monotonic() < until and self._line.recv(_PIECE):
                pass
        with suppress(OSError):
            self._line.shutdown(socket.SHUT_RD)

    def _write(self, content: bytes) -> None:
        try:
            self._line.sendall(content)
        except TimeoutError:
            raise InputError(f"the client took no image for {self._timeout:g} s; read while you send") from None
        except OSError:
            raise Gone from None

    def _read(self, count: int) -> bytes:
        """Exactly so many bytes. A client that drips them has as long for all of them as for one."""
        content, until = bytearray(), time.monotonic() + self._timeout
        try:
            while len(content) < count:
                piece = self._line.recv(min(count - len(content), _PIECE))
                if not piece:
                    raise Gone
                content += piece
                if time.monotonic() > until and len(content) < count:
                    raise TimeoutError
        except TimeoutError:
            raise InputError(f"the client sent nothing for {self._timeout:g} s; close when all is sent") from None
        except OSError:
            raise Gone from None
        return bytes(content)


def _called(message: Message) -> str:
    names = {
        ismrmrd.Acquisition: "a readout",
        ismrmrd.Image: "an image",
        xsd.ismrmrdHeader: "a second header",
        ismrmrd.ConfigFile: "a configuration",
        ismrmrd.ConfigText: "a configuration",
    }
    return names[type(message)]
