"""Which part of a volume a run is to predict: all, what is seen, or a rectangle that somebody drew."""

from __future__ import annotations

import numpy as np
from napari.layers import Shapes
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QSpinBox, QWidget

from napari_memseg.geometry import Box, zyx
from napari_memseg.widgets.desk import Desk
from napari_memseg.widgets.layers import grid
from napari_memseg.widgets.parts import Button, Choice, column, form, row

WHOLE, SEEN, DRAWN = "the whole volume", "what is visible", "a rectangle"
LAYER = "region"


class RegionChoice(QWidget):
    """A choice of region, with the tool to draw one.

    Signals
    -------
    changed
        Another region is chosen, or drawn, or seen if that is what counts.
    """

    changed = Signal()

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk
        self._drawn: Shapes | None = None
        self.kind = Choice((WHOLE, SEEN, DRAWN))
        self.kind.currentIndexChanged.connect(self._show)
        self.slices = QSpinBox()
        self.slices.setRange(1, 100_000)
        self.slices.setValue(64)
        self.slices.valueChanged.connect(self.changed)
        self.slices.setToolTip("Slices of the region, with the one that is shown in the middle")
        self.draw = Button("Draw", self._draw, "Draw a rectangle on the slice that is shown")
        self.slices_form = form(Slices=row(self.slices, self.draw))
        layout = column(self)
        layout.addWidget(self.kind)
        layout.addWidget(self.slices_form)
        desk.session_changed.connect(self._forget)
        desk.segmenting.moved.connect(self._on_moved)
        self._show()

    def why_not(self) -> str:
        """Say what is missing for the chosen region; nothing where it is known."""
        session, kind = self._desk.session, self.kind.currentText()
        if session is None or kind == WHOLE:
            return ""
        if kind == SEEN:
            return self._why_nothing_is_seen()
        found = self._rectangle()
        if found is None:
            return "Draw a rectangle first: press Draw, then drag on the slice."
        if found.clip(session.shape).is_empty:
            return "The rectangle lies beside the volume: draw another one on it."
        return ""

    def _why_nothing_is_seen(self) -> str:
        if self._desk.viewer.dims.ndisplay == 3:
            return "In 3D all is visible: go back to 2D, or choose the whole volume."
        if self._desk.visible_box() is None:
            return "The layers of the session are not shown: show them again, on the page Open."
        return ""

    def box(self) -> Box | None:
        """Return the region in voxels of the working level; None for the whole volume."""
        session, kind = self._desk.session, self.kind.currentText()
        if session is None or kind == WHOLE or (kind == SEEN and self._desk.viewer.dims.ndisplay == 3):
            return None
        found = self._rectangle() if kind == DRAWN else self._desk.visible_box()
        return None if found is None else self._deepened(found).clip(session.shape)

    def _deepened(self, box: Box) -> Box:
        """Give a box the depth that was chosen, along the axis that it is flat along."""
        before, after = (self.slices.value() - 1) // 2, self.slices.value() // 2
        low = zyx(before if length == 1 else 0 for length in box.shape)
        return box.grow(low, zyx(after if length == 1 else 0 for length in box.shape))

    def _show(self, _: int = 0) -> None:
        self.slices_form.setVisible(self.kind.currentText() != WHOLE)
        self.draw.setVisible(self.kind.currentText() == DRAWN)
        self.changed.emit()

    def _forget(self) -> None:
        """Take away what was drawn on another session, whose grid is another."""
        layer = self._layer()
        if self._desk.session is None and layer is not None:
            self._desk.viewer.layers.remove(layer)

    def _layer(self) -> Shapes | None:
        """Return the layer that we made to draw on, while it is there."""
        return self._drawn if self._drawn in self._desk.viewer.layers else None

    def _on_moved(self) -> None:
        if self.kind.currentText() == SEEN:
            self.changed.emit()

    def _on_drawn(self) -> None:
        self.changed.emit()

    def _rectangle(self) -> Box | None:
        """Return what the last rectangle covers: one voxel thick along an axis that it is flat along."""
        layer = self._layer()
        if layer is None or not layer.data:
            return None
        corners = np.round(np.asarray(layer.data[-1], float)).astype(int)
        low, high = corners.min(axis=0), corners.max(axis=0)
        return Box(zyx(np.maximum(low, 0)), zyx(np.maximum(high, low + 1)))

    def _draw(self) -> None:
        session, viewer = self._desk.session, self._desk.viewer
        if session is None:
            return
        layer = self._layer()
        if layer is None:
            style = {"face_color": "transparent", "edge_color": "#ccbb44", "edge_width": 2}
            layer = self._drawn = Shapes(name=LAYER, ndim=3, **style, **grid(session))
            layer.events.data.connect(self._on_drawn)
            viewer.add_layer(layer)
        viewer.layers.selection.active = layer
        layer.mode = "add_rectangle"
