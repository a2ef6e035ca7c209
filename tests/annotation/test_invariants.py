"""The promises about a user's work, I1 to I7 and I9 to I12 of the design, one test each.

I8, "not predicted is never exported as background", is a promise of the export; that
``not_predicted`` arrives there is in I6.
"""

from __future__ import annotations

import hashlib
import sqlite3

import numpy as np
import pytest

from annotation.helpers import SHAPE, Picture, after_a_kill, make_run, publish
from napari_memseg.annotation.session import Session
from napari_memseg.errors import SessionError, SessionLockedError
from napari_memseg.files import from_checked_json, to_checked_json
from napari_memseg.geometry import Box

BLOCK = Box((0, 0, 0), (64, 64, 64))
NOBODY = 255


def predict(session, value, block=BLOCK):
    """Let a new run predict one block."""
    _, path = session.new_run()
    publish(make_run(path), block, value)


def digest(folder):
    """Return a hash of the content of every file in a folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_i1_an_opinion_outlives_predictions_reruns_and_crashes(session, picture, tmp_path):
    predict(session, 1)
    session.overlay[3, 4, 5] = 1  # agrees with what is predicted
    session.overlay[3, 4, 6] = session.classes.background_opinion
    predict(session, 2)
    left = after_a_kill(session.path, tmp_path / "left")
    with Session.open(left, image=picture) as again:
        predict(again, 15)
        assert again.composite()[3, 4, 4:8].tolist() == [15, 1, 0, 15]
        assert again.snapshot().composite[3, 4, 4:8].tolist() == [15, 1, 0, 15]
        again.overlay[3, 4, 5] = 0
        assert again.composite()[3, 4, 5] == 15


def test_i2_nobody_but_the_editor_writes_corrections_and_nobody_rewrites_a_block(session, picture):
    predict(session, 1)
    session.overlay[0, 0, 0] = 1
    before = digest(session.path)
    with Session.open(session.path, True, image=picture) as reader:
        np.asarray(reader.composite())
        reader.snapshot().counts()
        reader.verify()
        with pytest.raises(SessionError):
            reader.overlay[0, 0, 0] = 2
        with pytest.raises(SessionError):
            reader.overlay.undo()
        with pytest.raises(sqlite3.OperationalError):
            reader.corrections.connection.execute("DELETE FROM cell")
        with pytest.raises(SessionLockedError):
            Session.open(session.path, image=picture)
    changed = {name for name, hashed in digest(session.path).items() if before.get(name) != hashed}
    assert changed <= {"corrections.sqlite-shm"}  # the index of the log, which readers share


def test_i3_saved_means_on_disk_and_is_never_said_before(session, picture, tmp_path):
    overlay = session.overlay
    seen = []

    def look(_):
        left = after_a_kill(session.path, tmp_path / str(len(seen)))
        with Session.open(left, image=picture) as again:
            seen.append((overlay.state, np.array_equal(np.asarray(again.overlay), np.asarray(overlay))))

    overlay.changed.append(look)
    with overlay.stroke():
        overlay[0, 0, 0] = 1
        overlay[0, 0, 1] = 1
        overlay.flush()
        overlay.changed[0](BLOCK)
        overlay[0, 0, 2] = 1
    overlay.changed[0](BLOCK)
    assert seen == [
        ("pending", False),
        ("pending", False),
        ("saved", True),
        ("pending", False),
        ("saved", True),
    ]


def test_i4_cells_are_the_replay_of_the_strokes(session):
    draw = np.random.default_rng(5)
    for turn in range(30):
        z, y, x = (int(draw.integers(n)) for n in SHAPE)
        index = (slice(z, z + 9), slice(y, y + 9), slice(x, x + 9))
        session.overlay[index] = draw.choice([0, 1, 2, 254], np.zeros(SHAPE)[index].shape)
        if turn % 3 == 0:
            session.overlay.undo()
        if turn % 6 == 0:
            session.overlay.redo()
    report = session.verify()
    assert report["ok"]
    assert report["cells"] > 3
    session.corrections.connection.execute("UPDATE cell SET data = (SELECT data FROM cell LIMIT 1)")
    assert not session.verify()["ok"]


@pytest.mark.parametrize("restart", [False, True])
def test_i5_undo_gives_back_the_overlay_before_whatever_was_predicted_meanwhile(session, picture, restart):
    predict(session, 1)
    states, draw = [session.overlay[:]], np.random.default_rng(2)
    for _ in range(6):
        with session.overlay.stroke():
            for _ in range(3):
                z, y, x = (int(draw.integers(n)) for n in SHAPE)
                session.overlay[z : z + 30, y : y + 30, x : x + 30] = int(draw.choice([0, 1, 2, 254]))
        states.append(session.overlay[:])
    predict(session, 2)
    if restart:
        session.close()
        session = Session.open(session.path, image=picture)
    while session.overlay.can_undo:
        np.testing.assert_array_equal(np.asarray(session.overlay), states.pop())
        session.overlay.undo()
    np.testing.assert_array_equal(np.asarray(session.overlay), states.pop())
    assert states == []
    assert (session.composite()[BLOCK.slices] == 2).all()
    session.close()


def test_i6_the_composite_is_overlay_over_newest_run_over_its_parent_in_every_order_of_axes(session):
    draw = np.random.default_rng(4)
    expected = np.full(SHAPE, NOBODY, np.uint8)
    for block in (Box((0, 0, 0), (70, 66, 64)), Box((0, 0, 0), (64, 64, 130))):
        predicted = draw.choice([0, 1, 2], block.shape).astype(np.uint8)
        predict(session, predicted, block)
        expected[block.slices] = predicted
    opinions = draw.choice([0, 0, 0, 15, 254], SHAPE).astype(np.uint8)
    session.overlay[:] = opinions
    expected = np.where(opinions == 0, expected, np.where(opinions == 254, 0, opinions))
    for composite in (session.composite(), session.snapshot().composite):
        np.testing.assert_array_equal(np.asarray(composite), expected)
        for axis in range(3):
            for at in (0, 63, SHAPE[axis] - 1):
                index = tuple(at if k == axis else slice(None) for k in range(3))
                np.testing.assert_array_equal(composite[index].T, expected[index].T)
    assert (expected == NOBODY).any()


def test_i7_one_seq_and_one_run_are_the_same_bytes_for_ever(session, picture):
    predict(session, 1)
    session.overlay[0, 0, :9] = 2
    first = session.snapshot()
    pair, before = (first.seq, first.run_id), np.asarray(first.composite).tobytes()
    session.overlay[0, 0, 3:5] = 0
    session.overlay.undo()
    session.overlay[:, 3, 3] = 15
    predict(session, 2)
    session.close()
    with Session.open(session.path, image=picture) as again:
        second = again.snapshot(seq=pair[0], run=pair[1])
        assert (second.seq, second.run_id) == pair == (1, "0001")
        assert np.asarray(second.composite).tobytes() == before


def test_i9_runs_and_strokes_are_only_ever_added(session, picture):
    predict(session, 1)
    session.overlay[0, 0, :9] = 2
    session.unconfirm(session.confirm(BLOCK))
    log, runs, old = list(session.log()), session.runs(), digest(session.path / "runs")
    session.overlay.undo()
    session.overlay[0, 0, :] = 0
    session.overlay.fill(Box.whole(SHAPE), 0)
    predict(session, 2)
    session.close()
    with Session.open(session.path, image=picture) as again:
        assert list(again.log())[: len(log)] == log
        assert again.runs()[: len(runs)] == runs
        assert {name: digest(again.path / "runs")[name] for name in old} == old


@pytest.mark.parametrize("read_only", [False, True, None])
def test_i10_another_image_is_refused_and_nothing_is_deleted(session, read_only):
    session.overlay[0, 0, 0] = 1
    session.close()
    before = digest(session.path)
    with pytest.raises(SessionError, match="another image"):
        Session.open(session.path, read_only, image=Picture(fingerprint="other"))
    after = digest(session.path)
    assert {name for name in before if after.get(name) != before[name]} <= {
        "corrections.sqlite",
        "corrections.sqlite.xxh3",
    }
    with Session.open(session.path, image=Picture()) as again:
        assert again.overlay[0, 0, 0] == 1


@pytest.mark.parametrize("where", ["session.json", "corrections.sqlite"])
def test_i11_a_session_of_a_newer_program_is_only_read(session, picture, where):
    session.overlay[0, 0, 0] = 1
    if where == "corrections.sqlite":
        session.corrections.connection.execute("UPDATE meta SET value = '99' WHERE key = 'schema'")
    session.close()
    if where == "session.json":
        row = from_checked_json((session.path / where).read_bytes())
        (session.path / where).write_bytes(to_checked_json({**row, "schema": 99, "unheard_of": []}))
    before = (session.path / where).read_bytes()
    with Session.open(session.path, image=picture) as newer:
        assert newer.read_only
        assert any("schema" in note and "99" in note for note in newer.notes)
        assert newer.overlay[0, 0, 0] == 1
        with pytest.raises(SessionError, match="reading only"):
            newer.overlay[0, 0, 0] = 2
    assert (session.path / where).read_bytes() == before


def test_i12_training_reads_a_frozen_copy_while_painting_goes_on(session):
    session.overlay[0, 0, :9] = 2
    snapshot = session.snapshot()
    session.overlay.begin_stroke()
    session.overlay[0, 0, :9] = 1
    assert snapshot.overlay[0, 0, :9].tolist() == [2] * 9
    session.overlay.commit()
    session.overlay.fill(Box.whole(SHAPE), 15)
    assert snapshot.seq == 1
    assert snapshot.counts() == {2: 9}
    assert snapshot.read(BLOCK)[0, 0, :10].tolist() == [2] * 9 + [snapshot.unlabelled]
    with pytest.raises(sqlite3.OperationalError):
        snapshot.overlay._corrections.connection.execute("DELETE FROM cell")
