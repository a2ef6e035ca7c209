"""Memory that is free, as the system and the container that a process may run in tell it."""

from __future__ import annotations

from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")


def free_bytes() -> int:
    """Return what this process may still take of the host's memory.

    A container counts the files that the system remembers of it; those go as soon as room is needed.
    """
    free = int(psutil.virtual_memory().available)
    limit, taken = (_number(_CGROUP / name) for name in ("memory.max", "memory.current"))
    if limit is None or taken is None:
        return free
    return max(min(free, limit - taken + _remembered_files()), 0)


def _remembered_files() -> int:
    """Return the bytes of files that a container has read or written and does not use now."""
    try:
        lines = (_CGROUP / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    found = dict(line.split(maxsplit=1) for line in lines if " " in line)
    return int(found.get("inactive_file", 0))


def _number(path: Path) -> int | None:
    """Read one number that the system wrote; None if there is none, or it says "max"."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
