"""Edit tools in a real viewer: by key and by button, taken back in one step, refused with a reason."""

import sys
import threading
from contextlib import contextmanager

import numpy as np
import pytest
from qtpy.QtCore import QEvent, Qt, QTimer
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from napari_memseg.errors import ClassTableError
from napari_memseg.geometry import Box
from napari_memseg.widgets import keys, painting, tooling, tools
from napari_memseg.widgets.napari_compat import shown_box
from widgets.hands import LEFT, NONE, _pixel, canvas, click, close, line, move, press, stroke

pytestmark = pytest.mark.qt

SHIFT, CTRL = Qt.KeyboardModifier.ShiftModifier, Qt.KeyboardModifier.ControlModifier
BONE, MARROW, NOBODY = 1, 2, 255
MIDDLE = (0.5, 0.5)


@pytest.fixture
def told(monkeypatch, said):
    """All that a person is told by notifications, of tools too."""
    for module in (tooling, tools):
        monkeypatch.setattr(module, "show_info", said.append)
    return said


@pytest.fixture
def opened(open_dock, folder):
    """Open a viewer with the dock on the page Correct, and take the brush of marrow."""

    def make():
        viewer, dock = open_dock(folder)
        dock.desk.add_class(MARROW, "marrow")
        dock.show_page(dock.correct)
        dock.desk.choose(MARROW)
        QApplication.processEvents()
        return viewer, dock

    return make


@pytest.fixture
def held_up(monkeypatch):
    """Let no tool come to an end before the ``with`` body does."""

    @contextmanager
    def holding():
        go_on, compute = threading.Event(), tooling.ToolRunner._compute
        monkeypatch.setattr(
            tooling.ToolRunner, "_compute", lambda runner, start: (go_on.wait(20), compute(runner, start))
        )
        try:
            yield
        finally:
            go_on.set()

    return holding


def point(viewer, place=MIDDLE):
    """Move the mouse over the picture."""
    move(canvas(viewer), _pixel(viewer, (place[0] - 0.01, place[1])))
    move(canvas(viewer), _pixel(viewer, place))
    QApplication.processEvents()


def close_dock(viewer):
    """Close the dock, as by its cross."""
    viewer.window.remove_dock_widget("all")
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    QApplication.processEvents()


def opinions(dock):
    return np.asarray(dock.desk.session.overlay)


def shows_opinions(dock):
    """Whether the corrections show what is in memory."""
    layer = dock.desk.shown.corrections
    box, _ = shown_box(layer)
    return np.array_equal(layer._slice.image.raw, layer.data.read(box).reshape(box.shape)[0])


def slice_of(dock):
    return dock.desk.visible_box().start[0]


