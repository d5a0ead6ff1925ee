"""Warnings that AutoAttack gives about a model, kept as short flags with the cell.

A flag is `code: what was seen`; a code appears once in a cell.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from collections.abc import Iterator

import torch
from pyautoattack import checks
from torch import Tensor, nn

from frbench.evaluation.cells import ROBUST, Cell

_MEANING = {
    "zero gradient": ("zero-gradients", "some points have no gradient"),
    "randomized defense": ("randomized", "two passes on the same images differ"),
    "probability distribution": ("probabilities", "the output looks like softmax, not logits"),
    "dynamic defense": ("dynamic", "the forward pass computes gradients"),
    "Square Attack has decreased": ("square-wins", "Square broke what white-box attacks did not"),
}
_logger = logging.getLogger("auto-attack")


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def add_flag(cell: Cell, flag: str) -> None:
    """Keep `flag` unless the cell already has one of its code."""
    code = flag.split(":")[0]
    if all(known.split(":")[0] != code for known in cell.flags):
        cell.flags.append(flag)


@contextlib.contextmanager
def flags_kept(cell: Cell, stage: str) -> Iterator[None]:
    """AutoAttack's warnings inside become flags of the cell, and nothing is printed."""
    collector = _Collector()
    propagate, _logger.propagate = _logger.propagate, False
    _logger.addHandler(collector)
    try:
        yield
    finally:
        _logger.removeHandler(collector)
        _logger.propagate = propagate
    for message in collector.messages:
        add_flag(cell, _as_flag(message, stage))


def run_checks(cell: Cell, model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """AutoAttack's checks before an attack, on one chunk: randomness, output range, gradients.

    Args:
        cell: receives the flags.
        model: maps `images` to logits.
        images: float (n, c, h, w) in [0, 1].
        labels: int64 (n,).
    """
    # The library counts into a module variable that it never clears, and removes any tracer.
    checks.funcs.update(dict.fromkeys(checks.funcs, 0))
    tracer = sys.gettrace()
    with flags_kept(cell, "checks"):
        checks.check_randomized(model, images, labels, bs=len(images), logger=_logger)
        checks.check_range_output(model, images, logger=_logger)
        try:
            with torch.enable_grad():
                checks.check_dynamic(model, images, logger=_logger)
        finally:
            sys.settrace(tracer)


def check_square(cell: Cell) -> None:
    """AutoAttack's check after an attack: Square must not beat the white-box stages."""
    accuracy = {stage: v.count(ROBUST) / cell.data.n for stage, v in cell.verdicts.items()}
    with flags_kept(cell, "square"):
        checks.check_square_sr(accuracy, logger=_logger)


def _as_flag(message: str, stage: str) -> str:
    for phrase, (code, meaning) in _MEANING.items():
        if phrase in message:
            number = re.search(r"\d[\d.]*%?", message)
            detail = f", first {number[0]}" if code == "zero-gradients" and number else ""
            share = f" ({number[0]} of the images)" if code == "square-wins" and number else ""
            return f"{code}: {meaning}{share} ({stage}{detail})"
    return f"autoattack: {message.split('!')[0]} ({stage})"
