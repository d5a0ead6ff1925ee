"""The main job on real digits: train what is missing, attack what is not attacked yet."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from frbench import workflow
from frbench.attacks import AttackSpec, parse_attacks, specs
from frbench.engine import trainer
from frbench.engine.device import find_device
from frbench.engine.estimate import Estimate, estimate
from frbench.engine.plan import Plan, resolve
from frbench.engine.run import RunFolder
from frbench.errors import InputError
from frbench.evaluation import Cell, CellStore, runner
from frbench.evaluation.costs import Speed
from frbench.leaderboard.table import leaderboard

N = 8
"""Test images in every column: enough to see what happens, quick under AutoAttack."""


@dataclass
class Bench:
    """One bench of several defenses, and all that it said."""

    runs: list[RunFolder]
    cells: list[Cell]
    said: str


@pytest.fixture
def few_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """AutoAttack with its first two stages; the last one alone takes longer than all else."""

    def shorter(**settings: Any) -> dict[str, AttackSpec]:
        (aa,) = parse_attacks("aa", stages="apgd-ce,apgd-t", **settings)
        return {**specs(**settings), "aa": aa}

    monkeypatch.setattr(workflow, "specs", shorter)


@pytest.fixture
def bench(tmp_path: Path) -> Callable[..., Bench]:
    """Train and attack in this test's folder; short enough that a kill costs nothing."""
    (tmp_path / "runs").mkdir()

    def run(*defenses: str, seeds: int = 1, n: int = N, **overrides: str) -> Bench:
        said = io.StringIO()
        console = Console(file=said, width=200)
        settings = {"epochs": "2", "swa.start_epoch": "1", "fr.start_epoch": "1"}
        plans = []
        for name in defenses:
            kinds = [kind for kind in ("swa", "fr") if kind in name.split("_")]
            chosen = {k: v for k, v in settings.items() if k.split(".")[0] in ("epochs", *kinds)}
            plans += [
                resolve(name, preset="smoke", seed=seed, overrides={**chosen, **overrides})
                for seed in range(seeds)
            ]
        device, store = find_device("cpu"), CellStore(tmp_path / "results")
        runs = workflow.train_all(plans, device, tmp_path / "runs", console)
        cells = []
        for plan, folder in zip(plans, runs, strict=True):
            cells += workflow.attack_run(plan, folder, device, store, console, n=n)
        return Bench(runs, cells, said.getvalue())

    return run


def _times(root: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file() and p.suffix}


def test_a_bench_trains_and_attacks_every_column(bench: Callable[..., Bench]) -> None:
    done = bench("pgd_at")
    (run,) = done.runs
    assert run.finished() and len(run.metrics()) == 2
    assert {c.attack.name for c in done.cells} == {"clean", "fgsm", "pgd20", "cw", "aa"}
    assert all(c.complete and c.data.n == N for c in done.cells)
    assert "epoch 2/2" in done.said and "AA" in done.said


