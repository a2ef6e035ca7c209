"""Keys: bound in code, since napari reads none from a manifest, and listed in the dock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol
from weakref import ref

from napari import Viewer
from qtpy.compat import isalive

from napari_memseg.widgets.desk import Desk
from napari_memseg.widgets.painting import REDO, UNDO

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
    "object": "give the object under the cursor the chosen class",
    "merge": "give all of the class under the cursor the chosen one",
    "split": "split the object under the cursor, from two strokes",
    "interpolate": "interpolate between painted slices",
    "next": "copy the slice to the next one, and go there",
    "previous": "copy the slice to the one before, and go there",
    "islands": "remove small islands of the class",
    "holes": "close small holes in the class",
    "smooth": "smooth the class",
    "grow": "grow the class",
    "shrink": "shrink the class",
}
"""What a person is told of them."""
GREY_KEY, BALL_KEY = "Shift-T", "Shift-R"
"""Of the two ways in which the brush may paint."""


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


def listed() -> list[tuple[str, str]]:
    """Return keys and what they do: ours first, then those of napari that painting needs."""
    ours = [
        (f"{class_key(0)} … {MOST_KEYS}", "take the brush of a class, from the top of the table"),
        (UNDO, "undo, across restarts"),
        (REDO, "redo"),
        *((TOOL_KEYS[name], does) for name, does in TOOLS_DO.items()),
        (GREY_KEY, "brush only what is as bright as here, or all again"),
        (BALL_KEY, "brush a ball, or a disc again"),
    ]
    napari = [
        ("[  ]", "smaller, larger brush"),
        ("1 2 3 4", "erase (withdraw), brush, polygon, fill"),
        ("Space", "hold to move the picture"),
    ]
    return [(shown(keys), does) for keys, does in ours + napari]


def shown(key: str) -> str:
    """Return a key as keyboards name it."""
    return key.replace("Control-", "Ctrl+").replace("Shift-", "Shift+")
