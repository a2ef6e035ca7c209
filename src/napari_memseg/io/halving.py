"""Make one voxel of the voxels, up to eight, that lie under it.

An odd length has a last voxel without a partner. A label is picked, so it is none the
worse for that; a mean is taken over the voxels that exist, which is the same as giving
the last one itself for a partner.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from napari_memseg.io.ome_zarr_metadata import Method


def halve_mean(fine: NDArray[Any]) -> NDArray[Any]:
    """Average blocks of 2 x 2 x 2 voxels, at odd ends over those that exist.

    Parameters
    ----------
    fine : (z, y, x) array
        Integers or floats.

    Returns
    -------
    (ceil(z / 2), ceil(y / 2), ceil(x / 2)) array
        Of the same dtype. Integers are rounded to the nearest, halves upwards, and exactly,
        since no sum in it exceeds the dtype: floor(sum / 8) is made of eighths and remainders.
    """
    if fine.dtype.kind == "f":
        with np.errstate(invalid="ignore"):  # inf - inf is NaN, as it should be
            return _sum_pairs(fine.astype(np.float64) / 8).astype(fine.dtype)
    eighths, remainders = _sum_pairs(fine >> 3), _sum_pairs(fine & 7)
    whole: NDArray[Any] = eighths + ((remainders + 4) >> 3)
    return whole


def halve_nearest(fine: NDArray[Any]) -> NDArray[Any]:
    """Pick every second voxel of a (z, y, x) array along each axis, the first one included."""
    return fine[::2, ::2, ::2]


HALVE: Mapping[Method, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "mean": halve_mean,
    "nearest": halve_nearest,
}


def _sum_pairs(values: NDArray[Any]) -> NDArray[Any]:
    """Sum 2 x 2 x 2 blocks, axis by axis, in the dtype of the values."""
    for axis in range(values.ndim):
        first, second = (np.moveaxis(values, axis, 0)[start::2] for start in (0, 1))
        total = first.copy()
        total[: len(second)] += second
        total[len(second) :] += first[len(second) :]
        values = np.moveaxis(total, 0, axis)
    return values
