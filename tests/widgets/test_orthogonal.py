"""Two more planes through one place: linked, painted on with one brush into one journal, and let go of."""

import gc
import weakref

import numpy as np
import pytest
from napari.qt import QtViewer
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QDockWidget

from napari_memseg.annotation.composite import Composite
from napari_memseg.geometry import Box
from napari_memseg.widgets import orthogonal_plane, painting
from napari_memseg.widgets.napari_compat import canvas_of, main_window, picture_of
from napari_memseg.widgets.orthogonal import OrthogonalViews, toggle
from widgets.hands import LEFT, NONE, close, move

pytestmark = pytest.mark.qt

CTRL, SHIFT = Qt.KeyboardModifier.ControlModifier, Qt.KeyboardModifier.ShiftModifier


@pytest.fixture
def open_planes(open_dock, folder, until):
    """A viewer with a session and the dock of its planes, whose slices are there."""

    def make(session=folder):
        viewer, dock = open_dock(session)
        toggle(viewer)
        views = views_of(viewer)
        until(lambda: lies_below(viewer, views) and all_are_there(views))
        QApplication.processEvents()
        return viewer, dock, views

    return make


def views_of(viewer):
    (views,) = [w for w in viewer.window.dock_widgets.values() if isinstance(w, OrthogonalViews)]
    return views


def all_are_there(views):
    """Whether every slice of the planes was read."""
    return all(layer.loaded for plane in views.planes for layer in plane.viewer.layers)


def lies_below(viewer, views):
    """Whether the dock has come to its place under the picture."""
    window, (dock,) = main_window(viewer), [one for one in docks(viewer) if one.isAncestorOf(views)]
    return window.dockWidgetArea(dock) == Qt.DockWidgetArea.BottomDockWidgetArea


def docks(viewer):
    return main_window(viewer).findChildren(QDockWidget)


def pixel(canvas, voxel_at):
    """The pixel of a picture that shows a place in its world."""
    scene = canvas.canvas.view.scene.transform
    row, column = voxel_at
    x, y = (canvas.canvas.view.transform * scene).map([column, row])[:2]
    return QPoint(round(x), round(y))


def drag(canvas, places, modifiers=NONE):
    """Drag with the left button between places of a canvas's world, (row, column) of what it displays."""
    QApplication.processEvents()
    widget, (first, *others) = picture_of(canvas), [pixel(canvas, place) for place in places]
    QTest.mousePress(widget, LEFT, modifiers, first)
    for place in others:
        move(widget, place, LEFT)
        QApplication.processEvents()
    QTest.mouseRelease(widget, LEFT, modifiers, (others or [first])[-1])
    QApplication.processEvents()


def hover(canvas, place):
    """Move the mouse over a place with no button pressed."""
    move(picture_of(canvas), pixel(canvas, place))


def test_the_planes_show_the_two_other_axes(open_planes):
    viewer, _, views = open_planes()
    assert [plane.viewer.dims.order for plane in views.planes] == [(1, 0, 2), (2, 1, 0)]
    names = ["image", "result", "corrections"]
    assert [[layer.name for layer in plane.viewer.layers] for plane in views.planes] == [names, names]
    viewer.dims.order = (2, 0, 1)
    assert [plane.viewer.dims.order for plane in views.planes] == [(0, 2, 1), (1, 0, 2)]
    close(viewer)


def test_opening_the_planes_leaves_the_main_view_where_it_is(open_dock, folder):
    viewer, _ = open_dock(folder)
    viewer.dims.set_current_step(0, 7)
    toggle(viewer)
    assert viewer.dims.current_step[0] == 7
    assert views_of(viewer).place.voxel[0] == 7
    close(viewer)


def test_planes_that_are_closed_in_the_middle_of_a_large_step_give_the_brush_back(open_planes, monkeypatch):
    monkeypatch.setattr(painting, "SLICE_SECONDS", 0.0)
    monkeypatch.setattr(painting, "FEW_CELLS", 0)
    viewer, dock, views = open_planes()
    overlay, main = dock.desk.session.overlay, dock.desk.shown.corrections
    dock.desk.choose(1)
    overlay.fill(Box.whole(overlay.shape), 1)
    QTest.keyClick(picture_of(views.planes[0].canvas), Qt.Key.Key_Z, CTRL)
    assert not main.editable
    toggle(viewer)
    QApplication.processEvents()
    assert main.editable
    assert str(main.mode) == "paint"
    assert (np.asarray(overlay) == 1).all()
    assert overlay.state == "saved"
    close(viewer)


def test_a_class_that_is_merged_is_seen_to_be_so_in_the_planes(open_planes, until):
    viewer, dock, views = open_planes()
    dock.desk.add_class(2, "marrow")
    dock.desk.session.overlay[:] = 2
    result = views.planes[0].viewer.layers["result"]
    dock.desk.merge_class(2, 1)
    until(lambda: (result._slice.image.raw == 1).all())
    dock.desk.part_class(2)
    until(lambda: (result._slice.image.raw == 2).all())
    close(viewer)


