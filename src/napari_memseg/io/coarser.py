"""Boxes of an image at half the resolution, a quarter, and so on, where its pyramid does not hold them.

They are made slab by slab, so that no more than a slab is in memory at full resolution.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_memseg.geometry import Box, Zyx, ceil_div, zyx
from napari_memseg.io.halving import halve_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from napari_memseg.io.volume import Volume

SLAB_VOXELS = 2**25
"""About how many voxels are read at once to be halved."""


def stored_level(image: Volume, level: int, halvings: int) -> int | None:
    """Return the level of an image's own pyramid that is coarser by just this, if there is one."""
    factor = zyx([2**halvings] * 3)
    shape = ceil_div(image.arrays[level].shape, factor)
    for number in range(level, len(image.arrays)):
        wanted = tuple(n * f for n, f in zip(image.scale(level), factor, strict=True))
        if image.scale(number) == wanted and image.arrays[number].shape == shape:
            return number
    return None


def read_halved(
    read: Callable[[Box], NDArray[Any]], box: Box, shape: Zyx, halvings: int
) -> NDArray[np.float32]:
    """Return a box of an image, ``halvings`` times coarser than what it is read from.

    Parameters
    ----------
    read : function of a Box
        Gives grey values (z, y, x) of the finer image.
    box : Box
        In coarse voxels.
    shape : (z, y, x)
        Of the finer image.
    halvings : int
        1 or more.
    """
    factor = zyx([2**halvings] * 3)
    fine = box.refine(factor)
    height = max(SLAB_VOXELS // (fine.shape[1] * fine.shape[2] * factor[0]), 1)
    slabs = []
    for z in range(box.start[0], box.stop[0], height):
        slab = Box((z, *box.start[1:]), (min(z + height, box.stop[0]), *box.stop[1:]))
        half = np.asarray(read(slab.refine(factor).clip(shape)), np.float32)
        for _ in range(halvings):
            half = halve_mean(half)
        slabs.append(half)
    return np.concatenate(slabs)
