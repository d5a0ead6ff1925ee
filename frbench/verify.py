"""Is a recipe trained right here? Its results over seeds against bands kept as data.

A band is measured, never guessed: the mean over seeds, plus and minus the larger of three sample
standard deviations over the seeds and half of Wilson's 95 % interval of that many images. The mean
over seeds of whoever verifies must lie inside. Learning curves decide nothing; they say where a
result that is out of its band began to differ.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import Field, ValidationError
from rich.console import Console

from frbench import storage, workflow
from frbench.attacks import specs
from frbench.engine.device import Device
from frbench.engine.plan import Plan
from frbench.engine.presets import find_preset
from frbench.engine.run import RunFolder, find_run
from frbench.errors import InputError
from frbench.evaluation import Cell, CellStore
from frbench.evaluation.cells import ROBUST
from frbench.evaluation.provenance import deciding_versions
from frbench.leaderboard.statistics import seed_summary, wilson
from frbench.published import DATA_FOLDER, Data

BANDS = DATA_FOLDER / "verify_bands.json"
RULE = (
    "mean over seeds, plus and minus the larger of 3 sample standard deviations and half of "
    "Wilson's 95 % interval of that many images; percent; gap is PGD-20 less AutoAttack, in points"
)
METRICS = ("clean", "pgd20", "aa", "gap")
COLUMNS = ("clean", "pgd20", "aa")
CURVES = {"clean": "val_clean", "pgd20": "val_pgd20"}


class Band(Data):
    """Percent, or points for the gap; both ends belong to it."""

    low: float
    high: float

    def outside(self, value: float) -> float:
        """Points above the band (positive) or below it (negative); 0 inside."""
        return value - min(max(value, self.low), self.high)


class EpochBands(Data):
    """Held-out accuracies of the plain weights after one epoch (from 0)."""

    epoch: int
    clean: Band
    pgd20: Band


class Measured(Data):
    """How bands were measured."""

    command: str
    seeds: tuple[int, ...]
    date: str
    device: str
    commit: str
    versions: dict[str, str]


class DefenseBands(Data):
    """The bands of one recipe in one preset."""

    defense: str
    preset: str
    run: str = Field(description="name of the run of seed 0: it changes with every setting")
    images: int = Field(description="test images under clean and PGD-20")
    autoattack_images: int = Field(description="the same for AutoAttack and the gap")
    metrics: dict[str, Band]
    curve: tuple[EpochBands, ...] = ()
    measured: Measured


class BandsFile(Data):
    """`baselines/data/verify_bands.json`."""

    format: int = 1
    rule: str = RULE
    defenses: tuple[DefenseBands, ...] = ()


@dataclass(frozen=True)
class SeedResult:
    """What one run reached, in percent.

    `curve` has the held-out accuracies of the epochs that were judged, as `{epoch: {name: value}}`.
    """

    seed: int
    values: dict[str, float]
    curve: dict[int, dict[str, float]]


@dataclass(frozen=True)
class Outcome:
    """A mean over seeds beside its band."""

    name: str
    value: float
    band: Band

    @property
    def outside(self) -> float:
        return self.band.outside(self.value)

    def __str__(self) -> str:
        side = "above" if self.outside > 0 else "below"
        where = f"{abs(self.outside):.2f} points {side}" if self.outside else "inside"
        band = f"{self.band.low:.2f} to {self.band.high:.2f}"
        return f"{self.name} {self.value:.2f} is {where} its band {band}"


@dataclass(frozen=True)
class Verification:
    """A recipe's results against its bands."""

    bands: DefenseBands
    results: tuple[SeedResult, ...]
    outcomes: tuple[Outcome, ...]
    curve: tuple[Outcome, ...]
    """Of every epoch that has a band, in the order of epochs."""

    @property
    def passed(self) -> bool:
        return not any(o.outside for o in self.outcomes)

    def first_divergence(self) -> str:
        """The first metric that is out of its band, and where its learning curve left its own."""
        wrong = next((o for o in self.outcomes if o.outside), None)
        if wrong is None:
            return ""
        early = next((o for o in self.curve if o.outside), None)
        if early is not None:
            return f"{wrong}; learning curves differ first where {early}"
        unknown = "no learning curves are kept for it"
        return f"{wrong}; {'learning curves lie in their bands' if self.curve else unknown}"


