"""Names of defenses: canonical, refused with a reason, and independent of a broken neighbour."""

from __future__ import annotations

import itertools

import pytest

from frbench.engine.plan import resolve
from frbench.engine.registry import defenses, parse_defense
from frbench.errors import InputError
from frbench.evaluation.views import row_name

SEVEN = {"pgd_at", "trades", "mart", "awp", "at_swa", "at_fr", "at_fr_swa"}


def test_the_seven_of_the_paper_are_there_and_nothing_is_broken():
    known, broken = defenses()
    assert set(known) >= SEVEN
    assert broken == ()
    assert all(d.summary and d.path.stem == name for name, d in known.items())


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        (["trades", "awp", "ema"], "trades+awp+ema"),
        (["pgd_at", "fr", "swa"], "at_fr_swa"),
        (["at_fr", "swa"], "at_fr_swa"),
        (["at_swa", "fr"], "at_fr_swa"),
        (["pgd_at", "fr"], "at_fr"),
        (["pgd_at", "awp"], "awp"),
        (["awp", "swa"], "pgd_at+awp+swa"),
        (["pgd_at", "awp", "swa"], "pgd_at+awp+swa"),
        (["mart", "fr"], "mart+fr"),
    ],
)
def test_name_is_canonical_whatever_the_order(parts, name):
    found = {parse_defense("+".join(order)).name for order in itertools.permutations(parts)}
    assert found == {name}


def test_a_canonical_name_means_itself():
    for name in ("trades+awp+ema", "pgd_at+awp+swa", "mart+fr"):
        assert parse_defense(parse_defense(name).name).recipe.same_training(
            parse_defense(name).recipe
        )


