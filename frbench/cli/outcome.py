"""How a command ends: an exit code and, where something went wrong, one line on stderr."""

from __future__ import annotations

import os
import sys
from typing import Any, cast

import typer
from rich.console import Console

from frbench.errors import FrbenchError, first_line
from frbench.notices import to_stderr

# typer carries a click of its own and exports, of its usage errors, only this heir.
_UsageError = cast("type[Exception]", typer.BadParameter.__base__)
_INTERRUPTED = 130
_BOUNDLESS = 10_000
"""Characters a line; wider than any table."""


def plain_console(**options: Any) -> Console:
    """A console that prints text as it is: names may look like markup, an emoji's code, a number.

    Where nobody looks at a terminal, as in a pipe, tables are as wide as they need to be.

    Args:
        options: further ones of `rich.console.Console`.
    """
    file = sys.stderr if options.get("stderr") else sys.stdout
    if not file.isatty() and "COLUMNS" not in os.environ:
        options.setdefault("width", _BOUNDLESS)
    return Console(highlight=False, markup=False, emoji=False, **options)


def run(app: typer.Typer) -> int:
    """Run what was typed; returns 0 done, 1 failed while running, 2 wrong input, 130 interrupted.

    An error that is no one's input and no failure we know of keeps its traceback: it is a bug.
    """
    try:
        code = app(standalone_mode=False)
    except _UsageError as error:
        return say(_usage(error), 2)
    except Exception as error:
        code = explained(error)
        if code is None:
            raise
        return code
    if code == _INTERRUPTED:
        return say("interrupted; what was finished is kept: run the same command", _INTERRUPTED)
    return code if isinstance(code, int) else 0


def explained(error: Exception) -> int | None:
    """Say in one line what went wrong, and return the exit code; None if `error` is a bug."""
    if isinstance(error, FrbenchError):
        return say(str(error), error.exit_code)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return say(f"{where}{os.strerror(error.errno) if error.errno else error}", 1)
    if type(error).__name__ == "AcceleratorError":  # torch's; importing it here would take seconds
        return say(
            f"the GPU failed ({first_line(error)}): what was saved is whole; the same command goes "
            "on from there once the GPU is back, or with --device cpu",
            1,
        )
    if type(error).__name__ == "OutOfMemoryError":  # torch's as well
        return say(
            f"{first_line(error).split('.')[0]}: free the GPU, or use another with --device; what "
            "was saved is whole, and the same command goes on from there",
            1,
        )
    return None


def _usage(error: Exception) -> str:
    """What is wrong with the command line and which help tells more; empty if help was shown."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        return ""
    message = error.format_message().rstrip(".")  # type: ignore[attr-defined]
    help_of = context.command_path if context is not None else "frbench"
    return f"{message[0].lower()}{message[1:]}; see '{help_of} --help'"


def say(message: str, code: int) -> int:
    """Print `message` as the one line that an error is, and return `code`."""
    if message:
        to_stderr(f"frbench: {' '.join(message.split())}")
    return code
