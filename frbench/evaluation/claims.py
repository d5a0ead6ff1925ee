"""Who computes a cell: one process at a time, by a lock that its death releases."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from frbench.errors import FrbenchError


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Try to be the only holder of `path`, without waiting; gives whether that worked.

    The file is removed afterwards. The kernel releases the lock of a killed process.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise FrbenchError(f"cannot write {path}: {error.strerror}") from error
    try:
        mine = _lock(descriptor) and _is_current(descriptor, path)
        try:
            yield mine
        finally:
            if mine:  # removed while still locked: whoever waits on this inode sees it is gone
                path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_current(descriptor: int, path: Path) -> bool:
    """Whether the locked file is still the one that others would open."""
    with contextlib.suppress(FileNotFoundError):
        return os.fstat(descriptor).st_ino == path.stat().st_ino
    return False
