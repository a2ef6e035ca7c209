"""The whole road in the viewer, by mouse and keys: from a dropped stack to exported labels."""

import shutil

import numpy as np
import pytest
from qtpy.QtCore import Qt

from napari_memseg.annotation.session import Session
from napari_memseg.data import bundled
from napari_memseg.io.formats import open_volume
from napari_memseg.workflows import child_process
from widgets.hands import click, click_row, close, drop, line, press, stroke, type_into

pytestmark = [pytest.mark.qt, pytest.mark.slow]

CTRL = Qt.KeyboardModifier.ControlModifier
PATIENCE = 120_000
"""Milliseconds until something that goes on in another process must have happened."""
BACKGROUND, BONE = 0, 1
"""Rows of the class table."""


@pytest.fixture
def stack(tmp_path):
    shutil.copy(bundled("trabecular_bone.ome.tif"), tmp_path / "bone.ome.tif")
    return tmp_path / "bone.ome.tif"


def open_viewer(make_napari_viewer):
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1280, 800)
    _, dock = viewer.window.add_plugin_dock_widget("napari-memseg", "Memory-efficient segmentation")
    return viewer, dock


def until(qtbot, condition):
    qtbot.waitUntil(condition, timeout=PATIENCE)


def paint_slice(viewer, dock):
    """Paint a cross of bone and one of background on the slice that is shown."""
    click_row(dock.annotate.classes, BONE)
    stroke(viewer, line(0.30, 0.50, 0.55, 0.50))
    click_row(dock.annotate.classes, BACKGROUND)
    stroke(viewer, line(0.62, 0.25, 0.62, 0.40))


def start_session(qtbot, viewer, dock, stack):
    drop(viewer, stack)
    until(qtbot, dock.open.start.isEnabled)
    click(dock.open.start)
    until(qtbot, lambda: dock.desk.session is not None)


def train(qtbot, dock, steps):
    dock.show_page(dock.train)
    type_into(dock.train.steps, str(steps))
    until(qtbot, dock.train.train.isEnabled)
    click(dock.train.train)
    until(qtbot, lambda: len(dock.train.curve.losses) > 0)
    until(qtbot, lambda: not dock.desk.training.busy)
    assert len(dock.train.curve.losses) == steps


def paint_strokes(viewer, dock, count):
    """Paint strokes, alternately of each class, each somewhere else."""
    for number in range(count):
        press(viewer, Qt.Key.Key_2 if number % 2 else Qt.Key.Key_1, CTRL)
        y = 0.2 + 0.6 * number / count
        stroke(viewer, line(0.3, y, 0.4, y, moves=2))


def pause_after_a_tile(dock):
    """Press Pause when the first tile comes in, so that the run is in its middle however quick it is."""
    relay, boxes = dock.desk.segmenting.relay, []

    def pause(step):
        if step.box is not None:
            boxes.append(step.box)
            relay.stepped.disconnect(pause)
            dock.segment.pause.click()

    relay.stepped.connect(pause)
    return boxes


def kinds(session):
    """Return what each step was, a stroke that was stored in parts being one."""
    return [kind for _, kind, _ in session.corrections.steps()]


def test_from_a_dropped_stack_to_exported_labels_through_a_restart(qtbot, make_napari_viewer, stack):
    viewer, dock = open_viewer(make_napari_viewer)
    start_session(qtbot, viewer, dock, stack)
    for _ in range(3):
        paint_slice(viewer, dock)
        press(viewer, Qt.Key.Key_Right)
    session = dock.desk.session
    assert kinds(session) == ["paint"] * 6
    until(qtbot, lambda: all(dock.desk.counting.voxels.get(i) for i in (0, 1)))

    train(qtbot, dock, steps=100)

    dock.show_page(dock.segment)
    boxes = pause_after_a_tile(dock)
    click(dock.segment.segment)
    paint_strokes(viewer, dock, 20)
    for _ in range(5):
        press(viewer, Qt.Key.Key_Z, CTRL)
    assert kinds(session) == ["paint"] * 26 + ["undo"] * 5
    until(qtbot, lambda: bool(boxes))
    assert dock.desk.segmenting.relay.busy, dock.segment.bar.text
    painted, steps = np.asarray(session.overlay), list(session.corrections.steps())
    folder = session.path
    close(viewer)
    until(qtbot, lambda: not any(child.busy for child in child_process._children))

    viewer, dock = open_viewer(make_napari_viewer)
    drop(viewer, folder)
    until(qtbot, lambda: dock.desk.session is not None)
    session = dock.desk.session
    assert not session.read_only
    assert np.array_equal(np.asarray(session.overlay), painted)
    assert list(session.corrections.steps()) == steps
    dock.show_page(dock.segment)
    click(dock.segment.resume)
    until(qtbot, lambda: not dock.desk.segmenting.relay.busy)
    assert session.runs()[-1].is_finished

    dock.show_page(dock.export)
    click(dock.export.export)
    until(qtbot, lambda: not dock.desk.exporting.busy)
    (made,) = (folder / "exports").iterdir()
    labels = open_volume(f"{made / 'image.ome.zarr'}::labels/corrected")
    exported = np.asarray(labels.levels[0])
    assert np.array_equal(exported, np.asarray(session.composite()))
    assert not (exported == session.classes.not_predicted).any()
    opinions = np.where(painted == session.classes.background_opinion, 0, painted)
    assert np.array_equal(exported[painted != 0], opinions[painted != 0])
    close(viewer)
    with Session.open(folder, read_only=True) as closed:
        assert closed.verify()["ok"]
