"""The layers of a session: what comes in the background takes no brush away, and what is closed is let go."""

import gc
import weakref

import pytest
from napari.layers import Image

from widgets.hands import click, close

pytestmark = pytest.mark.qt


def test_a_pyramid_that_was_built_takes_the_brush_from_nobody(until, open_dock, new_session, write_scan):
    viewer, dock = open_dock(new_session(write_scan(shape=(140, 140, 140))))
    dock.desk.choose(1)
    dock.show_page(dock.open)
    click(dock.open.pyramid)
    until(lambda: dock.desk.shown.image.multiscale)
    assert viewer.layers.selection.active is dock.desk.shown.corrections
    assert dock.desk.shown.corrections.mode == "paint"
    close(viewer)


def test_layers_that_are_shown_again_leave_the_chosen_one_chosen(open_dock, folder):
    viewer, dock = open_dock(folder)
    dock.desk.choose(1)
    viewer.layers.remove(dock.desk.shown.result)
    dock.desk.show_layers()
    assert viewer.layers.selection.active is dock.desk.shown.corrections
    close(viewer)


def test_a_session_that_is_opened_again_shows_its_image_once(open_dock, folder):
    viewer, dock = open_dock(folder)
    dock.desk.close_session()
    assert dock.desk.open_session(folder)
    assert len([layer for layer in viewer.layers if isinstance(layer, Image)]) == 1
    close(viewer)


def test_a_session_that_is_closed_is_let_go(qtbot, open_dock, folder):
    viewer, dock = open_dock(folder)
    known = weakref.ref(dock.desk.session)
    dock.desk.close_session()

    def is_gone():
        gc.collect()
        return known() is None

    qtbot.waitUntil(is_gone, timeout=10_000)
    close(viewer)


def test_the_brush_and_the_table_say_the_same_from_the_beginning(open_dock, folder):
    viewer, dock = open_dock(folder)
    dock.desk.add_class(7, "seven")
    dock.desk.choose(7)
    dock.desk.add_class(5, "five")
    (row,) = {item.row() for item in dock.annotate.classes.selectedItems()}
    assert dock.annotate.classes.item(row, 2).text() == "7"
    assert dock.desk.shown.corrections.selected_label == 7
    close(viewer)


def test_a_class_is_painted_in_2d_also_where_3d_was_shown(open_dock, folder):
    viewer, dock = open_dock(folder)
    viewer.dims.ndisplay = 3
    dock.desk.choose(1)
    assert viewer.dims.ndisplay == 2
    close(viewer)
