"""Commands of the main job: `train`, `evaluate` and `bench`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from frbench import storage
from frbench.cli import leaderboard as boards
from frbench.cli.options import (
    RESULTS,
    RUNS,
    AttackList,
    CompileMode,
    DefenseName,
    DeviceName,
    Overrides,
    PresetName,
    ProtocolName,
    ResultsDir,
    RunsDir,
    SearchMode,
    Seed,
    as_typed,
)
from frbench.cli.outcome import plain_console
from frbench.errors import InputError
from frbench.names import lookup

if TYPE_CHECKING:  # torch takes seconds to import, and `--help` does not need it
    from collections.abc import Callable

    from frbench.data import Dataset
    from frbench.engine.device import Compile, Device
    from frbench.engine.plan import Plan
    from frbench.engine.run import RunFolder
    from frbench.evaluation import Cell, CellStore, Target
    from frbench.evaluation.search import Search
    from frbench.workflow import Forecast

log = plain_console(stderr=True, soft_wrap=True)


def train(
    defense: DefenseName,
    overrides: Overrides = None,
    preset: PresetName = None,
    protocol: ProtocolName = "common",
    seed: Seed = 0,
    runs_dir: RunsDir = RUNS,
    device: DeviceName = "auto",
    compile_: CompileMode = "auto",
    estimate: Annotated[
        bool, typer.Option(help="Forecast time and memory, train nothing.")
    ] = False,
) -> None:
    """Train a defense, or go on with an unfinished run of the same settings.

    Examples:

        frbench train pgd_at --preset quick

        frbench train trades+awp+ema --preset resnet18 beta=5 awp.gamma=0.005
    """
    from frbench.engine.device import find_device
    from frbench.engine.plan import parse_overrides, resolve
    from frbench.engine.presets import default_preset
    from frbench.workflow import check, forecast, train_all

    where = find_device(device, compile_=compile_)
    plan = resolve(
        defense,
        preset=preset or default_preset(where.cuda),
        protocol=protocol,
        seed=seed,
        overrides=parse_overrides(overrides or []),
    )
    check([plan])
    _check_folders([plan], runs_dir, write=not estimate)
    show_settings([plan], where, chosen=preset is not None, protocol=protocol)
    log.print("estimating ...")
    found = forecast([plan], where, runs_dir)
    if estimate:
        return _print_estimate(found)
    announce(found)
    (run,) = train_all([plan], where, runs_dir, log)
    # Where a run with an average served, its name alone would stand for the average.
    served = plan.recipe.average is None and any("-" in view for view in run.promised_views())
    print(f"{run.path}@best" if served else run.path)


def evaluate(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="TARGET...", help="A run, natural, file:PATH, robustbench:ID, timm:NAME."
        ),
    ],
    attacks: AttackList = "clean,fgsm,pgd20,cw,aa",
    n: Annotated[
        int | None, typer.Option(min=1, help="Test images, from the first on; default: all.")
    ] = None,
    norm: Annotated[str, typer.Option(help="Linf, or L2 with --attacks clean,pgd20,aa.")] = "Linf",
    eps: Annotated[str | None, typer.Option(help="Radius in [0, 1], such as 8/255.")] = None,
    stages: Annotated[str | None, typer.Option(help="Of AutoAttack: apgd-ce,apgd-t,...")] = None,
    arch: Annotated[str | None, typer.Option(help="Of file: weights, if not detected.")] = None,
    normalization: Annotated[
        str | None, typer.Option(help="Of file: weights: none or cifar10.")
    ] = None,
    extra_data: Annotated[
        Literal["none", "synthetic", "extra"] | None,
        typer.Option(
            help="What file: and timm: models saw besides the dataset; the leaderboard sets "
            "RobustBench's entries of the same kind beside them."
        ),
    ] = None,
    device: DeviceName = "auto",
    seed: Seed = 0,
    batch: Annotated[
        str | None,
        typer.Option(
            help="Images a chunk, which decides their random numbers: a number, or fastest to try "
            "on this device. Default: the preset's for a run, else 256."
        ),
    ] = None,
    search: SearchMode = "exact",
    jobs: Annotated[
        int, typer.Option(min=1, help="Processes that share the chunks; GPUs are shared out.")
    ] = 1,
    runs_dir: RunsDir = RUNS,
    results_dir: ResultsDir = RESULTS,
) -> None:
    """Attack models with every column that is not there yet.

    Examples:

        frbench evaluate natural --attacks clean,fgsm,pgd20 --n 256

        frbench evaluate file:model.pt --arch resnet18 --extra-data none

        frbench evaluate at_fr --attacks aa --stages apgd-ce,apgd-t

        frbench evaluate at_fr_swa --attacks aa --jobs 4
    """
    from frbench.attacks import parse_attacks, parse_eps
    from frbench.cli.jobs import share
    from frbench.data import load_dataset
    from frbench.engine.device import find_device
    from frbench.evaluation import CellStore, resolve_target
    from frbench.evaluation import evaluate as fill_cells
    from frbench.evaluation.matrix import data_range

    where = find_device(device)
    radius = None if eps is None else parse_eps(eps)
    columns = parse_attacks(attacks, norm=norm, eps=radius, stages=stages)  # type: ignore[arg-type]
    mode, store, typed = _search(search), CellStore(results_dir), _batch(batch)
    for folder in (runs_dir, results_dir):
        _refuse_a_file(folder)
    load = partial(
        resolve_target,
        runs_dir=runs_dir,
        architecture=arch,
        normalization=normalization,
        extra_data=extra_data,
    )
    # All of them before the first attack, which may take hours.
    found = {text: load(text, device=where.device) for text in dict.fromkeys(targets)}
    datasets = {text: load_dataset(target.record.dataset) for text, target in found.items()}
    for data in datasets.values():
        data_range(data, 0, n)
    storage.check_folder(results_dir)
    for text, target in found.items():
        if target.record.note:
            log.print(f"{target.record.name}: {target.record.note}")
        data = datasets[text]
        fill = partial(
            fill_cells,
            specs=columns,
            store=store,
            n=n,
            seed=seed,
            batch=_chunk(typed, target, data, where, mode),
            search=mode,
            jobs=jobs,
        )
        if jobs == 1:
            fill(target, dataset=data, device=where.device, console=log)
        else:
            share(partial(_fill_with_others, partial(load, text), fill), jobs, device)
    boards.leaderboard(results_dir=results_dir)


def _fill_with_others(
    load: Callable[..., Target], fill: Callable[..., list[Cell]], tell: bool, device: str
) -> None:
    """What one of several processes does that fill the same cells; one of them tells of it."""
    from frbench.data import load_dataset
    from frbench.engine.device import find_device

    where = find_device(device).device
    target = load(device=where)
    data = load_dataset(target.record.dataset)
    fill(target, dataset=data, device=where, console=log if tell else None)


def bench(
    defenses: Annotated[
        list[str],
        typer.Argument(metavar="DEFENSE...", help="Names or compositions; key=value after them."),
    ],
    preset: PresetName = None,
    protocol: ProtocolName = "common",
    seed: Annotated[int, typer.Option(min=0, help="The first seed.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="How many, one run each.")] = 1,
    n: Annotated[int | None, typer.Option(min=1, help="Test images in every column.")] = None,
    runs_dir: RunsDir = RUNS,
    results_dir: ResultsDir = RESULTS,
    device: DeviceName = "auto",
    compile_: CompileMode = "auto",
    search: SearchMode = "exact",
    jobs: Annotated[
        int,
        typer.Option(
            min=1,
            help="Processes at once: a training each, or for one training alone, its attacks' "
            "chunks; GPUs are shared out.",
        ),
    ] = 1,
    estimate: Annotated[bool, typer.Option(help="Forecast time and memory only.")] = False,
) -> None:
    """Train (or reuse), attack with every column, print the leaderboard.

    Examples:

        frbench bench at_fr_swa --preset quick

        frbench bench pgd_at at_swa at_fr at_fr_swa --preset quick --seeds 3 --jobs 2
    """
    from frbench.cli.jobs import run_jobs, share
    from frbench.engine.device import find_device
    from frbench.engine.plan import parse_overrides, resolve
    from frbench.engine.presets import default_preset
    from frbench.evaluation import CellStore
    from frbench.workflow import check, forecast, train_all

    where, mode = find_device(device, compile_=compile_), _search(search)
    overrides = parse_overrides(word for word in defenses if "=" in word)
    names = list(dict.fromkeys(word for word in defenses if "=" not in word))
    if not names:
        raise InputError("settings alone are no DEFENSE: name one, such as pgd_at epochs=10")
    size = preset or default_preset(where.cuda)
    plans = [
        resolve(name, preset=size, protocol=protocol, seed=number, overrides=overrides)
        for name in names
        for number in range(seed, seed + seeds)
    ]
    check(plans, n)
    _check_folders(plans, runs_dir, results_dir, write=not estimate)
    show_settings(plans, where, chosen=preset is not None, protocol=protocol)
    log.print("estimating ...")
    store = CellStore(results_dir)
    found = forecast(plans, where, runs_dir, n=n, store=store, search=mode)
    if estimate:
        return _print_estimate(found)
    announce(found)
    groups: dict[str, list[Plan]] = {}
    for plan in plans:  # rows of one training belong together
        groups.setdefault(plan.trajectory, []).append(plan)
    if jobs > 1 and len(groups) > 1:
        at_once = min(jobs, len(groups))
        log.print(f"plan: that is one after the other; {len(groups)} trainings, {at_once} at once")
        todo = [
            partial(_train_and_attack, group, runs_dir, store, n, mode, compile_)
            for group in groups.values()
        ]
        run_jobs(todo, at_once, device)
    else:
        runs = train_all(plans, where, runs_dir, log)
        if jobs == 1:
            _attack(plans, runs, store, n, mode, where, log)
        else:
            log.print(f"{jobs} processes share the attacks")
            share(partial(_attack_with_others, plans, runs, store, n, mode, jobs), jobs, device)
    boards.leaderboard(results_dir=results_dir, write=True)


def _train_and_attack(
    plans: list[Plan],
    runs_dir: Path,
    store: CellStore,
    n: int | None,
    search: Search,
    compile_: Compile,
    device: str,
) -> None:
    """What one of several processes does; bars of several would overwrite each other."""
    from frbench.engine.device import find_device
    from frbench.workflow import train_all

    lines = plain_console(stderr=True, soft_wrap=True, force_terminal=False)
    where = find_device(device, compile_=compile_)
    runs = train_all(plans, where, runs_dir, lines)
    _attack(plans, runs, store, n, search, where, lines)


def _attack_with_others(
    plans: list[Plan],
    runs: list[RunFolder],
    store: CellStore,
    n: int | None,
    search: Search,
    jobs: int,
    tell: bool,
    device: str,
) -> None:
    """What one of several processes does that attack the same runs; one of them tells of it."""
    from frbench.engine.device import find_device

    _attack(plans, runs, store, n, search, find_device(device), log if tell else None, jobs)


def _attack(
    plans: list[Plan],
    runs: list[RunFolder],
    store: CellStore,
    n: int | None,
    search: Search,
    device: Device,
    console: Console | None,
    jobs: int = 1,
) -> None:
    from frbench.workflow import attack_run

    for plan, run in zip(plans, runs, strict=True):
        attack_run(plan, run, device, store, console, n=n, search=search, jobs=jobs)


def _check_folders(
    plans: list[Plan], runs_dir: Path, results_dir: Path | None = None, *, write: bool
) -> None:
    """Refuse folders that cannot take what will be computed; finished runs are only read."""
    from frbench.workflow import finished_run

    folders = [runs_dir] if results_dir is None else [runs_dir, results_dir]
    for folder in folders:
        _refuse_a_file(folder)
    if all(finished_run(runs_dir, plan) for plan in plans):
        folders.remove(runs_dir)
    for folder in folders if write else []:
        storage.check_folder(folder)


def _refuse_a_file(folder: Path) -> None:
    for part in (folder, *folder.parents):
        if part.exists() and not part.is_dir():
            raise InputError(f"cannot write {folder}: {part} is a file, not a folder")


def _search(name: str) -> Search:
    from frbench.evaluation.search import PRECISION

    return lookup("search", name, {mode: mode for mode in PRECISION})


def _batch(text: str | None) -> int | Literal["fastest"] | None:
    """Images a chunk as typed; None for the preset's."""
    if text is None:
        return None
    if text == "fastest":
        return "fastest"
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"--batch {text} is neither a number from 1 on nor fastest")
    return int(text)


