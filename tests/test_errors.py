"""Messages of other libraries, cut to what fits into one line of ours."""

from __future__ import annotations

import pytest

from frbench.errors import first_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError("no driver\nand a long trace"), "no driver"),
        (ValueError("\n\n  opens with empty lines \r\n and goes on"), "opens with empty lines"),
        (AssertionError(), "AssertionError"),
        (EOFError(" \n"), "EOFError"),
        ("a message without its error\nof two lines", "a message without its error"),
    ],
)
def test_a_librarys_message_becomes_one_line_that_says_something(error, line):
    assert first_line(error) == line
