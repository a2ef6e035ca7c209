"""Keys: bound in code, since napari reads none from a manifest, and listed in the dock."""

from __future__ import annotations

from typing import Any
from weakref import ref

from napari_memseg.widgets.desk import Desk
from napari_memseg.widgets.painting import REDO, UNDO

MOST_KEYS = 9
"""Classes that have a key: the first nine rows of the table."""


def class_key(row: int) -> str:
    """Return the key of a row of the class table; nothing beyond the ninth."""
    return f"Control-{row + 1}" if row < MOST_KEYS else ""


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


def listed() -> list[tuple[str, str]]:
    """Return keys and what they do: ours first, then those of napari that painting needs."""
    ours = [
        (f"{class_key(0)} … {MOST_KEYS}", "take the brush of a class, from the top of the table"),
        (UNDO, "undo, across restarts"),
        (REDO, "redo"),
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