def cube(dock, half=5):
    """Return a cube in the middle of the volume."""
    middle = [n // 2 for n in dock.desk.session.shape]
    return Box(tuple(m - half for m in middle), tuple(m + half for m in middle))


def use(viewer, key, modifiers=SHIFT):
    press(viewer, key, modifiers)


def test_an_object_gets_the_chosen_class_by_key_and_undo_takes_that_back(opened, until):
    viewer, dock = opened()
    where = cube(dock)
    dock.desk.session.overlay.fill(where, BONE)
    point(viewer)
    use(viewer, Qt.Key.Key_O)
    until(lambda: (opinions(dock)[where.slices] == MARROW).all())
    until(lambda: not dock.correct.tools.runner.busy)
    assert np.count_nonzero(opinions(dock)) == where.size
    assert shows_opinions(dock)
    assert "1,000 voxels" in dock.correct.tools.status.text()
    use(viewer, Qt.Key.Key_Z, CTRL)
    assert (opinions(dock)[where.slices] == BONE).all()
    assert shows_opinions(dock)
    assert dock.badge.state == "saved"
    close(viewer)


@pytest.fixture
def slowly(monkeypatch):
    """Paint every edit in slices of one cell."""
    monkeypatch.setattr(painting, "SLICE_SECONDS", 0.0)


def test_a_large_edit_is_painted_while_the_viewer_lives_and_the_brush_comes_back(opened, until, slowly):
    viewer, dock = opened()
    where, layer, seen = cube(dock), dock.desk.shown.corrections, []

    def on_editable():
        seen.append((layer.editable, dock.desk.session.overlay.state))
        dock.desk.save()  # the focus is lost meanwhile

    dock.desk.session.overlay.fill(where, BONE)
    layer.events.editable.connect(on_editable)
    point(viewer)
    use(viewer, Qt.Key.Key_O)
    until(lambda: (opinions(dock)[where.slices] == MARROW).all() and not dock.correct.tools.runner.busy)
    assert seen == [(False, "pending"), (True, "saved")]
    assert (str(layer.mode), dock.badge.state) == ("paint", "saved")
    assert [kind for _, kind, _ in dock.desk.session.corrections.steps()][-1] == "bulk"
    use(viewer, Qt.Key.Key_Z, CTRL)
    assert (opinions(dock)[where.slices] == BONE).all()
    close(viewer)


def test_a_large_step_is_taken_back_while_the_viewer_lives_and_nothing_is_painted_meanwhile(
    open_dock, new_session, write_scan, until, slowly, monkeypatch, told
):
    monkeypatch.setattr(painting, "FEW_CELLS", 0)
    viewer, dock = open_dock(new_session(write_scan(shape=(70, 70, 70))))
    dock.desk.choose(BONE)
    overlay, layer = dock.desk.session.overlay, dock.desk.shown.corrections
    overlay.fill(Box.whole(overlay.shape), BONE)
    use(viewer, Qt.Key.Key_Z, CTRL)
    assert not layer.editable
    use(viewer, Qt.Key.Key_Z, CTRL)
    assert "still being painted" in told[-1]
    until(lambda: layer.editable)
    assert not opinions(dock).any()
    assert shows_opinions(dock)
    assert overlay.state == "saved"
    use(viewer, Qt.Key.Key_Z, CTRL | SHIFT)
    until(lambda: layer.editable)
    assert (opinions(dock) == BONE).all()
    close(viewer)


def test_a_layer_that_is_deleted_in_mid_edit_leaves_no_trace_of_it(opened, until, slowly):
    viewer, dock = opened()
    where, layer = cube(dock), dock.desk.shown.corrections
    dock.desk.session.overlay.fill(where, BONE)

    def remove():
        if layer in viewer.layers:
            viewer.layers.remove(layer)

    layer.events.editable.connect(lambda: QTimer.singleShot(0, remove))
    point(viewer)
    use(viewer, Qt.Key.Key_O)
    until(lambda: layer not in viewer.layers)
    QTest.qWait(50)
    assert (opinions(dock)[where.slices] == BONE).all()
    assert dock.desk.session.overlay.state == "saved"
    dock.desk.show_layers()
    assert dock.desk.shown.corrections.editable
    assert not dock.correct.tools.runner.busy
    close(viewer)


def test_an_edit_that_fails_in_its_middle_gives_the_brush_back(opened, until, slowly, monkeypatch, qtbot):
    viewer, dock = opened()
    where, layer = cube(dock), dock.desk.shown.corrections
    dock.desk.session.overlay.fill(where, BONE)

    def broken(edit, overlay):
        yield where
        yield where
        raise RuntimeError("a bug")

    point(viewer)
    with qtbot.capture_exceptions() as raised, monkeypatch.context() as broke:
        broke.setattr(painting, "painting", broken)
        use(viewer, Qt.Key.Key_O)
        until(lambda: bool(raised))
    raised.clear()
    sys.last_value = sys.last_traceback = sys.last_exc = None  # which would keep the viewer
    assert (layer.editable, layer.mode) == (True, "paint")
    assert not dock.correct.tools.runner.busy
    assert "nothing could be painted" in dock.correct.tools.status.text()
    use(viewer, Qt.Key.Key_O)
    until(lambda: (opinions(dock)[where.slices] == MARROW).all())
    close(viewer)


def test_an_edit_that_is_refused_is_not_said_to_be_done(opened, until, told, monkeypatch):
    viewer, dock = opened()
    where, said = cube(dock), []
    dock.desk.session.overlay.fill(where, BONE)
    dock.correct.tools.runner.told.connect(said.append)

    def refused(edit, overlay):
        raise ClassTableError("There is no such class.")
        yield

    monkeypatch.setattr(painting, "painting", refused)
    point(viewer)
    use(viewer, Qt.Key.Key_O)
    until(lambda: "no such class" in "".join(told) and not dock.correct.tools.runner.busy)
    assert "nothing could be painted" in said[-1]
    close(viewer)


def test_a_contour_is_filled_in_the_slice_alone(opened, until):
    viewer, dock = opened()
    where = cube(dock)
    z = slice_of(dock)
    overlay = dock.desk.session.overlay
    overlay.fill(where, MARROW)
    inner = where.grow((0, -1, -1))
    overlay.fill(inner, 0)
    point(viewer)
    use(viewer, Qt.Key.Key_F)
    until(lambda: (opinions(dock)[z][where.slices[1:]] == MARROW).all())
    other = opinions(dock)[where.start[0] if z != where.start[0] else z + 1]
    assert not other[inner.slices[1:]].any()
    close(viewer)


def test_slices_are_interpolated_across_the_one_that_is_shown(opened, until):
    viewer, dock = opened()
    z, where = slice_of(dock), cube(dock)
    for at in (z - 3, z + 3):
        dock.desk.session.overlay[(at, *where.slices[1:])] = MARROW
    use(viewer, Qt.Key.Key_I)
    until(lambda: (opinions(dock)[(slice(z - 3, z + 4), *where.slices[1:])] == MARROW).all())
    steps = dock.desk.session.corrections.seq
    use(viewer, Qt.Key.Key_Z, CTRL)
    assert dock.desk.session.corrections.seq == steps + 1
    assert not opinions(dock)[z].any()
    close(viewer)


def test_a_slice_is_carried_to_the_next_and_the_view_follows(opened, until):
    viewer, dock = opened()
    z = slice_of(dock)
    stroke(viewer, line(0.4, 0.5, 0.6, 0.5))
    use(viewer, Qt.Key.Key_N)
    until(lambda: slice_of(dock) == z + 1)
    assert np.array_equal(opinions(dock)[z + 1], opinions(dock)[z])
    assert opinions(dock)[z].any()
    close(viewer)


def test_an_outline_grows_and_islands_go_in_as_many_slices_as_are_chosen(opened, until):
    viewer, dock = opened()
    where = cube(dock)
    dock.desk.session.overlay.fill(where, MARROW)
    dock.correct.tools.slices.setValue(40)
    dock.correct.tools.radius.setValue(1)
    click(dock.correct.tools.buttons["grow"])
    until(lambda: np.count_nonzero(opinions(dock)) == 1000 + 6 * 100)
    dock.correct.tools.small.setValue(2000)
    click(dock.correct.tools.buttons["islands"])
    until(lambda: not opinions(dock).any())
    close(viewer)


def test_a_button_of_a_tool_that_points_waits_for_a_click_that_does_not_paint(opened, until):
    viewer, dock = opened()
    where = cube(dock)
    dock.desk.session.overlay.fill(where, BONE)
    click(dock.correct.tools.buttons["object"])
    assert "click on the place" in dock.correct.tools.status.text()
    move(canvas(viewer), _pixel(viewer, MIDDLE))
    QTest.mouseClick(canvas(viewer), LEFT, NONE, _pixel(viewer, MIDDLE))
    until(lambda: (opinions(dock)[where.slices] == MARROW).all())
    assert np.count_nonzero(opinions(dock)) == where.size
    until(lambda: dock.desk.shown.corrections.mode == "paint")
    close(viewer)


def test_a_drag_moves_the_picture_and_the_click_is_still_waited_for(opened, until):
    viewer, dock = opened()
    where = cube(dock)
    dock.desk.session.overlay.fill(where, BONE)
    click(dock.correct.tools.buttons["object"])
    point(viewer)
    before = tooling.cursor_voxel(dock.desk, dock.desk.visible_box())
    stroke(viewer, line(0.5, 0.5, 0.55, 0.5))
    point(viewer)
    assert tooling.cursor_voxel(dock.desk, dock.desk.visible_box()) != before
    assert (opinions(dock)[where.slices] == BONE).all()
    assert "click on the place" in dock.correct.tools.status.text()
    viewer.reset_view()
    stroke(viewer, [MIDDLE])
    until(lambda: (opinions(dock)[where.slices] == MARROW).all())
    close(viewer)


@pytest.mark.parametrize("how", ["brush", "button", "layer", "dock"])
def test_a_tool_that_waits_for_a_click_is_called_off(opened, told, how):
    viewer, dock = opened()
    layer, where = dock.desk.shown.corrections, cube(dock)
    dock.desk.session.overlay.fill(where, BONE)
    callbacks = len(viewer.mouse_drag_callbacks)
    click(dock.correct.tools.buttons["object"])
    assert layer.mode == "pan_zoom"
    if how == "brush":
        dock.desk.choose(BONE)
    elif how == "button":
        click(dock.correct.tools.buttons["object"])
    elif how == "layer":
        viewer.layers.remove(layer)
    else:
        close_dock(viewer)
    assert layer.mode == "paint"
    assert len(viewer.mouse_drag_callbacks) == callbacks
    if how in ("brush", "button"):
        assert not dock.correct.tools.status.text()
    stroke(viewer, [MIDDLE])
    assert not dock.desk.findChild(tooling.ToolRunner).busy
    assert (opinions(dock)[where.slices] != MARROW).any()
    close(viewer)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0)])
