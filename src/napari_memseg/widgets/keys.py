"""Keys: bound in code, since napari reads none from a manifest, and listed in the dock.

Who listens to which::

    corrections   Ctrl+Z, Ctrl+Shift+Z
    viewer        classes (Ctrl+), tools (Shift+), N U Y K of the review, T
    napari        [ ], 1 2 3 4, Space

Classes and tools are bound here, the others where they are at home; the list has them all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol
from weakref import ref

from napari import Viewer
from qtpy.compat import isalive

from napari_memseg.widgets.desk import Desk
from napari_memseg.widgets.orthogonal_link import HERE
from napari_memseg.widgets.painting import REDO, UNDO
from napari_memseg.widgets.reviewing import REVIEW_KEYS

MOST_KEYS = 9
"""Classes that have a key: the first nine rows of the table."""


def class_key(row: int) -> str:
    """Return the key of a row of the class table; nothing beyond the ninth."""
    return f"Control-{row + 1}" if row < MOST_KEYS else ""


TOOL_KEYS = {
    "fill": "Shift-F",
    "object": "Shift-O",
    "merge": "Shift-M",
    "split": "Shift-X",
    "interpolate": "Shift-I",
    "next": "Shift-N",
    "previous": "Shift-B",
    "islands": "Shift-D",
    "holes": "Shift-H",
    "smooth": "Shift-S",
    "grow": "Shift-G",
    "shrink": "Shift-K",
}
"""Keys of the edit tools by their names; napari has none of them."""
TOOLS_DO = {
    "fill": "fill the region under the cursor",
    "object": "give the object the chosen class",
    "merge": "give all of a class the chosen one",
    "split": "split the object, from two strokes",
    "interpolate": "interpolate between painted slices",
    "next": "copy this slice to the next one",
    "previous": "copy this slice to the one before",
    "islands": "remove small islands of the class",
    "holes": "close small holes in the class",
    "smooth": "smooth the class",
    "grow": "grow the class",
    "shrink": "shrink the class",
}
"""What a person is told of them."""
GREY_KEY, BALL_KEY = "Shift-T", "Shift-R"
"""Of the two ways in which the brush may paint."""
REVIEW_DOES = {
    "next": "go to the next place",
    "back": "go to the place before",
    "accept": "accept what is in the frame",
    "skip": "skip it, leave it as it is",
}
"""What a person is told of the keys of the page Review."""
STEP_KEYS = ("Left", "Right", "Control-R")
"""That napari binds for the main view, and a plane for itself: back, on, all of it."""
SIGNS = {"Control-": "Ctrl+", "Shift-": "Shift+", "Left": "←", "Right": "→"}
"""How keyboards name what napari names otherwise."""


class ToolSet(Protocol):
    """Who uses tools when their keys are pressed."""

    def use(self, name: str) -> None:
        """Use a tool."""

    def toggle_grey(self) -> None:
        """Let the brush look at grey values, or not."""

    def toggle_ball(self) -> None:
        """Let the brush paint in 3D, or not."""


def bind(desk: Desk) -> None:
    """Let keys choose classes, wherever in the window the focus is."""
    for row in range(MOST_KEYS):
        desk.viewer.bind_key(class_key(row), _chooser(desk, row), overwrite=True)


def _chooser(desk: Desk, row: int) -> Any:
    known = ref(desk)  # a viewer keeps its keys, and shall not keep a desk whose window is gone

    def choose(_: Any) -> None:
        desk = known()
        classes = list(desk.session.classes) if desk is not None and desk.session else []
        if desk is not None and row < len(classes):
            desk.choose(classes[row].id)

    return choose


def bind_tools(viewer: Viewer, tools: ToolSet) -> None:
    """Let keys use tools; of two that ask, the later one has them."""
    known = ref(tools)

    def caller(method: str, *arguments: str) -> Callable[[object], None]:
        def call(_: object) -> None:
            found = known()
            if found is not None and isalive(found):  # type: ignore[no-untyped-call]
                getattr(found, method)(*arguments)

        return call

    for name, key in TOOL_KEYS.items():
        viewer.bind_key(key, caller("use", name), overwrite=True)
    viewer.bind_key(GREY_KEY, caller("toggle_grey"), overwrite=True)
    viewer.bind_key(BALL_KEY, caller("toggle_ball"), overwrite=True)


def grouped() -> dict[str, list[tuple[str, str]]]:
    """Return keys and what they do, by what they are for: ours, and those of napari that painting needs."""
    back, on, whole = STEP_KEYS
    groups = {
        "Brush": [
            (f"{class_key(0)} … {MOST_KEYS}", "take the brush of a class"),
            ("[ ]", "smaller, larger brush"),
            ("1 2 3 4", "erase, brush, polygon, fill"),
            ("Space", "hold to move the picture"),
            (GREY_KEY, "brush only what is as bright"),
            (BALL_KEY, "brush a ball, or a disc again"),
            (UNDO, "undo, across restarts"),
            (REDO, "redo"),
        ],
        "Tools": [(TOOL_KEYS[name], does) for name, does in TOOLS_DO.items()],
        "Review": [(REVIEW_KEYS[name], does) for name, does in REVIEW_DOES.items()],
        "Orthogonal views": [
            ("Shift+click", "show this place in all three"),
            (HERE, "the same, without a click"),
            (f"{back} {on}", "one slice back or on"),
            (whole, "the whole plane again"),
        ],
    }
    return {name: [(shown(keys), does) for keys, does in rows] for name, rows in groups.items()}


def listed() -> list[tuple[str, str]]:
    """Return all keys and what they do, in the order of the groups."""
    return [row for rows in grouped().values() for row in rows]


def shown(key: str) -> str:
    """Return a key as keyboards name it."""
    for name, sign in SIGNS.items():
        key = key.replace(name, sign)
    return key
