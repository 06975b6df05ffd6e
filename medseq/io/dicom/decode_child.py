"""The program in which compressed pixels are decoded, apart from everything that matters.

Some codecs abort, panic or exhaust the memory on a broken stream (python-gdcm terminates its process), so that
`medseq.io.dicom.decoding` runs this file, and not the module: nothing of medseq or torch is imported.

Asked on stdin for one frame at a time: a line of JSON (`size` bytes of compressed frame that follow, `syntax`,
`seconds`, `dtype` of the answer, and pydicom's decoding `options`). Answers on stdout with a line of JSON, the number
of bytes that follow or what is wrong, and the stored values. Ends with its stdin.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import warnings
from typing import Any, BinaryIO

# Room for the libraries and for the largest frame that is let through (128 MiB) as several codecs copy it.
_MOST_MEMORY = 2 << 30
_STARTUP_SECONDS = 60


def main() -> None:
    signal.alarm(_STARTUP_SECONDS)  # nobody handles it: the process ends, even inside a codec
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a codec prints must not come between
    while line := sys.stdin.buffer.readline():
        request = json.loads(line)
        _answer(request, sys.stdin.buffer.read(request["size"]), answers)


def _answer(request: dict[str, Any], frame: bytes, answers: BinaryIO) -> None:
    signal.alarm(request["seconds"])
    try:
        values, line = _decoded(request, frame), {}
    except NotImplementedError:
        values, line = b"", {"fault": "unknown"}
    except BaseException:  # noqa: BLE001 - the panic of a Rust codec is no Exception
        values, line = b"", {"fault": "broken"}
    signal.alarm(0)
    answers.write(json.dumps({"size": len(values), **line}).encode() + b"\n" + values)
    answers.flush()


def _decoded(request: dict[str, Any], frame: bytes) -> bytes:
    import numpy as np
    from pydicom.encaps import encapsulate
    from pydicom.pixels import get_decoder

    packed = encapsulate([frame], has_bot=False)
    values, _ = get_decoder(request["syntax"]).as_array(packed, index=0, raw=True, **request["options"])
    return np.ascontiguousarray(values, dtype=request["dtype"]).tobytes()


if __name__ == "__main__":
    main()
