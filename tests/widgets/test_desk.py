"""Whatever becomes of layers, windows, children and disks: strokes are kept, and what is seen is true."""

import sqlite3

import numpy as np
import pytest
from napari.settings import get_settings
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication

from napari_memseg.annotation import overlay
from napari_memseg.annotation.corrections import Corrections
from napari_memseg.annotation.session import Session
from napari_memseg.inference.config import SegmentConfig
from napari_memseg.widgets.napari_compat import shown_box
from volumes import noise
from widgets.conftest import SHAPE
from widgets.hands import button_down, button_up, click, click_row, close, line, press, settle, stroke

pytestmark = pytest.mark.qt

CTRL = Qt.KeyboardModifier.ControlModifier
SHIFT = Qt.KeyboardModifier.ShiftModifier
MIDDLE = line(0.4, 0.5, 0.6, 0.5)
LOWER = line(0.4, 0.7, 0.6, 0.7)
BACKGROUND, BONE = 0, 1


def opinions(session):
    """All that is painted, as it is in memory."""
    return np.asarray(session.overlay)


def stored(folder):
    """All that is painted, as it is on disk at this moment."""
    with Session.open(folder, read_only=True) as session:
        return np.asarray(session.overlay)


def paint(viewer, dock, points=MIDDLE, class_id=BONE):
    dock.desk.choose(class_id)
    stroke(viewer, points)


def remove(viewer, name):
    viewer.layers.remove(viewer.layers[name])


def remove_all(viewer, name):
    viewer.layers.clear()


def shows_the_truth(dock):
    """Whether the result shows what it should, wherever somebody looks."""
    result, levels = dock.desk.shown.result, dock.desk.shown.levels
    box, level = shown_box(result)
    shown = result._slice.image.raw
    return np.array_equal(shown, levels[level].read(box).reshape(shown.shape))


def shows_opinions(dock):
    """Whether the corrections show what is in memory."""
    layer = dock.desk.shown.corrections
    box, _ = shown_box(layer)
    return np.array_equal(layer._slice.image.raw, layer.data.read(box).reshape(box.shape)[0])


def begin_run(dock, model):
    dock.desk.segmenting.start(model, SegmentConfig())


@pytest.fixture
def steps():
    """Steps of a run, gathered by who connects it."""
    return []


def half_done(steps):
    return any(step.done >= 4 and step.box is not None for step in steps)


# Layers that are deleted, renamed, hidden


@pytest.mark.parametrize("delete", [remove, remove_all])
def test_a_run_goes_on_without_layers_and_they_come_back_with_everything(
    until, open_dock, folder, model, hold, steps, delete
):
    viewer, dock = open_dock(folder)
    session, relay = dock.desk.session, dock.desk.segmenting.relay
    relay.stepped.connect(steps.append)
    begin_run(dock, model)
    until(lambda: half_done(steps))
    paint(viewer, dock)
    painted = opinions(session)
    delete(viewer, "corrections")
    assert np.array_equal(stored(folder), painted)
    hold.unlink()
    until(lambda: not relay.busy)
    assert session.runs()[-1].is_finished
    dock.show_page(dock.correct)
    click(dock.correct.again)
    assert [layer.name for layer in viewer.layers] == ["image", "result", "corrections"]
    assert np.array_equal(opinions(session), painted)
    assert shows_opinions(dock)
    assert shows_the_truth(dock)
    paint(viewer, dock, LOWER)
    assert np.count_nonzero(stored(folder)) > np.count_nonzero(painted)
    close(viewer)


@pytest.mark.parametrize("delete", [remove, remove_all])
def test_a_stroke_is_kept_when_its_layer_is_deleted_under_the_brush(until, open_dock, folder, delete):
    viewer, dock = open_dock(folder)
    dock.desk.choose(BONE)
    button_down(viewer, MIDDLE)
    painted = opinions(dock.desk.session)
    assert painted.any()
    delete(viewer, "corrections")
    assert np.array_equal(stored(folder), painted)
    button_up(viewer, MIDDLE[-1])
    assert dock.badge.state == "saved"
    dock.show_page(dock.open)
    click(dock.open.again)
    assert shows_opinions(dock)
    paint(viewer, dock, LOWER)
    assert np.array_equal(stored(folder)[painted != 0], painted[painted != 0])
    press(viewer, Qt.Key.Key_Z, CTRL)
    assert np.array_equal(stored(folder), painted)
    close(viewer)


