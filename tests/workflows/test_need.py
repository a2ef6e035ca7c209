"""A session is predicted again where it is needed most, and comes to the same."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest
import tifffile

import toys
from napari_memseg.annotation.session import Session
from napari_memseg.geometry import Box
from napari_memseg.inference.config import SegmentConfig
from napari_memseg.inference.control import Control
from napari_memseg.io.formats import open_volume
from napari_memseg.models.classes import ClassTable
from napari_memseg.workflows import need as need_module
from napari_memseg.workflows.need import CORRECTED, REST, UNSURE, order_of_need
from napari_memseg.workflows.segment import segment_session
from running import checkpoint_of

SHAPE = (64, 64, 512)
"""Eight cells in a row; the sixth and seventh are hard to tell."""


@pytest.fixture
def session(tmp_path):
    toys.register()
    grey = np.full(SHAPE, 0.9, np.float32)
    grey[..., 320:448] = 0.31
    tifffile.imwrite(tmp_path / "image.tif", grey, photometric="minisblack")
    classes = ClassTable.from_ids(toys.null().classes.ids[1:])
    with Session.create(tmp_path / "session", open_volume(tmp_path / "image.tif"), classes) as opened:
        yield opened


def begin(session, threshold, control=None):
    model = checkpoint_of(toys.null(threshold=threshold), session.path.parent)
    config = SegmentConfig(chunk=16, tile=(64, 64, 64), device="cpu", confidence=True)
    return segment_session(session.path, model, config, control=control)


def predict(session, threshold, control=None):
    steps = begin(session, threshold, control)
    return [step.box.start[2] for step in steps if step.box is not None]


def needs(session):
    need = order_of_need(session)
    return [need(Box((0, 0, x), (64, 64, x + 64))) for x in range(0, 512, 64)]


def stop_early(session, threshold):
    """Leave a run behind that has predicted one block."""
    with closing(begin(session, threshold)) as steps:
        next(step for step in steps if step.box is not None)


def test_corrections_come_first_then_what_was_unsure_then_the_rest(session):
    assert order_of_need(session) is None, "nothing was predicted yet"
    assert predict(session, 0.3) == list(range(0, 512, 64))
    session.overlay[5, 5, 200:210] = session.classes.ids[1]
    session.confirm(Box((0, 0, 500), (64, 64, 512)))
    assert needs(session) == [REST, REST, REST, CORRECTED, REST, UNSURE, UNSURE, CORRECTED]
    assert predict(session, 0.4) == [192, 448, 320, 384, 0, 64, 128, 256]


def test_what_is_looked_at_comes_before_all_of_it(session):
    predict(session, 0.3)
    session.overlay[5, 5, 200:210] = session.classes.ids[1]
    control = Control()
    control.look_at(Box((10, 0, 70), (11, 64, 80)))
    assert predict(session, 0.4, control)[:2] == [64, 192]


def test_a_run_that_goes_on_asks_the_last_finished_run_what_was_unsure(session):
    stop_early(session, 0.3)
    assert set(needs(session)) == {REST}, "no run is finished"
    predict(session, 0.3)
    stop_early(session, 0.4)
    assert needs(session) == [REST, REST, REST, REST, REST, UNSURE, UNSURE, REST]


def test_a_place_is_found_where_one_voxel_of_the_coarse_look_is_larger_than_a_cell(session, monkeypatch):
    predict(session, 0.3)
    monkeypatch.setattr(need_module, "CELL", (4, 4, 4))
    need = order_of_need(session)
    wanted = [need(Box((0, 0, x), (4, 4, x + 4))) for x in range(0, 512, 4)]
    assert wanted == [UNSURE if 320 <= x < 448 else REST for x in range(0, 512, 4)]
