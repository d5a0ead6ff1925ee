"""What a user is told beside the data."""

from __future__ import annotations

import sys


def to_stderr(line: str) -> None:
    """Print one line on stderr, as it is: names may look like markup or an emoji's code."""
    print(line, file=sys.stderr)
