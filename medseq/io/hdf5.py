"""HDF5 files that are written all or nothing, read no other file, and cannot promise more than they hold."""

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
_MOST_OBJECTS = 10_000  # raw data have a handful
# Filters with larger numbers are programs that HDF5 looks for on the disk, but for h5py's own LZF.
_LAST_BUILT_IN_FILTER = 255


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """A file that is open for reading and whose content lies in it alone.

    HDF5 follows what a file says: links into other files, arrays whose values are bytes of any file (external storage)
    or parts of other files (virtual), filters that are loaded as programs. All four are looked for before anything is
    read, without following them. Raises InputError where one is, for more objects than raw data have, and for a file
    that ends or outruns the child which reads it for a trial; what else h5py raises on a broken file passes through.
    """
    check_readable(path)
    with h5py.File(path, "r") as file:
        links: list[tuple[str, object]] = []

        def note(name: str, link: object) -> bool | None:
            links.append((name, link))
            return True if len(links) > _MOST_OBJECTS else None  # enough seen

        file.visititems_links(note)
        if len(links) > _MOST_OBJECTS:
            raise InputError(f"{path}: holds over {_MOST_OBJECTS} objects, which no raw data do; extract the k-space")
        for name, link in links:
            if isinstance(link, h5py.ExternalLink):
                raise _elsewhere(path, "has a link into another file")
            if isinstance(link, h5py.HardLink) and isinstance(item := file[name], h5py.Dataset):
                _check_dataset(item, path)
        yield file


def _check_dataset(dataset: h5py.Dataset, path: Path) -> None:
    if dataset.external is not None or dataset.is_virtual:
        raise _elsewhere(path, "has an array whose values lie in another file")
    created = dataset.id.get_create_plist()
    for number in (created.get_filter(index)[0] for index in range(created.get_nfilters())):
        if number > _LAST_BUILT_IN_FILTER and number != h5py.h5z.FILTER_LZF:
            raise InputError(f"{path}: packed by the filter {number}, which medseq does not load; unpack with h5repack")


def _elsewhere(path: Path, what: str) -> InputError:
    return InputError(f"{path}: {what}, which medseq does not follow; copy everything into one file with h5repack")


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
