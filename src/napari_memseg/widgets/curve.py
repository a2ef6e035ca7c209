"""The loss and the validation score of a training, drawn while it learns."""

from __future__ import annotations

import os
from typing import Any

import qtpy
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QVBoxLayout, QWidget

os.environ.setdefault("PYQTGRAPH_QT_LIB", qtpy.API_NAME)  # before pyqtgraph looks for a binding itself

import pyqtgraph as pg

DRAW_MS = 250
"""Time between two drawings."""
MOST_POINTS = 2000
"""Points that are drawn; of longer trainings, every second or every fourth."""
LOSS, DICE = "#66ccee", "#ee8866"


class LearningCurve(QWidget):
    """Loss on the left, mean Dice of held-back voxels on the right, over steps."""

    def __init__(self) -> None:
        super().__init__()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._plot = pg.PlotWidget(background=(0, 0, 0, 0))
        self._plot.setStyleSheet("background: transparent; border: 0;")  # that of the dock, in any theme
        self._plot.viewport().setAutoFillBackground(False)
        self._plot.setLabel("bottom", "step")
        self._plot.setLabel("left", "loss", color=LOSS)
        self._plot.setMouseEnabled(x=False, y=False)
        self._plot.setMenuEnabled(False)
        self._plot.hideButtons()
        self._plot.getPlotItem().layout.setContentsMargins(0, 8, 0, 0)  # half of the uppermost label
        layout.addWidget(self._plot)
        self.setFixedHeight(190)
        self._loss = self._plot.plot(pen=pg.mkPen(LOSS, width=1.5))
        self._add_dice_axis()
        self._timer = QTimer(self, interval=DRAW_MS, singleShot=True)
        self._timer.timeout.connect(self._draw)
        self.clear()

    def _add_dice_axis(self) -> None:
        item = self._plot.getPlotItem()
        self._right = pg.ViewBox()
        self._right.setMouseEnabled(x=False, y=False)
        item.showAxis("right")
        item.scene().addItem(self._right)
        item.getAxis("right").linkToView(self._right)
        item.getAxis("right").setLabel("Dice", color=DICE)
        self._right.setXLink(item)
        self._right.setYRange(0, 1, padding=0.06)  # room for the labels of both ends
        self._dice = pg.PlotDataItem(
            pen=pg.mkPen(DICE, width=1.5), symbol="o", symbolSize=6, symbolBrush=DICE
        )
        self._right.addItem(self._dice)
        item.vb.sigResized.connect(lambda: self._right.setGeometry(item.vb.sceneBoundingRect()))

    def clear(self) -> None:
        """Begin anew."""
        self.losses: list[tuple[int, float]] = []
        self.scores: list[tuple[int, float]] = []
        self._draw()

    def add(self, step: int, loss: float | None, dice: float | None) -> None:
        """Add what is known of a step."""
        if loss is not None:
            self.losses.append((step, loss))
        if dice is not None:
            self.scores.append((step, dice))
        if not self._timer.isActive():
            self._timer.start()

    def _draw(self) -> None:
        stride = -(-len(self.losses) // MOST_POINTS) or 1
        self._set(self._loss, self.losses[::stride])
        self._set(self._dice, self.scores)

    def _set(self, item: Any, points: list[tuple[int, float]]) -> None:
        item.setData([step for step, _ in points], [value for _, value in points])
