"""Opinions read from sparse cells: any box, any stride, in the memory of what is asked for.

Only cells that hold an opinion exist; everything else is 0. Decoded cells are kept
while they fit a budget in bytes, the least recently used ones going first.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_memseg.annotation.indexing import CELL, ReadByBox, cell_at, strided_part
from napari_memseg.errors import GeometryError
from napari_memseg.geometry import Box, Zyx, ceil_div, cells

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from napari_memseg.annotation.corrections import Corrections

CACHE_BYTES = 128 << 20
"""Budget for decoded cells, in bytes."""


class SparseCells(ReadByBox):
    """The overlay as an array (z, y, x) that can be read, from any thread.

    Parameters
    ----------
    corrections : Corrections
        Where the cells are.
    shape : (z, y, x)
        Of the working level, in voxels.
    dtype : dtype
        Of the class table.
    cache_bytes : int
        How much of what was decoded is kept.
    """

    def __init__(
        self, corrections: Corrections, shape: Zyx, dtype: np.dtype[Any], *, cache_bytes: int = CACHE_BYTES
    ) -> None:
        self.shape, self.dtype = shape, dtype
        self._corrections = corrections
        self._lock = threading.RLock()
        self._keys = corrections.keys()
        self._clean: OrderedDict[Zyx, NDArray[Any]] = OrderedDict()
        self._most = max(cache_bytes // (dtype.itemsize * int(np.prod(CELL))), 1)

    def read(self, box: Box, stride: Zyx = (1, 1, 1)) -> NDArray[Any]:
        """Return every ``stride``-th voxel of ``box`` as a new array: 0 where there is no opinion.

        Raises
        ------
        GeometryError
            If the box leaves the volume.
        """
        check_inside(box, self.shape)
        out = np.zeros(ceil_div(box.shape, stride), self.dtype)
        for key in self.painted_in(box):
            where, inside = strided_part(cell_at(key, self.shape), box, stride)
            with self._lock:
                out[where] = self._look(key)[inside]
        return out

    def painted_in(self, box: Box) -> list[Zyx]:
        """Return the cells that ``box`` touches and that hold an opinion, in storage order."""
        touched = box.coarsen(CELL)
        with self._lock:
            if touched.size < len(self._keys):
                return [key for key in cells(box, CELL) if key in self._keys]
            return sorted(key for key in self._keys if _holds(touched, key))

    def painted(self) -> Iterator[Box]:
        """Yield the box of every cell that holds an opinion, in storage order."""
        for key in self.painted_in(Box.whole(self.shape)):
            yield cell_at(key, self.shape)

    def refresh(self) -> None:
        """Forget what was decoded, and look at the disk again."""
        with self._lock:
            self._clean.clear()
            self._keys = self._corrections.keys()

    def _look(self, key: Zyx) -> NDArray[Any]:
        """Return a cell to read from, not to write to; the caller holds the lock."""
        if key in self._clean:
            self._clean.move_to_end(key)
            return self._clean[key]
        return self._keep(key, self._corrections.cell(key, self.dtype))

    def _keep(self, key: Zyx, cell: NDArray[Any]) -> NDArray[Any]:
        self._clean[key] = cell
        while len(self._clean) > self._most:
            self._clean.popitem(last=False)
        return cell


def check_inside(box: Box, shape: Zyx) -> None:
    """Raise GeometryError if ``box`` leaves a volume of ``shape``."""
    if not Box.whole(shape).contains(box):
        raise GeometryError(
            f"The box {box} leaves the volume of {shape} voxels (z, y, x). Stay in {Box.whole(shape)}."
        )


def _holds(box: Box, key: Zyx) -> bool:
    return all(a <= k < b for a, k, b in zip(box.start, key, box.stop, strict=True))
