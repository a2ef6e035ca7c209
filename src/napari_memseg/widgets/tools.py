"""The group "Tools": a button and a key for each, what they work on, and the two ways of the brush.

::

    [Fill region] [Object → class] ...       each also by a key, whatever page is shown
    Slices [1]  Radius [2]  Small [100]      what tools work on
    [ ] only grey [40] [90]   [ ] a ball     how the brush paints, as long as this can be seen
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from napari.layers import Labels
from napari.utils.notifications import show_info
from numpy.typing import NDArray
from qtpy.compat import isalive
from qtpy.QtWidgets import QCheckBox, QDoubleSpinBox, QGridLayout, QLabel, QSpinBox, QWidget

from napari_memseg.annotation.overlay import Overlay
from napari_memseg.annotation.session import Session
from napari_memseg.annotation.tools.grey import GreyRange
from napari_memseg.annotation.tools.outline import MOST_RADIUS
from napari_memseg.errors import InputError
from napari_memseg.geometry import Box, zyx
from napari_memseg.io.volume import Volume
from napari_memseg.widgets.desk import Desk
from napari_memseg.widgets.keys import BALL_KEY, GREY_KEY, bind_tools, shown
from napari_memseg.widgets.parts import Button, Choice, Hint, column, form, row
from napari_memseg.widgets.pointing import Pointer
from napari_memseg.widgets.tooling import TOOLS, Asked, Tool, cursor_voxel, runner_of
from napari_memseg.widgets.view import slider_axis

COLUMNS = 3
REFUSED = "The disk refuses: make room on it, and try to store again."
NARROW, EDGES = "where the object is narrow", "at edges of the image"
PAINTED, SHOWN = "what is painted", "all that is shown"
MOST_GREY = 1e9
Where = Callable[[Box], NDArray[np.bool_]]


class Tools(QWidget):
    """Buttons of all tools, with what they need to know.

    Parameters
    ----------
    desk : Desk
        Whose session they work on.
    """

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk
        self.runner = runner_of(desk)
        self._known: Session | None = None
        self._brush = _Brush(desk)
        self._pointer = Pointer(desk.viewer, self._given_up)
        self.slices = _number(1, 9999, 1, "Slices that are worked on, the shown one in the middle")
        self.radius = _number(1, MOST_RADIUS, 2, "Of Smooth, Grow and Shrink, in voxels")
        self.small = _number(1, 10**9, 100, "Islands and holes of fewer voxels are small")
        self.small.setPrefix("below ")
        self.small.setSuffix(" voxels")
        self.along = Choice((NARROW, EDGES), "Where Split object parts an object")
        self.what = Choice((PAINTED, SHOWN), "What Copy carries to another slice")
        self.buttons = {tool.name: self._button(tool) for tool in TOOLS}
        self.grey = QCheckBox("only grey")
        self.grey.setToolTip(f"The brush paints only where grey values agree ({shown(GREY_KEY)})")
        self.low, self.high = _grey_value("Darkest"), _grey_value("Brightest")
        self.ball = QCheckBox("a ball, in several slices")
        self.ball.setToolTip(f"The brush paints in three dimensions ({shown(BALL_KEY)})")
        self.status = Hint()
        self.reason = Hint()
        self._lay_out()
        self._connect()
        bind_tools(desk.viewer, self)
        self.destroyed.connect(partial(_let_go, desk, self._brush, self._pointer))
        self._on_session()

    def _lay_out(self) -> None:
        buttons = QWidget()
        grid = QGridLayout(buttons)
        grid.setContentsMargins(0, 0, 0, 0)
        for place, button in enumerate(self.buttons.values()):
            grid.addWidget(button, *divmod(place, COLUMNS))
        layout = column(self)
        for widget in (
            buttons,
            self.reason,
            self.status,
            form(
                Slices=row(self.slices, QLabel("Radius"), self.radius),
                Small=self.small,
                Split=self.along,
                Copy=self.what,
                Brush=row(self.grey, self.low, self.high),
                **{"": self.ball},
            ),
        ):
            layout.addWidget(widget)

    def _connect(self) -> None:
        desk = self._desk
        self.runner.told.connect(self.status.say)
        desk.session_changed.connect(self._on_session)
        desk.layers_changed.connect(self._on_layers)
        for signal in (desk.classes_changed, desk.chosen, desk.stored):
            signal.connect(self.refresh)
        self.grey.toggled.connect(self._bind_brush)
        self.low.valueChanged.connect(self._bind_brush)
        self.high.valueChanged.connect(self._bind_brush)
        self.ball.toggled.connect(self._shape_brush)

    def _button(self, tool: Tool) -> Button:
        action = partial(self._point, tool) if tool.points else partial(self.use, tool.name)
        return Button(tool.text, action, f"{tool.tip} ({shown(tool.key)})")

    # What can be done now

    def refresh(self) -> None:
        """Let buttons work, or say why they do not."""
        why = self.why_not()
        self.reason.say(why)
        for button in self.buttons.values():
            button.allow(why, quiet=True)
        for widget in (self.grey, self.low, self.high, self.ball):
            widget.setEnabled(self._layer is not None)

    def why_not(self) -> str:
        """Say why no tool works now; nothing where they do."""
        session, layer = self._desk.session, self._layer
        if session is None:
            return "Open a session first."
        if session.read_only:
            return "This session can only be looked at."
        if layer is None:
            return "The corrections are not shown: show the layers again."
        if not layer.editable:
            refused = session.overlay.state == "failed"
            return REFUSED if refused else "A large step is being painted: wait a moment."
        return "" if self._class(session, layer) is not None else "Choose a class in the table first."

    @property
    def _layer(self) -> Labels | None:
        return self._desk.shown.corrections if self._desk.shown else None

    @staticmethod
    def _class(session: Session, layer: Labels) -> int | None:
        value = int(layer.selected_label)
        if value == session.classes.background_opinion:
            return 0
        return value if value and value in session.classes.ids else None

    # Tools

    def use(self, name: str) -> None:
        """Use a tool on what is shown now, or say why it cannot be."""
        (tool,) = (tool for tool in TOOLS if tool.name == name)
        asked = self._ask()
        if isinstance(asked, str):
            self.status.say(asked)
            show_info(asked)
        elif tool.points and not asked.over:
            show_info(f"{tool.text}: point at a place in the volume, and press {shown(tool.key)}.")
        else:
            self._desk.save()
            self.runner.start(tool, asked)

    def _point(self, tool: Tool) -> None:
        """Use a tool where the next click on the picture is, which does not paint; asked again, do not."""
        layer, again = self._layer, self._pointer.waits_for == tool.name
        self._pointer.stop()
        if layer is None or again:
            self._given_up()
        else:
            self._pointer.wait(tool.name, layer, partial(self.use, tool.name))
            self.status.say(f"{tool.text}: click on the place in the picture, or press the button again.")

    def _given_up(self) -> None:
        self.status.say("")

    def _ask(self) -> Asked | str:
        """Return what a tool is to know, or why it cannot work."""
        session, layer = self._desk.session, self._layer
        if (why := self.why_not()) or session is None or layer is None:
            return why
        if self._desk.viewer.dims.ndisplay == 3:
            return "Tools work on slices: go back to 2D."
        view, class_id = self._desk.visible_box(), self._class(session, layer)
        axis = slider_axis(self._desk.viewer)
        if view is None or view.is_empty or class_id is None or axis is None:
            return "Nothing of the volume is visible: bring it into view first."
        at = cursor_voxel(self._desk, view)
        return Asked(
            session,
            session.composite(),
            class_id,
            at or zyx(s + n // 2 for s, n in zip(view.start, view.shape, strict=True)),
            at is not None,
            view,
            _deepened(view, axis, self.slices.value()).clip(session.shape),
            axis,
            self.radius.value(),
            self.small.value(),
            self.along.currentText() == EDGES,
            "painted" if self.what.currentText() == PAINTED else "shown",
        )

    # The brush

    def toggle_grey(self) -> None:
        """Let the brush paint only what is about as bright as the place under the cursor, or all again."""
        if self.grey.isChecked():
            self.grey.setChecked(False)
            return
        asked = self._ask()
        if isinstance(asked, str):
            show_info(asked)
            return
        try:
            value = float(asked.grey(Box.at(asked.at, (1, 1, 1)))[0, 0, 0])
        except InputError as error:
            show_info(str(error))
            return
        half = max(self.high.value() - self.low.value(), 0) / 2
        about = GreyRange.about(value, half)
        self.low.setValue(about.low)
        self.high.setValue(about.high)
        self.grey.setChecked(True)

    def toggle_ball(self) -> None:
        """Let the brush paint a ball, or a disc again."""
        self.ball.setChecked(not self.ball.isChecked())

    def _bind_brush(self) -> None:
        """Let the overlay ask the image where a brush may paint."""
        session = self._desk.session
        if session is None:
            return
        wanted = None
        if self.grey.isChecked():
            low, high = sorted((self.low.value(), self.high.value()))
            wanted = partial(_agrees, session.image, session.level, GreyRange(low, high))
        self._brush.paint_only(session.overlay, wanted)

    def _shape_brush(self) -> None:
        if self._layer is not None:
            self._brush.shape(self._layer, self.ball.isChecked())

    def _on_session(self) -> None:
        """Bind the brush to the array that is painted on now; another session has another range of grey."""
        self._pointer.stop()
        if self._desk.session is not self._known:
            self._known = self._desk.session
            self._suggest_grey()
        self._bind_brush()
        self._on_layers()

    def _suggest_grey(self) -> None:
        layer = self._desk.shown.image if self._desk.shown else None
        limits = getattr(layer, "contrast_limits", None)
        if limits is not None and self._desk.session is not None:
            for box in (self.low, self.high):
                box.setDecimals(0 if self._desk.session.image.dtype.kind in "iu" else 3)
            middle, tolerance = float(np.mean(limits)), float(np.ptp(limits)) / 8
            self.low.setValue(middle - tolerance)
            self.high.setValue(middle + tolerance)

    def _on_layers(self) -> None:
        if self._layer is None:
            self._pointer.stop()
        self._shape_brush()
        self.refresh()


class _Brush:
    """What the controls make of the brush, and take back when they are gone."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._overlay: Overlay | None = None
        self._wanted: Where | None = None
        self._ball: Labels | None = None

    def paint_only(self, overlay: Overlay, wanted: Where | None) -> None:
        self._overlay, self._wanted = overlay, wanted
        overlay.only_where = wanted

    def shape(self, layer: Labels, ball: bool) -> None:
        self._ball = layer if ball else None
        layer.n_edit_dimensions = 3 if ball else 2

    def let_go(self) -> None:
        """Paint as ever, and say so: there is no control any more that could tell of another way."""
        mine = self._overlay is not None and self._overlay.only_where is self._wanted
        grey, ball = mine and self._wanted is not None, self._ball is not None
        if self._overlay is not None and grey:
            self._overlay.only_where = None
        if self._ball is not None:
            self._ball.n_edit_dimensions = 2
        if grey or ball:
            show_info("The tools are closed: the brush paints a disc again, on all grey values.")