def test_sliders_and_planes_follow_each_other(open_planes):
    viewer, _, views = open_planes()
    across_y, across_x = (plane.viewer for plane in views.planes)
    viewer.dims.set_current_step(0, 7)
    across_y.dims.set_current_step(1, 11)
    across_x.dims.set_current_step(2, 13)
    assert views.place.voxel == (7, 11, 13)
    drag(views.planes[0].canvas, [(20, 30)], SHIFT)  # z and x of the plane across y
    assert views.place.voxel == (20, 11, 30)
    assert viewer.dims.current_step[0] == 20
    assert across_x.dims.current_step[2] == 30
    drag(canvas_of(viewer), [(5, 6), (9, 40)], SHIFT)
    assert views.place.voxel == (20, 9, 40)
    assert across_y.dims.current_step[1] == 9
    close(viewer)


def test_shift_and_click_paint_nothing(open_planes):
    viewer, dock, views = open_planes()
    dock.desk.choose(1)
    drag(views.planes[0].canvas, [(20, 30), (25, 35)], SHIFT)
    drag(canvas_of(viewer), [(20, 30), (25, 35)], SHIFT)
    assert dock.desk.session.corrections.seq == 0
    assert views.place.voxel == (25, 25, 35)
    drag(views.planes[0].canvas, [(20, 30)])
    assert dock.desk.session.corrections.seq == 1
    close(viewer)


def test_a_slice_is_not_read_again_where_only_the_crosshair_moves(open_planes):
    viewer, _, views = open_planes()
    read = []
    for plane in views.planes:
        plane.viewer.layers["image"].events.set_data.connect(lambda: read.append(True))
    lines = [plane.link.crosshair.points.copy() for plane in views.planes]
    viewer.dims.set_current_step(0, 3)
    QApplication.processEvents()
    assert all_are_there(views)
    assert not read
    for plane, before in zip(views.planes, lines, strict=True):
        assert not np.array_equal(plane.link.crosshair.points, before)
    close(viewer)


