"""Learning curves and the ablation: Figure 3 of the paper, from what runs and cells recorded.

Every run records accuracies on the held-out split. One that was trained with `test_images=N` has
those on the first N test images too, as in the paper, and gets a second panel.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rich.table import Table

from frbench.analysis import estimates, output
from frbench.analysis.estimates import Estimate
from frbench.engine.mechanisms import AVERAGES
from frbench.engine.run import METRICS, RunFolder
from frbench.errors import InputError
from frbench.evaluation.cells import Cell
from frbench.evaluation.resolve import run_of
from frbench.names import unknown

SPLITS = {"val": "validation", "test": "test"}
ABLATION = ("pgd_at", "at_swa", "at_fr", "at_fr_swa")
"""The bars, in order."""
_ATTACKS = ("clean", "pgd20")
_CHOOSE = "keep the cells of one suite in a results folder of their own"


@dataclass(frozen=True)
class Curve:
    """What one run recorded: one row an epoch, counted from 1, accuracies in [0, 1].

    Columns are those of the run's metrics file, such as `val_clean`, `val_pgd20`, `test_pgd20`, and
    the same with `swa_` or `ema_` in front for the averaged weights.
    """

    name: str
    metrics: pd.DataFrame

    @property
    def best(self) -> int:
        """First epoch of the highest validation accuracy under PGD-20."""
        return self.best_of("")

    def best_of(self, prefix: str) -> int:
        """The same of other weights: `swa_` or `ema_`, one of `prefixes`."""
        robust = self.metrics[f"{prefix}val_pgd20"]
        return int(self.metrics["epoch"].iloc[int(robust.argmax())])

    @property
    def prefixes(self) -> list[str]:
        """What stands before the columns of the plain weights, and of an average if any."""
        found = [f"{a}_" for a in AVERAGES if f"{a}_val_pgd20" in self.metrics]
        return ["", *found]

    @property
    def last(self) -> int:
        return int(self.metrics["epoch"].iloc[-1])

    def at(self, epoch: int, column: str) -> float:
        """The value of one column at one epoch."""
        return float(self.metrics.loc[self.metrics["epoch"] == epoch, column].iloc[0])

    def gap(self, epoch: int) -> float:
        """Clean less robust validation accuracy, which the paper sets out to close."""
        return self.at(epoch, "val_clean") - self.at(epoch, "val_pgd20")


@dataclass(frozen=True)
class CurveStudy:
    """The curves of several runs."""

    curves: tuple[Curve, ...]

    def frame(self) -> pd.DataFrame:
        """All metrics with the run's name; `mark` says which epoch is the best and the last."""
        frames = []
        for curve in self.curves:
            epoch = curve.metrics["epoch"]
            best, last = epoch == curve.best, epoch == curve.last
            mark = np.select([best & last, best, last], ["best+last", "best", "last"], "")
            frames.append(curve.metrics.assign(run=curve.name, mark=mark))
        joined = pd.concat(frames, ignore_index=True)
        return joined[["run", *(c for c in joined.columns if c != "run")]]

    def splits(self) -> list[str]:
        """Prefixes of the splits that some run has a robust accuracy on."""
        return [s for s in SPLITS if any(f"{s}_pgd20" in c.metrics for c in self.curves)]

    def to_json(self) -> dict[str, Any]:
        return {
            "analysis": "curves",
            "runs": [
                {
                    "name": curve.name,
                    "best": curve.best,
                    "last": curve.last,
                    "gap_best": curve.gap(curve.best),
                    "gap_last": curve.gap(curve.last),
                    "metrics": json.loads(curve.metrics.to_json(orient="records")),
                }
                for curve in self.curves
            ],
        }

    def table(self) -> Table:
        """Clean and robust accuracy of runs and their averages, best and last epoch, in percent."""
        table = Table(title="learning curves, accuracy (%)", title_justify="left")
        for column in ("run", "weights", "epoch"):
            table.add_column(column)
        for split in self.splits():
            for column in ("clean", "pgd20", "gap"):
                table.add_column(f"{split} {column}", justify="right")
        for curve in self.curves:
            for prefix in curve.prefixes:
                for name, epoch in (("best", curve.best_of(prefix)), ("last", curve.last)):
                    weights = prefix.rstrip("_").upper() or "plain"
                    numbers = self._numbers(curve, epoch, prefix)
                    table.add_row(curve.name, weights, f"{name} {epoch}", *numbers)
        return table

    def _numbers(self, curve: Curve, epoch: int, prefix: str) -> Iterator[str]:
        """Clean, robust and gap on each split; a dash where a run did not record it."""
        for split in self.splits():
            keys = [f"{prefix}{split}_{attack}" for attack in ("clean", "pgd20")]
            if all(key in curve.metrics for key in keys):
                clean, robust = (100 * curve.at(epoch, key) for key in keys)
                yield from (f"{clean:.2f}", f"{robust:.2f}", f"{clean - robust:.2f}")
            else:
                yield from ("-", "-", "-")

    def plot(self) -> Figure:
        """A panel a split; robust solid, clean dashed, averaged weights thin."""
        splits = self.splits()
        handles = _legend(self.curves)
        with output.figure(1.4 + 4.8 * len(splits), 3.8 + 0.17 * len(handles)) as fig:
            panels = fig.subplots(1, len(splits), sharey=True, squeeze=False)[0]
            for axes, split in zip(panels, splits, strict=True):
                for index, curve in enumerate(self.curves):
                    _draw_run(axes, curve, split, index)
                axes.set_title(SPLITS[split], loc="left")
                axes.set(xlabel="epoch", ylim=(0, 100))
                axes.xaxis.get_major_locator().set_params(integer=True)
            panels[0].set_ylabel("accuracy (%)")
            fig.legend(handles=handles, loc="outside lower center", fontsize=7.5)
        return fig

    def save(self, out: Path) -> None:
        """Write JSON, CSV, SVG and PNG into the folder `out`."""
        output.save_numbers(out, "curves", self.frame(), self.to_json())
        output.save_figure(out, "curves", self.plot())


