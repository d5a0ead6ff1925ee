"""Files that users add: a broken one is named with file and line, and the others keep working."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from frbench import discovery

PACKAGE = "added_by_users"


@pytest.fixture
def found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., tuple[set[str], list[str]]]]:
    """found(good="...", bad="..."): stems that import, and what is said of the others."""
    monkeypatch.setattr(discovery, "PROJECT_ROOT", tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / PACKAGE
    folder.mkdir()

    def write(**files: str) -> tuple[set[str], list[str]]:
        for stem, text in files.items():
            (folder / f"{stem}.py").write_text(text)
        importlib.invalidate_caches()
        modules, broken = discovery.discover(PACKAGE)
        return set(modules), [str(module) for module in broken]

    yield write
    discovery.discover.cache_clear()
    for name in [n for n in sys.modules if n.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


def test_every_public_file_is_imported(found: Callable[..., tuple[set[str], list[str]]]) -> None:
    assert found(one="x = 1", two="y = 2", _private="raise SystemError") == ({"one", "two"}, [])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1\nif x:\nprint(x)\n", "broken.py:3: syntax error: expected an indented block"),
        ("x = 1\n\nimport not_installed_anywhere\n", "broken.py:3: ModuleNotFoundError: No module"),
        ("def f():\n    return 1 / 0\n\n\nf()\n", "broken.py:2: ZeroDivisionError: division"),
    ],
)
def test_a_broken_file_is_named_with_its_line(
    text: str, says: str, found: Callable[..., tuple[set[str], list[str]]]
) -> None:
    good, (said,) = found(broken=text, good="x = 1")
    assert good == {"good"}
    assert says in said and "\n" not in said


def test_a_file_that_ends_the_program_does_not(
    found: Callable[..., tuple[set[str], list[str]]],
) -> None:
    good, (said,) = found(leaves="import sys\nsys.exit(3)\n", good="x = 1")
    assert good == {"good"} and "leaves.py:2: SystemExit" in said


def test_a_folder_that_is_not_there_holds_nothing() -> None:
    assert discovery.discover("no_such_folder") == ({}, ())


def test_the_line_of_a_class_is_left_out_once_its_file_has_changed(
    found: Callable[..., tuple[set[str], list[str]]], tmp_path: Path
) -> None:
    found(mine="\nclass Mine:\n    pass\n")
    module = sys.modules[f"{PACKAGE}.mine"]
    path = tmp_path / PACKAGE / "mine.py"
    assert discovery.line_of(module.Mine) == f"{path}:2"
    path.write_text("class Renamed:\n    '''Longer than before.'''\n")
    assert discovery.line_of(module.Mine) == str(path)
