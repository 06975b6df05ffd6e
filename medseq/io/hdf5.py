"""HDF5 files that are written all or nothing, cannot promise more than they hold, and hold all that is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from medseq.errors import InputError
from medseq.io.files import atomic_write
from medseq.io.hdf5_trial import DEFLATE_LIMIT, check_readable

_BLOCK = 16 << 20  # bytes by which a file in memory grows


@contextmanager
def opened_hdf5(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file to read, which has been read by a child process before, and of which nothing leads out.

    Raises InputError for one that ends or outruns its reader, for links to other files and for arrays whose values lie
    in one: whoever made the file would choose what is read on this machine, and where it ends up.
    """
    check_readable(path)
    with h5py.File(path, "r") as file:
        links: list[tuple[str, object]] = []
        # Looked at afterwards: h5py loses what is raised while it visits.
        file.visititems_links(lambda name, link: links.append((name, link)))
        for name, link in links:
            if isinstance(link, h5py.ExternalLink):
                raise InputError(f"{path}: `{name}` leads to another file, which medseq does not follow; copy it in")
            if isinstance(link, h5py.HardLink) and _is_elsewhere(file[name]):
                raise InputError(f"{path}: the values of `{name}` lie in another file; copy them in")
        yield file


def _is_elsewhere(found: object) -> bool:
    return isinstance(found, h5py.Dataset) and (found.is_virtual or bool(found.external))


def read_array(dataset: h5py.Dataset, path: Path) -> Any:
    """All values of an array. Raises InputError for one that cannot be in so small a file."""
    check_stored_size(dataset, path)
    return dataset[()]


def check_stored_size(dataset: h5py.Dataset, path: Path) -> None:
    """Raise InputError for an array that cannot be in so small a file, before memory is taken for it."""
    if dataset.nbytes > DEFLATE_LIMIT * path.stat().st_size:
        raise InputError(
            f"{path}: damaged, as an array of {dataset.shape} cannot be in so small a file; get a fresh copy"
        )


def write_hdf5(path: Path, fill: Callable[[h5py.File], None], preamble: bytes = b"") -> None:
    """Write an HDF5 file atomically, with what `fill` puts into it.

    preamble: what stands before the HDF5 data (its "user block"), of 512 bytes or a multiple by a power of 2.
    Raises ResourceError when it cannot be written.
    """
    image = _file_image(fill, len(preamble))
    with atomic_write(path) as temporary, temporary.open("wb") as stream:
        stream.write(preamble)
        stream.write(image)


def _file_image(fill: Callable[[h5py.File], None], userblock: int) -> bytes:
    """The bytes of the file after its user block, made in memory: HDF5 crashes the process when the disk fills up."""
    options = {"userblock_size": userblock} if userblock else {}
    with h5py.File("image", "w", driver="core", backing_store=False, block_size=_BLOCK, **options) as file:
        fill(file)
        file.flush()
        return bytes(file.id.get_file_image())