def test_a_tool_points_where_the_brush_would_paint(opened, order):
    viewer, dock = opened()
    viewer.dims.order = order
    viewer.reset_view()
    QApplication.processEvents()
    place = (0.45, 0.4)
    point(viewer, place)
    at = tooling.cursor_voxel(dock.desk, dock.desk.visible_box())
    dock.desk.shown.corrections.brush_size = 1
    stroke(viewer, [place, place])
    assert np.argwhere(opinions(dock)).tolist() == [list(at)]
    close(viewer)


def test_what_cannot_be_done_is_said(opened, until, told):
    viewer, dock = opened()
    point(viewer)
    steps = dock.desk.session.corrections.seq
    use(viewer, Qt.Key.Key_O)
    until(lambda: bool(told))
    assert "Nothing is shown" in told[-1]
    assert dock.desk.session.corrections.seq == steps
    viewer.dims.ndisplay = 3
    use(viewer, Qt.Key.Key_F)
    assert "go back to 2D" in told[-1]
    close(viewer)


def test_buttons_say_why_they_do_not_work(opened):
    viewer, dock = opened()
    dock.desk.shown.corrections.selected_label = 0
    button = dock.correct.tools.buttons["fill"]
    assert not button.isEnabled()
    assert "Choose a class" in button.toolTip()
    viewer.layers.remove(dock.desk.shown.corrections)
    assert "not shown" in dock.correct.tools.reason.text()
    close(viewer)


