"""A result layer is patched as things change: one read at a time, of what is seen, never after its end."""

import threading

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Labels

from napari_memseg.annotation.composite import Composite
from napari_memseg.errors import SessionError
from napari_memseg.geometry import Box, ceil_div, zyx
from napari_memseg.models.classes import ClassTable
from napari_memseg.widgets import live
from napari_memseg.widgets.live import LiveResult

pytestmark = pytest.mark.qt

SHAPE = (8, 24, 30)
NOBODY = ClassTable.from_ids([1]).not_predicted
PATIENCE = 10_000


class StandIn(Composite):
    """A composite of plain voxels, whose reads in the thread are noted, and may be stopped or fail."""

    def __init__(self, voxels, level=0):
        self.voxels, self.level = voxels, level
        self.classes = ClassTable.from_ids([1])
        self.dtype, self.runs = voxels.dtype, ()
        self.shape = zyx(voxels.shape)
        self.reads, self.at_once, self.most_at_once = [], 0, 0
        self.go = threading.Event()
        self.go.set()
        self.fails = False

    def read(self, box, stride=(1, 1, 1)):
        if threading.current_thread() is threading.main_thread():  # napari slices
            return self._cut(box, stride)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        assert self.go.wait(PATIENCE / 1000)
        self.reads.append(box)
        self.at_once -= 1
        if self.fails:
            raise SessionError("the run is gone")
        return self._cut(box, stride)

    def _cut(self, box, stride):
        return self.voxels[box.slices][tuple(slice(None, None, s) for s in stride)].copy()


def pyramid(count):
    """Levels where nobody predicted anything yet."""
    shapes = [ceil_div(SHAPE, zyx([2**level] * 3)) for level in range(count)]
    return [StandIn(np.full(shape, NOBODY, "uint8"), level) for level, shape in enumerate(shapes)]


@pytest.fixture
def shown(qtbot):
    """A layer in a viewer without a window, what patches it, and its levels."""
    made = []

    def show(count=1):
        levels = pyramid(count)
        viewer = ViewerModel()
        data = levels if count > 1 else levels[0]
        layer = viewer.add_layer(Labels(data, multiscale=count > 1))
        if count > 1:
            layer.locked_data_level = count - 1
            layer.refresh()
        one = LiveResult(layer, levels)
        made.extend([one, *levels])
        return viewer, one, levels

    yield show
    for one in made:
        if isinstance(one, StandIn):
            one.go.set()
        elif not one._ended:
            one.close()


def pixels(one):
    return one.layer._slice.image.raw


def predict(levels, box, value=1):
    levels[0].voxels[box.slices] = value


def patches(qtbot, one, count=1):
    qtbot.waitUntil(lambda: one.refreshes >= count, timeout=PATIENCE)


SEEN = Box((3, 2, 4), (5, 12, 20))
"""Meets the slice that is shown at first."""


def test_what_changed_is_patched_in_and_nothing_else_is_read(qtbot, shown):
    _, one, levels = shown()
    predict(levels, SEEN)
    one.finished(SEEN)
    patches(qtbot, one)
    z = one.layer._data_slice.point[0]
    expected = Box((int(z), 2, 4), (int(z) + 1, 12, 20))
    assert levels[0].reads == [expected]
    assert np.array_equal(pixels(one), levels[0].voxels[int(z)])


def test_what_is_not_seen_is_not_read(qtbot, shown):
    _, one, levels = shown()
    away = Box((0, 0, 0), (1, 24, 30))
    one.finished(away)
    one.changed(away)
    qtbot.waitUntil(lambda: not one._waits, timeout=PATIENCE)
    assert (levels[0].reads, one.refreshes) == ([], 0)


def test_there_is_one_read_at_a_time_and_what_comes_meanwhile_waits_and_is_gathered(qtbot, shown):
    _, one, levels = shown()
    composite = levels[0]
    composite.go.clear()
    one.changed(SEEN)
    qtbot.waitUntil(lambda: composite.at_once == 1, timeout=PATIENCE)
    for y in range(12):
        box = Box((0, y, 0), (8, y + 1, 30))
        predict(levels, box)
        one.changed(box)
        one._look()
    assert composite.reads == []
    composite.go.set()
    patches(qtbot, one, 2)
    assert composite.most_at_once == 1
    assert len(composite.reads) == 2
    assert composite.reads[1].shape == (1, 12, 30)
    assert np.array_equal(pixels(one), composite.voxels[composite.reads[0].start[0]])


