"""A recipe's results over seeds against bands that were measured the same way."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from frbench import verify as verification
from frbench import workflow
from frbench.attacks import specs
from frbench.cli.app import main
from frbench.engine.device import find_device
from frbench.engine.plan import Plan, resolve
from frbench.engine.presets import PRESETS
from frbench.errors import InputError
from frbench.evaluation import Cell, CellStore, DataRange, ModelRecord
from frbench.evaluation.provenance import deciding_versions


def _plans(*seeds: int, **overrides: str) -> list[Plan]:
    return [resolve("pgd_at", preset="smoke", seed=s, overrides=overrides) for s in seeds]


def _cells(plan: Plan, clean: int, pgd20: int, aa: int, **model: Any) -> list[Cell]:
    """Finished cells: so many of 128 images right under clean and PGD-20, of 32 under AutoAttack.

    The images that resist come first.
    """
    record: dict[str, Any] = {
        "name": plan.defense,
        "target": plan.name,
        "digest": f"{plan.seed:064}",
        "architecture": "tiny",
        "parameters": 5122,
        "dataset": "digits",
        "classes": 10,
        "source": "run",
        "defense": plan.defense,
        "preset": "smoke",
        "protocol": "common",
        "weights": "best",
        "seed": plan.seed,
    }
    made = []
    for name, right, n in (("clean", clean, 128), ("pgd20", pgd20, 128), ("aa", aa, 32)):
        spec, trained = specs()[name], ModelRecord(**{**record, **model})
        made.append(
            Cell(
                model=trained,
                attack=spec,
                data=DataRange(dataset="digits", sha256="d" * 64, stop=n),
                batch=256,
                versions=deciding_versions(spec, trained),
                verdicts=dict.fromkeys(spec.stages, "1" * right + "0" * (n - right)),
                provenance={"device": "a CPU", "commit": "abc"},
            )
        )
    return made


@pytest.fixture
def measured(tmp_path: Path) -> tuple[list[Plan], Path, Path]:
    """Three seeds' cells in a results folder, and the bands recorded from them."""
    plans, store = _plans(0, 1, 2), CellStore(tmp_path / "results")
    for plan, (clean, pgd20, aa) in zip(
        plans, [(118, 96, 24), (120, 97, 23), (122, 98, 22)], strict=True
    ):
        for cell in _cells(plan, clean, pgd20, aa):
            store.save(cell)
    bands = tmp_path / "bands.json"
    verification.record(plans, tmp_path / "runs", tmp_path / "results", path=bands)
    return plans, tmp_path / "results", bands


def test_cells_of_two_trainings_of_a_plan_are_not_mixed() -> None:
    """An AutoAttack of other weights would make a gap between two models."""
    (plan,) = _plans(0)
    clean, pgd20, aa = _cells(plan, 120, 97, 23)
    *_, other = _cells(plan, 118, 90, 30, digest="f" * 64, target=f"{plan.name}@best")
    for cells in ([clean, pgd20, aa, other], [other, clean, pgd20, aa]):
        values = verification.seed_result(plan, cells, None).values
        assert values["aa"] == pytest.approx(100 * 23 / 32)
    with pytest.raises(InputError, match="no finished aa cell"):
        verification.seed_result(plan, [clean, pgd20, other], None)


def test_a_band_is_as_wide_as_the_seeds_or_the_images_say() -> None:
    by_images = verification.band([50.0, 50.0, 50.0], 100)
    assert (by_images.low, by_images.high) == pytest.approx((40.4, 59.6), abs=0.05)
    by_seeds = verification.band([40.0, 50.0, 60.0], 100)
    assert (by_seeds.low, by_seeds.high) == (20.0, 80.0)
    assert verification.band([-3.0, -3.0], 256).low < -3.0


def test_how_far_a_value_is_outside() -> None:
    band = verification.Band(low=10, high=20)
    assert [band.outside(v) for v in (7.5, 10, 15, 20, 21)] == [-2.5, 0, 0, 0, 1]


