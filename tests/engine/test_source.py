"""A recipe whose code has changed is not served by the runs of the former code."""

from __future__ import annotations

import pytest

from frbench.engine.device import find_device
from frbench.engine.plan import resolve
from frbench.engine.registry import parse_defense
from frbench.engine.run import RunFolder, find_run
from frbench.engine.source import source_digest
from frbench.engine.trainer import Trainer
from frbench.errors import InputError


@pytest.fixture
def mine(own_defenses):
    """`mine(old, new)`: TRADES under another name, with a piece of its text replaced."""
    text = own_defenses()["trades"].path.read_text().replace('base="trades"', 'base="mine"')

    def write(old="", new=""):
        assert old in text
        own_defenses(mine=text.replace(old, new, 1) if old else text)
        return parse_defense("mine").recipe

    return write


def test_code_counts_and_comments_do_not(mine):
    known = source_digest(mine())
    assert source_digest(mine('"""', '"""Another first word. ')) == known
    assert source_digest(mine("class Trades", "# a comment\nclass Trades")) == known
    assert source_digest(mine("start=", "start =")) == known
    assert source_digest(mine("self.beta *", "2 * self.beta *")) != known
    assert source_digest(mine("class Trades", "EPS = 1\n\n\nclass Trades")) != known


def test_code_that_a_class_builds_on_counts(own_defenses):
    text = own_defenses()["trades"].path.read_text()
    child = (
        "from defenses.trades import Trades\n"
        "from frbench.engine import Recipe\n"
        "class Child(Trades):\n"
        '    """TRADES, called otherwise."""\n'
        "recipe = Recipe(base='child', objective=Child())\n"
    )
    known = source_digest(own_defenses(child=child)["child"].recipe)
    changed = own_defenses(trades=text.replace("self.beta *", "2 * self.beta *"))
    assert source_digest(changed["child"].recipe) != known


@pytest.mark.parametrize(
    "line",
    [
        "from defenses._helper import twice",
        "from defenses import _helper",
        "from . import _helper",
        "import defenses._helper",
        "from ._between import twice",
    ],
)
def test_code_that_a_file_imports_from_its_own_folder_counts(own_defenses, line):
    text = own_defenses()["trades"].path.read_text().replace('base="trades"', 'base="mine"')
    mine = text.replace("import torch.nn", f"{line}\nimport torch.nn", 1)
    between = "from defenses._helper import twice\n"
    helper = "def twice(x):\n    return 2 * x\n"
    known = source_digest(own_defenses(mine=mine, _between=between, _helper=helper)["mine"].recipe)
    commented = own_defenses(_helper=f"# A comment.\n{helper}")
    assert source_digest(commented["mine"].recipe) == known
    changed = own_defenses(_helper=helper.replace("2", "3"))
    assert source_digest(changed["mine"].recipe) != known


def test_the_code_of_a_file_that_lends_its_recipe_alone_does_not_count(mine, own_defenses):
    lent = mine("import torch.nn", "from defenses.mart import recipe as _\nimport torch.nn")
    assert source_digest(lent) == source_digest(mine())


def test_code_of_a_mechanism_counts(own_defenses):
    text = (
        "from typing import ClassVar\n"
        "from defenses.pgd_at import recipe as pgd_at\n"
        "from frbench.engine import *\n"
        "class Pairing(Regularizer):\n"
        "    kind: ClassVar[str] = 'pairing'\n"
        "    branches: ClassVar[tuple[Branch, ...]] = ('clean', 'adversarial')\n"
        "    def penalty(self, outputs):\n"
        "        return (outputs.clean_logits - outputs.adversarial_logits).square().mean()\n"
        "recipe = pgd_at + Pairing()\n"
    )
    known = source_digest(own_defenses(mine=text)["mine"].recipe)
    changed = own_defenses(mine=text.replace("square", "abs"))
    assert source_digest(changed["mine"].recipe) != known
    assert source_digest(changed["at_fr"].recipe) == source_digest(changed["pgd_at"].recipe)


def test_code_of_an_attack_in_another_file_counts(own_defenses):
    attack = (
        "from frbench.engine import InnerAttack\n"
        "class Own(InnerAttack):\n"
        "    def ascended(self, logits, labels, target):\n"
        "        return logits.sum()\n"
    )
    child = (
        "from defenses._attacks import Own\n"
        "from defenses.trades import Trades\n"
        "from frbench.engine import Recipe\n"
        "recipe = Recipe(base='child', objective=Trades(), attack=Own())\n"
    )
    known = source_digest(own_defenses(_attacks=attack, child=child)["child"].recipe)
    changed = own_defenses(_attacks=attack.replace("logits.sum", "-logits.sum"))
    assert source_digest(changed["child"].recipe) != known


def test_settings_and_imports_do_not_count(mine):
    known = source_digest(mine())
    assert source_digest(mine('"weight_decay": ', '"weight_decay": 2 * ')) == known
    assert source_digest(mine("import torch.nn", "import math\nimport torch.nn")) == known


def test_a_changed_formula_is_not_reused(mine, small_digits, tmp_path):
    mine()
    plan = resolve("mine", preset="smoke")
    trainer = Trainer(plan, small_digits, find_device("cpu"), RunFolder(tmp_path / plan.name))
    trainer.folder.write_info(trainer._info(finished=True))
    assert find_run(tmp_path, plan) is not None
    mine("self.beta *", "2 * self.beta *")
    changed = resolve("mine", preset="smoke")
    assert changed.trajectory == plan.trajectory
    with pytest.raises(InputError, match="was trained by other code of 'mine': move that folder"):
        find_run(tmp_path, changed)
