"""The code of people's own classes, in one number.

Settings alone do not say what was trained, nor weights alone what they compute.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path

from frbench import storage
from frbench.engine.inner import InnerAttack
from frbench.engine.recipe import Mechanism, Objective, Recipe

_OURS = "frbench."
"""Classes of the harness are told apart by ENGINE_VERSION."""
_RECIPE = "recipe"
"""The name of a file's recipe: its values are settings, which a run keeps by themselves."""


def source_digest(recipe: Recipe) -> str:
    """Digest of the files that define objective, attack and mechanisms, the classes that these
    build on, and the modules beside them that these files import.

    Comments, docstrings, layout, imports and the settings in `recipe` do not enter; nor do packages
    from elsewhere.
    """
    parts = (recipe.objective, recipe.attack, *recipe.mechanisms)
    classes = {c for part in parts for c in type(part).__mro__}
    modules = {c.__module__ for c in classes if issubclass(c, (Objective, InnerAttack, Mechanism))}
    return modules_digest(n for n in modules if not n.startswith(_OURS))


def modules_digest(modules: Iterable[str]) -> str:
    """Digest of the code of these modules, and of what they import from their own packages."""
    files = _with_imported(set(modules))
    return storage.canonical_digest({name: _code(path) for name, path in files.items()})


def _with_imported(modules: set[str]) -> dict[str, Path]:
    """Files of these modules, and of those of the same packages that they import in turn."""
    files: dict[str, Path] = {}
    waiting = sorted(modules)
    while waiting:
        name = waiting.pop()
        path = _file_of(name)
        if path is not None and name not in files:
            files[name] = path
            waiting += _neighbours(name, path)
    return files


def _file_of(module: str) -> Path | None:
    """Its source; None for what is no module: a name that was imported from one."""
    if module in sys.modules:
        return Path(str(sys.modules[module].__file__))
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec is not None and spec.origin else None


def _neighbours(module: str, path: Path) -> set[str]:
    """What a module imports from its own package; of a recipe's file that only lends `recipe`, no
    code is used."""
    package, _, _ = module.rpartition(".")
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            used = {alias.name for alias in node.names} - {_RECIPE}
            names |= {f"{base}.{name}" for name in used} | ({base} if used else set())
    return {name for name in names if package and name.startswith(f"{package}.")}


def _code(path: Path) -> list[str]:
    """Its statements as Python writes them, which says the same in every version of Python."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        _drop_docstring(node)
    return [ast.unparse(node) for node in tree.body if not _is_idle(node)]


def _is_idle(node: ast.stmt) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    names = [target.id for target in targets if isinstance(target, ast.Name)]
    return isinstance(node, (ast.Import, ast.ImportFrom)) or names == [_RECIPE]


def _drop_docstring(node: ast.AST) -> None:
    body = getattr(node, "body", None)
    if not isinstance(body, list) or not body or not isinstance(body[0], ast.Expr):
        return
    if isinstance(body[0].value, ast.Constant) and isinstance(body[0].value.value, str):
        body.pop(0)
