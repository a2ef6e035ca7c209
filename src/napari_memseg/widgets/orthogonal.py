"""The dock "Orthogonal views": the two other planes through a place, linked with the main view.

::

    ┌ main viewer ───────┐   cursor (z, y, x): Shift+click or T in any of the three,
    │ along z   ─┼─      │   or any of the three sliders
    └────────────────────┘
    ┌ along y ┬ along x ─┐   one brush, one class, one mode, one journal:
    │  ─┼─    │   ─┼─    │   painted in one, patched into all
    └─────────┴──────────┘

The dock holds nothing where no session is open. Where the axes of the main view are
rolled or transposed, the planes are again the two others.
"""

from __future__ import annotations

from napari import Viewer
from qtpy.compat import isalive
from qtpy.QtCore import QEvent, QSize, Qt, QTimer
from qtpy.QtGui import QResizeEvent
from qtpy.QtWidgets import QDockWidget, QSplitter, QVBoxLayout, QWidget

from napari_memseg.widgets.desk import desk_of
from napari_memseg.widgets.napari_compat import canvas_of, main_window, unwrapped
from napari_memseg.widgets.orthogonal_link import Cursor, Link
from napari_memseg.widgets.orthogonal_plane import Plane
from napari_memseg.widgets.orthogonal_twins import Follower
from napari_memseg.widgets.pages.page import NO_SESSION
from napari_memseg.widgets.parts import Hint, fills
from napari_memseg.widgets.session_layers import SessionLayers

PLUGIN, DOCK = "napari-memseg", "Orthogonal views"
HEIGHT = 300
"""Of the dock when it is first shown, in pixels."""
CORNERS = {
    Qt.Corner.BottomLeftCorner: Qt.DockWidgetArea.LeftDockWidgetArea,
    Qt.Corner.BottomRightCorner: Qt.DockWidgetArea.RightDockWidgetArea,
}
"""The docks at the sides keep their height: the planes lie under the picture alone."""


def toggle(viewer: Viewer) -> None:
    """Open the dock, or take it away."""
    window = unwrapped(viewer).window
    found = [widget for widget in window.dock_widgets.values() if isinstance(widget, OrthogonalViews)]
    if found:
        window.remove_dock_widget(found[0])
    else:
        window.add_plugin_dock_widget(PLUGIN, DOCK)


class OrthogonalViews(QWidget):
    """Two planes beside the main view.

    Parameters
    ----------
    napari_viewer : Viewer
        Whose session is shown.

    Attributes
    ----------
    planes : tuple of Plane
        Two where a session is open, else none.
    place : Cursor or None
        What they share with the main view.
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        self._docked = self._over = self._settled = False
        super().__init__()
        self._desk = desk_of(napari_viewer)
        self._shown: SessionLayers | None = None
        self._follower: Follower | None = None
        self._link: Link | None = None
        self.place: Cursor | None = None
        self.planes: tuple[Plane, ...] = ()
        self.hint = Hint()
        self._splitter = QSplitter(Qt.Orientation.Horizontal)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(2, 2, 2, 2)
        layout.addWidget(self.hint)
        layout.addWidget(self._splitter, stretch=1)
        window = main_window(self._desk.viewer)
        self._corners = {corner: window.corner(corner) for corner in CORNERS}
        self._set_corners(CORNERS)
        fills(self)
        self._desk.session_changed.connect(self._on_session)
        self._on_session()

    def sizeHint(self) -> QSize:
        """Ask for some room under the picture."""
        return QSize(600, HEIGHT)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Put the planes side by side where the dock is wide, else one above the other."""
        wide = self.width() >= self.height()
        self._splitter.setOrientation(Qt.Orientation.Horizontal if wide else Qt.Orientation.Vertical)
        super().resizeEvent(event)

    def event(self, event: QEvent) -> bool:
        """Let go of everything when napari takes the dock out of its window."""
        if event.type() == QEvent.Type.ParentChange:
            self._docked, was = self.parent() is not None, self._docked
            if was and not self._docked:
                self._end()
            elif self._docked and not was:
                QTimer.singleShot(0, self._settle)
        return bool(super().event(event))

    def _settle(self) -> None:
        """Go under the picture, once napari has put the dock elsewhere: it reads no place from a manifest."""
        if self._over or self._settled or not isalive(self):  # type: ignore[no-untyped-call]
            return
        dock, window = self._dock(), main_window(self._desk.viewer)
        if dock is not None:
            self._settled = True
            window.addDockWidget(Qt.DockWidgetArea.BottomDockWidgetArea, dock)
            window.resizeDocks([dock], [HEIGHT], Qt.Orientation.Vertical)

    def _dock(self) -> QDockWidget | None:
        found = self.parent()
        while found is not None and not isinstance(found, QDockWidget):
            found = found.parent()
        return found

    def _end(self) -> None:
        if not self._over:
            self._over = True
            self._desk.session_changed.disconnect(self._on_session)
            self._set_corners(self._corners)
            self._close()
            self.deleteLater()

    def _set_corners(self, corners: dict[Qt.Corner, Qt.DockWidgetArea]) -> None:
        for corner, area in corners.items():
            main_window(self._desk.viewer).setCorner(corner, area)

    # The session

    def _on_session(self) -> None:
        self._close()
        self.hint.say(NO_SESSION if self._desk.session is None else "")
        if self._desk.session is not None and self._desk.shown is not None:
            self._open(self._desk.shown)

    def _open(self, shown: SessionLayers) -> None:
        session, viewer = self._desk.session, self._desk.viewer
        assert session is not None
        self._shown = shown
        self.place = Cursor(session.shape, self)
        self._link = Link(viewer, canvas_of(viewer), session, self.place, self)
        self._link.lead()
        self.planes = tuple(Plane(self._desk, self.place, self._link) for _ in range(2))
        for plane in self.planes:
            self._splitter.addWidget(plane)
        shown.changed.connect(self._show)
        shown.stored.connect(self._on_stored)
        viewer.dims.events.order.connect(self._show)
        self._show()

    def _close(self) -> None:
        if self._shown is None:
            return
        self._desk.viewer.dims.events.order.disconnect(self._show)
        self._shown.changed.disconnect(self._show)
        self._shown.stored.disconnect(self._on_stored)
        for plane in self.planes:
            plane.close_plane()
        self._unfollow()
        if self._link is not None:
            self._link.close()
        self._shown = self._link = self.place = None
        self.planes = ()

    def _on_stored(self) -> None:
        """Stop reading when the session begins to close: its painter stores what is pending, then it ends."""
        if self._desk.session is None:
            self._close()

    def _show(self) -> None:
        """Show the layers that there are, along the axes that the main view does not look along."""
        if self._link is None or (axes := self._link.order) is None:  # as napari's layers come and go
            return
        a, b, c = axes
        for plane, order in zip(self.planes, ((b, a, c), (c, b, a)), strict=True):
            plane.show_layers(order)
        self._follow()

    def _follow(self) -> None:
        """Let the main corrections show what is painted in the planes."""
        self._unfollow()
        session, shown = self._desk.session, self._shown
        if session is not None and shown is not None and shown.corrections is not None:
            self._follower = Follower(shown.corrections, session.overlay, self)

    def _unfollow(self) -> None:
        if self._follower is not None:
            self._follower.close()
            self._follower = None
