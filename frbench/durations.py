"""Seconds as people read them, the same in plans, progress and reports."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """`0.4 s`, `8 s`, `3 min`, `2.5 h`, `317 days`."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 1 else f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours <= 48 else f"{hours / 24:.0f} days"
