"""Files that survive a kill: written aside, synced, renamed; locked by the kernel while in use."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import os
import struct
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from frbench.errors import FrbenchError

_REASONS = {
    errno.ENOSPC: "no space left on the device; free some and run the same command again",
    errno.EDQUOT: "the disk quota is used up; free some and run the same command again",
    errno.EFBIG: "the file system or ulimit -f allows no file as large; choose another folder",
    errno.EACCES: "permission denied; choose a folder that you may write to",
    errno.EPERM: "permission denied; choose a folder that you may write to",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EEXIST: "a part of the path is a file, not a folder",
    errno.EISDIR: "the path is a folder, not a file",
}
_RANDOM = 8
"""Characters that `tempfile` puts behind a prefix."""
_LONGEST_WRITE = 3600
"""Seconds."""


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn an operating-system error about `path` into one line that says what to do."""
    try:
        yield
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, os.strerror(error.errno or 0))
        raise FrbenchError(f"cannot write {path}: {reason}") from error


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` atomically: after a kill it is either the old or the new file."""
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        drop_leftovers(path.parent, glob.escape(path.name))
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o666 & ~_umask())
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            raise


def drop_leftovers(folder: Path, names: str, *, age: float = _LONGEST_WRITE) -> None:
    """Remove what kills left of writing files of these names.

    Args:
        folder: where they are.
        names: of the files, as in a glob.
        age: seconds; what is younger may be another process's, unless a lock says otherwise.
    """
    for left in folder.glob(f".{names}.{'?' * _RANDOM}"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime >= age:
                left.unlink()


def check_folder(path: Path) -> None:
    """Make the folder if needed and try to write there, before hours are spent on its content."""
    with _explained(path):
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(b"x")


def write_text(path: Path, content: str) -> None:
    """As `write_bytes`, for UTF-8 text."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """As `write_bytes`, for indented JSON with a final newline."""
    write_text(path, json.dumps(content, indent=1, sort_keys=False) + "\n")


def safe_name(text: str, kept: str = "-_+.@") -> str:
    """`text` as a file's name: letters, digits and `kept` stay, all else becomes a dash."""
    return "".join(c if c.isalnum() or c in kept else "-" for c in text)


def sha256(content: bytes) -> str:
    """Hexadecimal SHA-256 of `content`."""
    return hashlib.sha256(content).hexdigest()


def canonical_digest(content: Any, length: int = 16) -> str:
    """A short digest of JSON-like data that does not depend on the order of keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return sha256(text.encode())[:length]


class Busy(FrbenchError):
    """Another process holds the lock."""


@contextlib.contextmanager
def locked(path: Path, *, part: int | None = None, wait: bool = True) -> Iterator[None]:
    """Hold an exclusive lock on `path` (created if needed), or on one part of it.

    The kernel drops the lock when its process dies, so a kill leaves nothing to clean up.

    Args:
        path: the lock file; it stays behind, empty.
        part: number of the part, from 0 on; others may hold the other parts. None for all of them.
        wait: for the holder; otherwise raises Busy at once.
    """
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    with file:
        try:
            _lock(file, part, wait)
        except BlockingIOError:
            raise Busy(f"another process holds {path}; wait for it to end") from None
        except OSError as error:  # NFS without its lock service, some file systems of clusters
            reason = os.strerror(error.errno or 0)
            raise FrbenchError(
                f"cannot lock {path}: {reason}; choose a folder whose file system locks files"
            ) from error
        yield


def _lock(file: IO[str], part: int | None, wait: bool) -> None:
    """Lock one byte of an open file, there or not, or all; closing the file ends it."""
    first, length = (0, 0) if part is None else (part, 1)  # 0 bytes are all to the end
    flock = struct.pack("hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, first, length, 0)
    fcntl.fcntl(file, fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK, flock)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