def verify(
    plans: Sequence[Plan],
    device: Device,
    runs_dir: Path,
    results_dir: Path,
    console: Console,
    *,
    path: Path = BANDS,
) -> Verification:
    """Train (or reuse) and attack the plans of one recipe, and compare them with its bands.

    Args:
        plans: the same settings under several seeds.
        device: where.
        runs_dir: of run folders.
        results_dir: of cells.
        console: for progress.
        path: the bands.

    Raises:
        InputError: no bands for this recipe yet, or they are of other settings.
    """
    bands = find_bands(plans[0], path)
    store = CellStore(results_dir)
    results = []
    for plan, run in zip(plans, workflow.train_all(plans, device, runs_dir, console), strict=True):
        cells = workflow.attack_run(plan, run, device, store, console)
        results.append(seed_result(plan, cells, run))
    return compare(bands, results)


def compare(bands: DefenseBands, results: Sequence[SeedResult]) -> Verification:
    """Means over seeds beside the bands."""
    outcomes = [
        Outcome(name, fmean(r.values[name] for r in results), bands.metrics[name])
        for name in METRICS
    ]
    curve = [
        Outcome(
            f"held-out {name} after epoch {expected.epoch + 1}",
            fmean(r.curve[expected.epoch][name] for r in results),
            getattr(expected, name),
        )
        for expected in bands.curve
        if all(expected.epoch in r.curve for r in results)
        for name in CURVES
    ]
    return Verification(bands, tuple(results), tuple(outcomes), tuple(curve))


def find_bands(plan: Plan, path: Path = BANDS) -> DefenseBands:
    """The bands of a plan's recipe; raises InputError when there are none for its settings."""
    again = f"frbench verify {plan.defense} --preset {plan.preset} --record"
    for bands in read_bands(path).defenses:
        if (bands.defense, bands.preset) == (plan.defense, plan.preset):
            if bands.run != plan.with_seed(0).name or _sizes(bands) != _sizes_of(plan):
                raise InputError(
                    f"the bands of {plan.defense} were measured with other settings of preset "
                    f"{plan.preset}: measure them again, then '{again}'"
                )
            return bands
    raise InputError(
        f"no bands for {plan.defense} in preset {plan.preset} yet: "
        f"'{bench_command(plan, 3)}' measures it, then '{again}' keeps them"
    )


def record(
    plans: Sequence[Plan], runs_dir: Path, results_dir: Path, *, path: Path = BANDS
) -> DefenseBands:
    """Make the bands of one recipe from finished cells, and keep them in `path`.

    Learning curves come from the runs, where they are still there.

    Args:
        plans: the same settings under at least two seeds.
        runs_dir: of run folders.
        results_dir: of cells.
        path: the bands; those of other recipes stay.

    Raises:
        InputError: a cell is missing or unfinished, or there is only one seed.
    """
    if len(plans) < 2:
        raise InputError("one seed has no spread: record bands from at least two")
    cells = CellStore(results_dir).all()
    results = [seed_result(plan, cells, find_run(runs_dir, plan)) for plan in plans]
    used = [cell for plan in plans for cell in _own(plan, cells).values()]
    first = plans[0]
    images, autoattack_images = _sizes_of(first)
    n = {"clean": images, "pgd20": images, "aa": autoattack_images, "gap": autoattack_images}
    bands = DefenseBands(
        defense=first.defense,
        preset=first.preset,
        run=first.with_seed(0).name,
        images=images,
        autoattack_images=autoattack_images,
        metrics={m: band([r.values[m] for r in results], n[m]) for m in METRICS},
        curve=_curve_bands(results, first.frame.validation_images),
        measured=_measured(first, [p.seed for p in plans], used),
    )
    _keep(bands, path)
    return bands


def band(values: Sequence[float], n: int) -> Band:
    """The band of values in percent, each measured on `n` images, by the rule of this module.

    A negative gap has the interval of a gap of no image.
    """
    mean, sd = seed_summary(values)
    interval = wilson(round(n * max(mean, 0.0) / 100), n)
    width = max(3 * sd, 100 * (interval.high - interval.low) / 2)
    return Band(low=round(mean - width, 2), high=round(mean + width, 2))


