"""Measure which grey values of a volume matter, from a sample of it.

The network sees ``low`` as 0 and ``high`` as 1, for a whole run: so the numbers must come
out the same each time, and must not depend on a few hot voxels.
"""

from __future__ import annotations

from math import nextafter, prod
from typing import TYPE_CHECKING

import numpy as np

from napari_memseg.geometry import Zyx, ceil_div, cell_box, zyx

if TYPE_CHECKING:
    from napari_memseg.io.volume import Volume

BOXES = 64
"""Boxes that are looked at, at most."""
BOX_VOXELS = 16**3
"""A box is one chunk, or so many small ones that it has this many voxels."""
DECODED_BYTES = 64 * 2**20
"""All boxes together, decoded; a single larger chunk is still looked at."""
KEPT_VOXELS = 2**17
"""Of each box, at most."""
PERCENTILES = (0.5, 99.5)


def sample_window(volume: Volume, level: int = 0) -> tuple[float, float]:
    """Return the 0.5 and 99.5 percentiles of a fixed sample, the middle of the volume included.

    However large the volume, at most 64 MiB are decoded, or one chunk if that is more.

    Parameters
    ----------
    volume : Volume
        An image; NaN and infinite voxels are left out.
    level : int
        Of its pyramid.

    Returns
    -------
    low, high : float
        In grey values, low < high. Where the percentiles coincide, the range of the sample;
        where that is one value, ``low + 1`` above it; 0 and 1 where no voxel is finite.

    Raises
    ------
    SourceError
        If a chunk cannot be decoded.
    """
    found = _sample(volume, level)
    if not found.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(found, PERCENTILES))
    if not low < high:
        low, high = float(found.min()), float(found.max())
    return low, high if low < high else max(low + 1.0, nextafter(low, np.inf))


def _sample(volume: Volume, level: int) -> np.ndarray:
    """Return finite voxels of boxes drawn from all over the volume, the same ones each time."""
    array = volume.arrays[level]
    size = _box_size(array.chunks, array.shape)
    grid = ceil_div(array.shape, size)
    pieces = []
    for index in _drawn(prod(grid), min(BOXES, DECODED_BYTES // (prod(size) * array.dtype.itemsize)), grid):
        voxels = volume.read(cell_box(_unravel(index, grid), size, array.shape), level).ravel()
        pieces.append(voxels[:: -(-voxels.size // KEPT_VOXELS)])
    found = np.concatenate(pieces)
    return found[np.isfinite(found)] if found.dtype.kind == "f" else found


def _box_size(chunk: Zyx, shape: Zyx) -> Zyx:
    """Return whole chunks, doubled along the shortest axis until they are enough for a box."""
    size = list(map(min, chunk, shape))
    while prod(size) < BOX_VOXELS and (short := [axis for axis in range(3) if size[axis] < shape[axis]]):
        axis = min(short, key=size.__getitem__)
        size[axis] *= 2
    return zyx(size)


def _drawn(total: int, wanted: int, grid: Zyx) -> list[int]:
    """Return the numbers of the boxes to read: the one in the middle, and others at random."""
    if total <= wanted:
        return list(range(total))
    z, y, x = (n // 2 for n in grid)
    others = np.random.default_rng(0).choice(total, max(wanted - 1, 0), replace=False, shuffle=False)
    return sorted({(z * grid[1] + y) * grid[2] + x, *others.tolist()})


def _unravel(index: int, grid: Zyx) -> Zyx:
    z, rest = divmod(index, grid[1] * grid[2])
    return zyx((z, *divmod(rest, grid[2])))
