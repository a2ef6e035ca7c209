"""What a network that is learning makes of the view is seen within seconds, and follows strokes and eyes."""

import numpy as np
import pytest

from napari_memseg.geometry import Box
from napari_memseg.widgets.previewing import PreviewArray
from napari_memseg.widgets.view import WINDOW, window
from napari_memseg.workflows import child_process
from napari_memseg.workflows.session import models_in
from widgets.hands import click, close, line, stroke
from widgets.test_road import BONE, open_viewer, paint_slice, stack, start_session, until

pytestmark = pytest.mark.qt
__all__ = ["stack"]


def test_newer_pieces_lie_over_older_ones():
    array = PreviewArray((4, 30, 30), np.dtype(np.uint8))
    array.put(Box((0, 0, 0), (1, 20, 20)), np.full((1, 20, 20), 1, np.uint8))
    array.put(Box((0, 10, 10), (1, 30, 30)), np.full((1, 20, 20), 2, np.uint8))
    assert np.asarray(array[0])[[0, 15, 25, 0], [0, 15, 25, 25]].tolist() == [1, 2, 2, 0]
    assert array.read(Box((0, 0, 0), (1, 30, 30)), (1, 7, 7)).shape == (1, 5, 5)
    assert not array.read(Box((1, 0, 0), (4, 30, 30))).any()


@pytest.mark.slow
def test_live_training_shows_the_view_and_learns_from_the_next_stroke(qtbot, make_napari_viewer, stack):
    viewer, dock = open_viewer(make_napari_viewer)
    start_session(qtbot, viewer, dock, stack)
    paint_slice(viewer, dock)
    dock.show_page(dock.train)
    click(dock.train.live)
    assert dock.train.network.currentData() == "pixels"
    until(qtbot, dock.train.train.isEnabled)
    click(dock.train.train)
    previewing = dock.desk.previewing
    until(qtbot, lambda: previewing.layer is not None)
    until(qtbot, lambda: np.asarray(previewing.layer.data[viewer.dims.current_step[0]]).any())
    assert viewer.layers.selection.active.name == "corrections", "the brush stays in the hand"

    until(qtbot, lambda: bool(models_in(dock.desk.session.path)))
    learned = len(dock.train.curve.losses)
    dock.desk.choose(BONE)
    stroke(viewer, line(0.2, 0.6, 0.4, 0.6))
    until(qtbot, lambda: len(dock.train.curve.losses) > learned)

    viewer.layers.remove(previewing.layer)  # who does not want to see it deletes it
    learned = len(dock.train.curve.losses)
    stroke(viewer, line(0.2, 0.7, 0.4, 0.7))
    until(qtbot, lambda: len(dock.train.curve.losses) > learned)
    assert "preview" not in viewer.layers

    click(dock.train.stop)
    until(qtbot, lambda: not dock.desk.training.busy)
    assert [path.stem for path in models_in(dock.desk.session.path)] == ["pixels-1"]
    child_process.close_children()
    close(viewer)


def test_in_3d_a_window_about_the_middle_is_previewed(make_napari_viewer):
    viewer = make_napari_viewer()
    layer = viewer.add_labels(np.zeros((120, 200, 40), np.uint8), scale=(2, 1, 1))
    assert window(viewer, layer, (120, 200, 40)).shape[0] == 1
    viewer.dims.ndisplay = 3
    found = window(viewer, layer, (120, 200, 40))
    assert found.shape == (*WINDOW[:2], 40)
    assert found.contains(Box((14, 54, 0), (106, 146, 40)))
