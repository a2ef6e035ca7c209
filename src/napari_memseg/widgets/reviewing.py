"""Take a person to the places that are worth a look, and note what she says of each.

The list is made in a child process; here one place after the other is shown: the
slice through it, and a frame around what "accept" declares to be right::

    find ──> reviews/0001 ──> go(place): slice, camera, frame ──> accept / skip ──> next
                                                                     │
                                              Session.confirm(box), verdicts.json
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any
from weakref import ref

import numpy as np
from napari.layers import Shapes
from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import QObject, Signal

from napari_memseg.annotation.review import ACCEPTED, SKIPPED, Place, Review, reviews_in
from napari_memseg.errors import InputError, SessionError
from napari_memseg.geometry import Box, zyx
from napari_memseg.widgets.layers import grid, insert
from napari_memseg.widgets.relay import JobRelay, Outcome
from napari_memseg.widgets.view import behind, slider_axis

if TYPE_CHECKING:
    from napari_memseg.annotation.session import Session
    from napari_memseg.widgets.desk import Desk

REVIEW_KEYS = {"next": "N", "back": "U", "accept": "Y", "skip": "K"}
"""Keys by what they do; napari has none of them."""
LAYER = "place"
FRAME = "#ffd54f"
SHARE = 0.33
"""Of the canvas that a place takes, where the zoom has to be changed."""


class Reviewing(QObject):
    """The list of places of a session, and the one that is looked at.

    Attributes
    ----------
    relay : JobRelay
        Finds places; counts.
    review : Review or None
        The newest list of the session.
    place : Place or None
        Where the person was taken.
    whole_box : bool
        Whether "accept" is about all slices of a place, or about the one that is shown.
    counted : dict or None
        What ``workflows.review_statistics`` said last.

    Signals
    -------
    changed
        Another list, another place, or another verdict.
    """

    changed = Signal()

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self._desk = desk
        self.relay = JobRelay(self)
        self.relay.ended.connect(self._on_end)
        self.review: Review | None = None
        self.place: Place | None = None
        self.whole_box = False
        self.counted: dict[str, Any] | None = None
        self._layer: Shapes | None = None
        self._asked: Session | None = None
        self._since, self._seq = 0.0, 0
        desk.session_changed.connect(self._on_session)
        desk.viewer.dims.events.current_step.connect(self._draw)
        desk.viewer.dims.events.order.connect(self._draw)
        desk.viewer.dims.events.ndisplay.connect(self._draw)
        desk.viewer.layers.events.removed.connect(self._on_removed)
        for name, key in REVIEW_KEYS.items():
            desk.viewer.bind_key(key, _caller(self, name), overwrite=True)

    def close(self) -> None:
        """Listen no more."""
        self.relay.cancel()
        self._desk.viewer.dims.events.current_step.disconnect(self._draw)
        self._desk.viewer.dims.events.order.disconnect(self._draw)
        self._desk.viewer.dims.events.ndisplay.disconnect(self._draw)
        self._desk.viewer.layers.events.removed.disconnect(self._on_removed)

    # The list

    def find(self) -> None:
        """Find places anew, in a child process."""
        self._ask("looking for places worth a look", "review:find_places")

    def count(self) -> None:
        """Count what was done so far, in a child process."""
        self._ask("counting what was reviewed", "review_statistics:statistics")

    def _ask(self, title: str, workflow: str) -> None:
        if (session := self._desk.session) is not None and not self.relay.busy:
            self._desk.save()
            self._asked = session
            self.relay.start(title, f"napari_memseg.workflows.{workflow}", session.path)
            self.changed.emit()

    def _on_end(self, outcome: Outcome) -> None:
        asked, self._asked = self._asked, None
        if asked is not self._desk.session:  # it was closed meanwhile
            return
        if outcome.error is not None:
            show_error(str(outcome.error))
        elif outcome.result is not None and "review" in outcome.result:
            self._load()
            self.next()
        elif outcome.result is not None:
            self.counted = dict(outcome.result)
        self.changed.emit()

    def _on_session(self) -> None:
        self.relay.cancel()
        self.place = self.review = self.counted = None
        self._remove_frame()
        self._load()
        self.changed.emit()

    def _load(self) -> None:
        session = self._desk.session
        found = reviews_in(session.path) if session is not None else []
        try:
            self.review = Review.load(found[0]) if found else None
        except SessionError as error:
            show_error(str(error))

    # One place after the other

    def next(self) -> None:
        """Go to the next place without a verdict."""
        if self.review is not None:
            place = self.review.next(self.place.number if self.place is not None else -1)
            if place is None:
                self.place = None
                self._remove_frame()
                show_info("Every place of the list was judged. Find places anew after the next run.")
            else:
                self.go(place)

    def back(self) -> None:
        """Go to the place before, judged or not."""
        if self.review is not None and self.place is not None and self.place.number > 0:
            self.go(self.review.places[self.place.number - 1])

    def go(self, place: Place) -> None:
        """Show the slice through a place, with a frame around it."""
        session, layer = self._desk.session, self._some_layer()
        if session is None or layer is None:
            return
        viewer = self._desk.viewer
        self.place = place
        self._since, self._seq = monotonic(), session.corrections.seq
        world = np.asarray(layer.data_to_world(place.centre))[-3:]
        for axis in viewer.dims.not_displayed:
            if axis >= behind(viewer):
                viewer.dims.set_point(axis, world[axis - behind(viewer)])
        viewer.scene.camera.center = tuple(world)
        if self._layer is None:
            self._layer = self._new_frame(session)
        self._zoom(place, layer)
        self._draw()
        if self._desk.shown is not None and self._desk.shown.corrections is not None:
            viewer.layers.selection.active = self._desk.shown.corrections
        self.changed.emit()

    def accept(self) -> None:
        """Declare what is shown in the frame to be right, and go on."""
        session, place = self._desk.session, self.place
        if session is None or place is None or self.review is None or self._is_read_only(session):
            return
        box = self.accepted_box()
        if box is None:
            show_info(self._why_not_here(place))
            return
        self._desk.save()
        changed = session.corrections.seq != self._seq
        try:
            session.confirm(box)
        except InputError as error:
            show_error(str(error))
            return
        self._judge(place, ACCEPTED, changed=changed)

    def skip(self) -> None:
        """Leave the place as it is, and go on."""
        session, place = self._desk.session, self.place
        if session is not None and place is not None and not self._is_read_only(session):
            self._judge(place, SKIPPED, changed=session.corrections.seq != self._seq)

    def accepted_box(self) -> Box | None:
        """Return what "accept" would confirm: the frame on the slice that is shown, or all slices of it."""
        if self.place is None or self.whole_box:
            return None if self.place is None else self.place.box
        return self._on_slice(self.place.box) if self._flat is not None else None

    def _is_read_only(self, session: Session) -> bool:
        if session.read_only:
            show_info("This session can only be looked at here: places are judged where it is edited.")
        return session.read_only

    def _why_not_here(self, place: Place) -> str:
        if self._flat is None:
            return (
                "In 3D no slice is shown to accept: go back to 2D, or tick “accept all slices in the frame”."
            )
        low, high = place.box.start[self._flat], place.box.stop[self._flat] - 1
        return f"The frame is on the slices {low} to {high}: go back there, or press N for the next place."

    def _judge(self, place: Place, verdict: str, *, changed: bool) -> None:
        if self.review is not None:
            try:
                self.review.judge(place.number, verdict, seconds=monotonic() - self._since, changed=changed)
            except OSError as error:
                show_error(f"The verdict could not be stored ({error}). Make space, and try again.")
                return
            self.next()
            self.changed.emit()

    # What is seen

    def _some_layer(self) -> Any:
        shown = self._desk.shown
        return None if shown is None else shown.corrections or shown.result or shown.image

    def _zoom(self, place: Place, layer: Any) -> None:
        """Leave the zoom as it is where the place is neither tiny nor cut off."""
        viewer = self._desk.viewer
        displayed = [axis - behind(viewer) for axis in viewer.dims.displayed[-2:]]
        size = max(place.box.shape[a] * float(layer.scale[a]) for a in displayed if a >= 0)
        wanted = SHARE * min(viewer.canvas.size) / size
        if not wanted / 2 <= viewer.scene.camera.zoom <= 2 * wanted:
            viewer.scene.camera.zoom = wanted

    @property
    def _flat(self) -> int | None:
        return slider_axis(self._desk.viewer)

    def _on_slice(self, box: Box) -> Box | None:
        """Return a box on the slice that is shown; None where that does not cut it. In 3D the box itself."""
        layer, viewer = self._some_layer(), self._desk.viewer
        if layer is None or behind(viewer) < 0:
            return None
        if (axis := self._flat) is None:
            return box
        point = np.zeros(3)
        point[axis] = viewer.dims.point[axis + behind(viewer)]
        here = round(float(layer.world_to_data(point)[axis]))
        start, stop = list(box.start), list(box.stop)
        start[axis], stop[axis] = here, here + 1
        found = Box(zyx(start), zyx(stop)) & box
        return None if found.is_empty else found

    def _draw(self) -> None:
        """Draw the frame on the slice that is shown, where it cuts the place."""
        place, layer = self.place, self._layer
        if self._desk.session is None or place is None or layer is None:
            return
        found = self._on_slice(place.box)
        data = [] if found is None else [_corners(found, self._flat or 0)]
        with layer.events.blocker_all():
            layer.data = []
        if data:
            layer.add_rectangles(data, edge_color=FRAME, face_color="transparent", edge_width=1.5)
        layer.refresh()

    def _on_removed(self, event: Any) -> None:
        if event.value is self._layer:
            self._layer = None

    def _new_frame(self, session: Session) -> Shapes:
        layer = Shapes(name=LAYER, ndim=3, **grid(session))
        layer.editable = False
        insert(self._desk.viewer.layers, layer)
        return layer

    def _remove_frame(self) -> None:
        layer, self._layer = self._layer, None
        if layer is not None and layer in self._desk.viewer.layers:
            self._desk.viewer.layers.remove(layer)


def _caller(reviewing: Reviewing, name: str) -> Callable[[Any], None]:
    """Return what a key calls; a viewer keeps its keys, and shall not keep what lies behind them."""
    known = ref(reviewing)

    def call(_: Any) -> None:
        found = known()
        if found is not None and found.place is not None:
            getattr(found, name)()
        elif found is not None and name == "next":
            found.next()

    return call


def _corners(box: Box, axis: int) -> Any:
    """Return the corners of the rectangle in which a slice cuts a box; of several, the one in the middle."""
    middle = (box.start[axis] + box.stop[axis] - 1) / 2
    one, two = (a for a in range(3) if a != axis)
    corners = np.full((4, 3), middle, float)
    corners[:, one] = np.array([box.start[one]] * 2 + [box.stop[one]] * 2) - 0.5
    corners[:, two] = np.array([box.start[two], box.stop[two], box.stop[two], box.start[two]]) - 0.5
    return corners
