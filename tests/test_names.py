from __future__ import annotations

import pytest

from frbench.errors import InputError
from frbench.names import lookup, unknown


def test_the_nearest_name_is_meant() -> None:
    assert str(unknown("attack", "PGD2O", ["pgd20", "fgsm"])) == (
        "unknown attack 'PGD2O': did you mean 'pgd20'?"
    )


def test_without_a_near_name_the_known_ones_are_listed_once() -> None:
    assert str(unknown("defense", "zzz", ["awp", "mart", "awp"])).endswith("known: awp, mart")
    assert str(unknown("run", "zzz", [])).endswith("known: none")


def test_a_long_list_is_cut_to_a_line() -> None:
    message = str(unknown("model", "zzz", [f"m{number:03}" for number in range(900)]))
    assert message.endswith("m011 and 888 more") and len(message) < 120


def test_lookup_gives_the_entry_or_the_error() -> None:
    assert lookup("norm", "L2", {"L2": 2}) == 2
    with pytest.raises(InputError, match="unknown norm 'l2': did you mean 'L2'"):
        lookup("norm", "l2", {"L2": 2})
