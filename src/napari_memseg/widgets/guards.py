"""What would read a whole volume at its finest level is hidden while the viewer shows 3D.

napari renders the coarsest level of a pyramid, but all of a layer that has one level
alone: for those, memory and the graphics card would have to hold everything.
"""

from __future__ import annotations

from napari import Viewer
from napari.layers import Image, Labels, Layer
from napari.utils.notifications import show_info
from qtpy.QtCore import QObject

from napari_memseg.widgets.layers import bytes_of
from napari_memseg.widgets.napari_compat import connect_before_napari

MOST_BYTES_3D = 256 * 2**20
"""A layer without a pyramid that is larger is not shown in 3D."""


class Guard3D(QObject):
    """Hides large single-scale layers in 3D, and shows them again in 2D."""

    def __init__(self, viewer: Viewer, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._hidden: list[Layer] = []
        connect_before_napari(viewer.dims.events.ndisplay, self._before_3d)
        connect_before_napari(viewer.layers.events.inserted, self._before_3d)
        viewer.dims.events.ndisplay.connect(self._after_2d)

    def close(self) -> None:
        """Guard no more."""
        self._viewer.dims.events.ndisplay.disconnect(self._before_3d)
        self._viewer.layers.events.inserted.disconnect(self._before_3d)
        self._viewer.dims.events.ndisplay.disconnect(self._after_2d)

    def _after_2d(self) -> None:
        """Show again what was hidden and not deleted, once napari reads planes."""
        if self._viewer.dims.ndisplay == 2:
            for layer in self._hidden:
                if layer in self._viewer.layers:
                    layer.visible = True
            self._hidden.clear()

    def _before_3d(self) -> None:
        """Hide what is too large before napari reads it; a layer may also come while 3D is shown."""
        if self._viewer.dims.ndisplay != 3:
            return
        layers = [layer for layer in self._viewer.layers if layer.visible and _is_too_large(layer)]
        for layer in layers:
            layer.visible = False
            self._hidden.append(layer)
        if layers:
            names = ", ".join(repr(layer.name) for layer in layers)
            show_info(
                f"{names} cannot be shown in 3D: no coarse level is there, so all of it would be read. "
                "The result is shown instead; for the image, build a pyramid (page Open)."
            )


def _is_too_large(layer: Layer) -> bool:
    single = isinstance(layer, Image | Labels) and not layer.multiscale and layer.ndim > 2
    return single and bytes_of(layer) > MOST_BYTES_3D
