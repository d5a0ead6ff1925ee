"""Find the modules that users add: recipes in `defenses/`, adapters in `baselines/`.

The library never names one of them. A file that does not import is reported with file and line,
and every other file keeps working.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from frbench.errors import class_and_text

PROJECT_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class BrokenModule:
    """A file that could not be used: where (file and line) and why."""

    path: Path
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{shown(self.path)}:{self.line}: {self.reason}"


def shown(path: Path | str) -> Path:
    """A path as people read it: from the current folder where it lies below that."""
    absolute, here = Path(path), Path.cwd()
    return absolute.relative_to(here) if absolute.is_relative_to(here) else absolute


def line_of(kind: type) -> str:
    """File and line of a class, `defenses/trades.py:25`."""
    path = shown(inspect.getfile(kind))
    try:
        return f"{path}:{inspect.getsourcelines(kind)[1]}"
    except OSError:  # the file has another text than when it was imported
        return str(path)


@functools.cache
def discover(package: str) -> tuple[dict[str, ModuleType], tuple[BrokenModule, ...]]:
    """Import every public module of a top-level folder.

    Args:
        package: name of the folder beside `frbench/`, such as `defenses`.

    Returns:
        The modules by file stem, and the files that failed to import.
    """
    modules: dict[str, ModuleType] = {}
    broken: list[BrokenModule] = []
    for path in sorted((PROJECT_ROOT / package).glob("*.py")):
        if path.stem.startswith("_"):
            continue
        try:
            modules[path.stem] = importlib.import_module(f"{package}.{path.stem}")
        except (Exception, SystemExit) as error:  # a user's file must not stop the others
            broken.append(explain(path, error))
    return modules, tuple(broken)


def explain(path: Path, error: BaseException) -> BrokenModule:
    """Which line of the module at `path` an error came from."""
    if isinstance(error, SyntaxError):
        return BrokenModule(path, error.lineno or 1, f"syntax error: {error.msg}")
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    line = frames[-1].lineno if frames and frames[-1].lineno else 1
    return BrokenModule(path, line, class_and_text(error))
