"""One object becomes two: a watershed from two strokes.

A person paints a stroke of its class on the part that keeps it, and a stroke of another
class on the part that gets that one. Both spread over what was predicted between them,
and meet where the object is narrow, or where the image has an edge::

    ▓▓▓▓▓▓▓▓▓▓▓▓▓▓            aaaaaaa│bbbbbb
    ▓ a ▓▓╲   ╱▓ b ▓   ──>    aaaaaa╲│╱bbbbb
    ▓▓▓▓▓▓▓▓▓▓▓▓▓▓            aaaaaaa│bbbbbb

Watershed as in P. Soille and L. Vincent (1990), https://doi.org/10.1117/12.24211, by
scikit-image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.ndimage as ndi
from skimage.segmentation import watershed

from napari_memseg.annotation.tools.edit import Edit, Scene
from napari_memseg.annotation.tools.fill import region_at
from napari_memseg.errors import InputError
from napari_memseg.geometry import Box, Zyx

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from napari_memseg.annotation.composite import Composite

MOST_SPLIT = 2**22
"""Voxels of the largest box in which an object is split: a cube of 160³."""


def split(
    composite: Composite,
    at: Zyx,
    class_id: int,
    within: Box | None = None,
    grey: Callable[[Box], NDArray[Any]] | None = None,
) -> Edit:
    """Part the object under the cursor by the strokes that were painted on it.

    Parameters
    ----------
    composite : Composite
        What is shown.
    at : (z, y, x)
        A voxel of the object that nobody painted: what is shown there is the object's class.
    class_id : int
        The class of the other part.
    within : Box, optional
        Where to look for the object; by default everywhere.
    grey : callable of Box -> array, optional
        Reads the image: the border then lies on its edges. By default it lies where the object is narrow.

    Raises
    ------
    InputError
        If the cursor is not on an unpainted object, or one of the two strokes is missing.
    GeometryError
        If the object does not fit into a box of ``MOST_SPLIT`` voxels.
    """
    here = Scene.of(composite, Box.at(at, (1, 1, 1)))
    base, value = int(here.shown[0, 0, 0]), here.value(class_id)
    _check(here, base, class_id)

    def alike(scene: Scene) -> NDArray[np.bool_]:
        return np.asarray((scene.shown == base) | (scene.opinions == value))

    scene, region = region_at(composite, at, within or Box.whole(composite.shape), alike, MOST_SPLIT)
    markers = np.zeros(region.shape, np.int32)
    markers[region & (scene.opinions == scene.value(base))] = 1
    markers[region & (scene.opinions == value)] = 2
    _check_strokes(markers, base, class_id)
    parts = watershed(_landscape(scene.box, region, grey), markers, mask=region)
    untouched = scene.opinions == 0
    return scene.edit(scene.box, class_id, (parts == 2) & untouched, "split")


def _landscape(
    box: Box, region: NDArray[np.bool_], grey: Callable[[Box], NDArray[Any]] | None
) -> NDArray[np.float64]:
    """Return what water climbs: edges of the image, or what is far from the middle of the object."""
    if grey is None:
        return np.asarray(-ndi.distance_transform_edt(region))
    picture = np.squeeze(grey(box).astype(np.float32))  # a slice has no edges across
    return np.asarray(ndi.gaussian_gradient_magnitude(picture, 1)).reshape(region.shape)


def _check(here: Scene, base: int, class_id: int) -> None:
    if base in (0, here.classes.not_predicted) or here.opinions.any():
        raise InputError(
            f"To split, point at a part of the object that nobody painted, between the strokes (here is "
            f"{'a stroke' if here.opinions.any() else 'no object'})."
        )
    if base == class_id:
        raise InputError(
            f"The object under the cursor is class {base} already. Choose the class that the other part gets."
        )


def _check_strokes(markers: NDArray[np.int32], base: int, class_id: int) -> None:
    missing = [c for mark, c in ((1, base), (2, class_id)) if not (markers == mark).any()]
    if missing:
        raise InputError(
            f"A split needs a stroke on each part of the object: of class {base} on what stays, and of class "
            f"{class_id} on what gets that one. Missing here: {' and '.join(f'class {c}' for c in missing)}."
        )
