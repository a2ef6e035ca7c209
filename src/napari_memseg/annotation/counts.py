"""How many voxels of each class were painted, kept up to date cell by cell.

Counting a cell again gives the same number, so it does not matter how often or in
which order cells are recounted, while painting goes on::

    a stroke ──> cells it touched ──recount──> sum over all cells
"""

from __future__ import annotations

from collections import Counter
from itertools import takewhile
from typing import TYPE_CHECKING

import numpy as np

from napari_memseg.annotation.indexing import CELL, cell_at
from napari_memseg.geometry import Box

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from napari_memseg.annotation.cells import SparseCells
    from napari_memseg.geometry import Zyx
    from napari_memseg.models.classes import ClassTable


class ClassCounts:
    """Painted voxels by value; one thread at a time.

    Parameters
    ----------
    cells : SparseCells
        Of an overlay, live or frozen.
    """

    def __init__(self, cells: SparseCells) -> None:
        self._cells = cells
        self._of: dict[Zyx, dict[int, int]] = {}
        self._total: Counter[int] = Counter()

    def recount(self, box: Box | None = None, *, stop: Callable[[], bool] = lambda: False) -> None:
        """Count the cells that ``box`` touches (default: all) as they are now; ``stop`` is asked at each."""
        box = box or Box.whole(self._cells.shape)
        painted = set(self._cells.painted_in(box))
        touched = box.coarsen(CELL)
        gone = [key for key in self._of if touched.contains(Box.at(key, (1, 1, 1))) and key not in painted]
        for key in gone:
            self._total.subtract(self._of.pop(key))
        self._count(takewhile(lambda _: not stop(), painted))

    def _count(self, keys: Iterable[Zyx]) -> None:
        for key in keys:
            values, numbers = np.unique(self._cells.read(cell_at(key, self._cells.shape)), return_counts=True)
            found = {int(v): int(n) for v, n in zip(values, numbers, strict=True) if v}
            self._total.subtract(self._of.get(key, {}))
            self._total.update(found)
            self._of[key] = found

    def by_class(self, classes: ClassTable) -> dict[int, int]:
        """Return how many voxels were painted of each class, by id, with what was merged into it."""
        return {c.id: sum(self[value] for value in classes.opinions(c.id)) for c in classes}

    def __getitem__(self, value: int) -> int:
        """Return how many voxels hold a value: a class id, or the background opinion."""
        return self._total[value]
