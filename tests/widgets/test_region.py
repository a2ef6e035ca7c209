"""A region of the dock: drawn by hand, or seen, and never another one than what is meant."""

import pytest

from napari_memseg.widgets.region import DRAWN, SEEN
from widgets.hands import click, close, line, stroke

pytestmark = pytest.mark.qt


def ready(open_dock, folder, model):
    viewer, dock = open_dock(folder)
    dock.show_page(dock.segment)
    dock.segment.model.addItem("net", model)
    dock.segment.refresh()
    return viewer, dock


def test_a_rectangle_that_was_drawn_can_be_segmented(until, open_dock, folder, model):
    viewer, dock = ready(open_dock, folder, model)
    region = dock.segment.region
    region.kind.setCurrentText(DRAWN)
    assert "Draw a rectangle" in dock.segment.segment.reason.text()
    click(region.draw)
    stroke(viewer, line(0.4, 0.4, 0.6, 0.6))
    until(dock.segment.segment.isEnabled)
    assert 0 < region.box().size < 40 * 48 * 56
    close(viewer)


def test_what_is_visible_is_never_everything_by_mistake(open_dock, folder, model):
    viewer, dock = ready(open_dock, folder, model)
    dock.segment.region.kind.setCurrentText(SEEN)
    assert dock.segment.segment.isEnabled()
    viewer.dims.ndisplay = 3
    assert "go back to 2D" in dock.segment.region.why_not()
    viewer.dims.ndisplay = 2
    for layer in (dock.desk.shown.corrections, dock.desk.shown.result):
        viewer.layers.remove(layer)
    assert "show them again" in dock.segment.region.why_not()
    close(viewer)


def test_a_shapes_layer_of_somebody_else_stays(open_dock, folder, model):
    viewer, dock = ready(open_dock, folder, model)
    theirs = viewer.add_shapes(name="region", ndim=3)
    dock.desk.close_session()
    assert theirs in viewer.layers
    close(viewer)
