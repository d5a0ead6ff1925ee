"""How models are attacked: a matrix of models and attacks, filled cell by cell."""

from frbench.evaluation.cells import Cell, CellStore, DataRange, ModelRecord, read_cell
from frbench.evaluation.matrix import evaluate
from frbench.evaluation.resolve import resolve_target, run_target
from frbench.evaluation.target import Target

__all__ = [
    "Cell",
    "CellStore",
    "DataRange",
    "ModelRecord",
    "Target",
    "evaluate",
    "read_cell",
    "resolve_target",
    "run_target",
]
