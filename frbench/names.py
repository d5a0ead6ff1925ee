"""Names that users type: look one up, or say which known name was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

from frbench.errors import InputError

T = TypeVar("T")


def unknown(kind: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name that does not exist, naming the nearest known one."""
    choices = sorted(known)
    near = difflib.get_close_matches(name.lower(), choices, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(choices) or 'none'}"
    return InputError(f"unknown {kind} '{name}': {hint}")


def lookup(kind: str, name: str, table: Mapping[str, T]) -> T:
    """The entry called `name`; raises InputError with the nearest known name."""
    if name not in table:
        raise unknown(kind, name, table)
    return table[name]
