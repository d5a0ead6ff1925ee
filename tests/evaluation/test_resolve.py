"""A run as a target: what its record tells of the training behind the weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from frbench.engine.plan import Plan, resolve
from frbench.engine.run import RunFolder
from frbench.errors import InputError
from frbench.evaluation import resolve_target, run_target
from frbench.models import WeightsMeta, build_model, save_weights

MakeRun = Callable[..., RunFolder]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """A run folder as the trainer leaves it, with the weights of an untrained network."""

    def make(plan: Plan, *views: str, epochs: int | None = None) -> RunFolder:
        run = RunFolder(tmp_path / "runs" / plan.name)
        done = plan.frame.epochs if epochs is None else epochs
        finished = done == plan.frame.epochs
        run.write_info({"settings": plan.settings(), "finished": finished, "cost": {}})
        lines = "".join(json.dumps({"epoch": e}) + "\n" for e in range(done))
        (run.path / "metrics.jsonl").write_text(lines)
        net = build_model("tiny", classes=10, channels=1).net
        for view in views or ("best",):
            extra = {"defense": plan.defense, "preset": plan.preset, "seed": plan.seed}
            extra |= {"view": view, "epoch": done - 1}
            meta = WeightsMeta("tiny", 10, "digits", channels=1, extra=extra)
            save_weights(run.weights(view), net.state_dict(), meta)
        return run

    return make


def test_a_finished_run_of_the_papers_settings_is_comparable(make_run: MakeRun) -> None:
    record = run_target(make_run(resolve("pgd_at", preset="resnet18"))).record
    assert (record.comparable, record.note) == (True, "")


def test_an_unfinished_run_says_so_and_is_not_comparable(make_run: MakeRun) -> None:
    run = make_run(resolve("pgd_at", preset="resnet18"), epochs=7)
    record = resolve_target(str(run.path)).record
    assert not record.comparable
    assert record.note == "unfinished: 7 of 100 epochs"


def test_a_run_tells_the_engine_that_trained_it(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(resolve("pgd_at", preset="smoke"))
    assert run_target(run).record.engine is None, "before it was recorded"
    run.write_info({**run.info(), "engine": 7})
    assert run_target(run).record.engine == 7


def test_a_run_tells_recipe_code_and_frame_but_not_the_seed(make_run: MakeRun) -> None:
    def told(name: str, view: str = "best", code: str = "c", seed: int = 0, **changed: str) -> str:
        overrides = {key.replace("__", "."): value for key, value in changed.items()}
        run = make_run(resolve(name, preset="smoke", seed=seed, overrides=overrides), view)
        run.write_info({**run.info(), "recipe_code": code})
        return str(run_target(run, view).record.settings)

    plain = told("trades")
    assert plain == told("trades", seed=1) == told("trades", test_images="9")
    assert plain == told("trades+ema"), "its plain weights are those without the average"
    others = [
        told("trades", code="d"),
        told("trades", beta="5"),
        told("trades", lr="0.3"),
        told("trades+ema", "ema-best"),
        told("trades+ema", "ema-best", ema__decay="0.5"),
    ]
    assert len({plain, *others}) == 6


def test_only_changes_that_reach_the_weights_are_told(make_run: MakeRun) -> None:
    typed = {"swa.start_epoch": "80", "test_images": "100", "epochs": "100"}
    run = make_run(resolve("at_swa", preset="resnet18", overrides=typed), "best", "swa-best")
    plain, averaged = run_target(run, "best").record, run_target(run).record
    assert (plain.name, plain.comparable, plain.note) == ("pgd_at", True, "")
    assert (averaged.comparable, averaged.note) == (False, "swa.start_epoch=80")


def test_a_defense_names_its_only_finished_run(make_run: MakeRun, tmp_path: Path) -> None:
    def named(text: str) -> str:
        return resolve_target(text, runs_dir=tmp_path / "runs").record.target

    run = make_run(resolve("pgd_at", preset="smoke"), "best", "last")
    make_run(resolve("pgd_at", preset="smoke", seed=7), epochs=1)  # unfinished
    averaged = make_run(resolve("trades+awp+ema", preset="smoke"), "best", "ema-best")
    assert named("pgd_at") == run.name
    assert named("pgd_at@last") == f"{run.name}@last"
    assert named("trades+ema+awp") == f"{averaged.name}@ema-best"
    assert named("trades+awp") == averaged.name  # the same training, not averaged
    with pytest.raises(InputError, match="unknown target 'mart'"):
        named("mart")
    other = make_run(resolve("pgd_at", preset="smoke", seed=1))
    with pytest.raises(InputError, match=f"'pgd_at' has 2 runs.*{run.name}, {other.name}"):
        named("pgd_at")


def test_a_stray_folder_stops_no_other_run(make_run: MakeRun, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    (runs / "stray").mkdir(parents=True)
    (runs / "stray" / "run.json").write_text('{"settings": {}}')
    with pytest.raises(InputError, match=r"damaged run .*stray.run\.json: no recipe; move it away"):
        resolve_target("pgd_at", runs_dir=runs)
    run = make_run(resolve("pgd_at", preset="smoke"))
    assert resolve_target("pgd_at", runs_dir=runs).record.target == run.name


def test_an_existing_path_wins_over_a_defense(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(resolve("pgd_at", preset="smoke"))
    monkeypatch.chdir(tmp_path)
    Path("pgd_at").write_text("weights")
    with pytest.raises(InputError, match="pgd_at is not a run"):
        resolve_target("pgd_at", runs_dir=tmp_path / "runs")


@pytest.mark.parametrize("text", ["", " "])
def test_an_empty_target_is_told_as_such(text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"an empty TARGET: name a run, natural or file:PATH"):
        resolve_target(text, runs_dir=tmp_path)


@pytest.mark.parametrize("option", ["architecture", "normalization", "extra_data"])
def test_options_of_weights_from_outside_are_refused_for_runs(
    option: str, make_run: MakeRun, tmp_path: Path
) -> None:
    """Otherwise they would be ignored without a word."""
    run = make_run(resolve("pgd_at", preset="smoke"))
    for text in (run.name, "pgd_at"):
        own = option.replace("_", " ")
        with pytest.raises(InputError, match=f"'run {run.name}' brings its own {own}: leave"):
            resolve_target(text, runs_dir=tmp_path / "runs", **{option: "none"})


def test_a_folder_with_an_at_sign_in_its_path_is_a_target(
    make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run(resolve("pgd_at", preset="smoke"), "best", "last")
    elsewhere = tmp_path / "me@host" / run.name
    elsewhere.parent.mkdir()
    run.path.rename(elsewhere)
    assert resolve_target(str(elsewhere)).record.target == run.name
    assert resolve_target(f"{elsewhere}@last").record.target == f"{run.name}@last"
    with pytest.raises(InputError, match="me@host is not a run"):
        resolve_target(str(elsewhere.parent))


@pytest.mark.parametrize(
    ("recorded", "view", "name"),
    [("gone", "best", "gone"), ("gone+ema", "best", "gone"), ("gone+ema", "ema-best", "gone+ema")],
)
def test_a_run_outlives_its_recipe(
    recorded: str, view: str, name: str, make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run(resolve("pgd_at+ema", preset="smoke"), "best", "ema-best")
    info = run.info()
    info["settings"]["defense"] = recorded
    run.write_info(info)
    record = resolve_target(f"{run.name}@{view}", runs_dir=tmp_path / "runs").record
    assert (record.name, record.defense) == (name, name)


def test_a_defense_with_an_unfinished_run_only_says_so(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(resolve("pgd_at", preset="resnet18"), epochs=7)
    with pytest.raises(InputError) as caught:
        resolve_target("pgd_at", runs_dir=tmp_path / "runs")
    assert str(caught.value) == (
        f"'pgd_at' has no finished run ({run.name}, 7 of 100 epochs): "
        "go on with the same 'frbench train', or name the run"
    )


def test_missing_weights_of_a_run_are_no_typo(make_run: MakeRun) -> None:
    run = make_run(resolve("pgd_at+ema", preset="smoke"), "last")
    for text in (str(run.path), f"{run.path}@best"):
        with pytest.raises(InputError, match=r"damaged run .*best\.safetensors; name .*@last, or"):
            resolve_target(text)
    with pytest.raises(InputError, match="did you mean 'last'"):
        resolve_target(f"{run.path}@lst")


def test_an_unknown_target_lists_what_can_be_written_before_the_runs(
    make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run(resolve("pgd_at", preset="smoke"))
    with pytest.raises(InputError) as caught:
        resolve_target("qqqq", runs_dir=tmp_path / "runs")
    listed = str(caught.value).removeprefix("unknown target 'qqqq': known: ").split(", ")
    assert {"natural", "robustbench:ID", "timm:NAME", "file:PATH"} <= set(listed[:-1])
    assert listed[-1] == run.name
