"""The few things that we ask of napari behind its public face, in one place.

Each has a test on a real viewer, which fails first where napari changes. Everything else in
this package uses napari's public names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from napari import Viewer
from napari.layers import Labels
from napari.utils.events import EventEmitter
from numpy.typing import NDArray
from qtpy.QtWidgets import QMainWindow

from napari_memseg.geometry import Box, zyx


def unwrapped(viewer: Viewer) -> Viewer:
    """Return the viewer itself: docks are given a proxy, which is slow and differs from what layers hold."""
    found: Viewer = getattr(viewer, "__wrapped__", viewer)
    return found


def main_window(viewer: Viewer) -> QMainWindow:
    """Return the Qt window of a viewer, which outlives our dock."""
    found: QMainWindow = viewer.window._qt_window
    return found


def connect_before_napari(emitter: EventEmitter, callback: Callable[[], None]) -> None:
    """Be called before napari's own callbacks, behind which it puts those of all others."""
    emitter.connect(callback)
    place = emitter.callbacks.index(emitter._normalize_cb(callback)[0])
    for row in (emitter._callbacks, emitter._callback_refs, emitter._callback_pass_event):
        row.insert(0, row.pop(place))


def shown_box(layer: Labels) -> tuple[Box, int] | None:
    """Return the voxels of a (z, y, x) layer that are on the screen or just beside it, and their level.

    Returns
    -------
    box, level
        Box in voxels of that level, one voxel thick along an axis that is not displayed; None where nothing
        is shown yet, or the layer is hidden.
    """
    slice_input = layer._slice_input
    if not layer.visible or not layer.loaded or layer._slice.empty:
        return None
    level = layer.data_level if layer.multiscale else 0
    tile = layer._transforms["tile2data"]
    shape: list[int] = list(_array(layer, level).shape)
    point = slice_point(layer)
    start, stop = [0, 0, 0], [0, 0, 0]
    for axis in range(3):
        if axis in slice_input.displayed:
            raw_axis = list(slice_input.displayed).index(axis)
            start[axis] = round(tile.translate[axis] / tile.scale[axis])
            stop[axis] = start[axis] + layer._slice.image.raw.shape[raw_axis]
        else:
            factor = layer.downsample_factors[level][axis] if layer.multiscale else 1.0
            start[axis] = int(np.clip(round(point[axis] / factor), 0, shape[axis] - 1))
            stop[axis] = start[axis] + 1
    return Box(zyx(start), zyx(stop)), level


def shows_volume(layer: Labels) -> bool:
    """Whether a layer is rendered in 3D."""
    return bool(layer._slice_input.ndisplay == 3)


def slice_point(layer: Labels) -> NDArray[np.float64]:
    """Return where the sliders stand, in voxels of the finest level; nan along an axis that is displayed.

    ``world_to_data`` says another place where a layer has other units than the viewer.
    """
    return np.asarray(layer._data_slice.point, np.float64)


def patch(
    layer: Labels, box: Box, level: int, values: NDArray[Any], *, shown: tuple[Box, int] | None = None
) -> bool:
    """Replace a part of what a labels layer shows, without reading the rest again.

    Parameters
    ----------
    layer : Labels
        (z, y, x), in any order of axes, single-scale or multiscale.
    box : Box
        Where, in voxels of ``level``.
    level : int
        For which level the values are.
    values : (z, y, x) array
        As large as the box.
    shown : (Box, int), optional
        What ``shown_box`` says, where it was asked already.

    Returns
    -------
    bool
        Whether anything of it is on the screen now.
    """
    shown = shown or shown_box(layer)
    if shown is None or shown[1] != level or (part := box & shown[0]).is_empty:
        return False
    displayed = list(layer._slice_input.displayed)
    seen = values[part.relative_to(box.start).slices]
    kept = seen.transpose([a for a in range(3) if a not in displayed] + displayed)
    kept = kept.reshape([part.shape[a] for a in displayed])
    where = tuple(part.relative_to(shown[0].start).slices[a] for a in displayed)
    image = layer._slice.image
    image.raw[where] = kept
    image.view[where] = layer.colormap._data_to_texture(np.ascontiguousarray(kept))
    offset = [span.start for span in where]
    layer.events.labels_update(data=image.view[where], offset=offset)
    return True


def forget_history(layer: Labels) -> None:
    """Drop napari's own undo list of a layer: ours is on disk, and napari's holds a copy of every stroke."""
    layer._reset_history()


def _array(layer: Labels, level: int) -> Any:
    return layer.data[level] if layer.multiscale else layer.data
