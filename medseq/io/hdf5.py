"""HDF5 files that are written all or nothing, and cannot promise more than they hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py

from medseq.errors import InputError
from medseq.io.files import atomic_write

# No compression that HDF5 files use gets further (RFC 1951).
DEFLATE_LIMIT = 1032
_BLOCK = 16 << 20  # bytes by which a file in memory grows


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
