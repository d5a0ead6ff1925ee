"""The result of a suite: tables for people and one JSON file for everything else."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table as RichTable

from frbench import storage
from frbench.engine.device import Device
from frbench.provenance import provenance

SCHEMA = 1
ENOUGH = 5
"""Samples behind a median that may be claimed; with fewer it is a rehearsal."""
_HIDDEN = {"samples", "units_a_repeat", "fastest", "slowest"}


@dataclass
class Table:
    """Rows with the same keys; `note` tells how to read them."""

    title: str
    rows: list[dict[str, Any]]
    note: str = ""


@dataclass
class Figure:
    """A figure that was promised, and what was measured; `at_least` False means at most."""

    claim: str
    wanted: float
    measured: float
    at_least: bool = True
    reached: bool = field(init=False)

    def __post_init__(self) -> None:
        margin = self.measured - self.wanted
        self.reached = (margin if self.at_least else -margin) >= 0


@dataclass
class Result:
    """What one suite found; its `subject` is named in the file, beside results on others."""

    suite: str
    settings: dict[str, Any]
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    subject: str = ""

    @property
    def name(self) -> str:
        return "-".join(filter(None, [self.suite, self.subject]))


def write(result: Result, device: Device, out: Path, *, rehearsal: bool) -> Path:
    """Save as `<out>/<device>/<name>.json` and return the path.

    A rehearsal is kept apart as `<name>-rehearsal.json`, so that it replaces no measurement; so
    are medians of fewer than `ENOUGH` samples.
    """
    rehearsal = rehearsal or _too_few(result)
    name = f"{result.name}-rehearsal" if rehearsal else result.name
    path = out / slug(device.describe()) / f"{name}.json"
    storage.write_json(path, as_json(result, device, rehearsal=rehearsal))
    return path


def as_json(result: Result, device: Device, *, rehearsal: bool) -> dict[str, Any]:
    """Everything that a reader needs to trust or repeat the numbers."""
    return {
        "schema_version": SCHEMA,
        "suite": result.suite,
        "rehearsal": rehearsal,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": _command(sys.argv[1:]),
        **provenance(device.describe()),
        "device_type": device.device.type,
        "precision": device.precision,
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda if device.cuda else None,
        "settings": result.settings,
        "tables": [asdict(table) for table in result.tables],
        "figures": [asdict(figure) for figure in result.figures],
        "notes": result.notes,
    }


def _command(arguments: Sequence[str]) -> str:
    """What to type elsewhere: without the folder of the file, nor any other folder of this machine.

    Runs and folders keep their names.
    """
    kept, left = [], iter(arguments)
    for argument in left:
        if argument == "--out":
            next(left, None)
        elif not argument.startswith("--out="):
            option, equals, value = argument.rpartition("=")
            kept.append(f"{option}{equals}{without_folder(value)}")
    return shlex.join(["python", "-m", "tools.perf", *kept])


def without_folder(value: str) -> str:
    """A path or TARGET such as `file:/home/me/model.pt`, but no folder of one machine."""
    scheme, colon, path = value.rpartition(":")
    return f"{scheme}{colon}{Path(path).name}" if Path(path).is_absolute() else value


def slug(text: str) -> str:
    """A folder's name: `NVIDIA H200` becomes `nvidia-h200`."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def show(result: Result, console: Console) -> None:
    """Print the tables, then the figures that were promised."""
    for table in result.tables:
        console.print(_rich(table.title, table.rows))
        if table.note:
            console.print(table.note)
    if result.figures:
        rows = [
            {
                "figure": f.claim,
                "wanted": f"{'at least' if f.at_least else 'at most'} {_text(f.wanted)}",
                "measured": f.measured,
                "": "reached" if f.reached else "NOT reached",
            }
            for f in result.figures
        ]
        console.print(_rich("Figures to reach", rows))
    for note in result.notes:
        console.print(note)
    if _too_few(result):
        console.print(
            f"medians of {result.settings['repeats']} samples: a rehearsal, since a claim needs "
            f"{ENOUGH}"
        )


def _too_few(result: Result) -> bool:
    return int(result.settings.get("repeats", ENOUGH)) < ENOUGH


def _rich(title: str, rows: list[dict[str, Any]]) -> RichTable:
    table = RichTable(title=title)
    columns = [key for key in (rows[0] if rows else {}) if key not in _HIDDEN]
    for column in columns:
        number = isinstance(rows[0][column], int | float)
        heading = column.replace("_", " ")
        table.add_column(heading, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_text(row[column]) for column in columns))
    return table


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
