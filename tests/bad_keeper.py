"""A classic DICOM archive that does harm, under each title another; a process of its own, as it breaks in doing so.

python bad_keeper.py PORT IMAGE        prints "ready" when it listens
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import pydicom
from pynetdicom import AE, evt

FIND, GET, MR = "1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.5.1.4.1.2.2.3", "1.2.840.10008.5.1.4.1.1.4"
PENDING, DONE, REFUSED = 0xFF00, 0x0000, 0xA700


def title(event: evt.Event) -> str:
    return str(event.assoc.requestor.primitive.called_ae_title).strip()


def match(instance: str) -> pydicom.Dataset:
    found = pydicom.Dataset()
    found.add_new("SOPInstanceUID", "UI", instance)
    return found


def on_find(event: evt.Event) -> Iterator[tuple[int, pydicom.Dataset | None]]:
    what = title(event)
    if what == "MUTE":
        time.sleep(5)
    if what == "REFUSES":
        yield REFUSED, None
    elif what == "ENDLESS":
        for number in range(10_000):
            yield PENDING, match(f"1.2.{number}")
    elif what == "DRIPS":
        for number in range(40):
            time.sleep(0.2)
            yield PENDING, match(f"1.2.{number}")
    elif what == "REPEATS":
        yield PENDING, match(pydicom.dcmread(sys.argv[2]).SOPInstanceUID)
    else:
        yield PENDING, match("../../evil" if what == "CLIMBS" else "1.2.3.4.5")


def on_get(event: evt.Event) -> Iterator[object]:
    what = title(event)
    if what == "MUTE_LATER":
        time.sleep(5)
    if what == "REFUSES_LATER":
        yield 1
        yield REFUSED, None
        return
    image = pydicom.dcmread(sys.argv[2])
    if what == "FLOODS":
        image.Rows = image.Columns = 512
        image.PixelData = bytes(512 * 512 * 2)
    times = 3 if what == "REPEATS" else 1
    yield times
    for _ in range(times):
        yield PENDING, image


if __name__ == "__main__":
    entity = AE("KEEPER")
    entity.add_supported_context(FIND)
    entity.add_supported_context(GET)
    entity.add_supported_context(MR, scu_role=True, scp_role=True)
    handlers = [(evt.EVT_C_FIND, on_find), (evt.EVT_C_GET, on_get)]
    entity.start_server(("127.0.0.1", int(sys.argv[1])), block=False, evt_handlers=handlers)
    print("ready", flush=True)
    sys.stdin.read()  # until the test that started it is gone
