"""A new recipe to start from: a working copy of a known one under its own name, and its test."""

from __future__ import annotations

import ast
import keyword
import re
from pathlib import Path
from string import Template

import torch

from frbench import discovery, storage
from frbench.engine.mechanisms import MECHANISMS
from frbench.engine.outputs import Outputs
from frbench.engine.recipe import Recipe
from frbench.engine.registry import Defense, defenses
from frbench.errors import InputError
from frbench.names import lookup

CLEAN = ((2.0, 1.0, -1.0), (0.5, 0.0, 1.5), (3.0, 0.0, 0.0))
ADVERSARIAL = ((1.0, 1.5, -0.5), (1.0, 0.5, 0.5), (2.0, 0.5, 0.0))
LABELS = (0, 2, 0)

_TEST = Template('''\
"""The loss of $name has the value worked out by hand; test_conformance.py checks the rest."""

from __future__ import annotations

import pytest

from frbench.engine.registry import parse_defense
from frbench.engine.scaffold import reference_outputs


def test_${name}_has_the_value_of_its_formula():
    # The value of $source on these logits; work out your formula's and put it here.
    loss = parse_defense("$name").recipe.loss(reference_outputs(), epoch=10**6)
    assert loss.item() == pytest.approx($value, abs=1e-5)
''')


def reference_outputs() -> Outputs:
    """Three images of three classes with fixed logits, for values worked out by hand."""
    clean, adversarial = torch.tensor(CLEAN), torch.tensor(ADVERSARIAL)
    return Outputs.of_logits(clean, adversarial, torch.tensor(LABELS))


def new_recipe(name: str, source: str) -> tuple[Path, Path]:
    """Write `defenses/NAME.py`, a copy of `source` under its own name, and its test.

    Raises:
        InputError: the name is taken or no Python name, or `source` is unknown.
    """
    known, broken = defenses()
    original = lookup("defense", source, known)
    root = discovery.PROJECT_ROOT
    recipe, test = root / "defenses" / f"{name}.py", root / "tests" / "defenses" / f"test_{name}.py"
    _check_name(name, {*known, *MECHANISMS, *(b.path.stem for b in broken)})
    for path in (recipe, test):
        if path.exists():
            raise InputError(f"{path} is there already; choose another name")
    storage.write_text(recipe, _renamed(original, name))
    value = f"{_value(original.recipe):.6f}"
    storage.write_text(test, _TEST.substitute(name=name, source=source, value=value))
    discovery.discover.cache_clear()
    return recipe, test


def _check_name(name: str, taken: set[str]) -> None:
    if name in taken:
        raise InputError(f"'{name}' is taken; choose another name")
    if keyword.iskeyword(name):
        raise InputError(
            f"'{name}' cannot be a recipe's name: it is a Python keyword; choose another name"
        )
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise InputError(
            f"'{name}' cannot be a recipe's name: use lower-case letters, digits and _, "
            "and begin with a letter"
        )


def _renamed(original: Defense, name: str) -> str:
    """The source file with its own class, its base and the first line of its docstring renamed."""
    assert original.path is not None
    text = original.path.read_text()
    own = [node.name for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
    prefix = "".join(word.capitalize() for word in name.split("_"))
    for old in own:
        new = prefix if len(own) == 1 else prefix + old
        text = re.sub(rf"\b{old}\b", new, text)
    text = text.replace(f'base="{original.name}"', f'base="{name}"')
    headline, rest = text.split("\n", 1)
    first = f'"""{name}: say here what it trains on; so far a copy of {original.name}.'
    closing = '"""' if headline.count('"""') == 2 else ""
    return f"{first}{closing}\n{rest}"


def _value(recipe: Recipe) -> float:
    return recipe.loss(reference_outputs(), epoch=10**6).item()
