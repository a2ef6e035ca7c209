"""Arrays that are read on demand, for tests of what is read."""

from __future__ import annotations

from typing import Any

import numpy as np


class Lazy:
    """Voxels that are copied when they are asked for; it keeps count, and refuses to be read at large.

    Attributes
    ----------
    largest : int
        Voxels of the largest part that was asked for; 0 if nothing was.
    """

    def __init__(self, values: np.ndarray, most: int | None = None) -> None:
        self.values, self.shape, self.dtype = values, values.shape, values.dtype
        self.ndim, self.size = values.ndim, values.size
        self.largest, self._most = 0, most

    def __getitem__(self, index: Any) -> np.ndarray:
        part = self.values[index]
        self.largest = max(self.largest, part.size)
        if self._most is not None and part.size > self._most:
            raise AssertionError(f"{part.size} voxels were read at once, {self._most} are allowed")
        return part.copy()


def vast(shape: tuple[int, ...], dtype: Any = "uint8", most: int | None = None) -> Lazy:
    """Return zeros of any size, which take no memory."""
    return Lazy(np.broadcast_to(np.zeros((), dtype), shape), most)