def test_what_was_painted_meanwhile_is_kept_and_the_tool_drops_its_edit(opened, until, told):
    viewer, dock = opened()
    where = cube(dock)
    dock.desk.session.overlay.fill(where, BONE)
    point(viewer)
    use(viewer, Qt.Key.Key_O)
    dock.desk.session.overlay[where.start] = MARROW  # before anything that the thread found is taken
    until(lambda: bool(told))
    assert "meanwhile" in told[-1]
    assert np.count_nonzero(opinions(dock) == MARROW) == 1
    close(viewer)


def test_an_edit_is_dropped_where_the_session_got_another_array_meanwhile(opened, until, told, held_up):
    viewer, dock = opened()
    where = cube(dock)
    dock.desk.session.overlay.fill(where, BONE)
    point(viewer)
    with held_up():
        use(viewer, Qt.Key.Key_O)
        dock.desk.add_class(300, "a wide one")
        dock.desk.session.overlay[where.slices] = 300
        assert "Do it again" in told[-1]
    dock.desk.choose(MARROW)
    use(viewer, Qt.Key.Key_D)  # which is computed after the other, by the same thread
    until(lambda: "nothing to change" in told[-1])
    assert (opinions(dock)[where.slices] == 300).all()
    close(viewer)


def test_what_the_old_array_was_asked_for_takes_nothing_from_the_next_tool(opened, until, told, held_up):
    viewer, dock = opened()
    where = cube(dock)
    dock.desk.session.overlay.fill(where, BONE)
    point(viewer)
    with held_up():
        use(viewer, Qt.Key.Key_O)
        dock.desk.add_class(300, "a wide one")
        dock.desk.choose(MARROW)
        point(viewer)
        use(viewer, Qt.Key.Key_O)
        listeners = len(dock.desk.session.overlay.changed)
        dock.desk.session.overlay[where.start] = 300
    until(lambda: not dock.correct.tools.runner.busy)
    assert "painted there meanwhile" in told[-1]
    assert len(dock.desk.session.overlay.changed) == listeners - 1
    assert opinions(dock)[where.start] == 300
    close(viewer)


def test_locked_voxels_are_not_counted_as_changed(opened, until):
    viewer, dock = opened()
    where = cube(dock)
    dock.desk.session.overlay.fill(where, BONE)
    dock.desk.lock_class(BONE, True)
    point(viewer)
    use(viewer, Qt.Key.Key_O)
    until(lambda: "nothing to change here that is not locked" in dock.correct.tools.status.text())
    assert (opinions(dock)[where.slices] == BONE).all()
    close(viewer)