def test_a_stroke_in_a_plane_is_one_step_and_seen_everywhere(open_planes, until):
    viewer, dock, views = open_planes()
    overlay, main = dock.desk.session.overlay, dock.desk.shown.corrections
    dock.desk.choose(1)
    main.brush_size = 5
    across_y, across_x = views.planes
    assert across_y.corrections.mode == "paint"
    assert across_y.corrections.brush_size == 5
    z, y, x = views.place.voxel
    drag(across_y.canvas, [(z, x - 6), (z, x), (z, x + 6)])
    assert dock.desk.session.corrections.seq == 1
    assert overlay[z, y, x - 6] == overlay[z, y, x + 6] == 1
    assert main._slice.image.raw[y, x - 6 : x + 7].all()
    assert across_x.corrections._slice.image.raw[y, z] == 1
    until(lambda: dock.desk.shown.result._slice.image.raw[y, x] == 1)
    until(lambda: across_x.viewer.layers["result"]._slice.image.raw[y, z] == 1)
    until(lambda: dock.desk.counting.voxels.get(1, 0) > 12)
    QTest.keyClick(picture_of(across_x.canvas), Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert not np.asarray(overlay).any()
    for layer in (main, across_y.corrections, across_x.corrections):
        assert not layer._slice.image.raw.any()
    close(viewer)


def test_a_stroke_in_the_main_view_is_seen_in_the_planes(open_planes):
    viewer, dock, views = open_planes()
    dock.desk.choose(1)
    z, y, x = views.place.voxel
    drag(canvas_of(viewer), [(y, x - 5), (y, x + 5)])
    assert views.planes[0].corrections._slice.image.raw[z, x - 5 : x + 6].all()
    assert views.planes[1].corrections._slice.image.raw[y, z] == 1
    close(viewer)


def test_what_is_painted_while_a_slice_is_read_is_seen_when_it_is_there(open_planes, until):
    viewer, dock, views = open_planes()
    overlay, plane = dock.desk.session.overlay, views.planes[0]
    plane.viewer.dims.set_current_step(1, 3)
    overlay.fill(Box((5, 0, 5), (9, 48, 9)), 1)
    until(lambda: all_are_there(views))
    assert (plane.corrections._slice.image.raw[5:9, 5:9] == 1).all()
    assert (dock.desk.shown.corrections._slice.image.raw[:, 5:9] == 1).all() or viewer.dims.current_step[
        0
    ] > 8
    close(viewer)


def test_keys_over_a_plane_do_what_they_do_over_the_main_view(open_planes, until):
    viewer, dock, views = open_planes()
    plane, main = views.planes[0], dock.desk.shown.corrections
    widget = picture_of(plane.canvas)
    dock.desk.add_class(2, "two")
    QTest.keyClick(widget, Qt.Key.Key_3, Qt.KeyboardModifier.ControlModifier)
    assert main.selected_label == plane.corrections.selected_label == 2
    size = main.brush_size
    QTest.keyClick(widget, Qt.Key.Key_BracketRight)
    assert main.brush_size > size
    QTest.keyClick(widget, Qt.Key.Key_1)
    assert main.mode == plane.corrections.mode == "erase"
    y = views.place.voxel[1]
    QTest.keyClick(widget, Qt.Key.Key_Right)
    assert views.place.voxel[1] == y + 1
    hover(plane.canvas, (8, 9))
    until(lambda: np.allclose(plane.viewer.cursor.position[::2], (8, 9), atol=0.5))
    QTest.keyClick(widget, Qt.Key.Key_T)
    assert views.place.voxel == (8, y + 1, 9)
    assert plane.viewer.dims.ndisplay == 2
    close(viewer)


def test_a_tool_that_is_asked_for_over_a_plane_works_under_the_mouse(open_planes, until):
    viewer, _, views = open_planes()
    plane, used = views.planes[0], []
    y = views.place.voxel[1]
    viewer.bind_key("Shift-F", lambda v: used.append(v), overwrite=True)
    hover(plane.canvas, (8, 9))
    until(lambda: np.allclose(plane.viewer.cursor.position[::2], (8, 9), atol=0.5))
    QTest.keyClick(picture_of(plane.canvas), Qt.Key.Key_F, SHIFT)
    assert used == [viewer]
    assert views.place.voxel == (8, y, 9)
    assert viewer.dims.current_step[0] == 8
    assert tuple(viewer.cursor.position) == (8, y, 9)
    close(viewer)


def test_no_plane_reads_more_than_itself(open_planes, monkeypatch):
    boxes, read = [], Composite.read

    def note(self, box, *stride):
        boxes.append(box)
        return read(self, box, *stride)

    monkeypatch.setattr(Composite, "read", note)
    viewer, _, _ = open_planes()
    assert boxes
    assert all(min(box.shape) <= 1 for box in boxes)
    close(viewer)


def test_what_is_hidden_or_deleted_in_the_main_view_is_so_in_the_planes(open_planes):
    viewer, dock, views = open_planes()
    plane = views.planes[0].viewer
    dock.desk.shown.result.visible = False
    assert not plane.layers["result"].visible
    viewer.layers.remove(dock.desk.shown.result)
    assert [layer.name for layer in plane.layers] == ["image", "corrections"]
    dock.desk.show_layers()
    assert [layer.name for layer in plane.layers] == ["image", "result", "corrections"]
    close(viewer)


def test_a_large_plane_is_not_painted_on(open_planes, monkeypatch):
    monkeypatch.setattr(orthogonal_plane, "LARGEST", 40 * 50)
    viewer, _, views = open_planes()
    small, large = views.planes[1], views.planes[0]  # 48 x 40 and 40 x 56 voxels
    assert small.corrections is not None
    assert large.corrections is None
    assert "2,240 voxels" in large.hint.text()
    assert "Build a pyramid" in large.hint.text()
    close(viewer)


def test_a_disk_that_refuses_stops_painting_in_every_plane(open_planes, monkeypatch, said):
    viewer, dock, views = open_planes()
    dock.desk.choose(1)
    monkeypatch.setattr(dock.desk.session.corrections, "commit", refuse)
    drag(views.planes[0].canvas, [(20, 20), (20, 30)])
    QApplication.processEvents()
    for layer in (dock.desk.shown.corrections, *(plane.corrections for plane in views.planes)):
        assert not layer.editable
        assert not layer._slice.image.raw.any()
    monkeypatch.undo()
    dock.desk.shown.painter.retry()
    assert all(plane.corrections.editable for plane in views.planes)
    close(viewer)


def refuse(*_):
    raise OSError("No space left on device")


def test_a_dock_that_is_closed_leaves_nothing_behind(open_planes, qtbot):
    viewer, dock, views = open_planes()
    overlay, before = dock.desk.session.overlay, 1  # the main painter listens
    canvases = [weakref.ref(plane.canvas) for plane in views.planes]
    models = [weakref.ref(plane.viewer) for plane in views.planes]
    callbacks = len(viewer.mouse_drag_callbacks)
    toggle(viewer)
    assert len(overlay.changed) == before
    assert len(viewer.mouse_drag_callbacks) == callbacks - 1
    assert "T" not in {str(key) for key in viewer.keymap}
    del views

    def are_gone():
        gc.collect()
        return not any(known() for known in canvases + models)

    qtbot.waitUntil(are_gone, timeout=10_000)
    assert [q for q in QtViewer._instances if q is not canvas_of(viewer)] == []
    close(viewer)


def test_a_session_that_is_closed_empties_the_dock(open_planes, until):
    viewer, dock, views = open_planes()
    known = weakref.ref(dock.desk.session)
    dock.desk.close_session()
    assert views.planes == ()
    assert "Start or open a session" in views.hint.text()

    def is_gone():
        gc.collect()
        return known() is None

    until(is_gone)
    close(viewer)


def test_the_dock_fills_when_a_session_is_opened(open_dock, folder, until):
    viewer, dock = open_dock()
    toggle(viewer)
    (views,) = [w for w in viewer.window.dock_widgets.values() if isinstance(w, OrthogonalViews)]
    assert views.planes == ()
    assert dock.desk.open_session(folder)
    assert len(views.planes) == 2
    until(lambda: all_are_there(views))
    close(viewer)