def read_curve(run: Path) -> Curve:
    """The judged epochs of a run; a repeated epoch (after a resume) counts once, the later line.

    A run with `validation_every` above 1 has epochs that were not judged; they are no points.

    Raises:
        InputError: no metrics, a damaged line, or an epoch without its validation accuracies.
    """
    path = run / METRICS
    if not path.is_file():
        raise InputError(f"no {METRICS} in {run}: is it a run folder, and has an epoch finished?")
    rows: dict[int, dict[str, Any]] = {}
    for row in RunFolder(run).metrics():
        if "val_clean" not in row and "train_loss" in row:
            continue
        epoch = row["epoch"] + 1  # counted from 1, as everywhere that people look
        for key in ("val_clean", "val_pgd20"):
            if not isinstance(row.get(key), int | float):
                raise InputError(f"damaged metrics {path}: epoch {epoch} has no number '{key}'")
        rows[epoch] = {**row, "epoch": epoch}
    if not rows:
        raise InputError(f"{path} has no judged epoch yet")
    return Curve(run.name, pd.DataFrame([rows[epoch] for epoch in sorted(rows)]))


def run_path(text: str, runs_dir: Path) -> Path:
    """The folder of a run: a path, a run's name, or a defense that one finished run has trained.

    Raises:
        InputError: none of these, with the nearest known name; or a defense with several runs.
    """
    for folder in (Path(text), runs_dir / text):
        if folder.is_dir():
            return folder
    found = run_of(text, runs_dir)
    if found is not None:
        return found[0].path
    raise unknown("run", text, [path.parent.name for path in runs_dir.glob(f"*/{METRICS}")])


def curve_study(runs: Sequence[Path]) -> CurveStudy:
    """Read the runs to be drawn together."""
    if not runs:
        raise InputError("no run given; name one or more run folders")
    return CurveStudy(tuple(read_curve(run) for run in runs))


