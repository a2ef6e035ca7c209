"""Corrections at one moment: what training learns from and an export writes."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest

from annotation.helpers import SHAPE, make_run, publish
from napari_memseg.errors import SessionError
from napari_memseg.geometry import Box

WHOLE = Box.whole(SHAPE)
NOBODY = 255


def test_opinions_are_labels_and_their_absence_is_unlabelled(session):
    session.overlay[0, 0, :3] = [1, session.classes.background_opinion, 0]
    with session.snapshot() as snapshot:
        assert (snapshot.shape, snapshot.dtype, snapshot.unlabelled) == (SHAPE, np.uint8, NOBODY)
        assert snapshot.read(Box((0, 0, 0), (1, 1, 4))).ravel().tolist() == [1, 0, NOBODY, NOBODY]
        assert snapshot.counts() == {0: 1, 1: 1}


def test_only_painted_and_confirmed_cells_are_worth_scanning(session):
    session.overlay[0, 0, 0] = 1
    session.confirm(Box((0, 0, 0), (2, 2, 70)))
    session.confirm(Box((0, 0, 60), (2, 66, 70)))
    with session.snapshot() as snapshot:
        assert list(snapshot.cells()) == [
            Box((0, 0, 0), (64, 64, 64)),
            Box((0, 0, 64), (64, 64, 128)),
            Box((0, 64, 0), (64, 66, 64)),
            Box((0, 64, 64), (64, 66, 128)),
        ]


def test_a_confirmed_region_counts_as_labelled_where_something_was_predicted(session):
    _, path = session.new_run()
    publish(make_run(path), Box((0, 0, 0), (64, 64, 64)), 2)
    session.overlay[0, 0, 0] = 1
    session.confirm(Box((0, 0, 0), (1, 1, 66)))
    with session.snapshot() as snapshot:
        row = snapshot.read(Box((0, 0, 0), (1, 2, 66)))
    assert row[0, 0].tolist() == [1] + [2] * 63 + [NOBODY] * 2
    assert (row[0, 1] == NOBODY).all()


def test_a_later_run_does_not_change_what_was_confirmed(session):
    _, first = session.new_run()
    publish(make_run(first), Box((0, 0, 0), (64, 64, 64)), 2)
    session.confirm(Box((0, 0, 0), (1, 1, 1)))
    _, second = session.new_run()
    publish(make_run(second), Box((0, 0, 0), (64, 64, 64)), 15)
    with session.snapshot() as snapshot:
        assert snapshot.read(Box((0, 0, 0), (1, 1, 2))).ravel().tolist() == [2, NOBODY]
        assert snapshot.composite[0, 0, 0] == 15


def test_a_confirmation_can_be_taken_back_and_stays_in_the_log(session):
    confirmed = session.confirm(Box((0, 0, 0), (1, 1, 1)))
    session.unconfirm(confirmed)
    assert session.confirmed() == []
    assert [row["kind"] for row in session.log()] == ["confirm", "unconfirm"]
    with session.snapshot(seq=1) as before:
        assert [c.box for c in before.confirmed] == [Box((0, 0, 0), (1, 1, 1))]
    with pytest.raises(SessionError, match="No confirmed region"):
        session.unconfirm(confirmed)


def test_every_seq_of_the_past_can_be_frozen(session):
    past, draw = [np.zeros(SHAPE, np.uint8)], np.random.default_rng(1)
    for _ in range(8):
        z, y, x = (int(draw.integers(n)) for n in SHAPE)
        session.overlay[z:, y : y + 20, x : x + 20] = int(draw.choice([0, 1, 2, 15]))
        if session.corrections.seq >= len(past):
            past.append(session.overlay[:])
    session.overlay.undo()
    for seq, expected in enumerate(past):
        with session.snapshot(seq=seq) as snapshot:
            assert snapshot.seq == seq
            np.testing.assert_array_equal(np.asarray(snapshot.overlay), expected)


@pytest.mark.parametrize("seq", [-1, 2])
def test_a_seq_that_never_was_is_refused(session, seq):
    session.overlay[0, 0, 0] = 1
    with pytest.raises(SessionError, match="numbered up to 1"):
        session.snapshot(seq=seq)


def test_a_reader_freezes_what_the_editor_has_stored(session, picture):
    session.overlay[0, 0, 0] = 1
    with type(session).open(session.path, True, image=picture) as reader:
        session.overlay[0, 0, 1] = 2
        with reader.snapshot() as snapshot:
            assert snapshot.overlay[0, 0, :2].tolist() == [1, 2]


def test_the_temporary_copy_goes_with_the_last_who_looks_at_it(session, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    session.overlay[0, 0, 0] = 1
    composite = session.composite(seq=1)
    gc.collect()
    assert composite[0, 0, 0] == 1
    assert list(Path(tmp_path).glob("napari-memseg-*"))
    del composite
    gc.collect()
    assert not list(Path(tmp_path).glob("napari-memseg-*"))
