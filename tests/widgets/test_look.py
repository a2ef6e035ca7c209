"""With the engine itself: what is looked at comes next, and what a run would take is measured."""

import re

import numpy as np
import pytest
import tifffile

import toys
from napari_memseg.inference.config import SegmentConfig
from napari_memseg.inference.run_card import note_on_run_card
from napari_memseg.models.intensity import Window
from napari_memseg.widgets.forecasting import Question
from napari_memseg.workflows.segment import segment_session
from napari_memseg.workflows.session import build_pyramid
from running import checkpoint_of
from widgets.hands import click, close, type_into

pytestmark = [pytest.mark.qt, pytest.mark.slow]

PATIENCE = 120_000
"""Milliseconds until something that goes on in another process must have happened."""
IN_FLIGHT = 3
"""Blocks that are being read or computed when somebody looks elsewhere, and come before what is seen."""
TINY = SegmentConfig(chunk=16, tile=(16, 16, 16), batch=1, precision="float32", device="cpu")


@pytest.fixture
def network(tmp_path):
    """A model for voxels of a byte, that computes a tile in a moment."""
    return checkpoint_of(toys.random_unet(levels=2, ids=[1]), tmp_path, Window(0.0, 255.0, "uint8"))


@pytest.fixture
def until(qtbot):
    return lambda condition: qtbot.waitUntil(condition, timeout=PATIENCE)


def to_another_slice(viewer):
    viewer.dims.set_current_step(0, 60)


def to_another_corner(viewer):
    viewer.scene.camera.center = (0, 84, 84)


@pytest.mark.parametrize("move", [to_another_slice, to_another_corner])
def test_where_somebody_moves_to_is_predicted_next(
    until, open_real_dock, new_session, write_scan, network, move
):
    viewer, dock = open_real_dock(new_session(write_scan(shape=(64, 96, 96))))
    segmenting = dock.desk.segmenting
    viewer.dims.set_current_step(0, 20)
    viewer.scene.camera.zoom *= 4
    viewer.scene.camera.center = (0, 12, 12)
    boxes, messages, moved = [], [], []
    segmenting.relay.stepped.connect(lambda step: messages.append(step.message))
    segmenting.relay.stepped.connect(lambda step: step.box is not None and boxes.append(step.box))
    segmenting.moved.connect(lambda: moved.append(True))
    until(lambda: bool(moved))
    seen_before = dock.desk.visible_box()
    dock.desk.forecasting.ask(Question(dock.desk.session.path, network, TINY))
    until(lambda: dock.desk.forecasting.outcome is not None)
    segmenting.start(network, TINY)
    segmenting.relay.pause()
    until(lambda: any(message.startswith("into") for message in messages))

    moved.clear()
    move(viewer)
    until(lambda: bool(moved))
    seen = dock.desk.visible_box()
    assert (seen & seen_before).is_empty
    segmenting.relay.resume()
    until(lambda: not segmenting.relay.busy)
    is_seen = [not (box & seen).is_empty for box in boxes]
    first = is_seen.index(True)
    assert first <= IN_FLIGHT
    assert all(not (box & seen_before).is_empty for box in boxes[:first]), "seen before somebody moved"
    assert all(is_seen[first : first + sum(is_seen)]), "nothing else before all that is seen"
    assert 4 <= sum(is_seen) < len(is_seen) / 2
    close(viewer)


def test_tiles_that_failed_can_be_tried_again(open_real_dock, new_session, write_scan, network):
    folder = new_session(write_scan(shape=(32, 32, 32)))
    list(segment_session(folder, network, TINY))
    viewer, dock = open_real_dock(folder)
    dock.show_page(dock.segment)
    assert dock.segment.resume.isHidden()
    note_on_run_card(folder / "runs" / "0001", result={"failures": [{"reason": "odd"}]})
    dock.segment.refresh()
    assert not dock.segment.resume.isHidden()
    assert "0001 finished but for 1 failed tile." in dock.segment.runs.text()
    close(viewer)


@pytest.fixture
def mostly_air(tmp_path, new_session):
    """A session on a volume that is mostly air."""
    voxels = np.random.default_rng(0).integers(100, 200, (1024, 96, 96)).astype(np.uint8)
    voxels[:900] //= 20
    path = tmp_path / "scan.tif"
    unit = {"axes": "ZYX", "spacing": 1, "unit": "\\u00B5m"}
    tifffile.imwrite(path, voxels, imagej=True, resolution=(1, 1), metadata=unit)
    return new_session(path)


def test_a_run_is_forecast_its_empty_tiles_are_skipped_and_both_are_told_at_its_end(
    until, open_real_dock, mostly_air, network
):
    viewer, dock = open_real_dock(mostly_air)
    page = dock.segment
    dock.show_page(page)
    page.model.addItem(network.stem, network)
    forecast = (
        r"\d+ tiles, about [\d.]+ GiB of memory, (less than )?[\d.]+ GiB of disk, about \d+ \w+; overlap "
    )
    until(lambda: re.match(forecast, page.forecast.text()))
    type_into(page.most_memory, "2")
    type_into(page.skip_below, "50")
    until(lambda: "has no coarser level" in page.segment.reason.text())
    assert not page.segment.isEnabled()

    dock.desk.close_session()
    list(build_pyramid(mostly_air))
    assert dock.desk.open_session(mostly_air)
    dock.show_page(page)
    until(lambda: re.match(forecast, page.forecast.text()))
    click(page.segment)
    until(lambda: not dock.desk.segmenting.relay.busy)
    said = (
        r"Done: 9,437,184 voxels in \d+ s \(forecast \d+ s\) on cpu, [\d.]+ GiB of memory \(forecast .*\)\."
    )
    assert re.match(said + r"\n\d+ of \d+ tiles empty, skipped\.$", page.bar.text), page.bar.text
    labels = np.asarray(dock.desk.shown.levels[0])
    assert (labels[:64] == 0).all()
    assert (labels[960:] == 1).any()
    close(viewer)
