"""The house stays as CONTRIBUTING.md draws it: a stage imports only stages before it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
STAGES = (
    "data",
    "models",
    "attacks",
    "engine",
    "evaluation",
    "audit",
    "leaderboard",
    "analysis",
    "report",
    "cli",
)
SHARED = {
    "errors",
    "names",
    "notices",
    "storage",
    "discovery",
    "compat",
    "provenance",
    "durations",
    "published",
    "frbench",
}
"""Small modules beside the stages, which import no stage; `frbench` is the package itself."""
JOBS = {"workflow", "verify"}
"""Whole jobs that use every stage but the command line; only the command line starts them."""
LIBRARY = sorted((ROOT / "frbench").rglob("*.py"))
ADAPTERS = sorted(p for p in (ROOT / "baselines").glob("*.py") if p.name != "__init__.py")


def _imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            module = str(node.module)
            if module == "frbench":
                yield from ((node.lineno, f"frbench.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, module


def _part(dotted: str) -> str:
    """The stage or module of frbench that a dotted name lies in."""
    return dotted.split(".")[1] if "." in dotted else dotted


def _allowed(part: str) -> set[str]:
    if part in SHARED:
        return SHARED
    if part in JOBS:
        return SHARED | JOBS | set(STAGES) - {"cli"}
    before = set(STAGES[: STAGES.index(part) + 1])
    return SHARED | before | (JOBS if part == "cli" else set())


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_stage_imports_only_stages_before_it(path: Path) -> None:
    inside = path.relative_to(ROOT / "frbench")
    part = "frbench" if inside.name == "__init__.py" and len(inside.parts) == 1 else ""
    part = part or inside.parts[0].removesuffix(".py")
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {part} imports {name}"
        for line, name in _imported(path)
        if name.partition(".")[0] == "frbench" and _part(name) not in _allowed(part)
    ]
    assert wrong == []


@pytest.mark.parametrize("path", ADAPTERS, ids=lambda p: p.name)
def test_an_adapter_imports_what_the_evaluation_that_loads_it_may(path: Path) -> None:
    allowed = _allowed("evaluation")
    names = [name for _, name in _imported(path) if name.partition(".")[0] == "frbench"]
    assert names and [name for name in names if _part(name) not in allowed] == []


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_library_names_no_recipe_and_no_adapter(path: Path) -> None:
    outside = {"defenses", "baselines", "tests", "tools", "results"}
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: imports {name}"
        for line, name in _imported(path)
        if name.partition(".")[0] in outside
    ]
    assert wrong == []


def test_every_package_is_a_stage() -> None:
    packages = {p.parent.name for p in (ROOT / "frbench").glob("*/__init__.py")}
    assert packages <= set(STAGES)
    modules = {p.stem for p in (ROOT / "frbench").glob("*.py")} - {"__init__"}
    assert modules <= SHARED | JOBS


def test_help_imports_no_slow_library() -> None:
    """`frbench --help` answers at once; torch alone takes seconds."""
    slow = ("torch", "torchattacks", "pandas", "scipy", "matplotlib", "plotly", "sklearn", "timm")
    called = (
        "import typer.testing\n"
        "from frbench.cli.app import app\n"
        "assert typer.testing.CliRunner().invoke(app, ['train', '--help']).exit_code == 0\n"
    )
    assert imported_by(called, slow) == []


def test_a_finished_bench_imports_no_library_that_it_does_not_need() -> None:
    """The same command again only reads and prints; each of these takes most of a second."""
    called = "import frbench.workflow, frbench.leaderboard.render, frbench.leaderboard.table"
    assert imported_by(called, ("torchattacks", "scipy.stats", "matplotlib")) == []


def imported_by(script: str, names: tuple[str, ...]) -> list[str]:
    """Those of `names` that a fresh interpreter has imported after `script`."""
    script += f"\nimport sys; print(*[name for name in {names!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.split()
