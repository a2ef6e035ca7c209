"""Annotate: classes, their brushes, and how much was painted of each."""

from __future__ import annotations

from typing import ClassVar

from napari.utils.notifications import show_error
from qtpy.QtWidgets import QLabel, QLineEdit, QSpinBox

from napari_memseg.errors import MemsegError
from napari_memseg.widgets.class_list import ClassList
from napari_memseg.widgets.desk import Desk
from napari_memseg.widgets.keys import grouped
from napari_memseg.widgets.pages.page import NO_SESSION, Page, why_read_only
from napari_memseg.widgets.parts import Button, group, row


class AnnotatePage(Page):
    """What the colours mean, and a brush for each."""

    title: ClassVar[str] = "Annotate"

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self.classes = ClassList(desk)
        self.name = QLineEdit()
        self.name.setPlaceholderText("name of a class")
        self.name.returnPressed.connect(self._add)
        self.name.textChanged.connect(self._allow)
        self.number = QSpinBox()
        self.number.setRange(1, 65000)
        self.number.setToolTip("The number in the exported labels; it keeps its meaning for ever")
        self.add_button = Button("Add class", self._add, "Add a class to the session")
        new = row(self.name, self.number, self.add_button)
        self.classes_group = group("Classes", self.classes, new, self.add_button.reason)
        keys = QLabel(_table(grouped()))
        keys.setWordWrap(True)
        self.keys_group = group("Keys", keys)
        self.add(self.classes_group, self.keys_group)
        self.column.addStretch()
        desk.counted.connect(self.refresh)
        self.refresh()

    def refresh(self) -> None:
        """Say what to paint next."""
        session = self.desk.session
        self.classes_group.setVisible(session is not None)
        self.keys_group.setVisible(session is not None)
        self.hint.say(self._next())
        if session is not None and self.number.value() in session.classes.known_ids:
            self.number.setValue(max(session.classes.known_ids) + 1)
        self._allow()

    def _next(self) -> str:
        session = self.desk.session
        if session is None:
            return NO_SESSION
        if session.read_only:
            return why_read_only(session)
        voxels = self.desk.counting.voxels if self.desk.counting else {}
        missing = [c.name for c in session.classes if not voxels.get(c.id)]
        if missing:
            return (
                f"Paint a few strokes of {', '.join(missing)}, on two or three slices. "
                "What nobody painted means “no opinion”; the eraser takes an opinion back."
            )
        return "Every class is painted somewhere. Next: train a network, on the page Train."

    def _allow(self) -> None:
        session = self.desk.session
        if session is None or session.read_only:
            self.add_button.allow("The session cannot be edited here.", quiet=True)
        elif not self.name.text().strip():
            self.add_button.allow("Type the name of the class first.", quiet=True)
        else:
            self.add_button.allow()

    def _add(self) -> None:
        name = self.name.text().strip()
        if name and self.add_button.isEnabled():
            try:
                self.desk.add_class(self.number.value(), name)
                self.name.clear()
            except MemsegError as error:
                show_error(str(error))


def _table(groups: dict[str, list[tuple[str, str]]]) -> str:
    """Return keys as a table, with a heading above each group."""
    lines = []
    for name, rows in groups.items():
        lines.append(f'<tr><td colspan="2" style="padding-top: 6px"><i>{name}</i></td></tr>')
        lines += [f"<tr><td><b>{key}</b>&nbsp;&nbsp;</td><td>{does}</td></tr>" for key, does in rows]
    return f"<table>{''.join(lines)}</table>"
