"""What the user sees as the result: opinions over predictions, and nothing where there is neither.

::

    overlay      a person's opinion, also "this is background"      first
    newest run   where it has predicted                             then
    its parent   where that has predicted, and so on                then
    otherwise    not predicted

Nothing is stored: each read looks at the cells and chunks that it touches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_memseg.annotation.cells import SparseCells, check_inside
from napari_memseg.annotation.indexing import ReadByBox
from napari_memseg.geometry import Box, Zyx, ceil_div, cell_box, cells, zyx

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_memseg.annotation.runs import RunLabels
    from napari_memseg.models.classes import ClassTable

BLOCK: Zyx = (128, 128, 128)
"""So much is merged at a time, in voxels, whatever is asked for."""

COARSE = 128
"""The coarsest level for display has no longer axis than this, in voxels."""


class Composite(ReadByBox):
    """Opinions over predictions as an array (z, y, x) of class ids that can be read, not written.

    Parameters
    ----------
    overlay : SparseCells
        Live, or frozen at one seq.
    runs : sequence of RunLabels
        The newest first, each the parent of the one before.
    classes : ClassTable
        ``not_predicted`` stands where nobody knows; background opinions are shown as 0.
    level : int
        0, or for display every ``2**level``-th voxel per axis.
    """

    def __init__(
        self, overlay: SparseCells, runs: Sequence[RunLabels], classes: ClassTable, level: int = 0
    ) -> None:
        self.overlay, self.runs, self.classes, self.level = overlay, tuple(runs), classes, level
        self.dtype = classes.dtype
        self._factor = zyx([2**level] * 3)
        self.shape = ceil_div(overlay.shape, self._factor)

    @property
    def run_id(self) -> str | None:
        """The newest run that is shown."""
        return self.runs[0].run.id if self.runs else None

    @property
    def levels(self) -> tuple[Composite, ...]:
        """The same at level 0 and at coarser ones, for a viewer: a part is read when it is looked at."""
        numbers = level_numbers(self.overlay.shape)
        levels = tuple(Composite(self.overlay, self.runs, self.classes, level) for level in numbers)
        for composite in levels:
            composite.cuts_lazily = True
        return levels

    def read(self, box: Box, stride: Zyx = (1, 1, 1)) -> NDArray[np.unsignedinteger]:
        """Return every ``stride``-th voxel of ``box`` as a new array.

        Raises
        ------
        GeometryError
            If the box leaves the volume.
        """
        check_inside(box, self.shape)
        out = np.empty(ceil_div(box.shape, stride), self.dtype)
        for index in cells(Box.whole(zyx(out.shape)), BLOCK):
            part = cell_box(index, BLOCK, zyx(out.shape))
            start = zyx(a + n * s for a, n, s in zip(box.start, part.start, stride, strict=True))
            length = zyx((n - 1) * s + 1 for n, s in zip(part.shape, stride, strict=True))
            out[part.slices] = self._merge(Box.at(start, length), stride)
        return out

    def shows_older(self, box: Box) -> bool:
        """Whether an older run shows through a gap of the newest one, anywhere in ``box``."""
        for index in cells(box, BLOCK):
            part = cell_box(index, BLOCK, self.shape) & box
            gaps = self.runs[0].read(part, level=self.level) == self.classes.not_predicted
            shown = self._predicted(part, (1, 1, 1))[gaps]
            if (shown != self.classes.not_predicted).any():
                return True
        return False

    def _merge(self, box: Box, stride: Zyx) -> NDArray[np.unsignedinteger]:
        finest = box.refine(self._factor).clip(self.overlay.shape)
        out = self.overlay.read(finest, zyx(s * f for s, f in zip(stride, self._factor, strict=True)))
        silent = out == 0
        out = self.classes.resolve(out, opinions=True)
        out[out == self.classes.background_opinion] = 0
        if silent.any():
            out[silent] = self._predicted(box, stride)[silent]
        return out

    def _predicted(self, box: Box, stride: Zyx) -> NDArray[np.unsignedinteger]:
        nobody = self.classes.not_predicted
        found = np.full(ceil_div(box.shape, stride), nobody, self.dtype)
        for run in self.runs:
            gaps = found == nobody
            if not gaps.any():
                break
            found[gaps] = run.read(box, stride, self.level)[gaps]
        return found


def level_numbers(shape: Zyx) -> range:
    """Return the levels at which a volume of ``shape`` is shown: 0, and coarser ones down to ``COARSE``."""
    count = 1
    while max(shape) / 2 ** (count - 1) > COARSE:
        count += 1
    return range(count)
