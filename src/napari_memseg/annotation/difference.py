"""Where two runs of a session say something else, as an array to look at.

::

    0   the same, or one of them predicted nothing
    1   only the one run has a class there      (added)
    2   only the other run has                  (gone)
    3   both have, not the same                 (another class)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_memseg.annotation.composite import level_numbers
from napari_memseg.annotation.indexing import ReadByBox
from napari_memseg.geometry import Box, Zyx, ceil_div, zyx

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_memseg.annotation.runs import RunLabels

ADDED, GONE, OTHER = 1, 2, 3


class Difference(ReadByBox):
    """One run against another (z, y, x), uint8; read when somebody looks.

    Parameters
    ----------
    run, other : RunLabels
        Of one session.
    level : int
        0, or for display every ``2**level``-th voxel per axis.
    """

    def __init__(self, run: RunLabels, other: RunLabels, level: int = 0) -> None:
        self.run, self.other, self.level = run, other, level
        self.dtype = np.dtype(np.uint8)
        self.shape = ceil_div(run.shape, zyx([2**level] * 3))

    @property
    def levels(self) -> tuple[Difference, ...]:
        """The same at level 0 and at coarser ones, for a viewer."""
        numbers = level_numbers(self.run.shape)
        levels = tuple(Difference(self.run, self.other, level) for level in numbers)
        for difference in levels:
            difference.cuts_lazily = True
        return levels

    def read(self, box: Box, stride: Zyx = (1, 1, 1)) -> NDArray[np.uint8]:
        """Return every ``stride``-th voxel of ``box``, in voxels of the level."""
        nobody = self.run.classes.not_predicted
        one, two = (labels.read(box, stride, self.level) for labels in (self.run, self.other))
        found = np.zeros(one.shape, np.uint8)
        differs = (one != two) & (one != nobody) & (two != nobody)
        found[differs] = OTHER
        found[differs & (two == 0)] = ADDED
        found[differs & (one == 0)] = GONE
        return found
