"""What all pages share: the desk, a title, what to do next, and a column of widgets."""

from __future__ import annotations

from typing import ClassVar

from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_memseg.annotation.session import Session
from napari_memseg.widgets.desk import Desk
from napari_memseg.widgets.parts import Hint

ACCENT = "#ee6677"
"""Beside the sentence that says what to do next."""
NO_SESSION = "Start or open a session first, on the page Open."


class Page(QWidget):
    """One step of the loop; ``refresh`` shows how things stand."""

    title: ClassVar[str]

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.desk = desk
        self.hint = Hint()
        self.hint.setStyleSheet(f"border-left: 3px solid {ACCENT}; padding: 2px 0 2px 8px;")
        self.column = QVBoxLayout(self)
        self.column.addWidget(self.hint)
        for signal in (desk.session_changed, desk.layers_changed, desk.classes_changed, desk.models_changed):
            signal.connect(self.refresh)
        desk.segmenting.runs_changed.connect(self.refresh)

    def add(self, *widgets: QWidget) -> None:
        """Put widgets below those that are there."""
        for widget in widgets:
            self.column.addWidget(widget)

    def refresh(self) -> None:
        """Show how things stand: what to do next, and which buttons work."""
        raise NotImplementedError


def why_read_only(session: Session) -> str:
    """Say that a session can only be looked at, and why: another window, a folder, a newer program."""
    known = "read-only: "
    reasons = [note.removeprefix(known) for note in session.notes if note.startswith(known)]
    return " ".join(["This session can only be looked at.", *reasons])
