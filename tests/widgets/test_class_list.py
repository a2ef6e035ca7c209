"""Classes are hidden and locked by a click each, in the table of any page."""

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication, QLineEdit

from napari_memseg.annotation.session import Session
from napari_memseg.geometry import Box
from widgets.hands import close, line, stroke, type_into
from widgets.test_review_page import session
from widgets.test_road import open_viewer
from widgets.test_tools import shows_opinions

pytestmark = pytest.mark.qt
__all__ = ["session"]
WHOLE = Box.whole((40, 48, 56))
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


def items(menu):
    return {action.text(): action for action in menu.actions()}


def test_classes_are_merged_taken_apart_and_split_by_the_menu_of_a_row(open_dock, folder, until):
    viewer, dock = open_dock(folder)
    desk, table = dock.desk, dock.annotate.classes
    desk.add_class(2, "marrow")
    desk.choose(2)
    stroke(viewer, line(0.4, 0.5, 0.6, 0.5))
    marrow = desk.session.classes.classes[2]
    items(items(table.menu_of(marrow))["Merge into"].menu())["bone"].trigger()
    assert [table.item(row, 1).text() for row in range(table.rowCount())] == ["background", "bone"]
    corrections = desk.shown.corrections
    assert tuple(corrections.get_color(2)) == tuple(corrections.get_color(1))
    assert corrections.selected_label == 1
    assert (desk.shown.levels[0].read(WHOLE) == 1).any()
    until(lambda: desk.counting.voxels.get(1, 0) > 0)

    bone = desk.session.classes.classes[1]
    items(table.menu_of(bone))["Take marrow out again"].trigger()
    assert table.rowCount() == 3
    assert (desk.shown.levels[0].read(WHOLE) == 2).any()
    items(table.menu_of(bone))["Split: give objects of it a new class"].trigger()
    assert table.item(3, 1).text() == "bone 2"
    assert corrections.selected_label == 3
    close(viewer)


def test_background_is_not_merged_into_another_class(open_dock, folder):
    viewer, dock = open_dock(folder)
    table, classes = dock.annotate.classes, dock.desk.session.classes
    assert not items(table.menu_of(classes.classes[0]))["Merge into"].isEnabled()
    assert items(table.menu_of(classes.classes[1]))["Merge into"].isEnabled()
    close(viewer)


def test_a_session_that_is_only_read_offers_no_change_of_its_classes(open_dock, folder):
    with Session.open(folder) as session:
        session.add_class(2, "marrow")
        session.merge_class(2, 1)
        viewer, dock = open_dock(folder)
        assert dock.desk.session.read_only
        menu = items(dock.annotate.classes.menu_of(dock.desk.session.classes.classes[1]))
        assert len(menu) == 3
        assert not any(action.isEnabled() for action in menu.values())
        close(viewer)


def test_what_is_merged_into_a_locked_class_is_locked_and_shows_as_it_does(open_dock, folder):
    viewer, dock = open_dock(folder)
    desk = dock.desk
    overlay, layer = desk.session.overlay, desk.shown.corrections
    desk.add_class(2, "marrow")
    overlay[3, 3, :4] = 2
    desk.lock_class(1, True)
    desk.merge_class(2, 1)
    overlay[3, 3, :4] = desk.session.classes.background_opinion
    assert (overlay[3, 3, :4] == 2).all()
    layer.selected_label = 2  # as napari's dropper does
    assert layer.selected_label == 1
    desk.part_class(2)
    desk.lock_class(2, False)
    desk.merge_class(2, 0)
    tint = layer.get_color(desk.session.classes.background_opinion)
    assert tuple(layer.get_color(2)) == tuple(tint)
    assert desk.shown.result.get_color(2)[3] == 0
    close(viewer)


def test_a_name_is_typed_into_the_table_without_a_word_from_qt(open_dock, folder, qtlog):
    viewer, dock = open_dock(folder)
    table = dock.annotate.classes
    dock.show_page(dock.annotate)
    table.setCurrentCell(FOREGROUND, 1)
    table.editItem(table.item(FOREGROUND, 1))
    (editor,) = table.findChildren(QLineEdit)
    type_into(editor, "trabeculae")
    QApplication.processEvents()
    assert dock.desk.session.classes.classes[1].name == "trabeculae"
    assert table.item(FOREGROUND, 1).text() == "trabeculae"
    assert not qtlog.records
    close(viewer)
