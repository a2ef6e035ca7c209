"""Memory of the host: keep it between tiles, see how much is taken, and how much is free.

glibc gives the activations of a tile back to the kernel and asks for them again with
the next one; clearing those pages took 35 to 54 % of a forward pass. A process that does
nothing but predict therefore keeps its heap: three settings, before the first large
tensor. What is taken is asked of glibc as well, so that freed memory which the heap
keeps is not counted::

    resident ├── taken by tensors ──┼── freed, kept for the next tile ──┤
"""

from __future__ import annotations

import ctypes
import platform
import threading
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from types import TracebackType

GIB = 2**30
SAMPLE_SECONDS = 0.002
"""Time between two looks at how much is taken."""
HOLES = 1.5
"""What tiles take of a heap that is kept, for what they need: blocks of many sizes leave holes."""
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_CGROUP = Path("/sys/fs/cgroup")


def keep_heap() -> bool:
    """Let this process keep freed memory, in one arena for all threads; False where that is impossible.

    For processes of our own only: the terminal's, the dock's child, a cluster's worker.
    """
    libc = _glibc()
    if libc is None:
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_ARENA_MAX, 1))
    return all(libc.mallopt(name, value) for name, value in settings)


def free_bytes() -> int:
    """Return what this process may still take of the host's memory, as system and container tell it."""
    free = int(psutil.virtual_memory().available)
    limit, taken = (_number(_CGROUP / name) for name in ("memory.max", "memory.current"))
    return free if limit is None or taken is None else max(min(free, limit - taken), 0)


def resident_bytes() -> int:
    """Return what this process holds of the host's memory."""
    return int(psutil.Process().memory_info().rss)


def settled_bytes() -> int:
    """Return what this process holds of the host's memory beside what its heap keeps for later."""
    libc = _glibc()
    kept = 0 if libc is None else int(libc.mallinfo2().fordblks)
    return max(resident_bytes() - kept, 0)


class HeapMeter:
    """Measure the most that was taken while a ``with`` block ran, above what was taken before.

    Attributes
    ----------
    most_bytes : int or None
        Known when the block has ended; None where the system does not tell.
    """

    def __init__(self) -> None:
        self.most_bytes: int | None = None
        self._ended = threading.Event()

    def __enter__(self) -> HeapMeter:
        self._before = taken_bytes()
        self._most = self._before or 0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        if self._before is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._before is not None:
            self._thread.join()
            self._look()
            self.most_bytes = self._most - self._before

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self._look()

    def _look(self) -> None:
        self._most = max(self._most, taken_bytes() or 0)


def taken_bytes() -> int | None:
    """Return what this process has taken from glibc and not given back; None elsewhere."""
    libc = _glibc()
    if libc is None:
        return None
    found = libc.mallinfo2()
    return int(found.uordblks + found.hblkhd)


class _MallInfo(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


@cache
def _glibc() -> Any:
    """Return glibc where it is the C library and new enough (2.33)."""
    if platform.libc_ver()[0] != "glibc":
        return None
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        return None
    libc.mallinfo2.restype = _MallInfo
    return libc


def _number(path: Path) -> int | None:
    """Read one number that the system wrote; None if there is none, or it says "max"."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