@pytest.mark.usefixtures("few_stages")
def test_a_second_bench_computes_nothing(
    bench: Callable[..., Bench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bench("pgd_at")
    before = _times(tmp_path)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("this was computed already")

    monkeypatch.setattr(trainer.Trainer, "run", never)
    monkeypatch.setattr(runner.Runner, "advance", never)
    again = bench("pgd_at")
    assert "trained already, reused" in again.said
    assert [c.key for c in again.cells] == [c.key for c in first.cells]
    assert _times(tmp_path) == before


@pytest.mark.usefixtures("few_stages")
@pytest.mark.parametrize(("plain", "averaged"), [("pgd_at", "at_swa"), ("at_fr", "at_fr_swa")])
def test_one_training_serves_the_plain_and_the_averaged_row(
    plain: str, averaged: str, bench: Callable[..., Bench], tmp_path: Path
) -> None:
    done = bench(plain, averaged)
    assert done.runs[0].path == done.runs[1].path
    assert [p.name for p in (tmp_path / "runs").iterdir()] == [done.runs[0].name]
    rows = {row.model.defense for table in leaderboard(tmp_path / "results").tables
            for row in table.rows}  # fmt: skip
    assert rows == {plain, averaged}
    targets = {c.model.defense: c.model.target for c in done.cells if c.model.weights == "best"}
    assert targets[plain] == done.runs[0].name
    assert targets[averaged] == f"{done.runs[0].name}@swa-best"


@pytest.mark.usefixtures("few_stages")
def test_a_training_killed_after_an_epoch_goes_on(
    bench: Callable[..., Bench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = bench("at_swa", epochs="3").runs[0]
    expected = load_file(straight.weights("swa-last"))
    straight.path.rename(tmp_path / "uninterrupted")
    real = trainer.Trainer._train_epoch

    def killed(self: trainer.Trainer, epoch: int, watcher: object) -> float:
        if epoch == 1:
            raise KeyboardInterrupt
        return real(self, epoch, watcher)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trainer.Trainer, "_train_epoch", killed)
        bench("at_swa", epochs="3")
    (folder,) = (tmp_path / "runs").iterdir()
    assert not RunFolder(folder).finished() and len(RunFolder(folder).metrics()) == 1
    resumed = bench("at_swa", epochs="3")
    assert f"{folder.name}: goes on after epoch 1 of 3\n" in resumed.said
    assert "epoch 2/3" in resumed.said and "epoch 1/3" not in resumed.said
    weights = load_file(resumed.runs[0].weights("swa-last"))
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_a_forecast_is_of_the_epochs_that_are_left(
    bench: Callable[..., Bench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = resolve("pgd_at", preset="smoke", overrides={"epochs": "3"})

    def killed(self: trainer.Trainer, epoch: int, loss: float) -> dict[str, Any]:
        if epoch == 2:
            raise KeyboardInterrupt
        return real(self, epoch, loss)

    def found() -> tuple[int, ...]:
        (one,) = workflow.forecast([plan], find_device("cpu"), tmp_path / "runs").trainings
        return one.epochs, one.epochs_done

    assert found() == (3, 0)
    real = trainer.Trainer._finish_epoch
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trainer.Trainer, "_finish_epoch", killed)
        bench("pgd_at", epochs="3")
    assert found() == (3, 2)


@pytest.mark.usefixtures("few_stages")
def test_an_evaluation_killed_in_autoattack_goes_on(
    bench: Callable[..., Bench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, begun, killed = runner.Runner._run_stage, [], []

    def counted(self: runner.Runner, cell: Cell, stage: str) -> None:
        if stage == "apgd-t" and not killed:
            killed.append(stage)
            raise KeyboardInterrupt
        begun.append((cell.model.weights, cell.attack.name, stage))
        real(self, cell, stage)

    monkeypatch.setattr(runner.Runner, "_run_stage", counted)
    with pytest.raises(KeyboardInterrupt):
        bench("pgd_at")
    kept = _times(tmp_path / "results" / "cells")
    done = bench("pgd_at")
    assert all(c.complete for c in done.cells)
    assert len(begun) == len(set(begun))  # no stage was computed twice
    changed = {
        Path(p).name.split("-")[0] for p, t in _times(tmp_path).items() if kept.get(p, t) != t
    }
    assert changed == {"aa"}


@pytest.mark.usefixtures("few_stages")
def test_seeds_are_runs_of_their_own_and_one_row(
    bench: Callable[..., Bench], tmp_path: Path
) -> None:
    done = bench("pgd_at", seeds=2)
    assert len({run.path for run in done.runs}) == 2
    (table,) = leaderboard(tmp_path / "results").tables
    best = next(row for row in table.rows if row.model.weights == "best")
    assert best.seeds == (0, 1)
    assert all(score.seeds == 2 and score.sd is not None for score in best.scores.values())
    (each,) = leaderboard(tmp_path / "results", each_seed=True).tables
    assert sum(row.model.weights == "best" for row in each.rows) == 2


@pytest.mark.usefixtures("few_stages")
def test_changed_settings_are_another_run_and_a_marked_row(
    bench: Callable[..., Bench], tmp_path: Path
) -> None:
    plain, changed = bench("pgd_at"), bench("pgd_at", lr="0.05")
    assert plain.runs[0].path != changed.runs[0].path
    notes = {c.model.note for c in changed.cells}
    assert all("lr=0.05" in note for note in notes)
    assert not any(c.model.comparable for c in changed.cells)
    assert {c.key for c in plain.cells}.isdisjoint(c.key for c in changed.cells)


def test_a_training_removes_what_a_kill_left_half_written(tmp_path: Path) -> None:
    plan = resolve("pgd_at", preset="smoke", overrides={"epochs": "1"})
    folder = tmp_path / plan.name
    folder.mkdir()
    left = (".checkpoint.safetensors.k3_xw01a", ".run.json.abcdefgh", ".metrics.jsonl.abcdefgh")
    kept = ".notes.markdown"  # as long an ending
    for name in (*left, kept):
        (folder / name).touch()
    run = workflow.train(plan, find_device("cpu"), tmp_path, Console(quiet=True))
    assert sorted(p.name for p in run.path.glob(".*")) == [".lock", kept]


@pytest.mark.usefixtures("few_stages")
def test_two_processes_do_not_train_one_run(bench: Callable[..., Bench], tmp_path: Path) -> None:
    from frbench import storage

    plan = resolve("pgd_at", preset="smoke", overrides={"epochs": "2"})
    with (
        storage.locked(RunFolder(tmp_path / "runs" / plan.name).lock()),
        pytest.raises(storage.Busy, match=f"^another process is training {plan.name} .*again$"),
    ):
        bench("pgd_at")


@pytest.mark.usefixtures("few_stages")
def test_a_forecast_writes_nothing_and_ends_with_the_work(
    bench: Callable[..., Bench], tmp_path: Path
) -> None:
    plan = resolve("pgd_at", preset="smoke", overrides={"epochs": "2"})

    def lines(attacks: bool) -> list[str]:
        store = CellStore(tmp_path / "results") if attacks else None
        where, runs = find_device("cpu"), tmp_path / "runs"
        return workflow.forecast([plan], where, runs, n=N, store=store).lines(detailed=False)

    assert len(lines(attacks=True)) == 3 and "in all" in lines(attacks=True)[-1]
    assert _times(tmp_path) == {}
    (run,) = bench("pgd_at").runs
    assert lines(attacks=True) == ["nothing left to compute"]
    next((tmp_path / "results" / "cells").glob("*/pgd20-*.json")).unlink()
    assert lines(attacks=True)[0].startswith("attacks: about")  # what is trained is attacked yet
    assert lines(attacks=False) == ["nothing left to compute"]
    run.write_info({**run.info(), "finished": False})
    assert "attacks: about" in lines(attacks=True)[1]  # nothing of an unfinished run is attacked


def test_a_forecast_reads_no_run_of_the_present_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run.json").write_text("no run of frbench")
    monkeypatch.chdir(tmp_path)
    plan = resolve("pgd_at", preset="smoke", overrides={"epochs": "2"})
    found = workflow.forecast(
        [plan], find_device("cpu"), tmp_path / "runs", n=N, store=CellStore(tmp_path / "results")
    )
    assert found.attack_seconds > 0


def test_a_forecast_counts_the_passes_of_every_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a model that takes a second a forward pass and nothing a gradient."""
    monkeypatch.setattr(workflow, "measure", lambda *_, **__: Speed(1.0, 0.0, surviving=1.0))
    plan = resolve("pgd_at", preset="smoke", overrides={"epochs": "2"})
    found = workflow.forecast(
        [plan], find_device("cpu"), tmp_path / "runs", n=N, store=CellStore(tmp_path / "results")
    )
    cheap = 1 + 2 + 21 + 31  # clean, FGSM, PGD-20 and C&W, of the best and of the last weights
    # AutoAttack's first stage sees every image and each later one half of them.
    later = (2 + 9 * 102) + (2 + 9 * 203) + 5004
    assert found.attack_seconds == pytest.approx(2 * N * cheap + N * 103 + N // 2 * later)


def test_a_forecast_has_a_training_for_each_average_and_none_for_the_plain_weights(
    tmp_path: Path,
) -> None:
    """One run has one average, and its plain weights are the row without."""
    names = ("pgd_at", "at_swa", "pgd_at+ema")
    overrides = {"at_swa": {"epochs": "2", "swa.start_epoch": "1"}}
    plans = [
        resolve(name, preset="smoke", overrides=overrides.get(name, {"epochs": "2"}))
        for name in names
    ]
    assert len({plan.trajectory for plan in plans}) == 1
    found = workflow.forecast(plans, find_device("cpu"), tmp_path / "runs")
    assert [training.name for training in found.trainings] == [plans[1].name, plans[2].name]


def test_the_seeds_of_a_plan_are_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []

    def counted(plan: Plan, *args: Any, **options: Any) -> Estimate:
        measured.append(plan.name)
        return estimate(plan, *args, **options)

    monkeypatch.setattr(workflow, "estimate", counted)
    plans = [
        resolve(name, preset="smoke", seed=seed) for name in ("pgd_at", "mart") for seed in (1, 2)
    ]
    found = workflow.forecast(plans, find_device("cpu"), tmp_path / "runs").trainings
    assert measured == [plans[0].name, plans[2].name]
    assert [training.name for training in found] == [plan.name for plan in plans]
    assert found[0].total_seconds == found[1].total_seconds


def test_one_disturbed_forecast_does_not_slow_down_the_trainings_of_a_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = iter((1, 3, 2))

    def tuned(plan: Plan, *args: Any, **options: Any) -> Estimate:
        found = estimate(plan, *args, **options)
        torch.set_num_threads(next(wanted))
        return found

    monkeypatch.setattr(workflow, "estimate", tuned)
    before = torch.get_num_threads()
    try:
        plans = [resolve(name, preset="smoke") for name in ("pgd_at", "mart", "trades")]
        workflow.forecast(plans, find_device("cpu"), tmp_path / "runs")
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_more_images_than_there_are_are_refused_before_the_training(
    bench: Callable[..., Bench], tmp_path: Path
) -> None:
    plan, many = resolve("pgd_at", preset="smoke"), 361
    with pytest.raises(InputError, match=r"images 0 to 361 .*of 360: choose n from 1 to 360"):
        workflow.forecast(
            [plan], find_device("cpu"), tmp_path / "runs", n=many, store=CellStore(tmp_path)
        )
    with pytest.raises(InputError, match=r"images 0 to 361 .*of 360: choose n from 1 to 360"):
        bench("pgd_at", n=many)
    assert list((tmp_path / "results").rglob("*.json")) == []


@pytest.mark.usefixtures("few_stages")
def test_the_command_prints_the_leaderboard_and_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from frbench.cli.app import main

    monkeypatch.chdir(tmp_path)
    words = f"bench pgd_at --preset smoke --n {N} epochs=1 --device cpu".split()
    monkeypatch.setattr(sys, "argv", ["frbench", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert ended.value.code == 0
    assert "pgd_at (best)" in said.out and "not comparable with published numbers" in said.out
    assert "epoch 1/1" in said.err and "epoch 1/1" not in said.out
    board = json.loads((tmp_path / "results/local/leaderboard.json").read_text())
    assert len(board["tables"]) == 1
