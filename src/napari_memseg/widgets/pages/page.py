"""What all pages share: the desk, a title, what to do next, and a column of widgets."""

from __future__ import annotations

from typing import ClassVar

from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_memseg.widgets.desk import Desk
from napari_memseg.widgets.parts import Hint

NO_SESSION = "Start or open a session first, on the page Open."


class Page(QWidget):
    """One step of the loop; ``refresh`` shows how things stand."""

    title: ClassVar[str]

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self.desk = desk
        self.hint = Hint()
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