def test_layers_may_be_renamed_and_hidden(until, open_dock, folder, model):
    viewer, dock = open_dock(folder)
    shown = dock.desk.shown
    shown.result.name, shown.corrections.name = "labels", "mine"
    shown.corrections.visible = shown.result.visible = False
    dock.correct.refresh()
    assert not dock.correct.result.isChecked()
    begin_run(dock, model)
    until(lambda: not dock.desk.segmenting.relay.busy)
    assert not shown.missing
    paint(viewer, dock)
    assert shown.corrections.visible
    assert opinions(dock.desk.session).any()
    shown.result.visible = True
    until(lambda: shows_the_truth(dock))
    assert shown.result._slice.image.raw.any()
    close(viewer)


def test_hiding_the_corrections_under_the_brush_stores_the_stroke(open_dock, folder):
    viewer, dock = open_dock(folder)
    dock.desk.choose(BONE)
    button_down(viewer, MIDDLE)
    dock.desk.shown.corrections.visible = False
    assert stored(folder).any()
    button_up(viewer, MIDDLE[-1])
    close(viewer)


def test_a_result_that_is_deleted_while_tiles_come_in_comes_back_with_them(
    until, open_dock, folder, model, hold, steps
):
    viewer, dock = open_dock(folder)
    relay = dock.desk.segmenting.relay
    relay.stepped.connect(steps.append)
    begin_run(dock, model)
    until(lambda: half_done(steps))
    remove(viewer, "result")
    hold.unlink()
    until(lambda: sum(step.box is not None for step in steps) >= 6)
    dock.desk.show_layers()
    until(lambda: not relay.busy)
    until(lambda: shows_the_truth(dock))
    assert (dock.desk.shown.result._slice.image.raw == 1).all()
    close(viewer)


# A film beside the session


def add_film(viewer):
    """Show a volume that has another axis before (z, y, x), as a time series has."""
    viewer.add_image(noise((3, *SHAPE), "uint8"), name="film", axis_labels=("t", "z", "y", "x"))


@pytest.mark.filterwarnings("ignore:Inconsistent units across layers:UserWarning")
@pytest.mark.parametrize("before", [True, False])
def test_a_layer_with_more_axes_may_lie_beside_the_session(until, open_dock, folder, before):
    viewer, dock = open_dock()
    if before:
        add_film(viewer)
    assert dock.desk.open_session(folder)
    if not before:
        add_film(viewer)
    assert viewer.dims.axis_labels[-3:] == ("z", "y", "x")
    viewer.dims.set_current_step(0, 2)
    viewer.dims.set_current_step(1, 7)
    settle(viewer)
    paint(viewer, dock)
    painted = opinions(dock.desk.session)
    seen = dock.desk.visible_box()
    assert (seen.start[0], seen.stop[0]) == (7, 8)
    assert np.unique(np.nonzero(painted)[0]).tolist() == [7]
    assert shows_opinions(dock)
    press(viewer, Qt.Key.Key_N, SHIFT)
    until(lambda: viewer.dims.current_step[1] == 8)
    assert viewer.dims.current_step[0] == 2
    assert np.array_equal(opinions(dock.desk.session)[8], painted[7])
    remove(viewer, "film")
    assert viewer.dims.ndim == 3
    paint(viewer, dock, LOWER)
    assert np.array_equal(stored(folder), opinions(dock.desk.session))
    close(viewer)


# A run


def test_a_run_fills_in_while_one_looks(until, open_dock, folder, model):
    viewer, dock = open_dock(folder)
    begin_run(dock, model)
    until(lambda: not dock.desk.segmenting.relay.busy)
    assert dock.desk.shown.live.refreshes >= 2
    until(lambda: shows_the_truth(dock))
    assert (np.asarray(dock.desk.shown.levels[0]) == 1).all()
    close(viewer)


