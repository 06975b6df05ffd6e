"""Put on PYTHONPATH, this makes every Python that starts note, and refuse, whatever leaves the machine."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys


def _is_here(host: object) -> bool:
    try:
        return host in (None, "", "localhost") or ipaddress.ip_address(str(host)).is_loopback
    except ValueError:
        return False


def _refuse_network(event: str, arguments: tuple) -> None:
    if event == "socket.getaddrinfo" or event.startswith("socket.gethostby"):
        leaves = not _is_here(arguments[0]) and arguments[0] != socket.gethostname()
    elif event in ("socket.connect", "socket.sendto", "socket.sendmsg") and isinstance(arguments[1], tuple):
        # To connect a datagram socket sends nothing: Dask asks the kernel so which address this machine has.
        only_asks = event == "socket.connect" and arguments[0].type & socket.SOCK_DGRAM
        leaves = not _is_here(arguments[1][0]) and not only_asks
    else:
        return
    if leaves:
        with open(os.environ["MEDSEQ_TEST_NETWORK"], "a") as log:
            log.write(f"{event} {arguments[-1]} in {sys.argv}\n")
        raise OSError(f"no network in this test: {event} {arguments}")


if "MEDSEQ_TEST_NETWORK" in os.environ:
    sys.addaudithook(_refuse_network)
