"""What train, evaluate and bench do once their arguments are typed; imports torch."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal

from rich.console import Console

from frbench import storage
from frbench.attacks import parse_attacks, parse_eps
from frbench.cli import leaderboard as boards
from frbench.cli.jobs import run_jobs
from frbench.cli.options import as_typed
from frbench.cli.outcome import plain_console
from frbench.data import load_dataset
from frbench.engine.device import Compile, Device, find_device
from frbench.engine.plan import Plan, default_preset, parse_overrides, resolve
from frbench.errors import InputError
from frbench.evaluation import CellStore, resolve_target
from frbench.evaluation import evaluate as fill
from frbench.evaluation.batch import fastest_batch, preset_batch
from frbench.evaluation.matrix import data_range
from frbench.evaluation.search import PRECISION, Search
from frbench.names import lookup
from frbench.workflow import Forecast, attack_run, check, finished_run, forecast, train_all

log = plain_console(stderr=True, soft_wrap=True)


def train(
    defense: str,
    overrides: list[str] | None,
    preset: str | None,
    protocol: str,
    seed: int,
    runs_dir: Path,
    device: str,
    compile_: Compile,
    estimate: bool,
) -> None:
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
    _show_settings([plan], where, chosen=preset is not None, protocol=protocol)
    log.print("estimating ...")
    found = forecast([plan], where, runs_dir)
    if estimate:
        return _print_estimate(found)
    _announce(found)
    (run,) = train_all([plan], where, runs_dir, log)
    # Where a run with an average served, its name alone would stand for the average.
    served = plan.recipe.average is None and any("-" in view for view in run.promised_views())
    print(f"{run.path}@best" if served else run.path)


def evaluate(
    targets: list[str],
    attacks: str,
    n: int | None,
    norm: str,
    eps: str | None,
    stages: str | None,
    arch: str | None,
    normalization: str | None,
    device: str,
    seed: int,
    batch: str | None,
    search: str,
    runs_dir: Path,
    results_dir: Path,
) -> None:
    where = find_device(device)
    radius = None if eps is None else parse_eps(eps)
    norm = lookup("norm", norm, {"Linf": "Linf", "L2": "L2"})
    columns = parse_attacks(attacks, norm=norm, eps=radius, stages=stages)  # type: ignore[arg-type]
    mode, store, typed_batch = _search(search), CellStore(results_dir), _batch(batch)
    for folder in (runs_dir, results_dir):
        _refuse_a_file(folder)
    found = [  # all of them before the first attack, which may take hours
        resolve_target(
            text,
            device=where.device,
            runs_dir=runs_dir,
            architecture=arch,
            normalization=normalization,
        )
        for text in dict.fromkeys(targets)
    ]
    datasets = [load_dataset(target.record.dataset) for target in found]
    for data in datasets:
        data_range(data, "test", 0, n)
    storage.check_folder(results_dir)
    for target, data in zip(found, datasets, strict=True):
        if target.record.note:
            log.print(f"{target.record.name}: {target.record.note}")
        chunk = typed_batch or preset_batch(target.record)
        if chunk == "fastest":
            chunk = fastest_batch(target, data.test.images[0].shape, where.device, mode, log.print)
        fill(
            target,
            columns,
            data,
            store=store,
            device=where.device,
            n=n,
            seed=seed,
            batch=chunk,
            search=mode,
            console=log,
        )
    boards.leaderboard(results_dir=results_dir)


def bench(
    words: list[str],
    preset: str | None,
    protocol: str,
    seed: int,
    seeds: int,
    n: int | None,
    runs_dir: Path,
    results_dir: Path,
    device: str,
    compile_: Compile,
    search: str,
    jobs: int,
    estimate: bool,
) -> None:
    where, mode = find_device(device, compile_=compile_), _search(search)
    overrides = parse_overrides(w for w in words if "=" in w)
    names = list(dict.fromkeys(w for w in words if "=" not in w))
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
    _show_settings(plans, where, chosen=preset is not None, protocol=protocol)
    log.print("estimating ...")
    store = CellStore(results_dir)
    found = forecast(plans, where, runs_dir, n=n, store=store, search=mode)
    if estimate:
        return _print_estimate(found)
    _announce(found)
    groups: dict[str, list[Plan]] = {}
    for plan in plans:  # rows of one training belong together
        groups.setdefault(plan.trajectory, []).append(plan)
    if min(jobs, len(groups)) == 1:
        _train_and_attack(plans, where, runs_dir, store, n, mode, log)
    else:
        at_once = min(jobs, len(groups))
        log.print(f"plan: that is one after the other; {len(groups)} trainings, {at_once} at once")
        todo = [
            partial(_job, group, runs_dir, store, n, mode, compile_) for group in groups.values()
        ]
        run_jobs(todo, at_once, device)
    boards.leaderboard(results_dir=results_dir, write=True)


def _job(
    plans: list[Plan],
    runs_dir: Path,
    store: CellStore,
    n: int | None,
    search: Search,
    compile_: Compile,
    device: str,
) -> None:
    """What one of several processes does; bars of several would overwrite each other."""
    lines = plain_console(stderr=True, soft_wrap=True, force_terminal=False)
    where = find_device(device, compile_=compile_)
    _train_and_attack(plans, where, runs_dir, store, n, search, lines)


def _train_and_attack(
    plans: list[Plan],
    device: Device,
    runs_dir: Path,
    store: CellStore,
    n: int | None,
    search: Search,
    console: Console,
) -> None:
    for plan, run in zip(plans, train_all(plans, device, runs_dir, console), strict=True):
        attack_run(plan, run, device, store, console, n=n, search=search)


def _check_folders(
    plans: list[Plan], runs_dir: Path, results_dir: Path | None = None, *, write: bool
) -> None:
    """Refuse folders that cannot take what will be computed; finished runs are only read."""
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


def _show_settings(plans: list[Plan], device: Device, *, chosen: bool, protocol: str) -> None:
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


def _announce(found: Forecast) -> None:
    """Say before anything is paid what is about to be computed and how long it will take."""
    for line in found.lines(detailed=False):
        log.print(f"plan: {line}")


def _print_estimate(found: Forecast) -> None:
    for line in found.lines(detailed=True):
        print(line)
