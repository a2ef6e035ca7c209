"""Classes are hidden and locked by a click each, in the table of any page."""

import numpy as np
import pytest
from qtpy.QtCore import Qt

from widgets.hands import close, line, stroke
from widgets.test_review_page import session
from widgets.test_road import open_viewer
from widgets.test_tools import shows_opinions

pytestmark = pytest.mark.qt
__all__ = ["session"]
FOREGROUND = 1
"""Row of the table."""


def check(table, column, on):
    state = Qt.CheckState.Checked if on else Qt.CheckState.Unchecked
    table.item(FOREGROUND, column).setCheckState(state)


def test_a_hidden_class_is_seen_nowhere_and_a_locked_one_not_painted_over(make_napari_viewer, session):
    from napari_memseg.widgets.class_list import LOCKED, SEEN

    viewer, dock = open_viewer(make_napari_viewer)
    assert dock.desk.open_session(session)
    opened, table = dock.desk.session, dock.annotate.classes
    foreground = opened.classes.ids[1]
    check(table, SEEN, False)
    for layer in (dock.desk.shown.result, dock.desk.shown.corrections):
        assert layer.get_color(foreground)[3] == 0
    assert dock.correct.classes.item(FOREGROUND, SEEN).checkState() == Qt.CheckState.Unchecked
    check(table, SEEN, True)
    assert dock.desk.shown.result.get_color(foreground)[3] == 1

    opened.overlay[3, 3, 3:6] = foreground
    check(table, LOCKED, True)
    opened.overlay[3, 3, 0:9] = opened.classes.background_opinion
    assert (opened.overlay[3, 3, 0:9] == foreground).sum() == 3
    check(table, LOCKED, False)
    opened.overlay[3, 3, 0:9] = 0
    assert not opened.overlay[3, 3, 0:9].any()
    close(viewer)


def test_a_stroke_over_a_locked_class_is_seen_to_change_nothing(open_dock, folder, until):
    from napari_memseg.widgets.class_list import LOCKED

    viewer, dock = open_dock(folder)
    overlay, across = dock.desk.session.overlay, line(0.4, 0.5, 0.6, 0.5)
    dock.desk.choose(1)
    stroke(viewer, across)
    painted = np.asarray(overlay) == 1
    assert painted.any()
    check(dock.annotate.classes, LOCKED, True)
    dock.desk.choose(0)
    stroke(viewer, across)
    assert (np.asarray(overlay)[painted] == 1).all()
    until(lambda: shows_opinions(dock))
    close(viewer)
