"""Writing a file so that it is either there, complete, or not there at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from medseq.errors import ResourceError


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Give a temporary path in the folder of `path`, and rename it to `path` when the block ends well.

    The temporary file exists, is empty, and has the same ending as `path` (libraries look at it). Its content reaches
    the disk (fsync) before the rename, so that a crash or a full disk leaves the old file or none, never half of one.
    Any exception, Ctrl-C included, removes it. Only writing belongs into the block:
    raises ResourceError, naming `path`, for every OSError in it.
    """
    path = Path(path)
    temporary = path.with_name(f".{secrets.token_hex(6)}-{path.name}")
    try:
        # Not `tempfile`, whose files nobody else may read, whatever the umask.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        yield temporary
        _to_disk(temporary)
        os.replace(temporary, path)
        with suppress(OSError):  # some file systems have no fsync for folders; the file itself is complete
            _to_disk(path.parent)
    except OSError as error:
        reason = error.strerror or str(error).splitlines()[0]
        raise ResourceError(
            f"{path}: cannot be written ({reason}); check the folder, its rights and free space"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    """Make a file's content, or a folder's list of names, survive a crash."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
