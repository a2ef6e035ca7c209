"""A person is taken from place to place, and what she accepts becomes truth."""

from dataclasses import replace

import numpy as np
import pytest
import tifffile
from qtpy.QtCore import Qt

import toys
from napari_memseg.annotation.review import Review, reviews_in
from napari_memseg.annotation.session import Session
from napari_memseg.geometry import Box
from napari_memseg.io.formats import open_volume
from napari_memseg.models import registry
from napari_memseg.models.classes import ClassTable
from napari_memseg.workflows import child_process
from running import session_of_two_runs
from widgets.hands import click, close, line, press, stroke
from widgets.test_road import open_viewer, until

pytestmark = pytest.mark.qt
SHAPE = (40, 48, 80)


@pytest.fixture
def session(tmp_path, monkeypatch):
    """A session with two runs that differ in a box; its network is known until the test ends."""
    monkeypatch.setattr(registry, "_REGISTERED", {})
    toys.register()
    with session_of_two_runs(tmp_path, SHAPE, Box((5, 5, 20), (35, 40, 60))) as opened:
        return opened.path


def test_from_place_to_place(qtbot, make_napari_viewer, session):
    viewer, dock = open_viewer(make_napari_viewer)
    assert dock.desk.open_session(session)
    dock.show_page(dock.review)
    page, reviewing = dock.review, dock.desk.reviewing
    click(page.find_places)
    until(qtbot, lambda: reviewing.place is not None)
    first = reviewing.place
    assert first.kind == "differs"
    assert page.places.count() == len(reviewing.review.places)
    assert not page.places.item(0).icon().isNull()
    assert "may be wrong" in page.places.item(0).text()
    assert viewer.dims.current_step[0] == first.centre[0]
    frame = viewer.layers["place"]
    assert frame.data[0][:, 0] == pytest.approx(first.centre[0])
    assert viewer.layers.selection.active.name == "corrections"

    dock.desk.choose(0)
    stroke(viewer, line(0.5, 0.5, 0.52, 0.5))
    press(viewer, Qt.Key.Key_Y)
    opened = dock.desk.session
    (confirmed,) = opened.confirmed()
    assert confirmed.box.shape[0] == 1, "only the slice that is shown"
    assert first.box.contains(confirmed.box)
    verdict = Review.load(reviews_in(session)[0]).verdicts[first.number]
    assert (verdict.verdict, verdict.changed) == ("accepted", True)
    assert page.places.item(0).text().startswith("✓")

    assert reviewing.place is not first
    press(viewer, Qt.Key.Key_K)
    assert len(reviewing.review.verdicts) == 2
    click(page.count)
    until(qtbot, lambda: reviewing.counted is not None)
    assert "Dice" in page.numbers.text()

    click(page.take_back)
    assert opened.confirmed() == []
    dock.desk.close_session()
    assert "place" not in viewer.layers
    child_process.close_children()
    close(viewer)


@pytest.fixture
def at_a_place(qtbot, make_napari_viewer, session):
    """Open a viewer whose person was taken to the first place."""

    def make():
        viewer, dock = open_viewer(make_napari_viewer)
        assert dock.desk.open_session(session)
        dock.desk.reviewing.find()
        until(qtbot, lambda: dock.desk.reviewing.place is not None)
        return viewer, dock

    yield make
    child_process.close_children()


def test_accepting_off_the_place_or_in_3d_says_what_to_do(at_a_place, monkeypatch):
    viewer, dock = at_a_place()
    said = []
    monkeypatch.setattr("napari_memseg.widgets.reviewing.show_info", said.append)
    reviewing = dock.desk.reviewing
    reviewing.place = replace(reviewing.place, box=Box((10, 10, 20), (30, 30, 50)))
    viewer.dims.set_current_step(0, 0)
    press(viewer, Qt.Key.Key_Y)
    assert "The frame is on the slices 10 to 29" in said[-1]
    viewer.dims.ndisplay = 3
    press(viewer, Qt.Key.Key_Y)
    assert "go back to 2D" in said[-1]
    assert dock.desk.session.confirmed() == []
    close(viewer)


def test_layers_are_deleted_and_the_window_closed_with_a_place_shown(at_a_place):
    viewer, dock = at_a_place()
    viewer.layers.remove("place")
    viewer.dims.set_current_step(0, 1)
    assert "place" not in viewer.layers
    press(viewer, Qt.Key.Key_N)
    assert "place" in viewer.layers
    viewer.layers.selection = set(viewer.layers)
    viewer.layers.remove_selected()
    assert len(viewer.layers) == 0
    dock.desk.show_layers()
    close(viewer)


def test_what_is_counted_of_one_session_is_not_shown_in_another(qtbot, at_a_place):
    viewer, dock = at_a_place()
    dock.desk.reviewing.count()
    dock.desk.close_session()
    until(qtbot, lambda: not dock.desk.reviewing.relay.busy)
    assert dock.desk.reviewing.counted is None
    close(viewer)


def test_a_window_that_only_reads_judges_nothing(at_a_place):
    viewer, dock = at_a_place()
    dock.desk.session.read_only = True
    press(viewer, Qt.Key.Key_K)
    press(viewer, Qt.Key.Key_Y)
    assert dock.desk.reviewing.review.verdicts == {}
    dock.desk.session.read_only = False
    close(viewer)


def test_without_a_session_or_a_run_the_page_says_what_to_do(qtbot, make_napari_viewer, tmp_path):
    viewer, dock = open_viewer(make_napari_viewer)
    assert "page Open" in dock.review.hint.text()
    tifffile.imwrite(tmp_path / "image.tif", np.zeros((4, 50, 60), np.uint8), photometric="minisblack")
    Session.create(tmp_path / "s", open_volume(tmp_path / "image.tif"), ClassTable.from_ids([1])).close()
    assert dock.desk.open_session(tmp_path / "s")
    assert "segment first" in dock.review.hint.text()
    assert not dock.review.find_places.isEnabled()
    press(viewer, Qt.Key.Key_Y)  # nothing to accept: nothing happens
    assert dock.desk.session.confirmed() == []
    child_process.close_children()
    close(viewer)
