"""The pages of the dock, and a button for each in two rows: eight words do not fit into one.

::

    [ Open  ][ Annotate ][ Models  ][ Train ]
    [Segment][  Review  ][ Correct ][ Export]
    ┌───────────── the chosen page ─────────┐
"""

from __future__ import annotations

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QAbstractButton,
    QButtonGroup,
    QGridLayout,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

ACROSS = 4
"""Buttons in a row; more pages make another row."""
LOOK = (
    "QPushButton { padding: 4px 2px; border-radius: 3px; border-bottom: 2px solid transparent; }"
    "QPushButton:checked { border-bottom: 2px solid #ee6677; font-weight: bold; }"
)


class PageTabs(QWidget):
    """Pages behind each other.

    Signals
    -------
    currentChanged : int
        Another page is in front.
    """

    currentChanged = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self._buttons = QButtonGroup(self)
        self._stack = QStackedWidget()
        self._grid = QGridLayout()
        self._grid.setSpacing(2)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(self._grid)
        layout.addWidget(self._stack, stretch=1)
        self._buttons.idClicked.connect(self.setCurrentIndex)

    def addTab(self, page: QWidget, title: str) -> None:
        """Put a page behind the others."""
        index = self.count()
        button = QPushButton(title)
        button.setCheckable(True)
        button.setStyleSheet(LOOK)
        button.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        button.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self._buttons.addButton(button, index)
        self._grid.addWidget(button, index // ACROSS, index % ACROSS)
        self._stack.addWidget(_scrolled(page))
        button.setChecked(index == 0)

    def count(self) -> int:
        """Return how many pages there are."""
        return int(self._stack.count())

    def currentIndex(self) -> int:
        """Return which page is in front."""
        return int(self._stack.currentIndex())

    def setCurrentIndex(self, index: int) -> None:
        """Bring a page to the front."""
        if index != self.currentIndex():
            self._stack.setCurrentIndex(index)
            self.currentChanged.emit(index)
        self._buttons.button(index).setChecked(True)

    def button(self, index: int) -> QAbstractButton:
        """Return the button of a page."""
        found: QAbstractButton = self._buttons.button(index)
        return found


def _scrolled(page: QWidget) -> QScrollArea:
    area = QScrollArea()
    area.setWidget(page)
    area.setWidgetResizable(True)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    area.setFrameShape(QScrollArea.Shape.NoFrame)
    return area
