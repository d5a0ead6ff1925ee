"""Names that users type: look one up, or say which known name was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

from frbench.errors import InputError

T = TypeVar("T")
_SHOWN = 12
"""Names that fit on a line."""


class UnknownName(InputError):
    """A name that does not exist, as distinct from one that cannot serve here."""


def unknown(kind: str, name: str, known: Iterable[str], *, order: bool = True) -> UnknownName:
    """The error for a name that does not exist, naming the nearest known one.

    Args:
        kind: of thing that the name was to be.
        name: as typed.
        known: the names that exist.
        order: list them by the alphabet; otherwise as they come, the most telling ones first.
    """
    choices = sorted(set(known)) if order else list(dict.fromkeys(known))
    near = difflib.get_close_matches(name.lower(), choices, n=1, cutoff=0.5)
    if near:
        return UnknownName(f"unknown {kind} '{name}': did you mean '{near[0]}'?")
    more = f" and {len(choices) - _SHOWN} more" if len(choices) > _SHOWN else ""
    shown = ", ".join(choices[:_SHOWN]) or "none"
    return UnknownName(f"unknown {kind} '{name}': known: {shown}{more}")


def lookup(kind: str, name: str, table: Mapping[str, T]) -> T:
    """The entry called `name`; raises UnknownName with the nearest known name."""
    if name not in table:
        raise unknown(kind, name, table)
    return table[name]
