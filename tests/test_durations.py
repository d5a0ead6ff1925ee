"""Durations are short, and never a number of hours that nobody can picture."""

from __future__ import annotations

import pytest

from frbench.durations import duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (0.44, "0.4 s"),
        (8.2, "8 s"),
        (89.6, "90 s"),
        (90, "2 min"),
        (5399, "90 min"),
        (5400, "1.5 h"),
        (48 * 3600, "48.0 h"),
        (7606.2 * 3600, "317 days"),
    ],
)
def test_the_unit_fits_the_length(seconds: float, text: str) -> None:
    assert duration(seconds) == text
