"""The outline of a class: grown, shrunk, smoothed.

Around the box so much more is read as the outline may come from, so that it does not
matter where the view ends; a face of the volume is no outline::

    context ┌─────────┐
            │ box     │   read: both, changed: the box
            └─────────┘

Lengths are in voxels, of a slice in its plane.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import edt
import numpy as np
import scipy.ndimage as ndi

from napari_memseg.annotation.tools.edit import Edit, Scene, around
from napari_memseg.annotation.tools.parts import nearest
from napari_memseg.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_memseg.annotation.composite import Composite
    from napari_memseg.geometry import Box

MOST_RADIUS = 32
"""Of growing, shrinking and smoothing, in voxels."""


def grow(composite: Composite, class_id: int, box: Box, radius: int, *, over: bool = False) -> Edit:
    """Let a class grow into what is free around it.

    Parameters
    ----------
    composite : Composite
        What is shown.
    class_id : int
        Which class.
    box : Box
        Where; with ``radius`` around it at most ``MOST_VOXELS``.
    radius : int
        By how many voxels, 1 to ``MOST_RADIUS``.
    over : bool
        Also over other classes, and where somebody said "this is background".
    """
    scene = _scene(composite, box, radius)
    inside = scene.shown == class_id
    allowed = scene.free(class_id) if not over else np.ones_like(inside)
    reached = _distance(~inside) <= radius if inside.any() else inside
    return scene.edit(box, class_id, reached & ~inside & allowed, "grow")


def shrink(composite: Composite, class_id: int, box: Box, radius: int) -> Edit:
    """Take the rim of a class away, as ``remove_islands`` takes islands. Parameters as for ``grow``."""
    scene = _scene(composite, box, radius)
    inside = scene.shown == class_id
    rim = inside & (_distance(inside) <= radius) if not inside.all() else np.zeros_like(inside)
    return scene.edit(box, nearest(scene.shown, inside), rim, "shrink")


def smooth(composite: Composite, class_id: int, box: Box, radius: int) -> Edit:
    """Smooth the outline of a class: each voxel becomes what most of its neighbours are, the near ones first.

    Votes are weighted by a Gaussian of sigma ``radius``, cut off at twice that. Only what joins or
    leaves the class changes, and nobody's opinion of another class. Other parameters as for ``grow``.
    """
    scene = _scene(composite, box, radius, reach=2)
    winner = _majority(scene.shown, radius)
    known = (winner != scene.classes.not_predicted) & (scene.shown != scene.classes.not_predicted)
    joins_or_leaves = (winner == class_id) ^ (scene.shown == class_id)
    return scene.edit(box, winner, joins_or_leaves & known & scene.silent(class_id), "smooth")


def _majority(shown: NDArray[np.unsignedinteger], radius: int) -> NDArray[np.unsignedinteger]:
    """Return the class of most weight around each voxel."""
    sigma = [radius * (n > 1) for n in shown.shape]
    best, winner = np.zeros(shown.shape, np.float32), shown.copy()
    for value in np.unique(shown):
        votes = ndi.gaussian_filter((shown == value).astype(np.float32), sigma, mode="nearest", truncate=2)
        better = votes > best
        best[better], winner[better] = votes[better], value
    return winner


def _distance(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return how far each voxel of a mask is from the nearest one outside of it."""
    return np.asarray(edt.edt(np.ascontiguousarray(mask), parallel=1))


def _scene(composite: Composite, box: Box, radius: int, reach: int = 1) -> Scene:
    if not 1 <= radius <= MOST_RADIUS:
        raise InputError(f"A radius of {radius} voxels is not possible: choose 1 to {MOST_RADIUS}.")
    return Scene.of(composite, around(box, reach * radius, composite.shape))