def test_many_blocks_are_read_a_few_at_a_time_and_all_in_the_end(qtbot, shown, monkeypatch):
    monkeypatch.setattr(live, "AT_ONCE", 3)
    _, one, levels = shown()
    for y in range(8):
        box = Box((0, 3 * y, 0), (8, 3 * y + 3, 30))
        predict(levels, box)
        one.finished(box)
    patches(qtbot, one, 3)
    assert (pixels(one) == 1).all()
    assert len(levels[0].reads) == 8


def test_a_block_that_is_finished_twice_is_read_once(qtbot, shown):
    _, one, levels = shown()
    for _ in range(3):
        one.finished(SEEN)
    patches(qtbot, one)
    assert len(levels[0].reads) == 1


def test_a_layer_that_is_closed_in_mid_read_shows_nothing_any_more(qtbot, shown):
    _, one, levels = shown()
    predict(levels, SEEN)
    levels[0].go.clear()
    one.finished(SEEN)
    qtbot.waitUntil(lambda: levels[0].at_once == 1, timeout=PATIENCE)
    one.close()
    levels[0].go.set()
    qtbot.waitUntil(lambda: len(levels[0].reads) == 1, timeout=PATIENCE)
    one._thread.shutdown(wait=True)
    one.finished(SEEN)
    one.changed(SEEN)
    qtbot.wait(0)
    assert one.refreshes == 0
    assert (pixels(one) == NOBODY).all()


def test_a_run_that_is_discarded_in_mid_read_is_not_shown_and_the_next_one_is(qtbot, shown):
    _, one, levels = shown()
    levels[0].fails = True
    one.finished(SEEN)
    qtbot.waitUntil(lambda: bool(levels[0].reads) and not one._reading, timeout=PATIENCE)
    assert one.refreshes == 0
    levels[0].fails = False
    predict(levels, SEEN)
    one.finished(SEEN)
    patches(qtbot, one)
    assert (pixels(one) == 1).any()


def test_a_coarse_level_that_is_not_built_shows_the_finest_one(qtbot, shown):
    _, one, levels = shown(2)
    assert one.layer.data_level == 1
    block = Box((0, 0, 0), (8, 12, 30))
    predict(levels, block)
    one.finished(block)
    patches(qtbot, one)
    assert (pixels(one)[:6] == 1).all()
    assert (pixels(one)[6:] == NOBODY).all()


def test_a_coarse_level_that_is_built_is_read_itself(qtbot, shown):
    _, one, levels = shown(2)
    levels[1].voxels[:] = 1
    one.finished(Box.whole(SHAPE))
    patches(qtbot, one)
    assert (pixels(one) == 1).all()
    assert levels[0].reads == []


def test_finished_blocks_are_shown_again_when_the_coarse_level_is_read_anew(qtbot, shown):
    viewer, one, levels = shown(2)
    block = Box((0, 0, 0), (8, 12, 30))
    predict(levels, block)
    one.finished(block)
    patches(qtbot, one)
    viewer.dims.set_current_step(0, 1)
    patches(qtbot, one, 2)
    assert (pixels(one)[:6] == 1).all()


def test_a_volume_rendering_is_refreshed_now_and_then_and_only_when_something_came(qtbot, shown, monkeypatch):
    viewer, one, levels = shown(2)
    viewer.dims.ndisplay = 3
    one._volume_timer.setInterval(300)
    levels[1].voxels[:] = 1
    for z in range(8):
        one.finished(Box((z, 0, 0), (z + 1, 24, 30)))
        one._look()
    assert one._volume_timer.isActive()
    assert one.refreshes == 0
    patches(qtbot, one)
    assert one.refreshes == 1
    assert (pixels(one) == 1).all()
    assert not one._timer.isActive()
    assert not one._volume_timer.isActive()
    assert [read for level in levels for read in level.reads] == []


def test_other_runs_are_shown_at_once_and_blocks_of_the_last_one_forgotten(qtbot, shown):
    _, one, levels = shown()
    one.finished(SEEN)
    predict(levels, Box.whole(SHAPE))
    one.show_runs([])
    assert (pixels(one) == 1).all()
    assert not one._finished
