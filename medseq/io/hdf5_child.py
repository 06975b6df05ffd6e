"""The program in which HDF5 files are read for a trial, apart from everything that matters.

HDF5's library believes what a damaged file says: it takes gigabytes for a length that is wrong, goes round in circles,
and at times ends its process. So `medseq.io.hdf5_trial` runs this file, and not the module: nothing of medseq or torch
is imported.

Asked on stdin for one file at a time, by a line of JSON (`path`, `seconds` of processor time, bytes of `memory`, and
the `largest` array that is read). Answers with a line of JSON: what is wrong, or nothing. Ends with its stdin.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import warnings
from collections.abc import Iterator
from typing import Any

_BLOCK = 16 << 20  # bytes read at once


def main() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    import h5py  # noqa: F401 - before the first limit

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    answers.write("\n")  # it is there
    answers.flush()
    lost: list[str] = []
    sys.unraisablehook = lambda one: lost.append(str(one.exc_value))  # what HDF5 cannot close again
    before = resource.getrlimit(resource.RLIMIT_AS)
    most = sys.maxsize if before[0] == resource.RLIM_INFINITY else before[0]
    while line := sys.stdin.readline():
        request = json.loads(line)
        lost.clear()
        # Nobody handles it: the process ends. Of the processor's time, as a disk may be slow.
        signal.setitimer(signal.ITIMER_PROF, request["seconds"])
        resource.setrlimit(resource.RLIMIT_AS, (min(_size() + request["memory"], most), before[1]))
        fault = _fault(request["path"], request["largest"])
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(json.dumps({"fault": fault or "".join(lost[:1])}) + "\n")
        answers.flush()


def _size() -> int:
    """Bytes of address space of this process (proc(5))."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _fault(path: str, largest: int) -> str:
    """What goes wrong when everything is read; empty when nothing does, or when that is not even HDF5."""
    import h5py

    try:
        file = h5py.File(path, "r")
    except Exception:  # noqa: BLE001 - harmless, and said better by who wants to read it
        return ""
    try:
        with file:
            for dataset in _arrays(file):
                _read(dataset, largest)
    except MemoryError:
        return "needs more memory than a file of its size can"
    except Exception as error:  # noqa: BLE001 - whatever the library finds broken
        return str(error) or type(error).__name__
    return ""


def _arrays(file: Any) -> Iterator[Any]:
    """Every array of the file itself: no link is followed to another one."""
    import h5py

    links: list[tuple[str, Any]] = []
    file.visititems_links(lambda name, link: links.append((name, link)))
    for name, link in links:
        if isinstance(link, h5py.HardLink) and file.get(name, getclass=True) is h5py.Dataset:
            dataset = file[name]
            if not dataset.is_virtual and not dataset.external:
                yield dataset


def _read(dataset: Any, largest: int) -> None:
    """Read an array in blocks of rows, and drop them; one that is larger than `largest` will be refused anyway."""
    if dataset.shape is None or dataset.nbytes > largest:
        return
    if not dataset.shape:
        dataset[()]
        return
    rows = max(1, _BLOCK * dataset.shape[0] // max(1, dataset.nbytes))
    for start in range(0, dataset.shape[0], rows):
        dataset[start : start + rows]


if __name__ == "__main__":
    main()