@pytest.mark.parametrize("move", ["slider", "pan", "zoom"])
def test_a_run_is_told_where_somebody_looks(until, open_dock, folder, model, hold, monkeypatch, move):
    viewer, dock = open_dock(folder)
    boxes = []
    monkeypatch.setattr(dock.desk.segmenting.relay, "look_at", boxes.append)
    begin_run(dock, model)
    assert boxes == [dock.desk.visible_box()]
    camera = viewer.scene.camera
    if move == "slider":
        viewer.dims.set_current_step(0, 7)
    elif move == "pan":
        camera.center = (0, 60, camera.center[2])
    else:
        camera.zoom *= 3
    until(lambda: len(boxes) > 1)
    assert boxes[-1] == dock.desk.visible_box() != boxes[0]
    dock.desk.segmenting.relay.cancel()
    until(lambda: not dock.desk.segmenting.relay.busy)
    close(viewer)


def test_a_child_that_dies_says_so_and_the_next_job_works(until, open_dock, folder, model, said):
    viewer, dock = open_dock(folder)
    deadly = model.with_name("deadly.safetensors")
    paint(viewer, dock)
    begin_run(dock, deadly)
    until(lambda: not dock.desk.segmenting.relay.busy)
    assert "SIGKILL" in said[-1]
    assert "SIGKILL" in dock.segment.bar.text
    paint(viewer, dock, LOWER)
    begin_run(dock, model)
    until(lambda: not dock.desk.segmenting.relay.busy)
    assert dock.desk.session.runs()[-1].is_finished
    assert np.array_equal(stored(folder), opinions(dock.desk.session))
    close(viewer)


def test_with_asynchronous_slicing_it_paints_and_streams_alike(until, open_dock, folder, model):
    get_settings().experimental.async_ = True
    try:
        viewer, dock = open_dock(folder)
        until(lambda: all(layer.loaded for layer in viewer.layers))
        paint(viewer, dock)
        begin_run(dock, model)
        until(lambda: not dock.desk.segmenting.relay.busy)
        viewer.dims.set_current_step(0, 10)
        until(lambda: all(layer.loaded for layer in viewer.layers))
        paint(viewer, dock, LOWER, BACKGROUND)
        until(lambda: shows_the_truth(dock) and shows_opinions(dock))
        assert {0, 1} == set(np.unique(dock.desk.shown.result._slice.image.raw))
        assert np.array_equal(stored(folder), opinions(dock.desk.session))
        close(viewer)
    finally:
        get_settings().experimental.async_ = False


# Windows


def test_a_viewer_that_is_closed_with_the_button_down_keeps_the_stroke(open_dock, folder):
    viewer, dock = open_dock(folder)
    dock.desk.choose(BONE)
    button_down(viewer, MIDDLE)
    painted = opinions(dock.desk.session)
    assert painted.any()
    close(viewer)
    with Session.open(folder) as session:
        assert np.array_equal(opinions(session), painted)
        assert session.recovered == 0
        assert session.verify()["ok"]


def test_the_second_of_two_windows_can_look_and_not_paint_until_the_first_is_closed(until, open_dock, folder):
    first, one = open_dock(folder)
    second, other = open_dock(folder)
    assert other.desk.session.read_only
    assert other.badge.state == "read-only"
    assert "is being edited by process" in other.open.hint.text()
    paint(second, other)
    assert not opinions(other.desk.session).any()
    paint(first, one)
    painted = opinions(one.desk.session)
    other.show_page(other.correct)
    click(other.correct.look)
    assert np.array_equal(opinions(other.desk.session), painted)
    assert shows_opinions(other)
    assert shows_the_truth(other)
    until(lambda: other.desk.counting.voxels.get(BONE) == np.count_nonzero(painted))
    one.show_page(one.open)
    click(one.open.close_button)
    assert other.desk.open_session(folder)
    assert other.badge.state == "saved"
    paint(second, other, LOWER)
    assert np.count_nonzero(stored(folder)) > np.count_nonzero(painted)
    close(second)
    close(first)


def test_a_session_that_cannot_be_written_to_opens_for_looking_and_says_why(open_dock, folder, monkeypatch):
    def refuse(lock):
        raise PermissionError("read-only file system")

    monkeypatch.setattr("napari_memseg.annotation.lock.FileLock.acquire", refuse)
    viewer, dock = open_dock(folder)
    paint(viewer, dock)
    press(viewer, Qt.Key.Key_Z, CTRL)
    assert not opinions(dock.desk.session).any()
    for page in (dock.open, dock.annotate, dock.correct):
        assert "read-only file system" in page.hint.text()
        assert "Somebody else" not in page.hint.text()
    assert dock.badge.state == "read-only"
    assert "somebody" not in dock.badge.text()
    assert not dock.correct.undo.isEnabled()
    close(viewer)


