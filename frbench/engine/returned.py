"""What a recipe's own methods return, looked at where they are called.

Nothing here reads a value, so that no step waits for the device or breaks a captured graph.
"""

from __future__ import annotations

import inspect

from pydantic import BaseModel
from torch import Tensor

from frbench.discovery import shown
from frbench.errors import FrbenchError


def one_number(part: BaseModel, method: str, value: object, *, gradient: bool) -> Tensor:
    """`value` as it is, if it is a scalar tensor.

    Args:
        part: whose method returned it.
        method: its name.
        value: what it returned.
        gradient: it must have one.

    Raises:
        FrbenchError: it is something else; names the file, the method and what came instead.
    """
    seen = _instead(value, gradient)
    if seen is None:
        assert isinstance(value, Tensor)
        return value
    kind = type(part)
    wanted = "one number with a gradient" if gradient else "one number as a tensor"
    raise FrbenchError(
        f"{shown(inspect.getfile(kind))}: {kind.__name__}.{method} must return {wanted}, not {seen}"
    )


def _instead(value: object, gradient: bool) -> str | None:
    """What `value` is, where it is no scalar tensor, or has no gradient and needs one."""
    if value is None:
        return "None: is there a `return`?"
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}: leave out `.item()` and the like"
    if value.dim() > 0:
        return f"a tensor of shape {tuple(value.shape)}: take its mean or sum"
    if gradient and not value.requires_grad:
        return "one without: leave out `.detach()` and the like"
    return None
