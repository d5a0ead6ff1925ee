"""Every registered recipe, and a sample of compositions, keeps its promises to the engine."""

from __future__ import annotations

from frbench.engine.conformance import check_recipe
from frbench.engine.registry import defenses, parse_defense

COMPOSED = ["trades+awp+ema", "mart+fr", "pgd_at+awp+swa"]


def pytest_generate_tests(metafunc):
    asked = metafunc.config.getoption("--defense")
    metafunc.parametrize("name", asked or [*defenses()[0], *COMPOSED])


def test_recipe_keeps_its_promises(name):
    assert [r for r in check_recipe(parse_defense(name)) if not r.passed] == []
