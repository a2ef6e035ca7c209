"""Regions under the cursor: filled, given another class, merged.

A region is what hangs together by faces and is shown alike. It is looked for in a small
box about the cursor that grows at those sides which the region reaches, so that a small
object of a large volume costs what a small object does::

    ┌───────────────┐
    │     ┌────┐    │    the box grows where the region leaves it,
    │     │ ▓▓▓▓▓▓  │    up to MOST_VOXELS, and never beyond ``within``
    │     └────┘    │
    └───────────────┘
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import cc3d

from napari_memseg.annotation.tools.edit import MOST_VOXELS, Edit, Scene, bounds, check_room, index_in
from napari_memseg.errors import GeometryError, InputError
from napari_memseg.geometry import Box, Zyx, zyx

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from napari_memseg.annotation.composite import Composite

    Mask = NDArray[np.bool_]
    Alike = Callable[[Scene], Mask]

FACES: Final = 6
CORNERS: Final = 26
"""Neighbours of a voxel: those that share a face, and those that share a corner at least."""
FIRST: Zyx = (64, 64, 64)
"""Size of the box in which a region is looked for first, in voxels."""
CUT = "It ends at the border of what was looked at; move the view and do it again to go on."


def fill(composite: Composite, at: Zyx, class_id: int, within: Box) -> Edit:
    """Give the region under the cursor a class: in a slice, or in a box of several.

    Parameters
    ----------
    composite : Composite
        What is shown.
    at : (z, y, x)
        Voxel under the cursor.
    class_id : int
        0 for background.
    within : Box
        A slice or a box about the cursor, which the fill does not leave; the note says where it would.

    Raises
    ------
    GeometryError
        If the voxel is not in the box, or the box has more than ``MOST_VOXELS``.
    """
    check_room(within)
    scene, region = region_at(composite, at, within)
    note = CUT if _touches(region, scene.cut()) else ""
    return _recolored(scene, region, class_id, "fill region", note)


def recolor_object(composite: Composite, at: Zyx, class_id: int, within: Box | None = None) -> Edit:
    """Give the whole object under the cursor another class: a predicted one, or one that was painted.

    Parameters
    ----------
    composite, at, class_id
        As for ``fill``.
    within : Box, optional
        Where to look for it; by default everywhere. In a slice, the object's section there.

    Raises
    ------
    InputError
        If there is background, or nothing, under the cursor.
    GeometryError
        If the object does not fit into a box of ``MOST_VOXELS``.
    """
    scene, region = region_at(composite, at, within or Box.whole(composite.shape))
    _check_object(scene, at)
    return _recolored(scene, region, class_id, "recolour object")


def merge(composite: Composite, at: Zyx, class_id: int, box: Box) -> Edit:
    """Turn everything of the class under the cursor into another, in a box.

    Parameters
    ----------
    composite, at, class_id
        As for ``fill``.
    box : Box
        Of at most ``MOST_VOXELS``.

    Raises
    ------
    InputError
        If there is background, or nothing, under the cursor.
    """
    scene = Scene.of(composite, box)
    _check_object(scene, at)
    here = scene.shown[index_in(box, at)]
    return _recolored(scene, scene.shown == here, class_id, "merge classes")


def region_at(
    composite: Composite, at: Zyx, within: Box, alike: Alike | None = None, most: int = MOST_VOXELS
) -> tuple[Scene, Mask]:
    """Find the region that hangs together with one voxel.

    Parameters
    ----------
    composite : Composite
        What is shown.
    at : (z, y, x)
        The voxel.
    within : Box
        Where to look.
    alike : callable of Scene -> bool array, optional
        What belongs together; by default what is shown as the voxel is.
    most : int
        Voxels of the largest box to look at.

    Returns
    -------
    scene, region
        A box around all of the region (as far as it is in ``within``), and where it is in there.

    Raises
    ------
    GeometryError
        If the voxel is not in ``within``, or the region is too large.
    """
    index_in(within, at)
    half = zyx(n // 2 for n in FIRST)
    box = Box.at(at, (1, 1, 1)).grow(half) & within
    while True:
        scene = Scene.of(composite, box)
        here = index_in(box, at)
        belongs = alike(scene) if alike else scene.shown == scene.shown[here]
        labels = cc3d.connected_components(belongs, connectivity=FACES)
        region = (labels == labels[here]) & belongs
        faces = [(axis, end) for axis, end in scene.cut(within) if region.take(end, axis).any()]
        if not faces:
            return scene, region
        known = bounds(region)
        larger = (_larger(known, faces, share) for share in (2, 4, 8, 16))
        boxes = (part.relative_to(zyx(-n for n in box.start)) & within for part in larger)
        found = next((part for part in boxes if part.size <= most), None)
        if found is None:
            raise GeometryError(
                f"What hangs together here reaches beyond {box.size:,} voxels {box.shape}; {most:,} is the "
                "most that is looked at. Fill it in a slice, or part it with strokes of background first."
            )
        box = found


def _larger(known: Box, faces: list[tuple[int, int]], share: int) -> Box:
    """Return the box of what is known of a region, with more behind the faces where it goes on.

    The margin of one voxel at the others, where it is known to end, says so again.
    """
    low, high = [1, 1, 1], [1, 1, 1]
    for axis, end in faces:
        (high if end else low)[axis] = max(known.shape[axis] // share, 16)
    return known.grow(zyx(low), zyx(high))


def _touches(mask: Mask, faces: list[tuple[int, int]]) -> bool:
    return any(mask.take(end, axis).any() for axis, end in faces)


def _recolored(scene: Scene, region: Mask, class_id: int, tool: str, note: str = "") -> Edit:
    scene.value(class_id)
    return scene.edit(scene.box, class_id, region, tool, note)


def _check_object(scene: Scene, at: Zyx) -> None:
    shown = int(scene.shown[index_in(scene.box, at)])
    if shown == scene.classes.not_predicted:
        raise InputError(
            f"Nothing is shown at {at}: nobody painted there, and no run has predicted it. "
            "Point at an object, or fill the region instead."
        )
    if shown == 0:
        raise InputError(f"There is background at {at}. Point at an object, or fill the region instead.")
