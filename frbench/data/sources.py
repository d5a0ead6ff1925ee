"""Where a dataset can come from, and what every source must hand over."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import Progress, ProgressColumn

from frbench.errors import first_line

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.integer]

CONNECT_SECONDS = 10
"""A server that stays silent for this long is taken as not reachable."""


class UnavailableError(Exception):
    """This source cannot give the data; the message says why in a few words."""


@dataclass(frozen=True)
class Arrays:
    """A dataset as read: images uint8 (n, c, h, w), labels (n,) of any integer type."""

    train_images: Pixels
    train_labels: Labels
    test_images: Pixels
    test_labels: Labels
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """One place to get a dataset from.

    `read` gets a folder: the user's own for a source with `from_user`, else an empty one for its
    downloads, which is deleted afterwards. It raises UnavailableError, or an OSError.
    """

    name: str
    read: Callable[[Path], Arrays]
    from_user: bool = False


def progress(*columns: ProgressColumn) -> Progress:
    """A bar on stderr that disappears when done; without a terminal there is none."""
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def array_sha256(array: npt.NDArray[np.generic]) -> str:
    """SHA-256 of an array's bytes in C order."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def reason(error: OSError) -> str:
    """An operating-system or network error in a few words, without its address."""
    inner = error.reason if isinstance(error, URLError) else error
    if isinstance(inner, TimeoutError):
        return f"no answer within {CONNECT_SECONDS} s"
    if isinstance(inner, socket.gaierror):
        return "its host cannot be found; is there a network?"
    if isinstance(inner, ssl.SSLError):
        return "its certificate was not accepted"
    if isinstance(inner, OSError) and inner.errno:
        where = f" ({inner.filename})" if inner.filename else ""
        hint = "; free some" if inner.errno == errno.ENOSPC else ""
        return os.strerror(inner.errno) + where + hint
    return first_line(inner)


@contextmanager
def torchvision_download() -> Iterator[None]:
    """Run one of torchvision's downloads; a silent network ends it soon, with a short reason."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(CONNECT_SECONDS)
    try:
        yield
    except OSError as error:
        raise UnavailableError(reason(error)) from error
    except (RuntimeError, EOFError, HTTPException) as error:
        raise UnavailableError(
            f"the download is damaged and was deleted ({first_line(error)})"
        ) from error
    finally:
        socket.setdefaulttimeout(before)
