"""The hand on a run."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from napari_memseg.errors import Cancelled
from napari_memseg.geometry import Box
from napari_memseg.inference.control import Control


def test_a_run_that_nobody_touches_goes_on():
    control = Control()
    control.wait_if_paused()
    control.raise_if_cancelled()
    assert not control.paused
    assert control.box is None


@pytest.mark.parametrize("release", ["resume", "cancel"])
def test_a_paused_run_waits_until_it_is_released(release):
    control = Control()
    control.pause()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(control.wait_if_paused)
        assert not waiting.done()
        getattr(control, release)()
        waiting.result(timeout=30)


def test_a_cancelled_run_says_that_it_can_be_continued():
    control = Control()
    control.cancel()
    with pytest.raises(Cancelled, match="go on"):
        control.raise_if_cancelled()


def test_the_box_that_is_looked_at_can_be_moved_and_withdrawn():
    control, box = Control(), Box((0, 0, 0), (1, 2, 3))
    control.look_at(box)
    assert control.box == box
    control.look_at(None)
    assert control.box is None
