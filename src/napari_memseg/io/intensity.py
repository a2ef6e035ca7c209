"""Find the grey values that an image lives between, from a sample of it.

A few pieces, spread evenly however the volume is cut into chunks, stand for the whole::

    volume  ──64 pieces──>  every n-th voxel  ──> 0.5 %, 99.5 %  ──>  low, high
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from napari_memseg.geometry import Zyx, ceil_div, cell_box, zyx

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_memseg.io.volume import Volume

PERCENTILES = (0.5, 99.5)
"""Between these lies what is neither noise nor a bright speck."""
PIECES = 64
"""Pieces that are looked at."""
PIECE_VOXELS = 2**16
"""Voxels that are taken from a piece at most; smaller chunks are looked at several together."""
_STEPS = (0.8191725133961645, 0.6710436067037893, 0.5497004779019703)
"""Powers of the inverse of the root of x^4 = x + 1: the points k * _STEPS mod 1 fill a cube evenly."""


def sample_window(volume: Volume, level: int = 0) -> tuple[float, float]:
    """Return the 0.5 and 99.5 percentiles of a fixed sample of a volume.

    The sample is a sequence of low discrepancy (Roberts 2018,
    https://extremelearning.com.au/unreasonable-effectiveness-of-quasirandom-sequences/): the same
    volume gives the same window, and no period of the image or of its chunks is followed.

    Parameters
    ----------
    volume : Volume
        Any dtype. Values that are no finite numbers are left out.
    level : int
        Of the pyramid, 0 the finest.

    Returns
    -------
    low, high : float
        ``low < high``: where the sample is one value, ``high`` is 1 more; where only the rarest
        values differ, it is the largest. Without any finite value, 0 and 1.

    Raises
    ------
    GeometryError
        If there is no such level.
    SourceError
        If a piece cannot be decoded.
    """
    sample = np.concatenate([_voxels(volume, level, index) for index in _pieces(volume, level)])
    if not sample.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(sample, PERCENTILES))
    if high <= low:
        high = float(sample.max())
    return (low, high) if high > low else (low, low + max(1.0, float(np.spacing(abs(low)))))


def _pieces(volume: Volume, level: int) -> list[Zyx]:
    """Return the index of each piece, none twice."""
    volume.scale(level)  # refuses a level that there is not
    array = volume.arrays[level]
    grid = ceil_div(array.shape, _piece(array.chunks, array.shape))
    if prod(grid) <= PIECES:
        return [zyx(index) for index in np.ndindex(*grid)]
    points = ([(0.5 + k * step) % 1 for step in _STEPS] for k in range(PIECES))
    found = (zyx(int(p * n) for p, n in zip(point, grid, strict=True)) for point in points)
    return list(dict.fromkeys(found))


def _voxels(volume: Volume, level: int, index: Zyx) -> NDArray[np.float64]:
    """Return finite values of a piece, no more than ``PIECE_VOXELS``."""
    array = volume.arrays[level]
    box = cell_box(index, _piece(array.chunks, array.shape), array.shape)
    values = volume.read(box, level).ravel()
    values = values[:: -(-values.size // PIECE_VOXELS)]
    finite: NDArray[np.float64] = values[np.isfinite(values)].astype(np.float64)
    return finite


def _piece(chunk: Zyx, shape: Zyx) -> Zyx:
    """Return a multiple of a stored chunk, grown evenly to about ``PIECE_VOXELS``."""
    grown = list(chunk)
    while prod(grown) * 2 <= PIECE_VOXELS and any(g < n for g, n in zip(grown, shape, strict=True)):
        axis = min((a for a in range(3) if grown[a] < shape[a]), key=lambda a: grown[a])
        grown[axis] *= 2
    return zyx(grown)