def test_recorded_bands_say_how_they_were_measured(measured) -> None:
    plans, _, path = measured
    bands = verification.find_bands(plans[0], path)
    assert set(bands.metrics) == set(verification.METRICS)
    assert bands.measured.seeds == (0, 1, 2)
    assert bands.measured.command == "frbench bench pgd_at --preset smoke --seeds 3"
    assert (bands.measured.device, bands.measured.commit) == ("a CPU", "abc")
    assert (bands.images, bands.autoattack_images) == (128, 32)
    # PGD-20 leaves all of the first 32 images right, so the gap is what AutoAttack breaks.
    middle = (bands.metrics["gap"].low + bands.metrics["gap"].high) / 2
    assert middle == pytest.approx(100 * 9 / 32, abs=0.01)


def test_what_was_measured_passes_and_what_is_far_away_fails(measured) -> None:
    plans, results, path = measured
    bands = verification.find_bands(plans[0], path)
    cells = CellStore(results).all()
    same = [verification.seed_result(plan, cells, None) for plan in plans]
    assert verification.compare(bands, same).passed
    worse = [verification.seed_result(plan, _cells(plan, 119, 64, 24), None) for plan in plans]
    found = verification.compare(bands, worse)
    assert not found.passed
    assert [o.name for o in found.outcomes if o.outside] == ["pgd20"]
    assert "pgd20 50.00 is" in found.first_divergence()
    assert "points below its band" in found.first_divergence()
    assert "no learning curves are kept" in found.first_divergence()


def test_the_first_epoch_out_of_its_band_is_named(measured) -> None:
    plans, _, path = measured
    inside = verification.Band(low=40, high=60)
    curve = tuple(
        verification.EpochBands(epoch=epoch, clean=inside, pgd20=inside) for epoch in range(3)
    )
    bands = verification.find_bands(plans[0], path).model_copy(update={"curve": curve})
    values = {"clean": 10.0, "pgd20": 75.8, "aa": 71.9, "gap": 28.1}
    course = {e: {"clean": 50.0, "pgd20": 50.0 - 15.0 * e} for e in range(3)}
    found = verification.compare(bands, [verification.SeedResult(0, values, course)])
    said = found.first_divergence()
    assert said.startswith("clean 10.00 is")
    assert "held-out pgd20 after epoch 2 35.00 is 5.00 points below its band 40.00 to 60.00" in said


def test_cells_of_other_settings_do_not_count(measured, tmp_path: Path) -> None:
    changed = _plans(0, 1, 2, lr="0.05")
    with pytest.raises(InputError, match="no finished clean cell of pgd_at in preset smoke"):
        verification.record(changed, tmp_path, measured[1], path=tmp_path / "other.json")
    with pytest.raises(InputError, match="were measured with other settings"):
        verification.find_bands(changed[0], measured[2])


@pytest.mark.parametrize(
    "other",
    [
        {"attack": specs(eps=2 / 255)["pgd20"]},
        {"attack": specs(norm="L2")["pgd20"]},
        {"seed": 1},
        {"batch": 32},
        {"precision": "fp32 verdicts, fast search"},
        {"versions": {"torch": "1.0"}},
        {"data": DataRange(dataset="digits", split="train", sha256="d" * 64, stop=128)},
    ],
)
def test_cells_of_another_threat_model_seed_search_version_or_split_do_not_count(
    other: dict[str, Any],
) -> None:
    (plan,) = _plans(0)
    cells = _cells(plan, 118, 96, 24)
    assert cells[1].attack.name == "pgd20"
    stray = cells[1].model_copy(update={"verdicts": {"pgd20": "1" * 128}, **other})
    found = verification.seed_result(plan, [*cells, stray], None)
    assert found == verification.seed_result(plan, cells, None)
    assert found.values["pgd20"] == 75.0


def test_cells_of_the_last_weights_do_not_count(measured) -> None:
    plan = measured[0][0]
    cells = _cells(plan, 119, 97, 23) + _cells(plan, 1, 1, 1, weights="last")
    assert verification.seed_result(plan, cells, None).values["clean"] == 100 * 119 / 128


