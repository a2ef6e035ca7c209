"""Values from elsewhere, taken cell by cell: one step, stored whole or not at all."""

from __future__ import annotations

import numpy as np
import pytest

from annotation.helpers import SHAPE
from napari_memseg.errors import ClassTableError, GeometryError, SessionError
from napari_memseg.geometry import Box

BOX = Box((3, 5, 60), (68, 66, 130))
"""Parts of several cells."""


@pytest.fixture
def wanted(classes):
    values = [0, *classes.ids[1:], classes.background_opinion]
    return np.random.default_rng(0).choice(values, SHAPE).astype(classes.dtype)


@pytest.fixture
def overlay(session):
    session.overlay[0, 0, :90] = 1
    session.overlay[4, 5, 60:90] = 2
    return session.overlay


def test_each_voxel_of_the_box_gets_its_own_value_in_one_undoable_step(overlay, wanted):
    before, told = np.asarray(overlay), []
    overlay.changed.append(told.append)
    cells = list(overlay.fill_from(BOX, lambda part: wanted[part.slices], tool="import", kind="import"))
    expected = before.copy()
    expected[BOX.slices] = wanted[BOX.slices]
    np.testing.assert_array_equal(np.asarray(overlay), expected)
    assert (sum(part.size for part in cells), told) == (BOX.size, [BOX])
    assert overlay.state == "saved"
    overlay.undo()
    np.testing.assert_array_equal(np.asarray(overlay), before)


@pytest.mark.parametrize("budget", [1, 1 << 28])
def test_whoever_stops_halfway_leaves_no_trace(overlay, session, wanted, budget):
    overlay._most_dirty = budget
    before, seq = np.asarray(overlay), session.corrections.seq
    steps = overlay.fill_from(BOX, lambda part: wanted[part.slices], tool="import", kind="import")
    next(steps)
    next(steps)
    steps.close()
    np.testing.assert_array_equal(np.asarray(overlay), before)
    assert (session.corrections.seq, overlay.state) == (seq, "saved")


def test_a_value_that_is_no_class_in_the_last_cell_stores_nothing(overlay, session, wanted):
    wanted[67, 65, 129] = 7
    before, seq = np.asarray(overlay), session.corrections.seq
    with pytest.raises(ClassTableError, match="cannot all be painted"):
        list(overlay.fill_from(BOX, lambda part: wanted[part.slices], tool="import", kind="import"))
    np.testing.assert_array_equal(np.asarray(overlay), before)
    assert session.corrections.seq == seq


def test_a_box_that_leaves_the_volume_is_refused(overlay):
    with pytest.raises(GeometryError, match="leaves the volume"):
        next(overlay.fill_from(BOX.grow((9, 9, 9)), lambda part: np.zeros(part.shape, int), tool="import"))


def test_until_the_end_nothing_else_is_painted_and_nothing_of_it_stored(overlay, session, wanted):
    seq, before = session.corrections.seq, np.asarray(overlay)
    steps = overlay.fill_from(BOX, lambda part: wanted[part.slices], tool="tool")
    next(steps)
    with pytest.raises(SessionError, match="still being painted"):
        overlay.begin_stroke()
    with pytest.raises(SessionError, match="still being painted"):
        overlay[0, 0, 0] = 1
    with pytest.raises(SessionError, match="still being painted"):
        overlay.undo()
    assert overlay.commit() is None
    assert (overlay.state, session.corrections.seq) == ("pending", seq)
    steps.close()
    np.testing.assert_array_equal(np.asarray(overlay), before)
    overlay[0, 0, 0] = 2
    assert session.corrections.seq == seq + 1


def test_whoever_stops_taking_a_step_back_leaves_it_as_it_was(overlay, session, wanted):
    list(overlay.fill_from(BOX, lambda part: wanted[part.slices], tool="import", kind="import"))
    before, seq = np.asarray(overlay), session.corrections.seq
    steps = overlay.undoing()
    next(steps)
    with pytest.raises(SessionError, match="still being painted"):
        overlay[0, 0, 0] = 1
    with pytest.raises(SessionError, match="still being painted"):
        overlay.undo()
    steps.close()
    np.testing.assert_array_equal(np.asarray(overlay), before)
    assert (session.corrections.seq, overlay.state) == (seq, "saved")
    overlay.undo()
    assert not np.array_equal(np.asarray(overlay), before)
