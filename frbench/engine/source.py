"""The code of a recipe's own classes, in one number: settings alone do not say what was trained."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from frbench import storage
from frbench.engine.inner import InnerAttack
from frbench.engine.recipe import Objective, Recipe

_OURS = "frbench."
"""Classes of the harness are told apart by ENGINE_VERSION."""
_RECIPE = "recipe"
"""The name of a file's recipe: its values are settings, which a run keeps by themselves."""


def source_digest(recipe: Recipe) -> str:
    """Digest of the files that define objective and attack, and the classes that these build on.

    Comments, docstrings, layout, imports and the settings in `recipe` do not enter.
    """
    classes = {*type(recipe.objective).__mro__, *type(recipe.attack).__mro__}
    modules = {c.__module__ for c in classes if issubclass(c, (Objective, InnerAttack))}
    files = {n: Path(str(sys.modules[n].__file__)) for n in modules if not n.startswith(_OURS)}
    return storage.canonical_digest({name: _code(path) for name, path in files.items()})


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