@pytest.mark.parametrize(
    ("one", "other"),
    [("at_fr+awp", "pgd_at+fr+awp"), ("at_swa+awp", "awp+swa"), ("at_fr+ema", "pgd_at+fr+ema")],
)
def test_one_name_is_one_training_in_the_authors_settings_too(one, other):
    first, second = (resolve(name, preset="resnet18", protocol="original") for name in (one, other))
    assert first.defense == second.defense
    assert first.trajectory == second.trajectory


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("trades+swa+ema", "'swa' and 'ema' are two averages"),
        ("at_swa+ema", "'swa' and 'ema' are two averages"),
        ("at_fr+fr", "'fr' is there twice"),
        ("trades+fr+fr", "'fr' is there twice"),
        ("awp+awp", "'awp' is there twice"),
        ("trades+mart", "'trades' and 'mart' both bring a loss"),
        ("swa", "has mechanisms only"),
        ("fr+swa", "has mechanisms only"),
        ("tradess", "did you mean 'trades'"),
        ("trades+ewp", "did you mean 'awp'"),
        ("trades+", "'trades+' ends in +: name a mechanism"),
        ("", "unknown defense ''"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(text, said):
    with pytest.raises(InputError) as caught:
        parse_defense(text)
    assert said in str(caught.value)


# --- files that cannot be used --------------------------------------------------------------------

OWN_BRANCHES = """\
from frbench.engine import *
class Own(Objective):
    branches = BRANCHES
    def loss(self, outputs):
        return outputs.adversarial_logits.mean()
recipe = Recipe(base="branches", objective=Own())
"""
BAD = {
    "branches": (
        OWN_BRANCHES.replace("BRANCHES", '("clean", "adversial")'),
        6,
        "Own.branches: unknown branch 'adversial': did you mean 'adversarial'?",
    ),
    "no_import": ("import os\nimport nowhere_to_be_found\n", 2, "nowhere_to_be_found"),
    "no_syntax": ("x = 1\n\ndef f(:\n", 3, "syntax error"),
    "no_recipe": ('"""Nothing here."""\n', 1, "defines no `recipe`"),
    "no_type": ("recipe = 3\n", 1, "is a int, not a Recipe"),
    "taken": ("from defenses.trades import recipe\n", 1, "write base='taken'"),
    "stranger": (
        "from defenses.trades import recipe as trades\nfrom frbench.engine import *\n"
        "recipe = (trades + FrequencyRegularization()).rebuilt(base='pgd_at')\n",
        1,
        "write base='stranger'",
    ),
    "impossible": (
        "from defenses.trades import Trades\n\nobjective = Trades(beta=-1)\n",
        3,
        "greater than or equal to 0",
    ),
    "raises": ("raise SystemError('on purpose')\n", 1, "on purpose"),
    "hidden": (
        "from defenses.trades import Trades\nfrom frbench.engine import Recipe\n"
        "class Own(Trades):\n    warmup: int = 3\n"
        "recipe = Recipe(base='hidden', objective=Own())\n",
        1,
        "the field `warmup` of Own cannot be set, because warmup=VALUE is a setting of every "
        "training; rename it",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_broken_file_is_named_with_its_line_and_others_keep_working(name, own_defenses):
    text, line, said = BAD[name]
    own_defenses(**{name: text})
    known, broken = defenses()
    assert set(known) >= SEVEN
    (module,) = broken
    assert (module.path.stem, module.line) == (name, line)
    assert said in str(module)
    assert "\n" not in str(module)
    for asked in (name, f"{name}+ema"):
        with pytest.raises(InputError, match=rf"defense '{name}' cannot be used: .*{name}.py:"):
            parse_defense(asked)
    assert parse_defense("trades+awp").name == "trades+awp"


@pytest.mark.parametrize(
    ("branches", "said"),
    [
        ('("adversarial")', "Own.branches must be a tuple such as .'adversarial',., not 'advers"),
        ("None", "Own.branches must be a tuple such as .'adversarial',., not None"),
    ],
)
def test_branches_that_are_no_tuple_make_a_file_unusable(own_defenses, branches, said):
    own_defenses(branches=OWN_BRANCHES.replace("BRANCHES", branches))
    with pytest.raises(InputError, match=rf"branches\.py:6: .*{said}"):
        parse_defense("branches")


def test_branches_of_a_regularizer_are_looked_up_too(own_defenses):
    own_defenses(mine=OWN_MECHANISM.replace("KIND", "pairing").replace('"clean"', '"claen"'))
    with pytest.raises(InputError, match=r"Pairing\.branches: unknown branch 'claen': .*'clean'"):
        parse_defense("mine")


def test_two_files_may_call_different_losses_by_one_class_name(own_defenses):
    """Otherwise a copy of a recipe would be served by the original's run."""
    source = own_defenses()["trades"].path.read_text()
    own_defenses(mine=source.replace('base="trades"', 'base="mine"'))
    mine, trades = parse_defense("mine"), parse_defense("trades")
    assert type(mine.recipe.objective).__name__ == "Trades"
    assert not mine.recipe.same_training(trades.recipe)
    assert parse_defense("mine+awp").name == "mine+awp"


def test_a_file_that_changes_a_mechanism_keeps_its_name_in_compositions(own_defenses):
    own_defenses(
        soft=(
            "from defenses.trades import recipe as trades\nfrom frbench.engine import *\n"
            "recipe = trades + AdversarialWeightPerturbation(gamma=0.005)\n"
        )
    )
    composed = parse_defense("ema+soft")
    assert composed.name == "soft+ema"
    assert parse_defense(composed.name).recipe.mechanism("awp").gamma == 0.005
    assert parse_defense("trades+awp+ema").recipe.mechanism("awp").gamma == 0.01


def test_plain_weights_bear_the_name_of_their_own_settings(own_defenses):
    own_defenses(
        strongfr=(
            "from defenses.pgd_at import recipe as pgd_at\nfrom frbench.engine import *\n"
            "recipe = pgd_at + FrequencyRegularization(weight=0.5) + StochasticWeightAveraging()\n"
        )
    )
    assert row_name("at_fr_swa", "best") == "at_fr"
    assert row_name("trades+awp+ema", "last") == "trades+awp"
    assert row_name("strongfr", "swa-best") == "strongfr"
    assert row_name("strongfr", "best") == "strongfr without swa"


def test_a_file_with_a_mechanism_of_its_own_can_be_composed(own_defenses):
    text = own_defenses()["trades"].path.read_text().replace('base="trades"', 'base="custom"')
    text = text.replace("Outputs, Recipe", "AdversarialWeightPerturbation, Outputs, Recipe")
    own_defenses(custom=text + "recipe = recipe + AdversarialWeightPerturbation(gamma=0.02)\n")
    found = parse_defense("custom+ema")
    assert found.name == "custom+ema" and parse_defense(found.name).recipe == found.recipe
    assert {m.kind for m in found.recipe.mechanisms} == {"awp", "ema"}
    assert row_name("custom+ema", "best") == "custom"
    assert row_name("custom+ema", "ema-best") == "custom+ema"


OWN_MECHANISM = """\
from typing import ClassVar
from defenses.pgd_at import recipe as pgd_at
from frbench.engine import *
class Pairing(Regularizer):
    kind: ClassVar[str] = "KIND"
    branches: ClassVar[tuple[Branch, ...]] = ("clean", "adversarial")
    def penalty(self, outputs):
        return (outputs.clean_logits - outputs.adversarial_logits).square().mean()
recipe = pgd_at + Pairing() + ExponentialMovingAverage(decay=0.9)
"""


def test_a_mechanism_that_only_a_file_knows_rides_along_like_any_other(own_defenses):
    own_defenses(mine=OWN_MECHANISM.replace("KIND", "pairing"))
    composed = parse_defense("awp+mine")
    assert composed.name == "mine+awp" and parse_defense("mine+awp").recipe == composed.recipe
    assert {m.kind for m in composed.recipe.mechanisms} == {"awp", "ema", "pairing"}
    assert row_name("mine+awp", "ema-best") == "mine+awp"
    assert row_name("mine+awp", "best") == "mine+awp without ema"


def test_two_files_may_call_different_mechanisms_by_one_kind(own_defenses):
    """Otherwise a mechanism of one's own would be served by another's run."""
    own_defenses(
        mine=OWN_MECHANISM.replace("KIND", "pairing"),
        yours=OWN_MECHANISM.replace("KIND", "pairing").replace("square", "abs"),
        fourier=OWN_MECHANISM.replace("Pairing(Regularizer)", "Fr(FrequencyRegularization)")
        .replace("Pairing", "Fr")
        .replace("KIND", "fr"),
    )
    mine, yours = (resolve(name, preset="smoke") for name in ("mine", "yours"))
    assert mine.trajectory != yours.trajectory
    fourier, known = (resolve(name, preset="smoke") for name in ("fourier", "at_fr"))
    assert fourier.trajectory != known.trajectory


@pytest.mark.parametrize("kind", ["", "attack", "logit squeeze", "Pairing", "a.b"])
def test_the_kind_of_a_mechanism_is_a_name_that_can_be_typed(own_defenses, kind):
    own_defenses(mine=OWN_MECHANISM.replace("KIND", kind))
    with pytest.raises(InputError, match=rf"mine\.py:9: .*Pairing needs a name .* not '{kind}'$"):
        parse_defense("mine")


@pytest.mark.parametrize("line", ["", '    kind: str = "pairing"\n'])
def test_a_kind_that_belongs_to_no_class_is_one_line(own_defenses, line):
    own_defenses(mine=OWN_MECHANISM.replace('    kind: ClassVar[str] = "KIND"\n', line))
    with pytest.raises(InputError, match=r"Pairing needs a name of its own.*kind: ClassVar"):
        parse_defense("mine")


NOTHING = """\
from typing import ClassVar
from defenses.pgd_at import recipe as pgd_at
from frbench.engine.recipe import Mechanism, WeightAverage
class Noise(Mechanism):
    kind: ClassVar[str] = "noise"
class Power(WeightAverage):
    kind: ClassVar[str] = "power"
    def after_step(self, state, model): ...
    def after_epoch(self, state, model, epoch, images): ...
recipe = pgd_at + """


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (NOTHING + "Noise()\n", "nothing would call Noise; derive it from Regularizer"),
        (NOTHING + "Power()\n", "Power averages weights.* frbench/engine/mechanisms"),
        (OWN_MECHANISM.replace("KIND", "fr"), "'fr' is the kind of FrequencyRegularization"),
    ],
)
def test_a_mechanism_that_would_do_nothing_is_refused_before_it_is_trained(
    own_defenses, text, said
):
    own_defenses(mine=text)
    with pytest.raises(InputError, match=said):
        parse_defense("mine")
