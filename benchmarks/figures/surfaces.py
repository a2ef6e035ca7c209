"""Dice, and how far surfaces lie apart: HD95 and NSD of each class, of volumes that fit in memory.

Surface voxels are those of a class with a face neighbour outside of it; distances are to the nearest surface
voxel of the other volume. NSD counts those within one voxel's longest edge (Nikolov et al. 2021,
https://doi.org/10.2196/26151), HD95 is the larger of the two 95 % quantiles.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def surface_scores(
    found: NDArray[Any], truth: NDArray[Any], spacing: tuple[float, ...]
) -> dict[str, dict[str, float]]:
    """Return dice, hd95 (in the spacing's unit) and nsd of every class of the truth, by its id."""
    scores = {}
    for label in np.unique(truth):
        a, b = found == label, truth == label
        dice = 2 * float((a & b).sum()) / float(a.sum() + b.sum())
        scores[str(int(label))] = {"dice": dice, **_distances(a, b, spacing)}
    return scores


def _distances(a: NDArray[np.bool_], b: NDArray[np.bool_], spacing: tuple[float, ...]) -> dict[str, float]:
    found = ndimage.find_objects((a | b).astype(np.uint8))[0]
    box = tuple(slice(max(s.start - 1, 0), s.stop + 1) for s in found)  # or what is cut would be no surface
    one, other = _surface(a[box]), _surface(b[box])
    if not one.any() or not other.any():
        return {"hd95": float("nan"), "nsd": 0.0}
    there = ndimage.distance_transform_edt(~other, sampling=spacing)[one]
    back = ndimage.distance_transform_edt(~one, sampling=spacing)[other]
    near = (there <= max(spacing)).sum() + (back <= max(spacing)).sum()
    return {
        "hd95": float(max(np.percentile(there, 95), np.percentile(back, 95))),
        "nsd": float(near / (len(there) + len(back))),
    }


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return mask & ~ndimage.binary_erosion(mask, border_value=1)
