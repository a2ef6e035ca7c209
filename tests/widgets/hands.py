"""What a person's hands do in napari: drop, click, drag a brush, press keys. Nothing of ours is called."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path

from napari._qt.dialogs.qt_reader_dialog import QtReaderDialog
from napari.viewer import Viewer
from qtpy.QtCore import QEvent, QMimeData, QPoint, QPointF, Qt, QTimer, QUrl
from qtpy.QtGui import QDragEnterEvent, QDropEvent, QMouseEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QAbstractButton, QApplication, QDialog, QDialogButtonBox, QTableWidget, QWidget

LEFT = Qt.MouseButton.LeftButton
NONE = Qt.KeyboardModifier.NoModifier
PACE_MS = 12
"""Between two moves of the mouse: napari holds back those within 5, vispy passes over those within 10."""
LOOKS, LOOK_MS = 4, 50
"""A picture that had the same size at so many looks, this far apart, keeps it."""
READER = "Memory-efficient segmentation"


def drop(viewer: Viewer, path: Path) -> None:
    """Drop a file or folder on the viewer, and answer napari's question with our reader if it comes."""
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(path))])
    window = viewer.window._qt_viewer
    action = Qt.DropAction.CopyAction
    QApplication.sendEvent(window, QDragEnterEvent(QPoint(50, 50), action, data, LEFT, NONE))
    with answering(choose_reader):
        QApplication.sendEvent(window, QDropEvent(QPointF(50, 50), action, data, LEFT, NONE))


def close(viewer: Viewer) -> None:
    """Close a viewer, and let Qt take its window away."""
    viewer.close()
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    QApplication.processEvents()


def choose_reader(dialog: QDialog) -> None:
    """Choose our reader, let napari remember it, and press OK."""
    assert isinstance(dialog, QtReaderDialog)
    (ours,) = [b for b in dialog.reader_btn_group.buttons() if READER in b.text() or "memseg" in b.text()]
    ours.click()
    box = dialog.findChild(QDialogButtonBox)
    box.button(QDialogButtonBox.StandardButton.Ok).click()


@contextmanager
def answering(answer: Callable[[QDialog], None]):
    """Answer a dialog that opens in the ``with`` body, as soon as it is there."""
    timer = QTimer(interval=20)

    def look() -> None:
        dialog = QApplication.activeModalWidget()
        if isinstance(dialog, QDialog):
            timer.stop()
            answer(dialog)

    timer.timeout.connect(look)
    timer.start()
    try:
        yield
    finally:
        timer.stop()


def click(button: QAbstractButton) -> None:
    """Press a button that can be seen and works."""
    QApplication.processEvents()
    assert button.isEnabled(), button.toolTip()
    assert button.isVisible(), button.text()
    QTest.mouseClick(button, LEFT)


def click_row(table: QTableWidget, row: int, column: int = 1) -> None:
    """Click a cell of a table."""
    where = table.visualItemRect(table.item(row, column)).center()
    QTest.mouseClick(table.viewport(), LEFT, pos=where)


def type_into(field: QWidget, text: str) -> None:
    """Replace the text of a field."""
    field.setFocus()
    QTest.keyClick(field, Qt.Key.Key_A, Qt.KeyboardModifier.ControlModifier)
    QTest.keyClicks(field, text)
    QTest.keyClick(field, Qt.Key.Key_Return)


def canvas(viewer: Viewer) -> QWidget:
    """Return the widget that shows the picture."""
    return viewer.window._qt_viewer.canvas.native


def settle(viewer: Viewer) -> None:
    """Wait until Qt has laid out the window, as anybody does who sees it move: its picture keeps its size."""
    sizes: deque[tuple[int, int]] = deque(maxlen=LOOKS)
    while len(sizes) < LOOKS or len(set(sizes)) > 1:
        QTest.qWait(LOOK_MS)
        sizes.append((canvas(viewer).width(), canvas(viewer).height()))


def press(viewer: Viewer, key: Qt.Key, modifiers: Qt.KeyboardModifier = NONE) -> None:
    """Press a key over the picture."""
    QTest.keyClick(canvas(viewer), key, modifiers)


def stroke(viewer: Viewer, points: Sequence[tuple[float, float]]) -> None:
    """Drag with the left button along points, given as shares of the picture's width and height."""
    button_down(viewer, points)
    button_up(viewer, points[-1])


def button_down(viewer: Viewer, points: Sequence[tuple[float, float]]) -> None:
    """Press the left button at the first point and drag, without letting go."""
    widget, (first, *others) = canvas(viewer), [_pixel(viewer, point) for point in points]
    move(widget, first)
    QTest.mousePress(widget, LEFT, NONE, first)
    for place in others:
        move(widget, place, LEFT)


def move(widget: QWidget, place: QPoint, buttons: Qt.MouseButton = Qt.MouseButton.NoButton) -> None:
    """Move the mouse over a widget to a pixel of it, with these buttons held down.

    The widget is told by Qt alone: a pointer of the display would tell it when it likes, or another window.
    Moves that follow each other within some milliseconds are passed over by vispy and held back by napari;
    no hand is so quick, and this one is not either.
    """
    where = QPointF(place)
    nothing = Qt.MouseButton.NoButton
    event = QMouseEvent(QEvent.Type.MouseMove, where, widget.mapToGlobal(where), nothing, buttons, NONE)
    QApplication.sendEvent(widget, event)
    QTest.qWait(PACE_MS)
    QApplication.processEvents()


def button_up(viewer: Viewer, point: tuple[float, float]) -> None:
    """Let the left button go."""
    QTest.mouseRelease(canvas(viewer), LEFT, NONE, _pixel(viewer, point))
    QApplication.processEvents()


def _pixel(viewer: Viewer, point: tuple[float, float]) -> QPoint:
    widget = canvas(viewer)
    return QPoint(round(point[0] * widget.width()), round(point[1] * widget.height()))


def line(x0: float, y0: float, x1: float, y1: float, moves: int = 6) -> list[tuple[float, float]]:
    """Return points on a line, for ``stroke``."""
    steps = [n / moves for n in range(moves + 1)]
    return [(x0 + (x1 - x0) * s, y0 + (y1 - y0) * s) for s in steps]
