"""Layers of settings: who overrules whom, what is refused, and what names a run."""

from __future__ import annotations

import pytest

from frbench.engine import StochasticWeightAveraging
from frbench.engine import plan as plans
from frbench.engine.plan import check_original, parse_overrides, resolve
from frbench.engine.presets import PRESETS, default_preset
from frbench.engine.registry import Defense, parse_defense
from frbench.errors import InputError


def plan(defense="pgd_at", preset="paper", protocol="common", seed=0, **overrides):
    text = {key.replace("__", "."): str(value) for key, value in overrides.items()}
    return resolve(defense, preset=preset, protocol=protocol, seed=seed, overrides=text)


def settings(found):
    recipe = found.recipe
    mechanisms = {f"{m.kind}.{k}": v for m in recipe.mechanisms for k, v in m.model_dump().items()}
    attack = {f"attack.{k}": v for k, v in recipe.attack.model_dump().items()}
    return {**found.frame.model_dump(), **recipe.objective.model_dump(), **attack, **mechanisms}


COMMON = {
    "architecture": "wrn-34-10",
    "attack.eps": 8 / 255,
    "attack.step_size": 2 / 255,
    "attack.steps": 10,
    "attack.batchnorm": "eval",
    "epochs": 100,
    "lr": 0.1,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "batch_size": 128,
    "schedule": "milestones",
    "milestones": (75, 90),
    "padding": "zero",
    "normalization": "none",
    "validation_fraction": 0.1,
    "statistics_before": (),
    "statistics_after": (),
}
RICE = {
    "attack.batchnorm": "train",
    "epochs": 200,
    "schedule": "milestones_by_step",
    "milestones": (100, 150),
    "padding": "reflect",
    "normalization": "cifar10",
    "statistics_before": ("adversarial",),
    "statistics_after": ("clean",),
}
SMALL_BALL = {"attack.eps": 0.031, "attack.step_size": 0.007, "attack.start": "gaussian"}
ORIGINAL = {
    "pgd_at": {**RICE, "attack.start": "uniform"},
    "awp": {**RICE, "awp.gamma": 0.01, "awp.start_epoch": 0},
    "trades": {
        **SMALL_BALL,
        "beta": 6.0,
        "weight_decay": 2e-4,
        "epochs": 76,
        "milestones": (74,),
        "statistics_before": ("clean",),
    },
    "trades+awp": {
        "attack.start": "gaussian",
        "beta": 6.0,
        "epochs": 200,
        "milestones": (99, 149),
        "statistics_before": ("clean",),
        "awp.gamma": 0.005,
        "awp.start_epoch": 9,
    },
    "mart": {
        **SMALL_BALL,
        "beta": 6.0,
        "weight_decay": 7e-4,
        "epochs": 90,
        "milestones": (74, 89),
    },
    "at_swa": {"swa.start_epoch": 75, "swa.cycle": 1},
    "at_fr": {"fr.start_epoch": 75, "fr.weight": 0.1, "fr.axes": "batch_class"},
    "at_fr_swa": {"fr.start_epoch": 75, "swa.start_epoch": 75},
}


@pytest.mark.parametrize("defense", ORIGINAL)
def test_original_protocol_changes_what_its_authors_changed_and_nothing_else(defense):
    found = settings(plan(defense, protocol="original"))
    expected = {**COMMON, **ORIGINAL[defense]}
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("defense", [*ORIGINAL, "trades+awp+ema", "mart+fr", "awp+swa"])
def test_every_preset_can_be_trained_in_the_original_protocol(defense, preset):
    found = settings(plan(defense, preset=preset, protocol="original"))
    starts = [value for key, value in found.items() if key.endswith(".start_epoch")]
    assert all(start < 0.9 * found["epochs"] for start in starts)


@pytest.mark.parametrize("defense", ORIGINAL)
def test_common_protocol_is_one_frame_for_all(defense):
    found = settings(plan(defense))
    assert {key: found[key] for key in COMMON} == COMMON
    assert found.get("fr.start_epoch", 0) == 0


def test_mart_has_settings_of_its_own_for_resnet18():
    found = settings(plan("mart", preset="resnet18", protocol="original"))
    expected = {"beta": 5.0, "lr": 0.01, "weight_decay": 3.5e-3, "epochs": 120}
    assert {key: found[key] for key in expected} == expected
    assert found["milestones"] == (74, 89, 99)
    assert settings(plan("mart", preset="resnet18"))["beta"] == 6.0


def test_the_architecture_that_was_typed_decides_whose_original_settings_these_are():
    typed = plan("mart", protocol="original", architecture="resnet18")
    assert typed.frame == plan("mart", preset="resnet18", protocol="original").frame
    assert typed.recipe.objective.beta == 5.0
    assert typed.changed == ("architecture=resnet18",)
    back = plan("mart", preset="resnet18", protocol="original", architecture="wrn-34-10")
    assert back.frame == plan("mart", protocol="original").frame


