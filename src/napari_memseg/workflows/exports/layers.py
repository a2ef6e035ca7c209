"""Read a region plane by plane, although it is stored in chunks that are many planes thick.

A layer of planes is put together first, each stored chunk decoded once, or nearly::

    chunks  ──pieces──>  layer of 64 planes  ──plane, plane, plane──>  file
                         in memory; in a file where planes are wide
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_memseg.geometry import Box, Zyx, cell_box, cells

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

DEPTH = 64
"""Planes of a layer: as many as a cell of corrections and a chunk of a run are thick."""
MOST_DEEP = 4 * DEPTH
"""Layers are thicker where stored chunks are, but for this."""
LAYER_BYTES = 2**28
"""A larger layer waits in a file."""
PIECE_VOXELS = 2**24
"""So many voxels of a layer are read at a time, or one row of chunks."""


class Layers:
    """A region as layers of whole planes, cut at multiples of their depth from the volume's origin.

    Parameters
    ----------
    read : callable of Box -> (z, y, x) array
        Voxels of the volume.
    region : Box
        The part that is read, in voxels of the volume.
    dtype : dtype
        Of what is read.
    chunks : (z, y, x)
        The unit of decoding.
    scratch : Path
        A file to make where a layer is too large for memory; it is gone at the end.
    """

    def __init__(
        self,
        read: Callable[[Box], NDArray[Any]],
        region: Box,
        dtype: np.dtype[Any],
        chunks: Zyx,
        scratch: Path,
    ) -> None:
        self._read, self._region, self._dtype, self._chunks = read, region, dtype, chunks
        self._scratch = scratch
        self._depth = min(-(-chunks[0] // DEPTH) * DEPTH, MOST_DEEP)

    def __iter__(self) -> Iterator[tuple[Box, NDArray[Any]]]:
        """Yield each layer's box and voxels; the voxels are overwritten by the next."""
        layer = (self._depth, *self._region.stop[1:])
        room = self._room()
        try:
            for index in cells(self._region, layer):
                box = cell_box(index, layer, self._region.stop) & self._region
                for piece in self._pieces(box):
                    room[piece.relative_to(box.start).slices] = self._read(piece)
                yield box, room[: box.shape[0]]
        finally:
            del room
            self._scratch.unlink(missing_ok=True)

    def planes(self) -> Generator[NDArray[Any], None, None]:
        """Yield the (y, x) planes, the lowest z first; each is to be used before the next is asked for."""
        for _, layer in self:
            yield from layer

    def _room(self) -> NDArray[Any]:
        """Return an array for the largest layer."""
        shape = (min(self._depth, self._region.shape[0]), *self._region.shape[1:])
        if np.prod(shape, dtype=np.int64) * self._dtype.itemsize <= LAYER_BYTES:
            return np.empty(shape, self._dtype)
        return np.memmap(self._scratch, self._dtype, "w+", shape=shape)

    def _pieces(self, layer: Box) -> Iterator[Box]:
        """Cut a layer so that a chunk belongs to one piece, or to few."""
        deep, high, _ = self._chunks
        deep = min(deep, self._depth)
        rows = max(PIECE_VOXELS // (deep * layer.shape[2]) // high, 1) * high
        piece = (deep, rows, layer.stop[2])
        for index in cells(layer, piece):
            yield cell_box(index, piece, layer.stop) & layer
