"""The code of a recipe's own classes, in one number: settings alone do not say what was trained."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from frbench import storage
from frbench.engine.recipe import Recipe

_OURS = "frbench."
"""Classes of the harness are told apart by ENGINE_VERSION."""


def source_digest(recipe: Recipe) -> str:
    """Digest of the classes and functions in the files that define the objective and the attack.

    Comments, docstrings, layout and what else stands in these files do not enter.
    """
    modules = {type(part).__module__ for part in (recipe.objective, recipe.attack)}
    files = {n: Path(str(sys.modules[n].__file__)) for n in modules if not n.startswith(_OURS)}
    return storage.canonical_digest({name: _code(path) for name, path in files.items()})


def _code(path: Path) -> list[str]:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        _drop_docstring(node)
    parts = (ast.FunctionDef, ast.ClassDef)
    return [ast.dump(node) for node in tree.body if isinstance(node, parts)]


def _drop_docstring(node: ast.AST) -> None:
    body = getattr(node, "body", None)
    if not isinstance(body, list) or not body or not isinstance(body[0], ast.Expr):
        return
    if isinstance(body[0].value, ast.Constant) and isinstance(body[0].value.value, str):
        body.pop(0)
