"""A disk that stands still holds up what is read from it alone, where napari reads slices in a thread."""

import threading

import numpy as np
import pytest
from napari.settings import get_settings
from qtpy.QtWidgets import QApplication

from napari_memseg.annotation.session import Session
from napari_memseg.geometry import Box
from napari_memseg.io.volume import Volume
from widgets.conftest import SHAPE
from widgets.hands import close, line, stroke

pytestmark = pytest.mark.qt
ELSEWHERE = 31
"""A slice that nobody looked at yet."""


@pytest.fixture
def asynchronous():
    """napari reads slices in a thread."""
    get_settings().experimental.async_ = True
    yield
    get_settings().experimental.async_ = False


@pytest.fixture
def disk(monkeypatch):
    """Takes reads of the image for as long as it is set."""
    answers, asked, read = threading.Event(), threading.Event(), Volume.read
    answers.set()

    def when_it_answers(volume, box, level=0):
        if not answers.is_set():
            asked.set()
            assert answers.wait(60)
        return read(volume, box, level)

    monkeypatch.setattr(Volume, "read", when_it_answers)
    answers.asked = asked
    yield answers
    answers.set()


def loaded(viewer):
    return all(layer.loaded for layer in viewer.layers)


def test_somebody_paints_while_the_disk_stands_still_and_sees_the_slice_when_it_is_read(
    open_dock, folder, until, asynchronous, disk
):
    viewer, dock = open_dock(folder)
    until(lambda: loaded(viewer))
    dock.desk.choose(1)
    disk.clear()
    viewer.dims.set_current_step(0, ELSEWHERE)
    until(disk.asked.is_set)
    stroke(viewer, line(0.4, 0.5, 0.6, 0.5))
    with Session.open(folder, read_only=True) as stored:
        painted = np.asarray(stored.overlay)
    assert set(np.argwhere(painted)[:, 0]) == {ELSEWHERE}
    assert not loaded(viewer)
    disk.set()
    until(lambda: loaded(viewer))
    QApplication.processEvents()
    plane = dock.desk.session.image.read(Box((ELSEWHERE, 0, 0), (ELSEWHERE + 1, *SHAPE[1:])))
    np.testing.assert_array_equal(dock.desk.shown.image._slice.image.raw, plane[0])
    close(viewer)
