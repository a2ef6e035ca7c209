"""Edit tools in the viewer: what is asked for on the GUI thread, computed in another, painted here.

::

    key or button ──> Asked (class, cursor, view, settings) ──> thread: Edit
                                                                 │
           one step, shown, told  <── painted <── still true? ───┘

An edit that is out of date, because somebody painted where the tool looked, is dropped
with a note; so is one of a session that was closed meanwhile, or that got another array.
There is one runner to a desk: a dock that is closed and opened again finds it at work.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
from napari.utils.notifications import show_info
from numpy.typing import NDArray
from qtpy.QtCore import QObject, Signal

from napari_memseg.annotation.composite import Composite
from napari_memseg.annotation.overlay import Overlay
from napari_memseg.annotation.session import Session
from napari_memseg.annotation.tools import between, fill, outline, parts
from napari_memseg.annotation.tools.edit import Edit
from napari_memseg.annotation.tools.split import split
from napari_memseg.errors import InputError
from napari_memseg.geometry import Box, Zyx, zyx
from napari_memseg.widgets.desk import Desk
from napari_memseg.widgets.keys import TOOL_KEYS
from napari_memseg.widgets.napari_compat import slice_point
from napari_memseg.widgets.view import behind

_NAME = "napari-memseg tool runner"
ANOTHER = "classes were added meanwhile, so nothing was changed. Do it again."


@dataclass(frozen=True, slots=True)
class Asked:
    """All that a tool is asked for, fixed at the moment when its key was pressed."""

    session: Session
    composite: Composite
    class_id: int
    at: Zyx
    """Voxel under the cursor, or in the middle of the view where that is not ``over`` the volume."""
    over: bool
    view: Box
    """The part of the slice that is on the screen."""
    work: Box
    """The same in so many slices as were chosen."""
    axis: int
    """Across the slices."""
    radius: int
    size: int
    """Voxels below which a part is small."""
    edges: bool
    """A split lies on edges of the image."""
    what: between.What

    @property
    def slice(self) -> int:
        """The slice that is shown."""
        return self.view.start[self.axis]

    def grey(self, box: Box) -> NDArray[Any]:
        """Read the image in a box."""
        return self.session.image.read(box, self.session.level)


Make = Callable[[Asked], Edit]


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool with its words."""

    name: str
    text: str
    """On its button."""
    tip: str
    make: Make
    points: bool = False
    """It works on what is under the cursor."""
    goes: Literal[-1, 0, 1] = 0
    """Slices that the view moves on when it is done."""

    @property
    def key(self) -> str:
        """The key that it has."""
        return TOOL_KEYS[self.name]


def _interpolate(asked: Asked) -> Edit:
    box = asked.work
    if box == asked.view:
        box = between.painted_around(asked.composite, asked.class_id, asked.view, asked.axis)
    return between.interpolate(asked.composite, asked.class_id, box, asked.axis)


def _copy(step: int) -> Make:
    def copy(asked: Asked) -> Edit:
        here = asked.slice
        return between.copy_slice(asked.composite, asked.view, asked.axis, here, here + step, asked.what)

    return copy


TOOLS = (
    Tool(
        "fill",
        "Fill region",
        "The region under the cursor gets the chosen class: in the slices that are worked on",
        lambda a: fill.fill(a.composite, a.at, a.class_id, a.work),
        points=True,
    ),
    Tool(
        "object",
        "Object → class",
        "The whole object under the cursor gets the chosen class, in all slices",
        lambda a: fill.recolor_object(a.composite, a.at, a.class_id),
        points=True,
    ),
    Tool(
        "merge",
        "Merge class",
        "All of the class under the cursor gets the chosen class: what is visible, in the slices that are "
        "worked on",
        lambda a: fill.merge(a.composite, a.at, a.class_id, a.work),
        points=True,
    ),
    Tool(
        "split",
        "Split object",
        "Paint a stroke of its own class on the part that stays and one of the chosen class on the other, "
        "then point at the object between them",
        lambda a: split(a.composite, a.at, a.class_id, grey=a.grey if a.edges else None),
        points=True,
    ),
    Tool(
        "interpolate",
        "Interpolate",
        "Paint the chosen class between the painted slices before and behind this one, or between all those "
        "that are worked on; no other opinion changes",
        _interpolate,
    ),
    Tool(
        "smooth",
        "Smooth",
        "The outline of the chosen class loses what is thinner than the radius",
        lambda a: outline.smooth(a.composite, a.class_id, a.work, a.radius),
    ),
    Tool(
        "previous",
        "Copy back",
        "Carry this slice's labels to the one before, and go there",
        _copy(-1),
        goes=-1,
    ),
    Tool("next", "Copy on", "Carry this slice's labels to the next one, and go there", _copy(1), goes=1),
    Tool(
        "islands",
        "Remove islands",
        "Small parts of the chosen class become what surrounds them",
        lambda a: parts.remove_islands(a.composite, a.class_id, a.work, a.size),
    ),
    Tool(
        "grow",
        "Grow",
        "The chosen class grows by the radius, never over another class or opinion",
        lambda a: outline.grow(a.composite, a.class_id, a.work, a.radius),
    ),
    Tool(
        "shrink",
        "Shrink",
        "The chosen class loses a rim as wide as the radius",
        lambda a: outline.shrink(a.composite, a.class_id, a.work, a.radius),
    ),
    Tool(
        "holes",
        "Close holes",
        "Small holes in the chosen class get it",
        lambda a: parts.close_holes(a.composite, a.class_id, a.work, a.size),
    ),
)