def _chunk(
    typed: int | Literal["fastest"] | None,
    target: Target,
    data: Dataset,
    device: Device,
    search: Search,
) -> int:
    """Images a chunk of the attacks on one target."""
    from frbench.evaluation.batch import fastest_batch, preset_batch

    if typed == "fastest":
        shape = data.test.images[0].shape
        return fastest_batch(target, shape, device.device, search, log.print)
    return typed or preset_batch(target.record)


def show_settings(plans: list[Plan], device: Device, *, chosen: bool, protocol: str) -> None:
    """The resolved settings of each plan, one line a part, and why it is this preset."""
    if not chosen:
        kind = "there is a GPU" if device.cuda else "there is no GPU"
        log.print(f"preset {plans[0].preset}: {kind}; --preset chooses another")
    log.print(f"on {device.describe()}; precision=auto is {device.precision} here")
    for plan in plans:
        same = "" if plan.protocol == protocol else ", which its authors' settings are too"
        log.print(f"{plan.name} ({plan.protocol} protocol{same})")
        settings = plan.settings()
        parts = {"frame": settings["frame"], **settings["recipe"]["mechanisms"]}
        parts |= {name: settings["recipe"][name] for name in ("objective", "attack")}
        for name, values in parts.items():
            text = ", ".join(f"{key}={as_typed(value)}" for key, value in values.items())
            log.print(f"  {name}: {text}")


def announce(found: Forecast) -> None:
    """Say before anything is paid what is about to be computed and how long it will take."""
    for line in found.lines(detailed=False):
        log.print(f"plan: {line}")


def _print_estimate(found: Forecast) -> None:
    for line in found.lines(detailed=True):
        print(line)
