"""A window that is closed gives its session back, also where napari asks first."""

import pytest
from qtpy.QtCore import QTimer
from qtpy.QtGui import QCloseEvent
from qtpy.QtWidgets import QDialog

from napari_memseg.annotation.session import Session
from napari_memseg.widgets.desk import ASKED_MS
from widgets.hands import close

pytestmark = pytest.mark.qt


def ask_about_closing(qtbot, dock):
    """Begin to close the window of a dock, with a question that stays open for a while, as napari asks it."""
    window = dock.window()
    dock.desk.eventFilter(window, QCloseEvent())
    dialog, waited = QDialog(window), []
    dialog.setModal(True)
    dialog.open()
    QTimer.singleShot(3 * ASKED_MS, lambda: waited.append(True))
    qtbot.waitUntil(lambda: bool(waited))
    dialog.done(0)
    return window


def test_a_window_that_is_closed_gives_its_session_back(open_dock, folder):
    viewer, _ = open_dock(folder)
    close(viewer)
    with Session.open(folder) as session:
        assert session.recovered == 0


def test_a_window_that_is_closed_after_a_question_gives_its_session_back(qtbot, open_dock, folder):
    viewer, dock = open_dock(folder)
    ask_about_closing(qtbot, dock).hide()  # the last that Qt does in closing
    assert dock.desk.session is None
    Session.open(folder).close()
    close(viewer)


def test_a_window_that_is_not_closed_after_all_keeps_its_session(qtbot, open_dock, folder):
    viewer, dock = open_dock(folder)
    window = ask_about_closing(qtbot, dock)
    qtbot.waitUntil(lambda: not dock.desk._closing)
    window.hide()
    window.show()
    assert dock.desk.session is not None
    close(viewer)


def test_a_dock_that_is_taken_away_leaves_its_session_to_the_next(qtbot, open_dock, folder):
    viewer, dock = open_dock(folder)
    gone = []
    dock.destroyed.connect(lambda: gone.append(True))
    session, desk = dock.desk.session, dock.desk
    viewer.window.remove_dock_widget(dock)
    qtbot.waitUntil(lambda: bool(gone))
    viewer.layers.remove(desk.shown.result)
    _, again = viewer.window.add_plugin_dock_widget("napari-memseg", "Memory-efficient segmentation")
    assert again.desk.session is session
    assert again.open.again.text() == "Show again: result"
    close(viewer)