def seed_result(plan: Plan, cells: Iterable[Cell], run: RunFolder | None) -> SeedResult:
    """What the cells say of one plan; raises InputError that names the cell that is missing."""
    own = _own(plan, cells)
    for name in COLUMNS:
        if name not in own:
            raise InputError(
                f"no finished {name} cell of {plan.defense} in preset {plan.preset}, seed "
                f"{plan.seed}: '{bench_command(plan, 1)} --seed {plan.seed}' measures it"
            )
    shared = own["aa"].data.n
    left = own["pgd20"].final_verdicts()[:shared].count(ROBUST)
    values = {name: 100 * own[name].accuracy for name in COLUMNS}
    values["gap"] = 100 * (left - own["aa"].correct()) / shared
    curve = {
        int(line["epoch"]): {name: 100 * line[key] for name, key in CURVES.items()}
        for line in (run.metrics() if run is not None else [])
        if all(key in line for key in CURVES.values())
    }
    return SeedResult(plan.seed, values, curve)


def read_bands(path: Path = BANDS) -> BandsFile:
    """The file of bands; an absent one is empty, a damaged one raises InputError."""
    try:
        return BandsFile.model_validate(json.loads(path.read_text()))
    except FileNotFoundError:
        return BandsFile()
    except (ValidationError, ValueError, OSError) as error:
        what = " ".join(str(error).split())
        raise InputError(f"damaged bands {path}: {what}") from None


def bench_command(plan: Plan, seeds: int) -> str:
    """What to type to measure a plan."""
    return f"frbench bench {plan.defense} --preset {plan.preset} --seeds {seeds}"


def _own(plan: Plan, cells: Iterable[Cell]) -> dict[str, Cell]:
    """The complete cells of a plan's headline weights, attacked as `bench` would attack them now.

    Cells of other library versions stay in the folder beside the present ones, and so do those of
    another training of the same plan: all that come back are of one model, with the most of them.
    """
    images, autoattack_images = _sizes_of(plan)
    sizes = {"clean": images, "pgd20": images, "aa": autoattack_images}
    columns, batch = specs(), find_preset(plan.preset).evaluation_batch
    models: dict[str, dict[str, Cell]] = {}
    for cell in cells:
        if (
            cell.complete
            and cell.precision == "fp32"
            and cell.versions == deciding_versions(cell.attack, cell.model)
            and cell.model.defense == plan.defense
            and cell.model.weights == "best"
            and _is_run_of(plan, cell.model.target.partition("@")[0])
            and cell.attack == columns.get(cell.attack.name)
            and (cell.seed, cell.batch, cell.data.split) == (0, batch, "test")
            and (cell.data.start, cell.data.n) == (0, sizes.get(cell.attack.name))
        ):
            models.setdefault(cell.model.digest, {})[cell.attack.name] = cell
    return max(models.values(), key=len, default={})


def _is_run_of(plan: Plan, run: str) -> bool:
    """Whether a run's name says that it saved the weights of the plan."""
    return run.endswith(f"-{plan.saved}")


def _sizes_of(plan: Plan) -> tuple[int, int]:
    preset = find_preset(plan.preset)
    return preset.test_images, preset.autoattack_images


def _sizes(bands: DefenseBands) -> tuple[int, int]:
    return bands.images, bands.autoattack_images


def _curve_bands(results: Sequence[SeedResult], n: int) -> tuple[EpochBands, ...]:
    """Bands of the epochs that every seed has judged."""
    shared = set.intersection(*(set(r.curve) for r in results))
    return tuple(
        EpochBands(
            epoch=epoch,
            **{name: band([r.curve[epoch][name] for r in results], n) for name in CURVES},
        )
        for epoch in sorted(shared)
    )


def _measured(plan: Plan, seeds: Sequence[int], cells: Sequence[Cell]) -> Measured:
    def said(key: str) -> str:
        return ", ".join(sorted({str(cell.provenance.get(key, "unknown")) for cell in cells}))

    versions: Mapping[str, Any] = cells[0].provenance.get("versions", cells[0].versions)
    return Measured(
        command=bench_command(plan, len(seeds)),
        seeds=tuple(seeds),
        date=max(cell.updated for cell in cells)[:10],
        device=said("device"),
        commit=said("commit"),
        versions={name: str(version) for name, version in versions.items()},
    )


def _keep(bands: DefenseBands, path: Path) -> None:
    """Put bands into the file in place of older ones of the same recipe and preset."""
    others = [
        b
        for b in read_bands(path).defenses
        if (b.defense, b.preset) != (bands.defense, bands.preset)
    ]
    kept = sorted([*others, bands], key=lambda b: (b.preset, b.defense))
    storage.write_json(path, BandsFile(defenses=tuple(kept)).model_dump(mode="json"))
