"""Write an analysis: JSON and CSV for programs, SVG and PNG for people, readable in grey."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from frbench import storage
from frbench.errors import FrbenchError, InputError

# Series differ in grey level, dash and marker, so that no reader depends on colour.
GREYS = ("#000000", "#6e6e6e", "#a3a3a3", "#3f3f3f", "#8a8a8a", "#bdbdbd")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "++++")
FILLS = ("#3d3d3d", "#8f8f8f", "#dedede", "#b5b5b5", "#666666", "#f4f4f4")

_STYLE: Any = {
    "font.size": 9,
    "font.family": "sans-serif",
    "text.parse_math": False,  # names may hold any character
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "svg.hashsalt": "frbench",  # the same figure is the same file
    "svg.fonttype": "none",
}


@contextlib.contextmanager
def figure(width: float, height: float) -> Iterator[Figure]:
    """A figure in the house style, size in inches, that needs no display and no closing."""
    with rc_context(_STYLE):
        made = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(made)
        yield made


def check_writable(out: Path) -> None:
    """Make the folder `out`; raises InputError now rather than after the computation."""
    try:
        storage.check_folder(out)
    except FrbenchError as error:
        reason = str(error).rsplit(": ", 1)[-1]
        raise InputError(f"cannot write results to {out}: {reason}") from None


def save_figure(out: Path, stem: str, fig: Figure) -> None:
    """Write `<out>/<stem>.svg` and `.png`, each atomically."""
    with rc_context(_STYLE):
        for suffix, options in ((".svg", {"metadata": {"Date": None}}), (".png", {"dpi": 160})):
            buffer = io.BytesIO()
            fig.savefig(buffer, format=suffix[1:], facecolor="white", **options)
            storage.write_bytes(out / f"{stem}{suffix}", buffer.getvalue())


def save_csv(out: Path, stem: str, frame: pd.DataFrame) -> None:
    """Write `<out>/<stem>.csv` atomically."""
    storage.write_text(out / f"{stem}.csv", frame.to_csv(index=False))


def save_numbers(out: Path, stem: str, frame: pd.DataFrame, content: dict[str, Any]) -> None:
    """Write `<out>/<stem>.csv` and `.json`, each atomically."""
    save_csv(out, stem, frame)
    storage.write_json(out / f"{stem}.json", content)
