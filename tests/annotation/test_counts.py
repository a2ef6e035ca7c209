"""Painted voxels by class, kept up to date cell by cell."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from annotation.helpers import Picture
from napari_memseg.annotation.counts import ClassCounts
from napari_memseg.annotation.session import Session
from napari_memseg.geometry import Box
from napari_memseg.models.classes import ClassTable

SHAPE = (70, 66, 10)
VALUES = (1, 2, 254)


@st.composite
def boxes(draw):
    ends = [sorted(draw(st.tuples(st.integers(0, n - 1), st.integers(1, n)))) for n in SHAPE]
    return Box(tuple(a for a, _ in ends), tuple(max(b, a + 1) for a, b in ends))


def counted(counts):
    return {value: counts[value] for value in VALUES}


def plain(overlay):
    """Count all voxels as numpy does."""
    voxels = np.asarray(overlay)
    return {value: int(np.count_nonzero(voxels == value)) for value in VALUES}


STEPS = st.lists(st.tuples(boxes(), st.sampled_from([0, *VALUES])) | st.just("undo"), max_size=8)


@settings(max_examples=25)
@given(steps=STEPS)
def test_recounting_what_changed_is_as_good_as_counting_everything(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("counts") / "session"
    with Session.create(folder, Picture(SHAPE), ClassTable.from_ids([1, 2])) as session:
        counts = ClassCounts(session.overlay)
        session.overlay.changed.append(counts.recount)
        for step in steps:
            if step == "undo":
                session.overlay.undo()
            else:
                box, value = step
                session.overlay[box.slices] = value
            assert counted(counts) == plain(session.overlay)


def test_nothing_is_counted_before_it_is_asked_for(session):
    session.overlay[0, 0, :9] = 1
    counts = ClassCounts(session.overlay)
    assert counts[1] == 0
    counts.recount()
    assert counts[1] == 9


def test_only_the_cells_that_a_box_touches_are_counted_again(session):
    session.overlay[0, 0, 60:70] = 2
    counts = ClassCounts(session.overlay)
    counts.recount(Box((0, 0, 64), (1, 1, 65)))
    assert counts[2] == 6
    counts.recount(Box((9, 9, 0), (10, 10, 1)))
    assert counts[2] == 10


def test_counting_twice_changes_nothing(session):
    session.overlay[0, 0, 60:70] = 2
    counts = ClassCounts(session.overlay)
    for _ in range(2):
        counts.recount()
    assert counts[2] == 10


def test_a_cell_that_was_withdrawn_counts_no_more(session):
    session.overlay[0, 0, :9] = 15
    session.overlay[69, 65, 129] = 15
    counts = ClassCounts(session.overlay)
    counts.recount()
    session.overlay[0, 0, :9] = 0
    counts.recount(Box((0, 0, 0), (1, 1, 9)))
    assert counts[15] == 1


def test_opinions_for_background_are_counted_and_silence_is_not(session):
    session.overlay[0, :3, 0] = session.classes.background_opinion
    counts = ClassCounts(session.overlay)
    counts.recount()
    assert counts[session.classes.background_opinion] == 3
    assert counts[0] == 0


def test_strokes_that_are_not_stored_yet_are_counted_and_a_frozen_overlay_counts_as_it_was(session):
    session.overlay[0, 0, 0] = 1
    frozen = ClassCounts(session.snapshot().overlay)
    session.overlay.begin_stroke()
    session.overlay[0, 0, 1] = 1
    live = ClassCounts(session.overlay)
    for counts in (live, frozen):
        counts.recount()
    assert (live[1], frozen[1]) == (2, 1)
