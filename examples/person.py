"""Somebody with a mouse, a keyboard, and knowledge of the truth, who works in napari.

::

    truth ──> where to paint ──> pixels of the picture ──> mouse and keys, through Qt ──> napari
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import numpy as np
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication
from scipy.ndimage import distance_transform_edt

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # hands

from napari_memseg.geometry import Box
from widgets.hands import LEFT, canvas, move, press, stroke

CTRL, SHIFT = Qt.KeyboardModifier.ControlModifier, Qt.KeyboardModifier.ShiftModifier
PATIENCE_SECONDS = 240.0
LENGTH, BRUSH = 12, 4
"""Of strokes: how long they are at the most, and how thick, in voxels."""
TRIES = 5
"""Strokes that a place in the review is worth."""
NEARLY = 0.97
"""Of the voxels in a frame that must be right for it to be accepted."""


class Person:
    """Somebody with a mouse, a keyboard, and knowledge of the truth.

    Parameters
    ----------
    truth : (z, y, x) array
        1 in the one class there is, else 0.
    called : str
        What that class is called.
    pictures : Path, optional
        A folder for screenshots.
    """

    def __init__(self, truth: np.ndarray, called: str, pictures: Path | None) -> None:
        self.truth, self.called, self._pictures = truth, called, pictures
        self.viewer = napari.Viewer(title="napari")
        self.window = self.viewer.window._qt_window
        self.window.resize(1280, 800)
        _, self.dock = self.viewer.window.add_plugin_dock_widget(
            "napari-memseg", "Memory-efficient segmentation"
        )
        self.desk = self.dock.desk
        self._chance = np.random.default_rng(0)

    def wait_for(self, what: str, condition: Callable[[], Any]) -> float:
        """Let the viewer live until something is so; return the seconds that it took."""
        began = time.monotonic()
        while not condition():
            QApplication.processEvents()
            QTest.qWait(20)
            if time.monotonic() - began > PATIENCE_SECONDS:
                raise TimeoutError(f"{what}: not within {PATIENCE_SECONDS:.0f} s. {self.dock.train.bar.text}")
        return time.monotonic() - began

    def picture(self, name: str, *, fit: bool = True) -> None:
        """Take a screenshot of the whole window, where somebody wants them; ``fit`` shows the whole slice."""
        if self._pictures is not None:
            if fit:
                press(self.viewer, Qt.Key.Key_R, CTRL)
            QTest.qWait(800)
            self.window.grab().save(str(self._pictures / f"session-{name}.png"))

    def go_to(self, z: int) -> None:
        """Move the slider to a slice, by the arrow keys."""
        key = Qt.Key.Key_Right if z > self.viewer.dims.current_step[0] else Qt.Key.Key_Left
        for _ in range(abs(z - self.viewer.dims.current_step[0])):
            press(self.viewer, key)

    def paint(self, row: int, z: int, y: int, x: int) -> bool:
        """Drag the brush of a class (row of the table) along voxels of it; return whether there are any."""
        line = self.truth[z, y] == row
        if not line[x]:
            return False
        start, stop = x - _reach(line[x::-1]), x + _reach(line[x:])
        press(self.viewer, Qt.Key.Key_2 if row else Qt.Key.Key_1, CTRL)
        stroke(self.viewer, [self._place(z, y, s) for s in np.linspace(start, stop, 4)])
        return True

    def paint_somewhere(self, row: int, z: int) -> None:
        """Paint a stroke of a class somewhere on a slice, inside of what is visible."""
        inside = np.zeros(self.truth.shape[1:], bool)
        inside[4:-4, 4:-4] = True
        inside &= self.truth[z] == row
        deep = inside & (distance_transform_edt(self.truth[z] == row) > BRUSH / 2)
        places = np.argwhere(deep if deep.any() else inside)
        y, x = places[self._chance.integers(len(places))]
        self.paint(row, z, int(y), int(x))

    def correct(self) -> int:
        """Paint over what is wrong in the frame, the thickest of it first; return how many strokes."""
        painted = 0
        while painted < TRIES and not self.agrees():
            box = self.desk.reviewing.accepted_box()
            depth = distance_transform_edt(self._wrong(box))
            z, y, x = np.unravel_index(int(depth.argmax()), depth.shape) + np.asarray(box.start)
            self.paint(int(self.truth[z, y, x]), int(z), int(y), int(x))
            painted += 1
        return painted

    def look_at(self, z: int, y: int, x: int) -> None:
        """Hold Shift and click on a voxel: the orthogonal views go there."""
        place, widget = self._place(z, y, x), canvas(self.viewer)
        pixel = QPoint(round(place[0] * widget.width()), round(place[1] * widget.height()))
        move(widget, pixel)
        QTest.mouseClick(widget, LEFT, SHIFT, pixel)

    def thickest(self, *slices: int) -> tuple[int, int]:
        """Return where (y, x) a column through these slices lies deepest in the class."""
        inside = np.pad(np.logical_and.reduce([self.truth[z] == 1 for z in slices]), 1)
        y, x = np.unravel_index(int(distance_transform_edt(inside).argmax()), inside.shape)
        return int(y) - 1, int(x) - 1

    def _place(self, z: int, y: int, x: float) -> tuple[float, float]:
        """Return where a voxel is in the picture, in shares of its width and height."""
        world = self.desk.shown.image.data_to_world((z, y, x))
        camera, size = self.viewer.scene.camera, np.asarray(self.viewer.canvas.size, float)  # height, width
        pixel = (np.asarray(world[-2:]) - camera.center[-2:]) * camera.zoom + size / 2
        return float(pixel[1] / size[1]), float(pixel[0] / size[0])

    def agrees(self) -> bool:
        """Return whether all that is shown in the frame, but for a few voxels, is true."""
        return bool(self._wrong(self.desk.reviewing.accepted_box()).mean() < 1 - NEARLY)

    def _wrong(self, box: Box) -> np.ndarray:
        return (self.desk.session.composite().read(box) == 1) != (self.truth[box.slices] == 1)

    def dice(self) -> float:
        """Return how far the result agrees with the truth."""
        found = self.desk.session.composite().read(Box.whole(self.truth.shape)) == 1
        return float(2 * (found & (self.truth == 1)).sum() / (found.sum() + (self.truth == 1).sum()))


def _reach(line: np.ndarray) -> int:
    """Return how far a stroke goes on along a line whose first voxels are of its class."""
    same = len(line) if line.all() else int(np.argmin(line))
    return max(min(same - BRUSH // 2, LENGTH // 2), 0)
