"""Sizes and times in words, for terminal and dock."""

from __future__ import annotations

LITTLE_GIB = 0.05
"""Less than this is not told apart."""


def duration(seconds: float) -> str:
    """Say how long something takes, as people do."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def gib_text(size: float) -> str:
    """Say how many GiB."""
    if size < LITTLE_GIB:
        return "less than 0.1 GiB"
    return f"{size:.1f} GiB" if size < 10 else f"{size:,.0f} GiB"


def moment(seconds: float) -> str:
    """Say how long something takes that may be over in a moment, to two digits."""
    if seconds >= 10:
        return duration(seconds)
    return f"{seconds:.2g} s" if seconds >= 0.01 else "less than 0.01 s"
