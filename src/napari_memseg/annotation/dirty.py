"""Cells that changed in memory and are not on disk yet, with what they were before.

Only the difference to *before* is ever stored, so that a tool may assign a whole
bounding box, and painting over a voxel twice in one stroke costs nothing::

    assign ──> dirty: cell -> (before, after) ──spill──> open transaction ──> disk
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_memseg.annotation.cells import CACHE_BYTES, SparseCells
from napari_memseg.annotation.indexing import CELL, Points, Strided, cell_at, strided_part
from napari_memseg.geometry import Box, Zyx, cells

if TYPE_CHECKING:
    from napari_memseg.annotation.corrections import Corrections

Mask = NDArray[np.bool_] | Callable[[Box], NDArray[np.bool_]]
"""Voxels of a box: all at once, or cell by cell when asked."""

DIRTY_BYTES = 128 << 20
"""Changed cells in memory, with what they were before, in bytes."""


class DirtyCells(SparseCells):
    """Sparse cells that can be changed, in memory first.

    Parameters
    ----------
    corrections, shape, dtype, cache_bytes
        As for ``SparseCells``.
    dirty_bytes : int
        From how much on ``is_full`` says so.
    """

    def __init__(
        self,
        corrections: Corrections,
        shape: Zyx,
        dtype: np.dtype[Any],
        *,
        cache_bytes: int = CACHE_BYTES,
        dirty_bytes: int = DIRTY_BYTES,
    ) -> None:
        super().__init__(corrections, shape, dtype, cache_bytes=cache_bytes)
        self._dirty: dict[Zyx, tuple[NDArray[Any], NDArray[Any]]] = {}
        self._most_dirty = max(dirty_bytes // (2 * dtype.itemsize * int(np.prod(CELL))), 1)
        self._spilled = False

    @property
    def has_pending(self) -> bool:
        """Whether anything that can be read here is not committed."""
        return bool(self._dirty) or self._spilled

    @property
    def is_full(self) -> bool:
        """Whether the changed cells have reached their budget."""
        return len(self._dirty) >= self._most_dirty

    def assign(self, key: Zyx, inside: Any, values: NDArray[Any]) -> None:
        """Change a part of one cell in memory; equal values change nothing."""
        with self._lock:
            cell = self._look(key)
            if (cell[inside] == values).all():
                return
            if key not in self._dirty:
                self._clean.pop(key, None)
                self._dirty[key] = (cell, cell.copy())
                self._keys.add(key)
            self._dirty[key][1][inside] = values

    def assign_strided(self, where: Strided, voxels: NDArray[Any]) -> Iterator[None]:
        """Assign voxels of the grid of a basic index, one cell at a step."""
        for key in cells(where.box, CELL):
            out, inside = strided_part(cell_at(key, self.shape), where.box, where.stride)
            if voxels[out].size:
                self.assign(key, inside, voxels[out])
                yield

    def assign_points(self, points: Points, values: NDArray[Any]) -> Iterator[None]:
        """Assign to single voxels, a value for each, one cell at a step."""
        flat = values.ravel()
        for key, inside, which in points.by_cell():
            self.assign(key, inside, flat[which])
            yield

    def assign_masked(self, box: Box, value: NDArray[Any], mask: Mask | None) -> Iterator[None]:
        """Give one value to a box, or to a mask in it, one cell at a step."""
        for key in cells(box, CELL):
            cell = cell_at(key, self.shape)
            part = cell & box
            inside = part.relative_to(cell.start).slices
            if mask is None:
                self.assign(key, inside, value)
            else:
                wanted = mask(part) if callable(mask) else mask[part.relative_to(box.start).slices]
                self.assign(key, inside, np.where(wanted, value, self.read(part)))
            yield

    def spill(self) -> None:
        """Move the changed cells into the database's open transaction."""
        with self._lock:
            for key, (before, after) in self._dirty.items():
                self._spilled = True
                self._corrections.put(key, before, after)
            for key, (_, after) in self._dirty.items():
                if after.any():
                    self._keep(key, after)
                else:
                    self._keys.discard(key)
            self._dirty.clear()

    def saved(self) -> None:
        """Take note that the transaction was committed."""
        self._spilled = False

    def forget(self) -> None:
        """Go back to what is on disk."""
        with self._lock:
            self._corrections.rollback()
            self._dirty.clear()
            self._spilled = False
            self.refresh()

    def _look(self, key: Zyx) -> NDArray[Any]:
        if key in self._dirty:
            return self._dirty[key][1]
        return super()._look(key) if key in self._keys else np.zeros(CELL, self.dtype)
