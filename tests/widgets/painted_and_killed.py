"""Paint in a real napari, say what was acknowledged, and die of a segmentation fault in mid-stroke.

    painted_and_killed.py SESSION STROKES OUT

The button is down when the fault comes. What the badge called saved is written to OUT
before: after each stroke the number of the last step, and all opinions.
"""

from __future__ import annotations

import faulthandler
import os
import sys
from pathlib import Path

import napari
import numpy as np
from qtpy.QtCore import QPoint
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from widgets.hands import LEFT, NONE, canvas, line, move, stroke


def acknowledge(session, out: Path) -> None:
    """Write down what is on disk by the badge's word."""
    assert session.overlay.state == "saved"
    part = out.with_suffix(".part.npz")
    np.savez(part, seq=session.corrections.seq, overlay=np.asarray(session.overlay))
    os.replace(part, out)


def main(folder: Path, strokes: int, out: Path) -> None:
    viewer = napari.Viewer()
    _, dock = viewer.window.add_plugin_dock_widget("napari-memseg", "Memory-efficient segmentation")
    assert dock.desk.open_session(folder)
    session = dock.desk.session
    dock.desk.choose(1)
    QApplication.processEvents()
    for number in range(strokes):
        y = 0.25 + 0.5 * number / strokes
        dock.desk.choose(number % 2)
        stroke(viewer, line(0.3, y, 0.6, y))
        acknowledge(session, out)
    widget = canvas(viewer)
    beside = QPoint(round(0.72 * widget.width()), widget.height() // 2)  # where nothing is painted yet
    QTest.mousePress(widget, LEFT, NONE, beside)
    move(widget, beside + QPoint(0, 40), LEFT)
    QApplication.processEvents()
    assert session.overlay._open is not None
    faulthandler._sigsegv()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