def _let_go(desk: Desk, brush: _Brush, pointer: Pointer, *_: object) -> None:
    """Leave the picture as it was without the controls, unless it goes with them."""
    if isalive(desk) and not desk.ended:  # type: ignore[no-untyped-call]
        pointer.stop()
        brush.let_go()


def _agrees(image: Volume, level: int, wanted: GreyRange, box: Box) -> NDArray[np.bool_]:
    """Say where a brush may paint: nowhere in a part of the image that cannot be read."""
    try:
        return wanted.mask(image.read(box, level))
    except InputError as error:
        show_info(str(error))
        return np.zeros(box.shape, bool)


def _deepened(view: Box, axis: int, slices: int) -> Box:
    low, high = [0, 0, 0], [0, 0, 0]
    low[axis], high[axis] = (slices - 1) // 2, slices // 2
    return view.grow(zyx(low), zyx(high))


def _number(lowest: int, highest: int, value: int, tip: str) -> QSpinBox:
    box = QSpinBox()
    box.setRange(lowest, highest)
    box.setValue(value)
    box.setToolTip(tip)
    return box


def _grey_value(what: str) -> QDoubleSpinBox:
    box = QDoubleSpinBox()
    box.setRange(-MOST_GREY, MOST_GREY)
    box.setToolTip(f"{what} grey value that is painted, as the image stores it")
    box.setMinimumWidth(60)
    return box
