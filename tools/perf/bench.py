"""Suite `bench`: one whole `frbench bench`, stage by stage, then the same call again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from frbench.discovery import PROJECT_ROOT
from frbench.errors import FrbenchError
from frbench.evaluation import CellStore
from tools.perf.options import Options
from tools.perf.report import Figure, Result, Table
from tools.perf.timing import Candidate, WallClock

DEFENSE = "at_fr_swa"
_MAIN = "from frbench.cli.app import main; main()"


def run(options: Options) -> Result:
    """Wall-clock seconds of the command a user types, in processes of its own."""
    with options.workspace("bench") as folder:
        command = [
            *("bench", DEFENSE, *options.overrides, "--preset", options.preset),
            *("--device", str(options.device.device)),
            *("--runs-dir", str(folder / "runs"), "--results-dir", str(folder / "results")),
        ]
        first = WallClock().measure(lambda: _frbench(command))
        second = Candidate("second call", lambda _: _frbench(command), lambda: None)
        again = options.timed([second], units=1, clock=WallClock())["second call"]
        rows = _stages(folder, first)
    result = Result(
        "bench",
        settings={"defense": DEFENSE, "preset": options.preset, "repeats": options.repeats},
    )
    title = f"frbench bench {DEFENSE} --preset {options.preset}"
    result.tables.append(Table(title, rows, "wall-clock seconds of the first call"))
    result.tables.append(Table("The same call again", [again.row()]))
    limit = Figure(f"{title}: seconds of a second call", 5.0, again.median, at_least=False)
    result.figures.append(limit)
    return result


def _frbench(arguments: list[str]) -> None:
    finished = subprocess.run(
        [sys.executable, "-c", _MAIN, *arguments],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
    )
    if finished.returncode:
        last = (finished.stderr.strip() or finished.stdout.strip()).split("\n")[-1]
        raise FrbenchError(f"frbench {' '.join(arguments[:2])} failed: {last}")


def _stages(folder: Path, total: float) -> list[dict[str, Any]]:
    """Seconds by stage as run folders and cells tell them; what is left is start-up and tables."""
    rows: list[dict[str, Any]] = []
    for path in sorted((folder / "runs").glob("*/run.json")):
        cost = json.loads(path.read_text())["cost"]
        rest = cost["total_seconds"] - cost["train_seconds"]
        rows.append({"stage": "train: steps", "seconds": cost["train_seconds"]})
        rows.append({"stage": "train: judging, averaging", "seconds": rest})
    for cell in CellStore(folder / "results").all():
        name = f"{cell.model.name} {cell.model.weights or ''}: {cell.attack.label}"
        rows.append({"stage": f"{name}, n = {cell.data.n}", "seconds": cell.total_seconds})
    known = sum(row["seconds"] for row in rows)
    rows.append({"stage": "start-up, loading, tables", "seconds": total - known})
    rows.append({"stage": "all", "seconds": total})
    return [{**row, "share": row["seconds"] / total} for row in rows]
