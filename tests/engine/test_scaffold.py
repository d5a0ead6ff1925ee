"""`frbench new` writes a file that works before anyone has touched it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from frbench.engine.conformance import check_recipe
from frbench.engine.registry import defenses, parse_defense
from frbench.engine.scaffold import new_recipe
from frbench.errors import InputError


@pytest.mark.parametrize("source", ["pgd_at", "trades", "mart", "at_fr_swa", "score"])
def test_new_recipe_works_and_says_what_it_is(own_defenses, source):
    own_defenses()
    recipe, test = new_recipe("my_own", source)
    known, broken = defenses()
    assert broken == ()
    assert (
        known["my_own"].summary == f"my_own: say here what it trains on; so far a copy of {source}."
    )
    assert len(recipe.read_text().splitlines()) <= len(known[source].path.read_text().splitlines())
    original = known[source].recipe.loss
    from frbench.engine.scaffold import reference_outputs

    value = known["my_own"].recipe.loss(reference_outputs(), epoch=9).item()
    assert value == pytest.approx(original(reference_outputs(), epoch=9).item())
    assert f"pytest.approx({value:.6f}" in test.read_text()


def test_new_recipe_passes_its_checks_and_is_no_alias(own_defenses):
    own_defenses()
    new_recipe("mine", "trades")
    mine = parse_defense("mine")
    assert [r for r in check_recipe(mine) if not r.passed] == []
    assert not mine.recipe.same_training(parse_defense("trades").recipe)
    assert parse_defense("mine+fr").name == "mine+fr"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("trades", "'trades' is taken"),
        ("awp", "'awp' is taken"),
        ("swa", "'swa' is taken"),
        ("no_syntax", "'no_syntax' is taken"),
        ("My", "lower-case letters"),
        ("2fast", "begin with a letter"),
        ("_mine", "begin with a letter"),
        ("a-b", "lower-case letters"),
        ("../x", "lower-case letters"),
        ("class", "'class' cannot be a recipe's name: it is a Python keyword"),
        ("", "cannot be a recipe's name"),
    ],
)
def test_bad_names_are_refused_and_nothing_is_written(own_defenses, tmp_path, name, said):
    own_defenses(no_syntax="def f(:\n")
    before = sorted(tmp_path.rglob("*.py"))
    with pytest.raises(InputError, match=said):
        new_recipe(name, "trades")
    assert sorted(tmp_path.rglob("*.py")) == before


def test_unknown_source_names_the_nearest(own_defenses):
    own_defenses()
    with pytest.raises(InputError, match="unknown defense 'trade': did you mean 'trades'"):
        new_recipe("mine", "trade")


def test_an_existing_test_is_not_overwritten(own_defenses, tmp_path):
    own_defenses()
    test = tmp_path / "tests" / "defenses" / "test_mine.py"
    test.parent.mkdir(parents=True)
    test.write_text("kept")
    with pytest.raises(InputError, match=r"test_mine\.py is there already"):
        new_recipe("mine", "trades")
    assert test.read_text() == "kept"
    assert not (tmp_path / "defenses" / "mine.py").exists()


@pytest.mark.slow
def test_the_written_test_passes_in_a_fresh_process(own_defenses, tmp_path):
    own_defenses()
    _, test = new_recipe("mine", "trades")
    root = str(Path(__file__).resolve().parents[2])
    lines = (
        "import pathlib, sys, pytest\n"
        f"sys.path[:0] = folders = [{str(tmp_path)!r}, {root!r}]\n"
        "from frbench import discovery\n"
        "discovery.PROJECT_ROOT = pathlib.Path(folders[0])\n"
        f"sys.exit(pytest.main(['-q', '--rootdir', folders[0], {str(test)!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", lines], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
