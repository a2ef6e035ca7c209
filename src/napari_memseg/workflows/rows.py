"""Cut a volume into rows of whole chunks, to be copied one after the other.

A row is as long as the volume in x, if memory allows, and as thick as the chunks that are
written. Where those that are read are larger or lie askew, it is thicker, so that few of them
are decoded twice::

    read    ├───── 128 ─────┼───── 128 ─────┤       read    ├── 100 ──┼── 100 ──┼── 100 ──┼─
    row     ├───── 128 ─────┼───── 128 ─────┤       row     ├────────────── 448 ─────────────
    written ├─ 64 ──┼─ 64 ──┼─ 64 ──┼─ 64 ──┤       written ├ 64 ┼ 64 ┼ 64 ┼ 64 ┼ 64 ┼ 64 ┼─
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from math import lcm, prod
from typing import TYPE_CHECKING

from napari_memseg.geometry import Box, Zyx, ceil_div, cell_box, cells, zyx

if TYPE_CHECKING:
    from collections.abc import Iterator

ROW_VOXELS = 2**26
"""The most voxels of a row: 128 MiB of uint16."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Boxes of ``step`` voxels, cut off at the volume's faces, in storage order."""

    shape: Zyx
    step: Zyx

    @property
    def count(self) -> int:
        """How many there are."""
        return prod(ceil_div(self.shape, self.step))

    def boxes(self, start: int = 0) -> Iterator[Box]:
        """Yield the boxes from number ``start`` on."""
        for index in islice(cells(Box.whole(self.shape), self.step), start, None):
            yield cell_box(index, self.step, self.shape)

    def last(self, box: Box) -> int:
        """Return the number of the last row that touches ``box``."""
        z, y, x = ((b - 1) // n for b, n in zip(box.stop, self.step, strict=True))
        _, ny, nx = ceil_div(self.shape, self.step)
        return (z * ny + y) * nx + x


def plan_rows(region: Box, *, written: Zyx, read: Zyx, limit: int = ROW_VOXELS) -> Rows:
    """Choose rows that decode each stored chunk of the source once, or nearly.

    Parameters
    ----------
    region : Box
        What is copied, in voxels of the source. The rows count from its start.
    written, read : (z, y, x)
        Chunks of the copy and of the source, in voxels.
    limit : int
        The most voxels of a row; never less than one written chunk.

    Returns
    -------
    Rows
        Whose step is a multiple of ``written``.
    """
    whole = zyx(c * n for c, n in zip(written, ceil_div(region.shape, written), strict=True))
    axes = zip(written, read, region.start, whole, strict=True)
    z, y, _ = (min(_step(c, r, start), n) for c, r, start, n in axes)
    step = [z, y, whole[2]]
    for axis in (2, 1, 0):
        others = prod(step) // step[axis]
        fits = max(limit // others // written[axis], 1) * written[axis]
        step[axis] = min(step[axis], fits)
    return Rows(region.shape, zyx(step))


def _step(written: int, read: int, start: int) -> int:
    """Return how thick a row should be along one axis."""
    common = lcm(written, read)
    if start % read == 0 and common <= 4 * max(written, read):
        return common
    return written * -(-4 * read // written)
