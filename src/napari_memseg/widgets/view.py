"""What a person looks at, as a box of voxels."""

from __future__ import annotations

import numpy as np
from napari import Viewer
from napari.components import ViewerModel
from napari.layers import Labels

from napari_memseg.geometry import Box, Zyx, zyx
from napari_memseg.widgets.napari_compat import slice_point

WINDOW: Zyx = (96, 96, 96)
"""So much is previewed about the middle of a volume that is shown in 3D, in voxels."""


def behind(viewer: ViewerModel) -> int:
    """Return how many axes other layers have before those of a volume: a film has its time there."""
    return int(viewer.dims.ndim) - 3


def slider_axis(viewer: Viewer) -> int | None:
    """Return the axis (0 to 2) of a volume along which one slice is shown; None in 3D."""
    found = (axis - behind(viewer) for axis in viewer.dims.not_displayed)
    return next((axis for axis in found if axis >= 0), None)


def window(viewer: Viewer, layer: Labels, shape: Zyx) -> Box:
    """Return what a preview is for: in 2D what is on the screen, in 3D a window about the camera's centre."""
    if viewer.dims.ndisplay == 2:
        return visible_box(viewer, layer, shape)
    centre = layer.world_to_data(viewer.scene.camera.center)
    start = zyx(
        int(np.clip(round(c) - w // 2, 0, max(n - w, 0)))
        for c, w, n in zip(centre, WINDOW, shape, strict=True)
    )
    return Box.at(start, WINDOW).clip(shape)


def visible_box(viewer: Viewer, layer: Labels, shape: Zyx) -> Box:
    """Return the voxels of a volume that are on the screen: in 2D of one slice, in 3D all.

    Parameters
    ----------
    viewer : Viewer
        That shows the layer.
    layer : Labels
        On the volume's grid, single-scale or multiscale.
    shape : (z, y, x)
        Of the volume.
    """
    if viewer.dims.ndisplay == 3:
        return Box.whole(shape)
    factor = np.ones(3)
    if layer.multiscale:
        factor = np.asarray(layer.downsample_factors[layer.data_level])
    low, high = layer.corner_pixels * factor
    here = slice_point(layer)
    start, stop = [0, 0, 0], list(shape)
    for axis in range(3):
        if np.isnan(here[axis]):  # it is displayed
            start[axis], stop[axis] = int(low[axis]), int(np.ceil(high[axis] + factor[axis]))
        else:
            start[axis] = int(np.clip(round(here[axis]), 0, shape[axis] - 1))
            stop[axis] = start[axis] + 1
    return Box(zyx(start), zyx(stop)).clip(shape)