@dataclass(eq=False)
class _Start:
    """A tool at work, and what is painted meanwhile."""

    tool: Tool
    asked: Asked
    overlay: Overlay
    painted: list[Box] = field(default_factory=list)

    def listen(self) -> None:
        self.overlay.changed.append(self._on_change)

    def stop(self) -> None:
        if self._on_change in self.overlay.changed:
            self.overlay.changed.remove(self._on_change)

    def _on_change(self, box: Box) -> None:
        self.painted.append(box)


@dataclass(frozen=True)
class _Made:
    """What came of a start."""

    start: _Start
    edit: Edit | Exception
    changes: int = 0
    """Voxels of the edit that hold another opinion now, and are not locked."""


def runner_of(desk: Desk) -> ToolRunner:
    """Return the runner of a desk; there is one, from the first time that a dock asks."""
    found = desk.findChild(ToolRunner, _NAME)
    return found if isinstance(found, ToolRunner) else ToolRunner(desk)


class ToolRunner(QObject):
    """Runs one tool at a time.

    Signals
    -------
    told : str
        What a tool does, has done, or why it did not.
    """

    told = Signal(str)
    _made = Signal(object)

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)  # which outlives the dock: what was asked for is done
        self.setObjectName(_NAME)
        self._desk = desk
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="memseg-tool")
        self._going: _Start | None = None
        self._made.connect(self._take)
        desk.session_changed.connect(self._forget)
        desk.destroyed.connect(partial(_shut_down, self._thread))

    @property
    def busy(self) -> bool:
        """Whether a tool computes, or what it found is being painted."""
        return self._going is not None

    def start(self, tool: Tool, asked: Asked) -> None:
        """Compute in a thread, then paint."""
        if self._going is not None:
            self._say(f"{self._going.tool.text} is still at work. Wait until it is done.")
            return
        self._going = _Start(tool, asked, asked.session.overlay)
        self._going.listen()
        self.told.emit(f"{tool.text}…")
        self._thread.submit(self._compute, self._going)

    def _compute(self, start: _Start) -> None:
        try:
            edit = start.tool.make(start.asked)
            made = _Made(start, edit, _changes(edit, start.overlay))
        except Exception as error:  # noqa: BLE001 - it rises again, on the GUI thread
            made = _Made(start, error)
        self._made.emit(made)

    def _take(self, made: _Made) -> None:
        """Paint what was found, if it is still true and of the array that is painted on now."""
        start, edit = made.start, made.edit
        start.stop()
        if start is not self._going:
            return
        self._going = None
        tool = start.tool
        if isinstance(edit, InputError):
            self._say(str(edit))
        elif isinstance(edit, Exception):
            raise edit
        elif start.asked.session.overlay is not start.overlay:
            self._say(f"{tool.text}: {ANOTHER}")
        elif any(not (box & edit.looked).is_empty for box in start.painted):
            self._say(f"{tool.text}: somebody painted there meanwhile, so nothing was changed. Do it again.")
        elif made.changes == 0:
            self._say(f"{tool.text}: there is nothing to change here{_but_locked(edit, start.overlay)}.")
        else:
            self._paint(made, edit)

    def _paint(self, made: _Made, edit: Edit) -> None:
        painter = self._desk.shown.painter if self._desk.shown else None
        if painter is None:
            self.told.emit(f"{made.start.tool.text}: nothing could be painted.")
            return
        self._going = made.start
        painter.paint(edit, partial(self._on_painted, made, edit))

    def _on_painted(self, made: _Made, edit: Edit, stored: bool) -> None:
        tool = made.start.tool
        if self._going is made.start:
            self._going = None
        if not stored:
            self.told.emit(f"{tool.text}: nothing could be painted.")
            return
        self.told.emit(f"{tool.text}: {made.changes:,} voxels. {edit.note}".strip())
        if edit.note:
            show_info(f"{tool.text}: {edit.note}")
        self._go(tool.goes, made.start.asked)

    def _go(self, slices: int, asked: Asked) -> None:
        if slices:
            dims, axis = self._desk.viewer.dims, behind(self._desk.viewer) + asked.axis
            factor = round(asked.session.image.scale(asked.session.level)[asked.axis])
            dims.set_current_step(axis, dims.current_step[axis] + slices * factor)

    def _say(self, text: str) -> None:
        self.told.emit(text)
        show_info(text)

    def _forget(self) -> None:
        """Drop what is asked for: another session is open, or this one with another array."""
        start, self._going = self._going, None
        self.told.emit("")
        if start is not None:
            start.stop()
            if start.asked.session is self._desk.session:
                self._say(f"{start.tool.text}: {ANOTHER}")


def _shut_down(thread: ThreadPoolExecutor, *_: object) -> None:
    thread.shutdown(wait=False, cancel_futures=True)


def _changes(edit: Edit, overlay: Overlay) -> int:
    """Return how many voxels an edit would change."""
    held = np.isin(overlay.read(edit.box), list(overlay.locked))
    return int(np.count_nonzero(edit.changes(overlay, edit.box) & ~held))


def _but_locked(edit: Edit, overlay: Overlay) -> str:
    return " that is not locked" if edit.count and overlay.locked else ""


def cursor_voxel(desk: Desk, view: Box) -> Zyx | None:
    """Return the voxel of the slice that the cursor is or was over; None where that is beside the volume."""
    layer = desk.shown.corrections if desk.shown else None
    if layer is None or desk.session is None:
        return None
    shown, here = layer.world_to_data(desk.viewer.cursor.position), slice_point(layer)
    at = [int(np.round(s if np.isnan(h) else h)) for s, h in zip(shown, here, strict=True)]
    for axis in range(3):
        if not np.isnan(here[axis]):
            at[axis] = view.start[axis]
    found = zyx(at)
    return found if Box.whole(desk.session.shape).contains(Box.at(found, (1, 1, 1))) else None