@dataclass(frozen=True)
class Ablation:
    """Accuracies of the recipes without and with FR and SWA, by (row, attack)."""

    rows: tuple[str, ...]
    attacks: tuple[str, ...]
    values: dict[tuple[str, str], Estimate]
    seeds: dict[tuple[str, str], int]  # behind each value

    def frame(self) -> pd.DataFrame:
        """One row a recipe and attack, accuracies in [0, 1]."""
        return pd.DataFrame(
            {
                "model": row,
                "attack": attack,
                "accuracy": e.value,
                "low": e.low,
                "high": e.high,
                "seeds": self.seeds[row, attack],
            }
            for (row, attack), e in self.values.items()
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "analysis": "ablation",
            "entries": [
                {
                    "model": row,
                    "attack": attack,
                    "accuracy": estimate.to_json(),
                    "seeds": self.seeds[row, attack],
                }
                for (row, attack), estimate in self.values.items()
            ],
        }

    def plot(self) -> Figure:
        """Groups of bars, a group a recipe and a hatch an attack, with 95 % intervals.

        Intervals are over seeds where there are several, otherwise over images.
        """
        width = 0.8 / len(self.attacks)
        with output.figure(1.8 + 1.2 * len(self.rows), 3.6) as fig:
            axes = fig.subplots()
            for a, attack in enumerate(self.attacks):
                present = [i for i, row in enumerate(self.rows) if (row, attack) in self.values]
                found = [self.values[self.rows[i], attack] for i in present]
                bars = axes.bar(
                    [i + (a - (len(self.attacks) - 1) / 2) * width for i in present],
                    [100 * e.value for e in found],
                    width * 0.92,
                    yerr=[
                        [100 * (e.value - e.low) for e in found],
                        [100 * (e.high - e.value) for e in found],
                    ],
                    capsize=2.5,
                    error_kw={"elinewidth": 0.8},
                    color=output.FILLS[a % len(output.FILLS)],
                    hatch=output.HATCHES[a % len(output.HATCHES)],
                    edgecolor="black",
                    linewidth=0.6,
                    label=attack,
                )
                axes.bar_label(bars, [f"{100 * e.value:.1f}" for e in found], padding=2, fontsize=8)
            axes.set_xticks(range(len(self.rows)), [self._tick(row) for row in self.rows])
            axes.set(ylabel="accuracy (%)", ylim=(0, 105))
            axes.grid(axis="x", visible=False)
            axes.set_title("Effect of FR and SWA", loc="left")
            fig.legend(loc="outside lower center", ncols=len(self.attacks), fontsize=8)
        return fig

    def _tick(self, row: str) -> str:
        """The row's name, and its number of seeds where that is not one."""
        counts = sorted({n for (found, _), n in self.seeds.items() if found == row})
        if counts == [1]:
            return row
        return f"{row}\n{' or '.join(map(str, counts))} seeds"

    def save(self, out: Path) -> None:
        """Write JSON, CSV, SVG and PNG into the folder `out`."""
        output.save_numbers(out, "ablation", self.frame(), self.to_json())
        output.save_figure(out, "ablation", self.plot())


def ablation(cells: Iterable[Cell]) -> Ablation:
    """Compare the recipes of ABLATION by complete cells of best checkpoints.

    A recipe's bar is the mean over its seeds.

    Raises:
        InputError: no such cell, cells that cannot be compared, or several runs of one seed.
    """
    wanted = [(row, c) for c in cells if (row := _bar(c)) and c.attack.name in _ATTACKS]
    if not wanted:
        raise InputError(f"no complete cell of {', '.join(ABLATION)}; evaluate them first")
    _check_alike([cell for _, cell in wanted])
    bars: dict[tuple[str, str], dict[int | None, Cell]] = {}
    for row, cell in sorted(wanted, key=lambda item: item[1].updated):
        seeds = bars.setdefault((row, cell.attack.name), {})
        other = seeds.get(cell.model.seed, cell).model
        if other.digest != cell.model.digest:
            which = f"{row}, seed {other.seed}: {other.target}, {cell.model.target}"
            raise InputError(f"several cells for {cell.attack.name} of {which}; {_CHOOSE}")
        seeds[cell.model.seed] = cell
    present = tuple(row for row in ABLATION if any(row == found for found, _ in bars))
    shown = tuple(a for a in _ATTACKS if any(a == found for _, found in bars))
    places = [(row, attack) for row in present for attack in shown if (row, attack) in bars]
    return Ablation(
        present,
        shown,
        {place: _over_seeds(list(bars[place].values())) for place in places},
        {place: len(bars[place]) for place in places},
    )


def _bar(cell: Cell) -> str | None:
    """The row that a cell belongs to; none for one that is unfinished or of a last checkpoint."""
    if not cell.complete or cell.model.weights not in (None, "best"):
        return None
    return next((r for r in (cell.model.name, cell.model.defense) if r in ABLATION), None)


