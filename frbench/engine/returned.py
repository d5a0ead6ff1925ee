"""What a recipe's own methods return and leave alone, looked at where they are called.

Nothing here reads a value, so that no step waits for the device or breaks a captured graph.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pydantic import BaseModel
from torch import Tensor

from frbench.discovery import line_of
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
    wanted = "one number with a gradient" if gradient else "one number as a tensor"
    raise FrbenchError(f"{_method(part, method)} must return {wanted}, not {seen}")


def perturbed_images(part: BaseModel, value: object, images: Tensor) -> Tensor:
    """What `part.perturb` returned, if it is `images` perturbed: as large, and without a gradient.

    Raises:
        FrbenchError: it is something else; names the file and what came instead.
    """
    seen = _instead_of_images(value, images)
    if seen is None:
        assert isinstance(value, Tensor)
        return value
    # The place is looked up in the source, which takes milliseconds: only where it is needed.
    raise FrbenchError(f"{_method(part, 'perturb')} must return perturbed images{seen}")


@contextlib.contextmanager
def untouched(part: BaseModel, method: str, **inputs: Tensor) -> Iterator[None]:
    """Raise FrbenchError if the block changes one of `inputs`, which others read, in place.

    Args:
        part: whose method runs in the block.
        method: its name.
        inputs: by the names that the method knows them by.
    """
    versions = {name: tensor._version for name, tensor in inputs.items()}
    yield
    for name, tensor in inputs.items():
        if tensor._version != versions[name]:
            raise FrbenchError(
                f"{_method(part, method)} changes `{name}` in place; work on a copy, since "
                "training reads it again"
            )


def _method(part: BaseModel, method: str) -> str:
    """Where to look: the class's file and line, and the method."""
    kind = type(part)
    return f"{line_of(kind)}: {kind.__name__}.{method}"


def _instead_of_images(value: object, images: Tensor) -> str | None:
    """What `value` is, where it is not `images` perturbed."""
    if value is None:
        return ", not None: is there a `return`?"
    if not isinstance(value, Tensor):
        return f", not a {type(value).__name__}"
    if value.shape != images.shape:
        shapes = f"{tuple(images.shape)}, not {tuple(value.shape)}"
        return f" of the shape that it was given, {shapes}"
    return " without a gradient: return `.detach()` of them" if value.requires_grad else None


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
