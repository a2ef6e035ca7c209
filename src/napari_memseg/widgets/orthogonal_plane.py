"""One more plane of a session: a small viewer whose layers are twins of the main one's.

Its slices are read in a thread, since a plane across the slices of a stack touches all of
them. It is a canvas and a slider, no more: layers are chosen, coloured and hidden in the
main viewer, and keys that are pressed over the plane go on to it::

    key ──> corrections of the plane ──> the plane's own (T, arrows, Ctrl+R) ──> main viewer

An edit tool works on the slice of the main viewer, which goes under the mouse first.

A plane above 4096² voxels is only looked at, coarse, as the pyramids of result and image
allow: it is not painted on, and what has no pyramid is not shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from napari import Viewer
from napari.components import ViewerModel
from napari.layers import Labels, Layer
from napari.qt import QtViewer
from napari.utils.key_bindings import KeymapProvider, coerce_keybinding
from qtpy.QtCore import QTimer
from qtpy.QtGui import QResizeEvent, QShowEvent
from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_memseg.widgets.desk import Desk
from napari_memseg.widgets.keys import GREY_KEY, TOOL_KEYS
from napari_memseg.widgets.napari_compat import (
    free_in_own_context,
    hear_keys,
    hide_play,
    slice_in_thread,
    stop_slicing,
)
from napari_memseg.widgets.orthogonal_link import Cursor, Link
from napari_memseg.widgets.orthogonal_twins import Twin, twin_of
from napari_memseg.widgets.parts import Hint

LARGEST = 4096**2
"""Voxels of a plane that can be painted on, or shown without a pyramid."""
SMALLEST = (160, 200)
"""Of a plane with its slider, in pixels."""
NAMES = ("image", "result", "confidence", "corrections")
"""Layers of a session, the lowest first."""


class Keys(KeymapProvider):
    """Keys that were bound for one viewer, without those that napari binds for all."""

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__()
        self._keymap = viewer.keymap


class Through(KeymapProvider):
    """Keys that were bound for the main viewer, as they are at each moment.

    Parameters
    ----------
    viewer : Viewer
        The main one.
    before : callable
        Called before a tool, which asks the main viewer where the mouse is.
    """

    def __init__(self, viewer: Viewer, before: Callable[[], None]) -> None:
        super().__init__()
        self._viewer, self._before = viewer, before
        self._tools = {coerce_keybinding(key) for key in (*TOOL_KEYS.values(), GREY_KEY)}

    @property
    def keymap(self) -> dict[Any, Callable[[Any], Any]]:
        """Functions by key."""
        return {key: self._through(key, does) for key, does in self._viewer.keymap.items()}

    def _through(self, key: Any, does: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def call(_: Any) -> Any:
            if key in self._tools:
                self._before()
            return does(self._viewer)

        return call


class Plane(QWidget):
    """A second canvas on an open session, along another axis.

    Parameters
    ----------
    desk : Desk
        Whose session is open.
    cursor : Cursor
        Where it looks.
    main : Link
        Of the main viewer to the same cursor.

    Attributes
    ----------
    viewer : ViewerModel
        Of its own, with twins of the session's layers.
    """

    def __init__(self, desk: Desk, cursor: Cursor, main: Link) -> None:
        super().__init__()
        assert desk.session is not None
        self._desk, self._cursor, self._main = desk, cursor, main
        self._twins: dict[str, Twin] = {}
        self._fitted: tuple[float, ...] | None = None
        self.viewer = ViewerModel(title="plane")
        slice_in_thread(self.viewer)
        self.canvas = QtViewer(self.viewer)
        free_in_own_context(self.viewer, self.canvas)
        self.canvas.setAcceptDrops(False)
        self.canvas.setMinimumSize(*SMALLEST)
        self.hint = Hint()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.canvas, stretch=1)
        layout.addWidget(self.hint)
        self.link = Link(self.viewer, self.canvas, desk.session, cursor, self)
        self._bind_keys()
        desk.viewer.layers.selection.events.active.connect(self._take_active)
        desk.viewer.events.theme.connect(self._take_theme)
        self._take_theme()

    @property
    def corrections(self) -> Labels | None:
        """The layer that is painted on; None where the plane is too large."""
        twin = self._twins.get("corrections")
        return None if twin is None else twin.layer

    def show_layers(self, order: tuple[int, ...]) -> None:
        """Show what the main viewer shows of the session, as it is now.

        Parameters
        ----------
        order : (int, int, int)
            Axes of the volume: the one that the slice is taken along, then downwards, then to the right.
        """
        sources = self._sources(order)
        for name in [name for name, twin in self._twins.items() if sources.get(name) is not twin.source]:
            self._remove(name)
        with self.link.following():  # napari begins in the middle of the first axis, whichever is shown
            for place, (name, source) in enumerate(sources.items()):
                if name not in self._twins:
                    twin = self._twins[name] = twin_of(name, source, self._desk)
                    self.viewer.layers.insert(place, twin.layer)
            if self._twins and self.viewer.dims.order != order:
                self.viewer.dims.order = order
        if self._twins:
            self.viewer.dims.axis_labels = ("z", "y", "x")
            hide_play(self.canvas)
            self.link.follow()
            self._fit_unless_moved()
        self._take_active()
        self.hint.say(self._missing(order))

    def close_plane(self) -> None:
        """Let go of the session; the widget is of no use any more."""
        self._desk.viewer.layers.selection.events.active.disconnect(self._take_active)
        self._desk.viewer.events.theme.disconnect(self._take_theme)
        self.link.close()
        stop_slicing(self.viewer)
        self.viewer.layers.selection.active = None
        for twin in self._twins.values():  # layers go with their viewer: each that is removed takes its time
            twin.close()
        self._twins.clear()
        self.canvas.close()
        self.deleteLater()

    def _sources(self, order: tuple[int, ...]) -> dict[str, Layer]:
        """Return the session's layers that can be shown across ``order[0]``."""
        found = {name: getattr(self._desk.shown, name, None) for name in NAMES}
        large = self._size(order) > LARGEST
        return {
            name: layer
            for name, layer in found.items()
            if layer is not None and not (large and not getattr(layer, "multiscale", False))
        }

    def _size(self, order: tuple[int, ...]) -> int:
        return prod(self._cursor.shape[axis] for axis in order[1:])

    def _missing(self, order: tuple[int, ...]) -> str:
        if self._size(order) <= LARGEST:
            return ""
        image = getattr(self._desk.shown, "image", None)
        build = (
            "" if getattr(image, "multiscale", False) else " Build a pyramid to see the image (page Open)."
        )
        return f"This plane has {self._size(order):,} voxels: it is shown coarse and not painted on.{build}"

    def _remove(self, name: str) -> None:
        twin = self._twins.pop(name)
        twin.close()
        self.viewer.layers.remove(twin.layer)

    # Like the main viewer

    def _take_active(self) -> None:
        """Choose the twin of the layer that is chosen there: its tools work here."""
        active = self._desk.viewer.layers.selection.active
        chosen = [twin.layer for twin in self._twins.values() if twin.source is active]
        self.viewer.layers.selection.active = chosen[0] if chosen else None

    def _take_theme(self) -> None:
        self.viewer.theme = self._desk.viewer.theme

    def fit(self) -> None:
        """Show all of the plane, also when its size changes, until somebody zooms or pans."""
        self.viewer.reset_view()
        self._fitted = self._view()

    def _fit_unless_moved(self) -> None:
        if self._twins and self._fitted in (None, self._view()):
            self.fit()

    def _view(self) -> tuple[float, ...]:
        camera = self.viewer.scene.camera
        return (camera.zoom, *camera.center)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Fit the plane into its new size, once the canvas has it."""
        QTimer.singleShot(0, self._fit_unless_moved)
        super().resizeEvent(event)

    def showEvent(self, event: QShowEvent) -> None:
        """Catch up with the cursor."""
        self.link.follow()
        super().showEvent(event)

    # Keys

    def _bind_keys(self) -> None:
        self._keys, self._through = Keys(self.viewer), Through(self._desk.viewer, self._lead_main)
        for key, does in (("Left", self._back), ("Right", self._on), ("Control-R", self._fit)):
            self.viewer.bind_key(key, does, overwrite=True)
        hear_keys(self.canvas, self._providers)

    def _providers(self) -> Sequence[Any]:
        active = self.viewer.layers.selection.active
        return [*([] if active is None else [active]), self._keys, self._through, self._desk.viewer]

    def _lead_main(self) -> None:
        self.link.go_to_mouse()
        self._main.point()

    def _back(self, _: Any) -> None:
        self.link.step(-1)

    def _on(self, _: Any) -> None:
        self.link.step(1)

    def _fit(self, _: Any) -> None:
        self.fit()