def test_a_dock_that_is_opened_again_finds_the_same_runner_which_ends_with_the_window(opened, until):
    viewer, dock = opened()
    runner = dock.correct.tools.runner
    close_dock(viewer)
    _, dock = viewer.window.add_plugin_dock_widget("napari-memseg", "Memory-efficient segmentation")
    assert dock.correct.tools.runner is runner
    dock.show_page(dock.correct)
    dock.desk.session.overlay.fill(cube(dock), BONE)
    dock.desk.choose(MARROW)
    point(viewer)
    use(viewer, Qt.Key.Key_O)
    until(lambda: "1,000 voxels" in dock.correct.tools.status.text())
    close(viewer)
    until(lambda: not [one for one in threading.enumerate() if one.name.startswith("memseg-tool")])


def test_a_session_that_is_closed_meanwhile_drops_the_edit(opened, until):
    viewer, dock = opened()
    dock.desk.session.overlay.fill(cube(dock), BONE)
    point(viewer)
    use(viewer, Qt.Key.Key_O)
    dock.desk.close_session()
    assert not dock.correct.tools.runner.busy
    QApplication.processEvents()
    close(viewer)


def test_the_brush_paints_only_where_grey_values_agree(opened, until):
    viewer, dock = opened()
    box = dock.correct.tools
    box.low.setValue(100)
    box.high.setValue(160)
    box.grey.setChecked(True)
    stroke(viewer, line(0.4, 0.5, 0.6, 0.5))
    z = slice_of(dock)
    image = dock.desk.session.image.read(Box.whole(dock.desk.session.shape))[z]
    painted = opinions(dock)[z] == MARROW
    assert painted.any()
    assert ((image[painted] >= 100) & (image[painted] <= 160)).all()
    until(lambda: shows_opinions(dock))
    use(viewer, Qt.Key.Key_T)
    stroke(viewer, line(0.4, 0.5, 0.6, 0.5))
    assert np.count_nonzero(opinions(dock)[z]) > 1.5 * np.count_nonzero(painted)
    close(viewer)


def test_the_brush_is_set_to_what_is_under_the_cursor(opened):
    viewer, dock = opened()
    point(viewer)
    box = dock.correct.tools
    use(viewer, Qt.Key.Key_T)
    at = tooling.cursor_voxel(dock.desk, dock.desk.visible_box())
    value = dock.desk.session.image.read(Box.at(at, (1, 1, 1))).item()
    assert box.grey.isChecked()
    assert abs((box.low.value() + box.high.value()) / 2 - value) <= 0.5
    assert box.low.value() < value < box.high.value()
    use(viewer, Qt.Key.Key_T)
    assert not box.grey.isChecked()
    assert dock.desk.session.overlay.only_where is None
    close(viewer)


def test_the_brush_paints_a_ball_in_several_slices(opened):
    viewer, dock = opened()
    use(viewer, Qt.Key.Key_R)
    stroke(viewer, line(0.5, 0.5, 0.52, 0.5))
    assert len(np.flatnonzero(opinions(dock).any(axis=(1, 2)))) > 1
    close(viewer)


def test_a_range_of_grey_that_was_chosen_stays_where_the_session_does(opened):
    viewer, dock = opened()
    box = dock.correct.tools
    box.low.setValue(100)
    box.high.setValue(160)
    box.grey.setChecked(True)
    dock.desk.add_class(300, "a wide one")
    assert (box.low.value(), box.high.value(), box.grey.isChecked()) == (100, 160, True)
    assert dock.desk.session.overlay.only_where is not None
    close(viewer)


def test_a_dock_that_is_closed_leaves_a_plain_brush_and_says_so(opened, told):
    viewer, dock = opened()
    overlay, layer = dock.desk.session.overlay, dock.desk.shown.corrections
    dock.correct.tools.grey.setChecked(True)
    dock.correct.tools.ball.setChecked(True)
    assert layer.n_edit_dimensions == 3
    close_dock(viewer)
    assert overlay.only_where is None
    assert layer.n_edit_dimensions == 2
    assert "a disc again" in told[-1]
    close(viewer)


def test_keys_are_listed_and_none_is_bound_twice():
    known = [key for key, _ in keys.listed()]
    assert len(known) == len({*known})
    assert "Shift+F" in known


def test_keys_of_a_dock_that_was_closed_do_nothing(opened, told):
    viewer, _ = opened()
    close_dock(viewer)
    use(viewer, Qt.Key.Key_O)
    assert not told
    close(viewer)
