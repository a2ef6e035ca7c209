"""Small parts of a class: islands taken away, holes closed.

Only what lies in the box as a whole is judged: a part that its border cuts off may be
large outside, and is left::

    ██████████          ██████████
    ███  █████    ──>   ██████████     holes of the class: closed
    ██████████          ██████████
           ▪                           islands: become what surrounds them

In a box of one slice, parts are parts of that picture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import cc3d
import numpy as np
import scipy.ndimage as ndi

from napari_memseg.annotation.tools.edit import Edit, Scene
from napari_memseg.annotation.tools.fill import CORNERS, FACES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_memseg.annotation.composite import Composite
    from napari_memseg.geometry import Box

    Mask = NDArray[np.bool_]


def remove_islands(composite: Composite, class_id: int, box: Box, smaller_than: int) -> Edit:
    """Turn small parts of a class into what is nearest around them.

    Parts hang together where voxels share a corner at least. Where there is nothing around
    but what nobody predicted, the opinion is taken back.

    Parameters
    ----------
    composite : Composite
        What is shown.
    class_id : int
        Whose parts.
    box : Box
        Of at most ``MOST_VOXELS``.
    smaller_than : int
        Voxels from which on a part stays.
    """
    scene = Scene.of(composite, box)
    scene.value(class_id)
    islands = _small(scene.shown == class_id, smaller_than, CORNERS, scene.cut())
    return scene.edit(box, nearest(scene.shown, islands), islands, "remove islands")


def close_holes(composite: Composite, class_id: int, box: Box, smaller_than: int) -> Edit:
    """Give a class the small holes in it: background that it encloses by faces.

    A hole that holds another class, or an opinion, is none: it is left as it is. Parameters
    as for ``remove_islands``. A hole at a face of the volume is open there.
    """
    scene = Scene.of(composite, box)
    outside = scene.shown != class_id
    faces = [(axis, end) for axis in range(3) if box.shape[axis] > 1 for end in (0, -1)]
    holes = _small(outside, smaller_than, FACES, faces, spoilt=outside & ~scene.free(class_id))
    return scene.edit(box, class_id, holes, "close holes")


def nearest(shown: NDArray[np.unsignedinteger], gaps: Mask) -> NDArray[np.unsignedinteger]:
    """Return what is shown, with the value of the nearest other voxel where there are gaps."""
    if not gaps.any() or gaps.all():
        return shown
    where = ndi.distance_transform_edt(gaps, return_distances=False, return_indices=True)
    return np.asarray(shown[tuple(where)])


def _small(
    mask: Mask,
    smaller_than: int,
    neighbours: Literal[6, 26],
    faces: list[tuple[int, int]],
    spoilt: Mask | None = None,
) -> Mask:
    """Return the parts of a mask that are small, touch none of the faces, and hold no spoilt voxel."""
    if mask.all():
        return np.zeros(mask.shape, bool)
    labels, count = cc3d.connected_components(mask, connectivity=neighbours, return_N=True)
    small = np.bincount(labels.ravel(), minlength=count + 1) < smaller_than
    small[0] = False
    for axis, end in faces:
        small[np.unique(labels.take(end, axis))] = False
    if spoilt is not None:
        small[np.unique(labels[spoilt])] = False
    return np.asarray(small[labels])