# The disk refuses


class Disk:
    """Takes strokes, unless it is full."""

    def __init__(self, monkeypatch):
        self.full = False
        for name in ("commit", "probe"):
            monkeypatch.setattr(Corrections, name, self._unless_full(getattr(Corrections, name)))

    def _unless_full(self, write):
        def wrote(*args):
            if self.full:
                raise sqlite3.OperationalError("database or disk is full")
            return write(*args)

        return wrote


@pytest.fixture
def disk(monkeypatch):
    disk = Disk(monkeypatch)
    yield disk
    disk.full = False


def test_what_the_disk_refuses_is_not_shown_and_nothing_is_painted_until_it_takes_it(
    until, open_dock, folder, disk, said
):
    viewer, dock = open_dock(folder)
    paint(viewer, dock)
    painted, layer = opinions(dock.desk.session), dock.desk.shown.corrections
    disk.full = True
    paint(viewer, dock, LOWER)
    until(lambda: not layer.editable)
    assert dock.badge.state == "failed"
    assert "disk is full" in said[-1]
    assert np.array_equal(opinions(dock.desk.session), painted)
    assert shows_opinions(dock)
    stroke(viewer, LOWER)
    assert shows_opinions(dock)
    until(lambda: shows_the_truth(dock))
    dock.show_page(dock.correct)
    click(dock.correct.retry)
    assert dock.badge.state == "failed"
    disk.full = False
    click(dock.correct.retry)
    assert dock.badge.state == "saved"
    assert dock.correct.retry.isHidden()
    paint(viewer, dock, LOWER)
    assert dock.badge.state == "saved"
    assert np.count_nonzero(stored(folder)) > np.count_nonzero(painted)
    close(viewer)


def test_a_disk_that_refuses_under_the_brush_stops_it_with_one_message(
    until, open_dock, folder, disk, said, monkeypatch
):
    monkeypatch.setattr(overlay, "GROUP_SECONDS", 1000.0)  # the painter's timer asks the disk, not a dab
    viewer, dock = open_dock(folder)
    dock.desk.choose(BONE)
    disk.full = True
    button_down(viewer, MIDDLE)
    dock.desk.shown.painter._store_pending()
    button_down(viewer, LOWER)
    button_up(viewer, LOWER[-1])
    until(lambda: not dock.desk.shown.corrections.editable)
    assert dock.badge.state == "failed"
    assert len(said) == 1
    assert not opinions(dock.desk.session).any()
    assert shows_opinions(dock)
    remove(viewer, "corrections")
    dock.desk.show_layers()
    stroke(viewer, MIDDLE)
    assert len(said) == 1
    disk.full = False
    dock.desk.shown.painter.retry()
    paint(viewer, dock)
    assert stored(folder).any()
    close(viewer)


# The badge


def test_the_badge_never_says_saved_while_anything_is_in_memory_alone(open_dock, folder, monkeypatch):
    viewer, dock = open_dock(folder)
    overlay, seen = dock.desk.session.overlay, []
    show = dock.badge.show_state

    def note(state):
        show(state)
        seen.append((dock.badge.state, overlay.has_pending))

    dock.desk.stored.disconnect(dock.badge.show_state)
    dock.desk.stored.connect(note)
    for points, class_id in ((MIDDLE, BONE), (LOWER, BACKGROUND)):
        dock.desk.choose(class_id)
        button_down(viewer, points)
        button_up(viewer, points[-1])
        assert dock.badge.state == "saved"
    press(viewer, Qt.Key.Key_Z, CTRL)
    assert ("pending", True) in seen
    assert ("saved", True) not in seen
    close(viewer)


# Undo


