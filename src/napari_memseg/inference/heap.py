"""Memory of the host: keep it between tiles, and see how much is taken.

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
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from types import TracebackType

GIB = 2**30
SAMPLE_SECONDS = 0.002
"""Time between two looks at how much is taken."""
HOLES = 1.5
"""What tiles take of a heap that is kept, for what they need: blocks of many sizes leave holes."""
CACHE_HOLES = 1.75
"""The same of decoded chunks that are kept among them (measured over 10^10 voxels)."""
PAGING = 0.4
"""Seconds that the system needs to hand out a GiB for the first time (measured on Linux)."""
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_heap() -> bool:
    """Let this process keep freed memory, in one arena for all threads; False where that is impossible.

    For processes of our own only: the terminal's, the dock's child, a cluster's worker.
    """
    libc = _glibc()
    if libc is None:
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_ARENA_MAX, 1))
    return all(libc.mallopt(name, value) for name, value in settings)


def resident_bytes() -> int:
    """Return what this process holds of the host's memory."""
    return int(psutil.Process().memory_info().rss)


def settled_bytes() -> int:
    """Return what this process holds of the host's memory beside what its heap keeps for later."""
    libc = _glibc()
    if libc is not None and _tells(libc):
        return max(resident_bytes() - int(libc.mallinfo2().fordblks), 0)
    return _trimmed_bytes(libc)


class HeapMeter:
    """Measure the most that was taken while a ``with`` block ran, above what was taken before.

    Attributes
    ----------
    most_bytes : int
        Known when the block has ended.
    """

    def __init__(self) -> None:
        self.most_bytes = 0
        self._ended = threading.Event()

    def __enter__(self) -> HeapMeter:
        self._before = self._most = _taken_before()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._look()
        self.most_bytes = self._most - self._before

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self._look()

    def _look(self) -> None:
        self._most = max(self._most, taken_bytes())


def taken_bytes() -> int:
    """Return what this process has taken from its heap and not given back; where unknown, what it holds."""
    libc = _glibc()
    if libc is None or not _tells(libc):
        return resident_bytes()
    found = libc.mallinfo2()
    return int(found.uordblks + found.hblkhd)


def _trimmed_bytes(libc: Any) -> int:
    """Return what this process holds once its heap, if it is glibc's, has given back what it can."""
    if libc is not None:
        libc.malloc_trim(0)
    return resident_bytes()


def _taken_before() -> int:
    """Return what is taken before a measurement.

    Where a heap does not tell what it has kept of earlier measurements, this is what was taken before the
    first of them: rather too much is measured than too little.
    """
    global _first_taken
    libc = _glibc()
    if libc is not None:
        return taken_bytes() if _tells(libc) else _trimmed_bytes(libc)
    taken = resident_bytes()
    _first_taken = taken if _first_taken is None else min(_first_taken, taken)
    return _first_taken


_first_taken: int | None = None


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
    """Return glibc where it is the C library."""
    if platform.libc_ver()[0] != "glibc":
        return None
    libc = ctypes.CDLL(None)
    if _tells(libc):
        libc.mallinfo2.restype = _MallInfo
    return libc


def _tells(libc: Any) -> bool:
    """Whether glibc is new enough to say what is taken: 2.33."""
    return hasattr(libc, "mallinfo2")
