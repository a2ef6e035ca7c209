"""Undo has no end but the beginning: it lies on disk, and memory holds no more for it."""

import numpy as np

from annotation.helpers import SHAPE
from napari_memseg.annotation.indexing import CELL
from napari_memseg.annotation.overlay import Overlay
from napari_memseg.annotation.replay import check_replay
from napari_memseg.annotation.session import Session

STEPS = 200
FEW_BYTES = 2 * int(np.prod(CELL))
"""Budgets for two cells: far less than all that is painted."""


def test_two_hundred_steps_are_taken_back_and_brought_back_in_the_memory_of_a_few_cells(session, picture):
    rng = np.random.default_rng(0)
    corrections, classes = session.corrections, session.classes
    overlay = Overlay(corrections, SHAPE, classes, cache_bytes=FEW_BYTES, dirty_bytes=FEW_BYTES)
    states = {0: np.zeros(SHAPE, np.uint8)}
    for step in range(1, STEPS + 1):
        low = [int(rng.integers(0, n - 9)) for n in SHAPE]
        overlay[tuple(slice(a, a + 9) for a in low)] = int(rng.choice(classes.ids[1:]))
        if step % 50 == 0:
            states[step] = np.asarray(overlay)
    for step in range(STEPS, 0, -1):
        if step in states:
            np.testing.assert_array_equal(np.asarray(overlay), states[step])
        overlay.undo()
    assert not np.asarray(overlay).any()
    assert not overlay.can_undo
    while overlay.can_redo:
        overlay.redo()
    np.testing.assert_array_equal(np.asarray(overlay), states[STEPS])
    assert len(overlay._clean) + len(overlay._dirty) <= 4
    assert check_replay(corrections) == []
    assert corrections.seq == 3 * STEPS
    session.close()
    with Session.open(session.path, image=picture) as again:
        np.testing.assert_array_equal(np.asarray(again.overlay), states[STEPS])
        again.overlay.undo()
        assert np.count_nonzero(np.asarray(again.overlay) != states[STEPS])
