"""The dock "Memory-efficient segmentation": a page for each step, and whether all is on disk."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from napari import Viewer
from qtpy.QtCore import QEvent, QSize, Qt
from qtpy.QtWidgets import QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_memseg.widgets import keys
from napari_memseg.widgets.desk import Desk, desk_of
from napari_memseg.widgets.orthogonal import toggle
from napari_memseg.widgets.page_tabs import PageTabs
from napari_memseg.widgets.pages.annotate import AnnotatePage
from napari_memseg.widgets.pages.correct import CorrectPage
from napari_memseg.widgets.pages.export import ExportPage
from napari_memseg.widgets.pages.models import ModelsPage
from napari_memseg.widgets.pages.open import OpenPage
from napari_memseg.widgets.pages.page import Page
from napari_memseg.widgets.pages.review import ReviewPage
from napari_memseg.widgets.pages.segment import SegmentPage
from napari_memseg.widgets.pages.train import TrainPage
from napari_memseg.widgets.parts import fills
from napari_memseg.widgets.warming import warm_up

WIDTH = 416
"""Of the dock when it is first shown, in pixels."""


class Badge(QLabel):
    """Whether everything that was painted is on disk: green only then."""

    LOOKS: ClassVar = {
        "saved": ("all strokes are on disk", "#2e7d32"),
        "pending": ("storing…", "#b26a00"),
        "failed": ("the disk refuses: nothing can be painted", "#c62828"),
        "read-only": ("read-only: nothing can be painted here", "#546e7a"),
    }

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk
        self.state = ""
        self.setAlignment(Qt.AlignmentFlag.AlignCenter)
        desk.stored.connect(self.show_state)
        desk.session_changed.connect(self.refresh)
        self.refresh()

    def refresh(self) -> None:
        """Show how things stand; nothing where no session is open."""
        session = self._desk.session
        self.setVisible(session is not None)
        if session is not None:
            self.show_state(session.overlay.state)

    def show_state(self, state: str) -> None:
        """Show a state of the overlay."""
        session = self._desk.session
        now = "read-only" if session is not None and session.read_only else state
        if now == self.state:
            return
        self.state = now
        text, color = self.LOOKS[self.state]
        self.setText(text)
        self.setStyleSheet(f"background: {color}; color: white; border-radius: 4px; padding: 3px;")


class Workbench(QWidget):
    """All that this plugin does, in one dock.

    Parameters
    ----------
    napari_viewer : Viewer
        Whose layers it works on; one session at a time.
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        self._docked = False
        super().__init__()
        self.desk = desk_of(napari_viewer)
        self.badge = Badge(self.desk)
        self.open = OpenPage(self.desk)
        self.annotate = AnnotatePage(self.desk)
        self.models = ModelsPage(self.desk, self._use_for_training)
        self.train = TrainPage(self.desk)
        self.segment = SegmentPage(self.desk)
        self.review = ReviewPage(self.desk)
        self.correct = CorrectPage(self.desk, self._retrain)
        self.export = ExportPage(self.desk)
        self.tabs = PageTabs()
        for page in self.pages:
            self.tabs.addTab(page, page.title)
        self.planes = QPushButton("Orthogonal views")
        self.planes.setToolTip("Show or hide the two other planes through a place, linked with the main view")
        self.planes.clicked.connect(lambda: toggle(napari_viewer))
        below = QHBoxLayout()
        below.addWidget(self.badge, stretch=1)
        below.addStretch()
        below.addWidget(self.planes)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(4, 4, 4, 4)
        layout.addWidget(self.tabs)
        layout.addLayout(below)
        fills(self)
        keys.bind(self.desk)
        self.desk.session_changed.connect(self._on_session)
        warm_up()

    @property
    def pages(self) -> tuple[Page, ...]:
        """In the order of the loop."""
        return (
            self.open,
            self.annotate,
            self.models,
            self.train,
            self.segment,
            self.review,
            self.correct,
            self.export,
        )

    def show_page(self, page: Page) -> None:
        """Bring a page to the front."""
        self.tabs.setCurrentIndex(self.pages.index(page))

    def sizeHint(self) -> QSize:
        """Ask for the room that the pages need side by side with a picture."""
        return QSize(WIDTH, 640)

    def event(self, event: QEvent) -> bool:
        """Go when napari takes the dock out of its window; the desk stays, and the next dock finds it."""
        if event.type() == QEvent.Type.ParentChange:
            self._docked, was = self.parent() is not None, self._docked
            if was and not self._docked:
                self.deleteLater()
        return bool(super().event(event))

    def _retrain(self, model: Path) -> None:
        self.train.start_from(model)
        self.show_page(self.train)

    def _use_for_training(self, network: str) -> None:
        self.train.origin.choose(None)
        self.train.network.choose(network)
        self.show_page(self.train)

    def _on_session(self) -> None:
        if (
            self.desk.session is not None
            and self.tabs.currentIndex() == 0
            and not self.desk.session.read_only
        ):
            self.show_page(self.annotate)
