"""Writing a file so that it is either there, complete, or not there at all; one process at a time, where it must be."""

from __future__ import annotations

import fcntl
import os
import secrets
import signal
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


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hear Ctrl-C and SIGTERM only when the block has ended; in threads, which hear no signals, this does nothing.

    For a few renames that belong together, not for work.
    """
    came: list[int] = []
    before = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, lambda heard, _: came.append(heard))
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for heard in came:
            signal.raise_signal(heard)


def _no_link(path: str, flags: int) -> int:
    """A link planted in the place of a lock would have its target emptied."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


@contextmanager
def only_process(folder: Path, doing: str) -> Iterator[None]:
    """Hold the lock of a folder. Raises ResourceError when another process does, or the folder cannot be written.

    The kernel keeps the lock and drops it with the process, however that ends: none is ever left over.
    """
    try:
        lock = open(folder / ".lock", "w", opener=_no_link)  # noqa: SIM115 (the block below closes it)
    except OSError as error:
        raise ResourceError(f"{folder}: cannot be written ({error.strerror}); check its rights and space") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ResourceError(f"{folder}: another process is {doing}; wait for it to end") from None
        except OSError as error:
            raise ResourceError(
                f"{folder}: its file system has no locks ({error.strerror}); use one that has"
            ) from error
        yield
