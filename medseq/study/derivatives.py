"""Of a BIDS dataset, whose runs are units of their own: the derivatives of all of them as one dataset."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from medseq import __version__, terminal
from medseq.errors import ResourceError
from medseq.io.bids_write import describe_dataset, write_text
from medseq.provenance import collected_warnings


def merge(datasets: Sequence[Path], source: Path, place: Path) -> int:
    """Put the series, sidecars and logs of `datasets` into one dataset at `place`, and return how many files these are.

    source: the dataset that they were made from. Files are hard links where the file system has them, else copies; a
    file that two datasets have is taken from the first, with a warning. Pages stay where they are: each shows what its
    unit restored. What was at `place` is replaced. Raises InputError when the source is none, ResourceError when
    `place` cannot be written.
    """
    with collected_warnings(terminal.warn):
        about = describe_dataset(place, source, __version__)
    try:
        for left in place.parent.glob(f".{place.name}-*"):  # of a killed call
            shutil.rmtree(left)
        with tempfile.TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent) as scratch:
            new = Path(scratch) / "new"
            new.mkdir()
            for name, text in about.items():
                write_text(new / name, text)
            count = sum(_add(dataset, new) for dataset in datasets)
            if place.exists():
                os.rename(place, Path(scratch) / "old")
            os.rename(new, place)
    except OSError as error:
        raise ResourceError(f"{place}: cannot be written ({error.strerror}); check its rights and space") from error
    return count


def _add(dataset: Path, new: Path) -> int:
    """Files at the root of a dataset are about it as a whole."""
    count = 0
    for file in sorted(path for path in dataset.glob("*/**/*") if path.is_file()):
        inside = file.relative_to(dataset)
        if (new / inside).exists():
            terminal.warn(f"{inside}: two units have made it; the one of {dataset.name} is left out")
            continue
        (new / inside).parent.mkdir(parents=True, exist_ok=True)
        _link(file, new / inside)
        count += 1
    return count


def _link(file: Path, target: Path) -> None:
    try:
        os.link(file, target)
    except OSError:  # file systems without links, and folders on several of them
        shutil.copy2(file, target)