def test_bands_of_other_recipes_stay(measured) -> None:
    plans, results, path = measured
    kept = verification.find_bands(plans[0], path)
    other = kept.model_copy(update={"defense": "trades"})
    content = verification.BandsFile(defenses=(other,)).model_dump(mode="json")
    path.write_text(json.dumps(content))
    verification.record(plans, results, results, path=path)
    assert [b.defense for b in verification.read_bands(path).defenses] == ["pgd_at", "trades"]


def test_one_seed_has_no_spread(measured, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least two"):
        verification.record(measured[0][:1], tmp_path, measured[1], path=measured[2])


@pytest.mark.parametrize("text", ["", "{", '{"format": 1, "defenses": 3}', "[]"])
def test_a_damaged_file_of_bands_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "bands.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"damaged bands .*bands\.json"):
        verification.read_bands(path)


def test_without_bands_it_says_how_to_measure_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no bands for pgd_at in preset smoke yet: 'frbench bench"):
        verification.find_bands(_plans(0)[0], tmp_path / "none.json")


def test_the_shipped_bands_can_be_read() -> None:
    """Every band is of a recipe and a preset that exist, as they are set today."""
    for bands in verification.read_bands().defenses:
        plan = resolve(bands.defense, preset=bands.preset)
        assert verification.find_bands(plan) == bands
        assert set(bands.metrics) == set(verification.METRICS)
        assert all(b.low < b.high for b in bands.metrics.values())


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The smoke preset on few images, and an AutoAttack of one stage: seconds."""
    fewer = PRESETS["smoke"].model_copy(update={"test_images": 16, "autoattack_images": 8})
    monkeypatch.setitem(PRESETS, "smoke", fewer)

    def shorter(**settings: Any) -> Any:
        columns = specs(**settings)
        return {**columns, "aa": columns["aa"].model_copy(update={"stages": ("apgd-ce",)})}

    for module in (workflow, verification):
        monkeypatch.setattr(module, "specs", shorter)
    monkeypatch.chdir(tmp_path)


def _command(*words: str) -> int:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", ["frbench", "verify", *words])
        main()
    return int(ended.value.code or 0)


@pytest.mark.usefixtures("small")
def test_the_command_trains_and_tells_pass_or_fail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    device, quiet = find_device("cpu"), Console(quiet=True)
    store, runs = CellStore(tmp_path / "results/local"), tmp_path / "runs"
    for plan in _plans(0, 1):
        (run,) = workflow.train_all([plan], device, runs, quiet)
        workflow.attack_run(plan, run, device, store, quiet)
    words = ["pgd_at", "--preset", "smoke", "--seeds", "2", "--bands", "bands.json"]
    assert _command(*words, "--record") == 0
    assert "learning curves: 4 epochs" in capsys.readouterr().out

    assert _command(*words) == 0
    said = capsys.readouterr()
    assert "PASS pgd_at: every mean lies in its band" in said.out
    assert said.err.count("trained already, reused") == 2
    assert said.err.count("frame: dataset=digits") == 2
    assert said.err.count("plan: ") >= 1

    bands = json.loads((tmp_path / "bands.json").read_text())
    bands["defenses"][0]["metrics"]["pgd20"] = {"low": 0.0, "high": 1.0}
    bands["defenses"][0]["curve"][2]["clean"] = {"low": 0.0, "high": 1.0}
    (tmp_path / "bands.json").write_text(json.dumps(bands))
    assert _command(*words) == 1
    out: str = capsys.readouterr().out
    assert "FAIL pgd_at: pgd20" in out and "differ first where held-out clean after epoch 3" in out


@pytest.mark.parametrize(
    "defense", ["pgd_at", "trades", "mart", "awp", "at_swa", "at_fr", "at_fr_swa"]
)
def test_every_defense_of_the_paper_has_bands_of_the_present_settings(defense: str) -> None:
    bands = verification.find_bands(resolve(defense, preset="quick"))
    assert bands.measured.seeds == (0, 1, 2)
