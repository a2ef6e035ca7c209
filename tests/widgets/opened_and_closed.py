"""Open and close sessions in one real napari, with pictures in between: opened_and_closed.py SESSION ..."""

from __future__ import annotations

import faulthandler
import sys
from pathlib import Path

import napari
from qtpy.QtTest import QTest

from widgets.hands import line, stroke


def main(*folders: str) -> None:
    """Open each session twice, paint, and close it; draw after each."""
    faulthandler.enable()
    viewer = napari.Viewer()
    viewer.window.resize(1280, 800)
    _, dock = viewer.window.add_plugin_dock_widget("napari-memseg", "Memory-efficient segmentation")
    for folder in [*folders, *folders]:
        assert dock.desk.open_session(Path(folder))
        QTest.qWait(150)
        dock.desk.choose(1)
        stroke(viewer, line(0.4, 0.4, 0.6, 0.5))
        QTest.qWait(150)
        dock.desk.close_session()
        QTest.qWait(150)
    viewer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