def _check_alike(cells: Sequence[Cell]) -> None:
    """Raise InputError if anything but the recipe and the seed differs between bars."""
    facts: list[tuple[str, set[str | None]]] = [
        ("images", {_images(cell) for cell in cells}),
        ("precision", {cell.precision for cell in cells}),
        ("architecture", {cell.model.architecture for cell in cells}),
        ("preset", {cell.model.preset for cell in cells}),
        ("protocol", {cell.model.protocol for cell in cells}),
        ("settings", {cell.model.note for cell in cells}),
        ("engine", {str(cell.model.engine) for cell in cells}),
        ("training_precision", {cell.model.training_precision for cell in cells}),
    ]
    for name in sorted({cell.attack.name for cell in cells}):
        own = {cell.attack for cell in cells if cell.attack.name == name}
        facts.append((name, {spec.model_dump_json(exclude_defaults=True) for spec in own}))
    for what, values in facts:
        if len(values) > 1:
            listed = " or ".join(sorted(f"'{value or 'none'}'" for value in values))
            raise InputError(f"the ablation's cells differ in {what}: {listed}; {_CHOOSE}")


def _images(cell: Cell) -> str:
    data = cell.data
    return f"{data.dataset} {data.split} {data.start} to {data.stop - 1} #{data.sha256[:6]}"


def _over_seeds(cells: Sequence[Cell]) -> Estimate:
    """The mean over seeds with Student's interval; Wilson's interval for one seed alone."""
    if len(cells) == 1:
        return estimates.accuracy(cells[0].final_verdicts())
    found = estimates.mean([cell.accuracy for cell in cells])
    return Estimate(found.value, max(found.low, 0.0), min(found.high, 1.0))


def _look(index: int) -> dict[str, Any]:
    """Grey and marker of a run."""
    return {
        "color": output.GREYS[index % len(output.GREYS)],
        "marker": output.MARKERS[index % len(output.MARKERS)],
    }


def _draw_run(axes: Any, curve: Curve, split: str, index: int) -> None:
    look = _look(index)
    metrics = curve.metrics
    for attack, dash in (("pgd20", "-"), ("clean", "--")):
        for kind, width in (("", 1.5), *((f"{average}_", 0.7) for average in AVERAGES)):
            column = f"{kind}{split}_{attack}"
            if column in metrics:
                axes.plot(
                    metrics["epoch"],
                    100 * metrics[column],
                    color=look["color"],
                    linestyle=dash,
                    linewidth=width,
                )
        if f"{split}_{attack}" in metrics:
            _mark(axes, curve, f"{split}_{attack}", look)


def _mark(axes: Any, curve: Curve, column: str, look: dict[str, Any]) -> None:
    """A filled marker at the best epoch, an open one at the last; the legend has their values."""
    fills = {curve.last: "white"} | {curve.best: look["color"]}
    for epoch, fill in fills.items():
        value = 100 * curve.at(epoch, column)
        axes.plot(epoch, value, **look, markerfacecolor=fill, markersize=6, zorder=3)


def _legend(curves: Sequence[Curve]) -> list[Line2D]:
    """The runs, then what dashes and markers mean."""
    runs = [Line2D([], [], **_look(i), label=f"{c.name}: {_ends(c)}") for i, c in enumerate(curves)]
    kinds = [
        Line2D([], [], color="black", linestyle="-", label="robust (PGD-20)"),
        Line2D([], [], color="black", linestyle="--", label="clean"),
        Line2D([], [], color="black", linestyle="", marker="o", label="best epoch (open: last)"),
    ]
    if any(f"{average}_val_pgd20" in c.metrics for c in curves for average in AVERAGES):
        kinds.append(Line2D([], [], color="black", linewidth=0.7, label="thin: averaged weights"))
    return [*runs, *kinds]


def _ends(curve: Curve) -> str:
    """Robust validation accuracy where the best and the last weights were kept."""
    return ", ".join(
        f"{which} {100 * curve.at(epoch, 'val_pgd20'):.1f} % (epoch {epoch})"
        for which, epoch in (("best", curve.best), ("last", curve.last))
    )
