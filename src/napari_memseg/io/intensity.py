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

CHUNKS = 64
"""Chunks that are looked at, at most."""
VOXELS = 2**17
"""Voxels that are kept of each, at most."""
PERCENTILES = (0.5, 99.5)


def sample_window(volume: Volume, level: int = 0) -> tuple[float, float]:
    """Return the 0.5 and 99.5 percentiles of a fixed sample of chunks.

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
    """Return finite voxels of chunks drawn from all over the volume, the same ones each time."""
    array = volume.arrays[level]
    grid = ceil_div(array.shape, array.chunks)
    total = prod(grid)
    drawn = np.random.default_rng(0).choice(total, min(total, CHUNKS), replace=False, shuffle=False)
    pieces = []
    for index in sorted(map(int, drawn)):
        box = cell_box(_unravel(index, grid), array.chunks, array.shape)
        voxels = volume.read(box, level).ravel()
        pieces.append(voxels[:: -(-voxels.size // VOXELS)])
    found = np.concatenate(pieces)
    return found[np.isfinite(found)] if found.dtype.kind == "f" else found


def _unravel(index: int, grid: Zyx) -> Zyx:
    z, rest = divmod(index, grid[1] * grid[2])
    return zyx((z, *divmod(rest, grid[2])))
