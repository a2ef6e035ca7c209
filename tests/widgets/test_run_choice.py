"""An earlier run is put back by choosing it, and two runs are compared in a layer of their own."""

import numpy as np
import pytest

from napari_memseg.annotation.difference import ADDED
from widgets.hands import close
from widgets.test_review_page import session
from widgets.test_road import open_viewer

pytestmark = pytest.mark.qt
__all__ = ["session"]
INSIDE = (20, 20, 30)
"""Where the first run found nothing, and the second something."""


def choose(choice, data):
    """Choose an entry as a person does."""
    choice.choose(data)
    choice.activated.emit(choice.currentIndex())


def seen(layer):
    return int(np.asarray(layer.data[0] if layer.multiscale else layer.data)[INSIDE])


def test_runs_are_put_back_and_compared(make_napari_viewer, session):
    viewer, dock = open_viewer(make_napari_viewer)
    assert dock.desk.open_session(session)
    dock.show_page(dock.segment)
    runs, foreground = dock.segment.run_choice, dock.desk.session.classes.ids[1]
    assert runs.shown.currentData() == "0002"
    assert seen(dock.desk.shown.result) == foreground
    choose(runs.other, "0001")
    assert seen(viewer.layers["difference"]) == ADDED
    assert viewer.layers.selection.active is not viewer.layers["difference"]

    choose(runs.shown, "0001")
    assert seen(dock.desk.shown.result) == 0
    assert seen(viewer.layers["difference"]) == 0, "a run does not differ from itself"

    viewer.layers.remove(viewer.layers["difference"])
    assert runs.other.currentData() is None
    choose(runs.other, "0002")
    dock.desk.close_session()
    assert "difference" not in viewer.layers
    close(viewer)
