"""Matplotlib figures as SVG inside a page: colours of its theme, its font, no identifier twice."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator, Mapping
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK, SOFT, GRID, PAPER = "#000000", "#000050", "#0000a0", "#ffffff"
SERIES = ("#000001", "#000002", "#000003", "#000004", "#000005")
# Every colour stands for a variable of the style sheet, so that figures follow dark and light.
_VARIABLES = {
    INK: "--ink",
    SOFT: "--soft",
    GRID: "--grid",
    PAPER: "--paper",
    **{color: f"--series-{i}" for i, color in enumerate(SERIES, start=1)},
}
MARKERS = ("o", "s", "^", "D", "v")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))

_STYLE: Any = {
    "font.size": 10.5,
    "font.family": "sans-serif",
    "text.parse_math": False,  # names may hold any character
    "text.color": INK,
    "axes.edgecolor": SOFT,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.linewidth": 0.7,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.linewidth": 1.7,
    "lines.markersize": 5,
    "svg.hashsalt": "frbench",  # the same figure is the same text
    "svg.fonttype": "none",
}
_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"


@contextlib.contextmanager
def figure(width: float, height: float) -> Iterator[Figure]:
    """A figure in the style of the report, size in inches; call `inline` inside."""
    with rc_context(_STYLE):
        made = Figure(figsize=(width, height), layout="constrained", facecolor="none")
        FigureCanvasAgg(made)
        yield made


def inline(made: Figure, name: str, label: str, titles: Mapping[str, str] | None = None) -> Markup:
    """The figure as an `<svg>` element.

    Args:
        name: unique in the page; begins every identifier inside.
        label: what a screen reader says in place of the picture.
        titles: what a mouse shows over an artist, by the artist's `gid`.
    """
    buffer = io.StringIO()
    made.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)
    for element in list(root.iter()):
        title = (titles or {}).get(element.get("id", ""))
        if title is not None:
            note = ElementTree.Element("title")
            note.text = title
            element.insert(0, note)
        _adapt(element, name)
    size = root.attrib.pop("width"), root.attrib.pop("height")
    root.attrib.pop("version", None)
    assert all(length.endswith("pt") for length in size)
    root.set("role", "img")
    root.set("aria-label", label)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _adapt(element: ElementTree.Element, name: str) -> None:
    element.tag = element.tag.removeprefix(_SVG)
    if _HREF in element.attrib:
        element.set("href", element.attrib.pop(_HREF))
    for key, value in list(element.attrib.items()):
        if key == "id":
            element.set(key, f"{name}-{value}")
        elif key == "href":
            element.set(key, value.replace("#", f"#{name}-", 1))
        elif key in ("style", "clip-path", "fill", "stroke"):
            element.set(key, _themed(value.replace("url(#", f"url(#{name}-")))


def _themed(value: str) -> str:
    value = re.sub(r"font: (?:[a-z0-9]+ )*?([0-9.]+px) [^;]*", r"font-size: \1", value)
    for color, variable in _VARIABLES.items():
        value = re.sub(rf"{color}\b", f"var({variable})", value)
    return value