def test_later_layers_overrule_earlier_ones():
    assert plan("trades", protocol="original").frame.epochs == 76  # the recipe's authors
    quick = plan("trades", preset="quick", protocol="original")
    assert quick.frame.epochs == PRESETS["quick"].overrides["epochs"]  # then the preset
    assert plan("trades", preset="quick", protocol="original", epochs=2).frame.epochs == 2
    assert quick.recipe.attack.eps == 0.031  # what no later layer changes stays


@pytest.mark.parametrize(
    ("defense", "protocol", "typed", "start"),
    [
        ("at_swa", "common", {}, 75),
        ("at_swa", "common", {"milestones": "50,80"}, 50),
        ("at_swa", "common", {"milestones": "50,80", "swa.start_epoch": "60"}, 60),
        ("pgd_at+awp+swa", "original", {}, 100),
        ("trades+swa", "original", {}, 74),
    ],
)
def test_swa_starts_at_the_first_drop_unless_told_otherwise(defense, protocol, typed, start):
    found = resolve(defense, preset="paper", protocol=protocol, overrides=typed)
    assert found.recipe.mechanism("swa").start_epoch == start


def test_a_recipe_may_say_when_its_swa_starts(monkeypatch):
    own = Defense(
        "mine", parse_defense("pgd_at").recipe + StochasticWeightAveraging(start_epoch=60)
    )
    monkeypatch.setattr(plans, "parse_defense", lambda text: own)
    assert plan("mine").recipe.mechanism("swa").start_epoch == 60
    assert plan("mine", milestones="50,80").recipe.mechanism("swa").start_epoch == 60


def test_authors_settings_of_few_epochs_fit_a_swa_that_starts_with_them():
    recipe = parse_defense("pgd_at").recipe + StochasticWeightAveraging()
    check_original(recipe.rebuilt(original={"epochs": 30, "milestones": (15, 25)}))


def test_values_are_read_as_people_type_them():
    found = plan("at_fr_swa", attack__eps="4/255", milestones="50,80", fr__weight="0.2")
    assert found.recipe.attack.eps == pytest.approx(4 / 255)
    assert found.frame.milestones == (50, 80)
    assert found.recipe.mechanism("fr").weight == 0.2
    assert plan(milestones="60").frame.milestones == (60,)
    assert plan(statistics_before="clean").frame.statistics_before == ("clean",)
    both = plan(statistics_after="clean,adversarial").frame
    assert both.statistics_after == ("clean", "adversarial")


@pytest.mark.parametrize(
    ("typed", "changed"),
    [
        ({"epochs": "100", "attack.eps": "8/255", "milestones": "75,90", "lr": "1e-1"}, ()),
        ({"epochs": "100", "lr": "0.2", "fr.weight": "0.10"}, ("lr=0.2",)),
        ({"fr.weight": "0.2", "swa.start_epoch": "75"}, ("fr.weight=0.2",)),
    ],
)
def test_a_default_that_was_typed_changes_nothing(typed, changed):
    assert resolve("at_fr_swa", preset="resnet18", overrides=typed).changed == changed


def test_a_default_is_what_protocol_and_preset_say():
    assert plan("trades", protocol="original", epochs=76).changed == ()
    assert plan("trades", epochs=76, milestones="60").changed == ("epochs=76", "milestones=60")
    assert plan("at_fr", preset="quick", fr__start_epoch=8).changed == ()
    later = {"defense": "pgd_at+awp+swa", "protocol": "original"}
    assert plan(**later, swa__start_epoch=100).changed == ()
    assert plan(**later, swa__start_epoch=75).changed == ("swa.start_epoch=75",)
    assert plan("at_fr", preset="quick", fr__start_epoch=0).changed == ("fr.start_epoch=0",)


@pytest.mark.parametrize(
    ("defense", "key", "near"),
    [
        ("pgd_at", "epoch", "epochs"),
        ("trades", "betta", "beta"),
        ("at_fr", "fr.wieght", "fr.weight"),
        ("pgd_at", "attack.step", "attack.steps"),
        ("pgd_at", "eps", "attack.eps"),
    ],
)
def test_unknown_key_names_the_nearest(defense, key, near):
    with pytest.raises(InputError, match=rf"unknown key '{key}': did you mean '{near}'\?"):
        resolve(defense, preset="quick", overrides={key: "1"})


def test_key_of_a_mechanism_that_does_not_ride_along_is_unknown():
    with pytest.raises(InputError, match=r"unknown key 'awp\.gamma'"):
        plan("pgd_at", awp__gamma=0.01)


