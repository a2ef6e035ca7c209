"""A place in the volume that several views share, and what ties one view to it.

Each view shows a slice along one axis. Its slider says where the place is along that
axis, a click says it along the other two, and a crosshair shows both::

    view (z)  slider ──z──┐              ┌──z──> slider of view (z)
    view (y)  slider ──y──┼──> Cursor ───┼──y──> slider of view (y)
    Shift+click, T  ─z,y,x┘   (voxels)   └─all─> crosshair in each

A view is moved along its own axis alone: to be told of the others would make it read
its slice again for nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from napari.components import ViewerModel
from napari.qt import QtViewer
from numpy.typing import NDArray
from qtpy.QtCore import QEvent, QObject, QTimer, Signal
from qtpy.QtWidgets import QApplication

from napari_memseg.annotation.session import Session
from napari_memseg.geometry import Zyx, zyx
from napari_memseg.widgets.layers import grid
from napari_memseg.widgets.napari_compat import Crosshair, picture_of, world_factor
from napari_memseg.widgets.view import behind

HERE = "T"
"""The key that moves the cursor under the mouse; held, it follows."""
GAP_PIXELS = 14
"""Between the cursor and the lines that point at it: what is painted there shall be seen."""
COLOR = "#ffcc33"


class Cursor(QObject):
    """A voxel of the session's grid.

    Signals
    -------
    moved
        ``voxel`` is another one.
    """

    moved = Signal()

    def __init__(self, shape: Zyx, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.shape = shape
        self.voxel: Zyx = zyx(n // 2 for n in shape)

    def move(self, voxel: Zyx) -> None:
        """Go to a voxel, or to the nearest one of the volume."""
        inside = zyx(min(max(v, 0), n - 1) for v, n in zip(voxel, self.shape, strict=True))
        if inside != self.voxel:
            self.voxel = inside
            self.moved.emit()


class Link(QObject):
    """What ties one viewer to the cursor: slider, Shift+click, the key ``T`` and a crosshair.

    Parameters
    ----------
    viewer : ViewerModel
        Of any number of axes; the last three are those of the volume.
    canvas : QtViewer
        Its picture.
    session : Session
        On whose grid the cursor moves.
    cursor : Cursor
        That is shared.
    """

    def __init__(
        self, viewer: ViewerModel, canvas: QtViewer, session: Session, cursor: Cursor, parent: QObject
    ) -> None:
        super().__init__(parent)
        self._viewer, self._cursor, self._unit = viewer, cursor, session.image.unit
        where = grid(session)
        self._scale, self._offset = np.asarray(where["scale"]), np.asarray(where["translate"])
        self._moving = False
        self.crosshair = Crosshair(canvas, COLOR)
        cursor.moved.connect(self.follow)
        for event in self._slider_events():
            event.connect(self.lead)
        for event in self._view_events():
            event.connect(self._on_view)
        self._picture = picture_of(canvas)
        self._picture.installEventFilter(self)
        viewer.mouse_drag_callbacks.insert(0, self._on_drag)
        viewer.bind_key(HERE, self._on_key, overwrite=True)

    def _slider_events(self) -> list:  # type: ignore[type-arg] # napari's emitters carry no types
        return [self._viewer.dims.events.current_step, self._viewer.dims.events.point]

    def _view_events(self) -> list:  # type: ignore[type-arg]
        dims = self._viewer.dims.events
        return [self._viewer.scene.camera.events.zoom, dims.order, dims.ndisplay]

    @property
    def order(self) -> tuple[int, int, int] | None:
        """Axes of the volume: along which the viewer looks, downwards, to the right; None if it has less."""
        first = behind(self._viewer)
        order = [axis - first for axis in self._viewer.dims.order if axis >= first]
        return (order[0], order[1], order[2]) if first >= 0 else None

    @property
    def axis(self) -> int | None:
        """The axis of the volume that has the slider; None where there is none, as in 3D."""
        return self.order[0] if self.order is not None and self._viewer.dims.ndisplay == 2 else None

    def follow(self) -> None:
        """Stand where the cursor is."""
        axis = self.axis
        if axis is not None and self._voxel(self._viewer.dims.point)[axis] != self._cursor.voxel[axis]:
            dims = self._viewer.dims
            with self.following():
                dims.set_point(behind(self._viewer) + axis, self._world(self._cursor.voxel)[axis])
        self.draw()

    @contextmanager
    def following(self) -> Iterator[None]:
        """Take the cursor nowhere in the ``with`` body, whatever becomes of the slider."""
        before, self._moving = self._moving, True
        try:
            yield
        finally:
            self._moving = before

    def lead(self) -> None:
        """Take the cursor to where the slider stands."""
        axis = self.axis
        if axis is not None and not self._moving:
            voxel = list(self._cursor.voxel)
            voxel[axis] = self._voxel(self._viewer.dims.point)[axis]
            self._cursor.move(zyx(voxel))

    def step(self, slices: int) -> None:
        """Move the cursor by some slices along the slider's axis."""
        if (axis := self.axis) is not None:
            voxel = list(self._cursor.voxel)
            voxel[axis] += slices
            self._cursor.move(zyx(voxel))

    def go_to(self, position: Any) -> None:
        """Move the cursor to a place in the viewer's world, as its mouse tells it; in 3D it tells none."""
        if self.axis is not None and len(position) >= 3:
            self._cursor.move(self._voxel(position))

    def go_to_mouse(self) -> None:
        """Move the cursor under the mouse of this viewer."""
        self.go_to(self._viewer.cursor.position)

    def point(self) -> None:
        """Let this viewer take the cursor for the place of its mouse: tools ask it where that is."""
        position = list(self._viewer.dims.point)
        position[-3:] = self._world(self._cursor.voxel)
        self._viewer.cursor.position = tuple(position)

    def draw(self) -> None:
        """Draw the crosshair anew."""
        if self.axis is None or self.order is None:
            self.crosshair.hide()
            return
        _, down, across = self.order
        here, low = self._world(self._cursor.voxel), self._world((-0.5, -0.5, -0.5))
        high = self._world([n - 0.5 for n in self._cursor.shape])
        gap = GAP_PIXELS / self._viewer.scene.camera.zoom
        points = []
        for axis in (across, down):
            ends = [low[axis], here[axis] - gap, here[axis] + gap, high[axis]]
            ends[1], ends[2] = max(ends[1], ends[0]), min(ends[2], ends[3])
            points += [(end, here[down]) if axis == across else (here[across], end) for end in ends]
        self.crosshair.show(np.asarray(points))

    def close(self) -> None:
        """Leave the viewer as it was."""
        self._cursor.moved.disconnect(self.follow)
        for event in self._slider_events():
            event.disconnect(self.lead)
        for event in self._view_events():
            event.disconnect(self._on_view)
        self._picture.removeEventFilter(self)
        self._viewer.mouse_drag_callbacks.remove(self._on_drag)
        self._viewer.bind_key(HERE, None)
        self.crosshair.close()
        self.deleteLater()

    # Voxels and the viewer's world, whose unit need not be ours

    def _voxel(self, position: Any) -> Zyx:
        world = np.asarray(position, float)[-3:] / world_factor(self._viewer, self._unit)
        return zyx(int(v) for v in np.round((world - self._offset) / self._scale))

    def _world(self, voxel: Any) -> NDArray[np.float64]:
        inside = np.asarray(voxel, float) * self._scale + self._offset
        return np.asarray(inside * world_factor(self._viewer, self._unit))

    # What a person does

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Let keys go to the picture under the mouse, if they went to another picture before."""
        if event.type() == QEvent.Type.Enter and isinstance(QApplication.focusWidget(), type(self._picture)):
            self._picture.setFocus()
        return False

    def _on_view(self) -> None:
        self.follow()

    def _on_drag(self, viewer: ViewerModel, event: Any) -> Iterator[None]:
        if "Shift" not in event.modifiers or event.button != 1 or self.axis is None:
            return
        self._hold_tools()
        event.handled = True
        self.go_to(event.position)
        yield
        while event.type == "mouse_move":
            event.handled = True
            self.go_to(event.position)
            yield

    def _hold_tools(self) -> None:
        """Let no tool of the active layer take the press at hand for its own; napari would call it next."""
        layer = self._viewer.layers.selection.active
        if layer is not None:
            tools = list(layer.mouse_drag_callbacks)
            layer.mouse_drag_callbacks.clear()
            QTimer.singleShot(0, partial(layer.mouse_drag_callbacks.extend, tools))

    def _on_key(self, viewer: ViewerModel) -> Iterator[None]:
        """Go under the mouse, and follow it until the key is let go."""
        self.go_to_mouse()
        self._viewer.cursor.events.position.connect(self.go_to_mouse)
        yield
        self._viewer.cursor.events.position.disconnect(self.go_to_mouse)
