"""Write the report: check the path first, read, render, replace the file at once."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from frbench import storage
from frbench.errors import FrbenchError, InputError
from frbench.report.page import render_page
from frbench.report.sources import read_sources

LIMIT = 8_000_000
_TITLE = b"<title>frbench report</title>"
"""In the head of every report, by which an earlier one is told from a file that is none of ours."""
_HEAD = 2_000


def write_report(
    output: Path,
    results_dir: Path,
    runs_dir: Path,
    *,
    gallery: bool = True,
    now: datetime | None = None,
) -> Path:
    """Write one self-contained HTML file of everything in a results folder.

    Args:
        output: the file; an earlier report there is replaced, any other file is refused.
        results_dir: folder that holds `cells/`, and perhaps `audits/` and `analysis/`.
        runs_dir: folder of run folders, for learning curves and the gallery.
        gallery: show images and their adversarial versions, a few seconds more.
        now: the date in the header; the present by default.

    Raises:
        InputError: no cells yet, a damaged file, or an output that cannot be written.
    """
    _check_output(output)
    sources = read_sources(results_dir, runs_dir)
    page = render_page(sources, runs_dir, gallery=gallery, now=now or datetime.now(UTC))
    size = len(page.encode())
    if size > LIMIT:
        raise FrbenchError(
            f"the report would have {size / 1e6:.1f} MB, the limit is {LIMIT / 1e6:.0f}: "
            "leave out the images with --no-gallery, or split the suite"
        )
    storage.write_text(output, page)
    return output


def _check_output(output: Path) -> None:
    """Raise InputError now rather than after the work when `output` cannot be written."""
    if output.is_dir():
        raise InputError(f"cannot write {output}: it is a folder; name a file such as report.html")
    if output.exists() and not _may_be_replaced(output):
        raise InputError(
            f"{output} is there already and is no report of frbench: name another file, or move "
            "it away"
        )
    folder = next((p for p in output.absolute().parents if p.exists()), Path("/"))
    if not folder.is_dir():
        raise InputError(f"cannot write {output}: {folder} is a file, not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"cannot write {output}: no permission to write in {folder}")


def _may_be_replaced(path: Path) -> bool:
    """Whether a file is an earlier report, or empty as `mktemp` leaves it."""
    if not path.is_file():  # a device or a pipe: reading one may wait for ever
        return False
    with path.open("rb") as file:
        head = file.read(_HEAD)
    return not head or _TITLE in head
