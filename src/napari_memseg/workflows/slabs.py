"""Read pages once, though the rows that are made of them are narrower.

A page of a TIFF is decoded whole, and a chunk to be written takes a bit of 64 of them. Where
64 pages are more than memory may hold, they wait in a file::

    pages  ──each decoded once──>  slab on disk, raw  ──lines──>  row, row, row
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_memseg.geometry import Box, Zyx, zyx

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_memseg.io.volume import Volume
    from napari_memseg.workflows.rows import Rows


class RowReader:
    """Read the rows of a region of a volume, in storage order, through a file where it pays.

    Parameters
    ----------
    volume : Volume
        What is read, at level 0.
    region : Box
        Its part that the rows divide; they count from its start.
    rows : Rows
        What will be read.
    scratch : Path
        A file to make, if one is needed, for ``step[0]`` whole planes of the region.

    No more voxels are read at once than a row has, or one layer of stored chunks.
    """

    def __init__(self, volume: Volume, region: Box, rows: Rows, scratch: Path) -> None:
        self._volume, self._rows, self._scratch = volume, rows, scratch
        self._away = zyx(-start for start in region.start)
        chunks = volume.arrays[0].chunks
        plane = rows.shape[1] * rows.shape[2]
        self._layer = max(prod(rows.step) // (plane * chunks[0]), 1) * chunks[0]
        self._through_file = _is_cut(chunks, rows)
        self._held: int | None = None

    def read(self, box: Box) -> NDArray[Any]:
        """Return the voxels of one row."""
        if not self._through_file:
            return self._volume.read(box.relative_to(self._away))
        if self._held != box.start[0]:
            self._hold(box)
        return self._lines(box)

    def _hold(self, box: Box) -> None:
        """Put all planes of a row's slab into the file, those of one layer at a time."""
        _, ny, nx = self._rows.shape
        with self._scratch.open("wb") as file:
            for z in range(box.start[0], box.stop[0], self._layer):
                layer = Box((z, 0, 0), (min(z + self._layer, box.stop[0]), ny, nx))
                np.ascontiguousarray(self._volume.read(layer.relative_to(self._away))).tofile(file)
        self._held = box.start[0]

    def _lines(self, box: Box) -> NDArray[Any]:
        _, ny, nx = self._rows.shape
        dtype = self._volume.dtype
        out = np.empty(box.shape, dtype)
        with self._scratch.open("rb") as file:
            for z in range(box.shape[0]):
                file.seek((z * ny + box.start[1]) * nx * dtype.itemsize)
                lines = np.fromfile(file, dtype, box.shape[1] * nx).reshape(box.shape[1], nx)
                out[z] = lines[:, box.start[2] : box.stop[2]]
        return out


def _is_cut(chunks: Zyx, rows: Rows) -> bool:
    """Whether several rows in a plane share the chunks that are read."""
    return any(rows.step[axis] < min(chunks[axis], rows.shape[axis]) for axis in (1, 2))
