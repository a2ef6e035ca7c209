"""From slice to slice: what was painted in some is carried to those between, or to the next.

The distance to the outline, negative outside, goes over in equal steps from one painted
slice to the next, and the shape is where it is positive::

    painted    ▓▓▓▓▓▓▓▓
                ▒▒▒▒▒▒         interpolated
                 ▒▒▒▒
    painted       ▓▓

Two shapes that do not overlap are moved onto each other first, and go over as they move.
The method is that of S. P. Raya and J. K. Udupa (1990), https://doi.org/10.1109/42.52980
"""

from __future__ import annotations

from functools import reduce
from itertools import pairwise
from operator import or_
from typing import TYPE_CHECKING, Literal

import edt
import numpy as np
import scipy.ndimage as ndi

from napari_memseg.annotation.indexing import cell_at
from napari_memseg.annotation.tools.edit import Edit, Scene, bounds
from napari_memseg.errors import InputError
from napari_memseg.geometry import Box, zyx

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_memseg.annotation.composite import Composite

    Picture = NDArray[np.bool_]

REACH = 512
"""Slices in which the next painted one is looked for, on either side."""

What = Literal["painted", "shown"]


def interpolate(composite: Composite, class_id: int, box: Box, axis: int = 0) -> Edit:
    """Paint a class between the slices where somebody painted it, never over another opinion.

    Parameters
    ----------
    composite : Composite
        What is shown.
    class_id : int
        Which class; 0 for background.
    box : Box
        Which slices, of at most ``MOST_VOXELS``: all that were painted in it, each to the next.
    axis : 0, 1 or 2
        Across the slices.

    Raises
    ------
    InputError
        If the class was painted in fewer than two slices, or only in neighbouring ones.
    """
    scene = Scene.of(composite, box)
    stack = np.moveaxis(scene.opinions == scene.value(class_id), axis, 0)
    painted = np.flatnonzero(stack.any(axis=(1, 2))).tolist()
    gaps = [(low, high) for low, high in pairwise(painted) if high - low > 1]
    if not gaps:
        raise InputError(
            f"Class {class_id} is painted in {len(painted)} slices here, and none lies between two of them. "
            "Paint it in two slices with a gap, both where you look or among those that are worked on."
        )
    between = np.zeros_like(stack)
    for low, high in gaps:
        _go_over(stack[low], stack[high], between[low + 1 : high])
    mask = np.moveaxis(between, 0, axis) & scene.silent(class_id)
    return scene.edit(box, class_id, mask, "interpolate")


def painted_around(composite: Composite, class_id: int, view: Box, axis: int = 0) -> Box:
    """Find what was painted of a class in a slice, and in the next painted ones before and behind it.

    Parameters
    ----------
    composite, class_id, axis
        As for ``interpolate``.
    view : Box
        A part of one slice.

    Returns
    -------
    Box
        Around all of that, from slice to slice; the view if nothing is painted within ``REACH`` slices.
    """
    overlay, resolve, middle = composite.overlay, composite.classes.resolve, view.start[axis]
    value = class_id or composite.classes.background_opinion
    reach = zyx(REACH * (a == axis) for a in range(3))
    slab = view.grow(reach).clip(composite.shape)
    touched = [cell_at(key, composite.shape) & slab for key in overlay.painted_in(slab)]
    part = reduce(or_, touched, Box(view.start, view.start))

    def painted(at: int) -> Box:
        plane = _slice(part, axis, at)
        opinions = resolve(overlay.read(plane), opinions=True)
        return bounds(opinions == value).relative_to(zyx(-n for n in plane.start))

    start, stop = part.start[axis], part.stop[axis]
    before = map(painted, range(min(middle, stop) - 1, start - 1, -1))
    behind = map(painted, range(max(middle + 1, start), stop))
    nothing = Box(view.start, view.start)
    found = [next((box for box in side if not box.is_empty), nothing) for side in (before, behind)]
    here = painted(middle) if start <= middle < stop else nothing
    box = found[0] | here | found[1]
    return view if box.is_empty else box


def copy_slice(
    composite: Composite, box: Box, axis: int, source: int, target: int, what: What = "painted"
) -> Edit:
    """Carry the labels of one slice to another, never over an opinion that is there.

    Parameters
    ----------
    composite : Composite
        What is shown.
    box : Box
        Which part of the slices; its extent along ``axis`` does not matter.
    axis : 0, 1 or 2
        Across the slices.
    source, target : int
        Slices, in voxels of the volume.
    what : "painted" or "shown"
        Opinions alone, or all that is shown, background too.

    Raises
    ------
    InputError
        If there is nothing to copy, or no such slice.
    """
    if not 0 <= target < composite.shape[axis]:
        raise InputError(
            f"There is no slice {target}: the volume has slices 0 to {composite.shape[axis] - 1} along "
            "this axis. Copy the other way."
        )
    origin, goal = (Scene.of(composite, _slice(box, axis, at)) for at in (source, target))
    known = origin.opinions != 0 if what == "painted" else origin.shown != origin.classes.not_predicted
    if not known.any():
        raise InputError(f"Nothing is {what} in this part of slice {source}: there is nothing to copy.")
    edit = goal.edit(goal.box, origin.shown, known & (goal.opinions == 0), "copy slice")
    return Edit(edit.box, edit.values, edit.mask, edit.tool, origin.box | goal.box)


def _slice(box: Box, axis: int, at: int) -> Box:
    start: list[int] = list(box.start)
    stop: list[int] = list(box.stop)
    start[axis], stop[axis] = at, at + 1
    return Box(zyx(start), zyx(stop))


def _go_over(first: Picture, last: Picture, out: NDArray[np.bool_]) -> None:
    """Fill the pictures between two, in the part of them where either shape is."""
    rows, columns = ndi.find_objects((first | last).view(np.uint8))[0]
    a, b = (np.pad(shape[rows, columns], 1) for shape in (first, last))  # so that each has an outside
    way = np.zeros(2) if (a & b).any() else np.subtract(*(ndi.center_of_mass(p) for p in (b, a)))
    depths = _depth(a), _depth(b)
    for step in range(len(out)):
        t = (step + 1) / (len(out) + 1)
        here = (_moved(depths[0], t * way), _moved(depths[1], (t - 1) * way))
        out[step, rows, columns] = ((1 - t) * here[0] + t * here[1] > 0)[1:-1, 1:-1]


def _depth(shape: Picture) -> NDArray[np.float32]:
    """Return the distance to the outline, in voxels: positive inside, negative outside."""
    inside, outside = (edt.edt(np.ascontiguousarray(p), parallel=1) for p in (shape, ~shape))
    return np.asarray(np.where(shape, inside - 0.5, 0.5 - outside), np.float32)


def _moved(depth: NDArray[np.float32], way: NDArray[np.float64]) -> NDArray[np.float32]:
    return depth if not way.any() else np.asarray(ndi.shift(depth, way, order=1, mode="nearest"))