def test_keys_take_back_what_was_painted_before_a_restart_and_on_other_slices(open_dock, folder):
    viewer, dock = open_dock(folder)
    history = [opinions(dock.desk.session)]
    for z, points in ((5, MIDDLE), (30, LOWER)):
        viewer.dims.set_current_step(0, z)
        paint(viewer, dock, points)
        history.append(opinions(dock.desk.session))
    close(viewer)

    viewer, dock = open_dock(folder)
    dock.desk.choose(BACKGROUND)
    viewer.dims.set_current_step(0, 30)
    for known in (history[1], history[0]):
        press(viewer, Qt.Key.Key_Z, CTRL)
        assert np.array_equal(stored(folder), known)
        assert shows_opinions(dock)
    viewer.dims.set_current_step(0, 5)
    assert shows_opinions(dock)
    for known in history[1:]:
        press(viewer, Qt.Key.Key_Z, CTRL | SHIFT)
        assert np.array_equal(stored(folder), known)
        assert shows_opinions(dock)
    close(viewer)


# Classes


@pytest.mark.parametrize("by", ["click", "key"])
def test_a_class_is_chosen_with_its_brush_whatever_layer_was_chosen_before(open_dock, folder, by):
    viewer, dock = open_dock(folder)
    layer = dock.desk.shown.corrections
    for other in ("image", "result"):
        viewer.layers.selection.active = viewer.layers[other]
        layer.mode, layer.selected_label = "pan_zoom", 0
        if by == "click":
            click_row(dock.annotate.classes, BONE)
        else:
            press(viewer, Qt.Key.Key_2, CTRL)
        assert viewer.layers.selection.active is layer
        assert (layer.selected_label, str(layer.mode)) == (1, "paint")
        assert np.allclose(layer._selected_color, layer.get_color(1))
        assert [index.row() for index in dock.annotate.classes.selectedIndexes()][:1] == [BONE]
    close(viewer)


def test_choosing_a_class_shows_the_corrections_that_were_deleted(open_dock, folder):
    viewer, dock = open_dock(folder)
    remove(viewer, "corrections")
    paint(viewer, dock)
    assert stored(folder).any()
    close(viewer)


def test_a_class_that_needs_wider_numbers_keeps_all_strokes_and_paints_on(until, open_dock, folder):
    viewer, dock = open_dock(folder)
    paint(viewer, dock)
    paint(viewer, dock, LOWER, BACKGROUND)
    before = opinions(dock.desk.session)
    dock.annotate.name.setText("wing")
    dock.annotate.number.setValue(300)
    click(dock.annotate.add_button)
    after = opinions(dock.desk.session)
    assert after.dtype == np.uint16
    assert np.array_equal(after == 1, before == 1)
    assert (after[before == 254] == 65534).all()
    assert [layer.name for layer in viewer.layers] == ["image", "result", "corrections"]
    paint(viewer, dock, line(0.4, 0.3, 0.6, 0.3), 300)
    assert (stored(folder) == 300).any()
    assert shows_opinions(dock)
    until(lambda: shows_the_truth(dock))
    until(lambda: dock.desk.counting.voxels.get(300, 0) > 0)
    assert dock.badge.state == "saved"
    close(viewer)


# What is seen


@pytest.mark.parametrize("level", [0, 1])
def test_the_result_agrees_with_every_stroke_at_every_level(until, open_dock, new_session, write_scan, level):
    viewer, dock = open_dock(new_session(write_scan(shape=(140, 140, 140))))
    viewer.dims.set_current_step(0, 70)  # a slice that the coarse level has too
    viewer.scene.camera.center, viewer.scene.camera.zoom = (70, 70), 1.5 / 4**level
    QApplication.processEvents()  # draws, and only then are places on the canvas what they are seen to be
    result = dock.desk.shown.result
    until(lambda: result.data_level == level and shows_the_truth(dock))
    dock.desk.shown.corrections.brush_size = 15
    for x, class_id in ((0.48, BONE), (0.5, BACKGROUND), (0.52, BONE)):
        before = dock.desk.shown.live.refreshes
        paint(viewer, dock, line(x, 0.48, x, 0.52), class_id)
        until(lambda before=before: dock.desk.shown.live.refreshes > before and shows_the_truth(dock))
    press(viewer, Qt.Key.Key_Z, CTRL)
    until(lambda: shows_the_truth(dock))
    assert {0, 1} < set(np.unique(result._slice.image.raw))
    close(viewer)