@pytest.mark.parametrize(
    ("defense", "overrides", "said"),
    [
        ("pgd_at", {"attack__eps": "-1"}, "attack.eps=-1"),
        ("pgd_at", {"attack__eps": "two"}, "attack.eps=two"),
        ("pgd_at", {"attack__steps": "0"}, "attack.steps=0"),
        ("pgd_at", {"epochs": "0"}, "epochs=0"),
        ("pgd_at", {"epochs": "2.5"}, "epochs=2.5"),
        ("pgd_at", {"epochs": "9" * 23}, "less than or equal to 1000000"),
        ("pgd_at", {"statistics_before": "both"}, "statistics_before=both"),
        ("pgd_at", {"milestones": "75,100"}, "milestone 100 is beyond the last epoch 99"),
        ("pgd_at", {"lr": "1/0"}, "lr=1/0"),
        ("trades", {"beta": "-1"}, "beta=-1"),
        ("at_fr", {"fr__axes": "pixels"}, "fr.axes=pixels"),
        ("awp", {"awp__gamma": "-0.1"}, "awp.gamma=-0.1"),
        ("at_swa", {"swa__start_epoch": "100"}, "swa.start_epoch=100 is beyond the last epoch 99"),
        ("at_fr", {"fr__start_epoch": "100"}, "fr.start_epoch=100 is beyond the last epoch 99"),
    ],
)
def test_impossible_values_are_named(defense, overrides, said):
    with pytest.raises(InputError) as caught:
        plan(defense, **overrides)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_names_are_refused_with_the_nearest():
    with pytest.raises(InputError, match="did you mean 'quick'"):
        plan(preset="quik")
    with pytest.raises(InputError, match="did you mean 'original'"):
        plan(protocol="orginal")
    with pytest.raises(InputError, match="seed -1 is negative"):
        plan(seed=-1)


@pytest.mark.parametrize("item", ["epochs", "=3", "epochs=", ""])
def test_overrides_are_key_equals_value(item):
    with pytest.raises(InputError, match="is not key=value"):
        parse_overrides([item])


def test_overrides_may_hold_an_equals_sign():
    assert parse_overrides(["a=b=c", " lr = 0.1 "]) == {"a": "b=c", "lr": "0.1"}


def test_default_preset_follows_the_accelerator():
    assert (default_preset(cuda=False), default_preset(cuda=True)) == ("quick", "resnet18")


# --- what names a run -----------------------------------------------------------------------------


def test_an_average_does_not_move_the_trajectory_but_names_another_run():
    plain, early, late = plan("pgd_at"), plan("at_swa"), plan("at_swa", swa__start_epoch=80)
    assert plain.trajectory == early.trajectory == late.trajectory
    assert len({plain.name, early.name, late.name}) == 3


def test_test_images_do_not_move_the_trajectory_but_name_another_run():
    """Nor do they move the name of any run from before this setting."""
    plain, watched = plan("at_swa"), plan("at_swa", test_images=100)
    assert plain.trajectory == watched.trajectory and plain.saved == watched.saved
    assert watched.name == plain.name.replace("-s0-", "-s0-test100-")


@pytest.mark.parametrize("preset", PRESETS)
def test_no_preset_looks_at_test_images_while_training(preset):
    assert plan("pgd_at", preset=preset).frame.test_images == 0


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"lr": 0.2},
        {"attack__steps": 7},
        {"defense": "trades"},
        {"defense": "at_fr"},
        {"preset": "resnet18"},
        {"protocol": "original"},
    ],
)
def test_whatever_moves_the_weights_moves_the_trajectory(other):
    assert plan(**other).trajectory != plan().trajectory


def test_another_engine_is_another_trajectory(monkeypatch):
    """Else a run of old code would be reused for new code."""
    before = plan().trajectory
    monkeypatch.setattr("frbench.engine.plan.ENGINE_VERSION", 0)
    assert plan().trajectory != before


def test_one_training_has_one_trajectory_whatever_it_is_called():
    assert plan("pgd_at+fr").trajectory == plan("at_fr").trajectory
    assert plan(lr="0.1").trajectory == plan().trajectory
    assert plan("pgd_at", seed=3).trajectory == plan("pgd_at").with_seed(3).trajectory


def test_a_key_given_twice_is_refused() -> None:
    with pytest.raises(InputError, match="'epochs' is given twice"):
        parse_overrides(["epochs=3", "epochs=4"])


def test_authors_settings_that_are_the_common_ones_are_the_common_protocol():
    """Else the plain weights of AT-SWA's run would be called PGD-AT in its authors' settings."""
    assert plan("at_swa", protocol="original") == plan("at_swa")
    assert plan("pgd_at", protocol="original").protocol == "original"


@pytest.mark.parametrize(
    ("preset", "changed", "told"),
    [
        (
            "quick",
            (),
            "2-step attack in training, 10 epochs without crops, a small model",
        ),
        ("quick", ("epochs=1", "lr=0.1"), "2-step attack in training without crops, a small model"),
        ("quick", ("pad=4", "attack.steps=10"), "10 epochs, a small model"),
        ("smoke", (), "8x8 digits, a tiny model, 4 epochs, 2-step attack in training"),
        ("paper", ("epochs=1",), ""),
    ],
)
def test_a_preset_does_not_tell_what_the_command_line_changed(preset, changed, told):
    assert PRESETS[preset].told(changed) == told
