"""What can go wrong, sorted by who can mend it; the command line turns both kinds into one line."""

from __future__ import annotations


class FrbenchError(Exception):
    """Something failed while running (exit code 1). The message says what, where and what to do."""

    exit_code = 1


class InputError(FrbenchError):
    """What the user asked for cannot be done as asked (exit code 2)."""

    exit_code = 2


def first_line(error: BaseException | str) -> str:
    """What another library's error says first, for one line of ours; its class if it is silent."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip() if lines else type(error).__name__


def class_and_text(error: BaseException) -> str:
    """What a user's own code raised, on one line: `ValueError: too large`.

    Three lines hold what a failed validation says: how many errors, where, and what is wrong.
    """
    told = [line.strip() for line in str(error).strip().splitlines()[:3]]
    return ": ".join([type(error).__name__, *told])
