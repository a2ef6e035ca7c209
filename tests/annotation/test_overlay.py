"""The array that is painted on."""

from __future__ import annotations

import sqlite3
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from annotation.helpers import SHAPE
from napari_memseg.annotation.corrections import Corrections
from napari_memseg.annotation.overlay import GROUP_DABS, Overlay
from napari_memseg.errors import ClassTableError, GeometryError, SessionError
from napari_memseg.geometry import Box
from napari_memseg.models.classes import ClassTable

WHOLE = Box.whole(SHAPE)


class Clock:
    """Seconds that pass when told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def corrections(tmp_path):
    opened = Corrections.create(tmp_path / "corrections.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def overlay(corrections, classes, clock):
    return Overlay(corrections, SHAPE, classes, user="ada", clock=clock)


def on_disk(corrections, classes):
    """Return the overlay as somebody else would find it on disk."""
    other = Corrections(corrections.path, read_only=True)
    try:
        return np.asarray(Overlay(other, SHAPE, classes))
    finally:
        other.close()


def test_it_looks_like_an_array(overlay):
    assert (overlay.shape, overlay.dtype, overlay.ndim, len(overlay)) == (SHAPE, np.uint8, 3, SHAPE[0])
    assert overlay[1, 2, 3] == 0
    assert np.asarray(overlay).shape == SHAPE


steps = st.tuples(*[st.sampled_from([1, 2, 3, -1, -2])] * 3)
classes_ = st.sampled_from([1, 15])
spans = st.tuples(*(st.tuples(st.integers(0, n), st.integers(0, n)) for n in SHAPE))


@settings(max_examples=30, deadline=None)
@given(edits=st.lists(st.tuples(spans, steps, st.sampled_from([0, 1, 2, 15, 254])), max_size=4))
def test_slices_are_painted_as_numpy_would(tmp_path_factory, edits):
    classes = ClassTable.from_ids([1, 2, 15])
    opened = Corrections.create(tmp_path_factory.mktemp("c") / "corrections.sqlite")
    overlay, model = Overlay(opened, SHAPE, classes), np.zeros(SHAPE, np.uint8)
    for ends, stride, value in edits:
        index = tuple(slice(a, b, s) for (a, b), s in zip(ends, stride, strict=True))
        model[index] = value
        overlay[index] = value
    np.testing.assert_array_equal(np.asarray(overlay), model)
    np.testing.assert_array_equal(on_disk(opened, classes), model)
    opened.close()


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    voxels=st.lists(st.tuples(*(st.integers(-n, n - 1) for n in SHAPE)), max_size=30),
    value=st.sampled_from([1, 15]),
)
def test_lists_of_voxels_are_painted_as_numpy_would(overlay, voxels, value):
    index = tuple(np.array([v[axis] for v in voxels], int) for axis in range(3))
    model = np.asarray(overlay)
    model[index] = value
    overlay[index] = value
    np.testing.assert_array_equal(np.asarray(overlay), model)


def test_a_stamp_in_the_manner_of_napari_stores_only_the_voxels_that_change(overlay, corrections):
    overlay[5, 10:20, 10:20] = 1
    box = (slice(5, 6), slice(8, 22), slice(8, 22))
    region = np.asarray(overlay[box])
    region[0, 0, :3] = 2
    overlay[box] = region
    assert [row["voxels"] for row in corrections.log()] == [100, 3]


def test_a_locked_class_is_neither_painted_over_nor_withdrawn_but_undo_still_works(overlay):
    overlay[3, 3, 3:9] = 1
    overlay.locked = frozenset([1])
    overlay[3, 3] = 2
    overlay[([3, 3], [3, 3], [4, 20])] = 0
    list(overlay.fill_from(Box((3, 3, 0), (4, 4, 12)), lambda box: np.full(box.shape, 2), tool="tool"))
    assert overlay[3, 3, 2:10].tolist() == [2, *[1] * 6, 2]
    assert overlay[3, 3, 20] == 0
    for _ in range(4):
        overlay.undo()
    assert not overlay.read(WHOLE).any()


def test_what_is_read_is_a_copy_that_can_be_written_to(overlay):
    plane = overlay[0:1]
    plane[:] = 2
    assert not np.asarray(overlay).any()


def test_the_dtype_is_known_without_decoding_a_plane(overlay, monkeypatch):
    overlay[3] = 1
    monkeypatch.setattr(Overlay, "read", lambda *_: pytest.fail("voxels were read"))
    assert overlay[3].dtype == np.uint8


def test_only_the_thread_that_made_it_may_paint(overlay):
    raised = []

    def paint():
        try:
            overlay[0, 0, 0] = 1
        except RuntimeError as error:
            raised.append(str(error))

    thread = threading.Thread(target=paint)
    thread.start()
    thread.join()
    assert "Only the thread that opened the session" in raised[0]
    assert overlay[0, 0, 0] == 0


def test_other_threads_read_while_this_one_paints(overlay, corrections, classes):
    """Each read sees whole cells, and no reader stops the painter."""
    stop, seen, failed = threading.Event(), [], []

    def look():
        try:
            while not stop.is_set():
                plane = np.asarray(overlay[5, :64, :64])
                seen.append(set(np.unique(plane)))
        except Exception as error:  # noqa: BLE001 - a thread has nowhere to raise
            failed.append(error)

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for turn in range(60):
        overlay[5, :64, :64] = 1 + turn % 2
    stop.set()
    for thread in threads:
        thread.join()
    assert not failed
    assert all(len(values) == 1 for values in seen)


@pytest.mark.parametrize("value", [3, 255, -1, 256, 1.0, True, np.array([1, 7])])
def test_what_is_no_class_is_refused_and_never_wraps(overlay, value):
    with pytest.raises(ClassTableError, match="cannot all be painted"):
        overlay[0, 0, :2] = value
    assert overlay.state == "saved"
    assert not np.asarray(overlay).any()


def test_the_background_opinion_is_not_the_absence_of_an_opinion(overlay, classes):
    overlay[0, 0, 0] = classes.background_opinion
    assert overlay[0, 0, 0] == 254
    overlay[0, 0, 0] = 0
    assert overlay.painted_in(WHOLE) == []


def test_an_assignment_without_a_stroke_is_on_disk_when_it_returns(overlay, corrections, classes):
    overlay[0, :3, :3] = 1
    assert overlay.state == "saved"
    assert (on_disk(corrections, classes)[0, :3, :3] == 1).all()
    overlay[0, :3, :3] = 0
    assert [row["kind"] for row in corrections.log()] == ["paint", "withdraw"]


def test_a_stroke_is_one_row_and_one_step(overlay, corrections):
    with overlay.stroke(tool="brush"):
        for x in range(10):
            overlay[0, 0, x * 10 : x * 10 + 12] = 1
        assert overlay.state == "pending"
    (row,) = corrections.log()
    assert (row["tool"], row["voxels"], row["bbox"], row["user"]) == ("brush", 102, "0:1,0:1,0:102", "ada")
    overlay.undo()
    assert not np.asarray(overlay).any()


def test_a_long_stroke_is_stored_every_hundred_dabs(overlay, corrections, classes):
    overlay.begin_stroke()
    for x in range(GROUP_DABS - 1):
        overlay[0, 0, x] = 1
    assert overlay.state == "pending"
    assert not on_disk(corrections, classes).any()
    overlay[0, 0, GROUP_DABS - 1] = 1
    assert overlay.state == "saved"
    assert on_disk(corrections, classes).sum() == GROUP_DABS


def test_a_slow_stroke_is_stored_every_second_and_still_is_one_step(overlay, corrections, classes, clock):
    overlay.begin_stroke()
    for x in range(4):
        clock.now += 0.5
        overlay[0, 0, x] = 1
    overlay.commit()
    assert [(row["seq"], row["step"]) for row in corrections.log()] == [(1, 1), (2, 1)]
    overlay.undo()
    assert not np.asarray(overlay).any()
    overlay.redo()
    assert np.asarray(overlay).sum() == 4


def test_flush_stores_what_is_pending_and_leaves_the_stroke_open(overlay, corrections):
    overlay.begin_stroke()
    overlay[0, 0, 0] = 1
    assert overlay.flush() == 1
    overlay[0, 0, 1] = 1
    assert overlay.commit() == 2
    assert {row["step"] for row in corrections.log()} == {1}


def test_the_next_stroke_stores_the_one_before(overlay):
    overlay.begin_stroke()
    overlay[0, 0, 0] = 1
    overlay.begin_stroke()
    assert overlay.state == "saved"


def test_a_stroke_that_changes_nothing_leaves_no_trace(overlay, corrections):
    overlay[0, 0, 0] = 1
    overlay.undo()
    with overlay.stroke():
        overlay[3, 3, 3] = 1
        overlay[3, 3, 3] = 0
    assert corrections.seq == 2
    assert overlay.can_redo


def test_undo_passes_a_long_stroke_that_took_itself_back(overlay, clock):
    overlay[9, 9, 9] = 2
    with overlay.stroke():
        for value in (1, 0):
            clock.now += 1
            overlay[0, 0, 0] = value
    overlay.undo()
    assert overlay[9, 9, 9] == 2
    overlay.undo()
    assert overlay[9, 9, 9] == 0
    overlay.redo()
    overlay.redo()
    assert not overlay.can_redo
    assert overlay[9, 9, 9] == 2


def test_a_fill_passes_through_memory_cell_by_cell(corrections, classes):
    budget = 2 * 64**3
    overlay = Overlay(corrections, SHAPE, classes, cache_bytes=budget, dirty_bytes=budget)
    overlay.fill(WHOLE, 2, lambda box: np.indices(box.shape).sum(0) % 2 == sum(box.start) % 2)
    model = np.where(np.indices(SHAPE).sum(0) % 2 == 0, 2, 0)
    np.testing.assert_array_equal(np.asarray(overlay), model)
    assert corrections.seq == 1
    overlay.undo()
    assert overlay.painted_in(WHOLE) == []


def test_a_fill_takes_a_mask_and_refuses_one_of_another_shape(overlay):
    box = Box((60, 60, 60), (66, 66, 66))
    mask = np.zeros((6, 6, 6), bool)
    mask[::2] = True
    overlay.fill(box, 15, mask)
    np.testing.assert_array_equal(overlay[box.slices], np.where(mask, 15, 0))
    with pytest.raises(GeometryError, match="shape"):
        overlay.fill(box, 15, mask[1:])
    with pytest.raises(GeometryError, match="leaves the volume"):
        overlay.fill(box.grow((0, 0, 0), (9, 9, 9)), 15)


def test_a_fill_whose_mask_breaks_off_leaves_nothing_behind(corrections, classes):
    overlay = Overlay(corrections, SHAPE, classes, dirty_bytes=1)

    def mask(box):
        if box.start[0] > 0:
            raise ValueError("no mask here")
        return np.ones(box.shape, bool)

    with pytest.raises(ValueError, match="no mask"):
        overlay.fill(WHOLE, 1, mask)
    assert overlay.state == "saved"
    assert not np.asarray(overlay).any()
    assert corrections.seq == 0


def test_listeners_hear_of_every_change(overlay):
    heard = []
    overlay.changed.append(heard.append)
    overlay[1, 2:4, 5] = 1
    overlay.undo()
    assert heard == [Box((1, 2, 5), (2, 4, 6))] * 2


def deaf(box):
    raise RuntimeError("a listener that fails")


@pytest.mark.parametrize(
    "paint",
    [
        lambda overlay: overlay.__setitem__((3, 4, 5), 2),
        lambda overlay: overlay.__setitem__(([3, 3], [4, 5], [5, 5]), 2),
        lambda overlay: overlay.fill(Box((3, 4, 5), (6, 7, 8)), 2),
        lambda overlay: overlay.undo(),
    ],
)
def test_a_listener_that_raises_costs_no_stroke_and_hinders_no_other_listener(
    overlay, corrections, classes, paint
):
    overlay[1, 1, 1] = 15
    heard = []
    overlay.changed += [deaf, heard.append]
    with pytest.raises(RuntimeError, match="a listener that fails"):
        paint(overlay)
    assert (overlay.state, len(heard)) == ("saved", 1)
    overlay.changed.clear()
    overlay[60, 60, 60] = 1
    assert overlay.state == "saved"
    assert np.array_equal(on_disk(corrections, classes), overlay)


def test_a_listener_that_raises_in_mid_stroke_leaves_the_stroke_to_be_stored(overlay, corrections, classes):
    overlay.changed.append(deaf)
    with pytest.raises(RuntimeError), overlay.stroke():
        overlay[3, 4, 5] = 2
    assert (overlay.state, on_disk(corrections, classes)[3, 4, 5]) == ("saved", 2)


def test_a_refusing_disk_is_what_is_told_also_where_a_listener_raises(overlay, corrections, monkeypatch):
    def refuse(stroke):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(corrections, "commit", refuse)
    overlay.changed.append(deaf)
    with pytest.raises(SessionError, match="disk is full"):
        overlay[3, 4, 5] = 2
    assert (overlay.state, overlay[3, 4, 5]) == ("failed", 0)


@pytest.mark.parametrize(
    ("index", "shape"), [((slice(0, 4), 0, 0), (3,)), (([1, 2], [1, 2], [1, 2]), (3,)), ((0, 0, 0), (2,))]
)
def test_values_of_a_wrong_shape_are_refused_and_the_open_stroke_goes_on(overlay, corrections, index, shape):
    with overlay.stroke():
        overlay[9, 9, 9] = 2
        with pytest.raises(GeometryError, match="do not fit the voxels"):
            overlay[index] = np.ones(shape, int)
        assert overlay[9, 9, 9] == 2
        overlay[9, 9, 10] = 2
    assert (np.asarray(overlay) == 2).sum() == np.asarray(overlay).astype(bool).sum() == 2
    assert corrections.seq == 1


def test_a_kind_that_the_log_does_not_know_is_refused(overlay):
    with pytest.raises(SessionError, match="no kind of stroke"):
        overlay.begin_stroke(kind="scribble")


def test_nothing_to_undo_is_no_error(overlay):
    assert overlay.undo() is None
    assert overlay.redo() is None


def fill_the_disk(corrections):
    """Let SQLite meet the end of the disk, truly: it may not grow by another page."""
    pages = corrections.connection.execute("PRAGMA page_count").fetchone()[0]
    corrections.connection.execute(f"PRAGMA max_page_count = {pages}")


def make_space(corrections):
    corrections.connection.execute("PRAGMA max_page_count = 1000000")


@pytest.mark.parametrize("budget", [1, 1 << 28])
def test_a_stroke_on_a_full_disk_is_refused_and_memory_is_what_is_on_disk(corrections, classes, budget):
    overlay = Overlay(corrections, SHAPE, classes, dirty_bytes=budget)
    overlay[0, :9, :9] = 1
    noise = np.random.default_rng(0).choice([0, 1, 2, 15], SHAPE)
    fill_the_disk(corrections)
    with pytest.raises(SessionError, match="could not be stored"):
        overlay[:] = noise
    assert overlay.state == "failed"
    assert np.asarray(overlay).sum() == 81
    np.testing.assert_array_equal(np.asarray(overlay), on_disk(corrections, classes))
    make_space(corrections)
    overlay[:] = noise
    assert overlay.state == "saved"
    np.testing.assert_array_equal(on_disk(corrections, classes), noise)
    overlay.undo()
    assert np.asarray(overlay).sum() == 81


def test_painting_stays_disabled_until_the_disk_takes_something(overlay, corrections, monkeypatch):
    def refuse(*_):
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(corrections, "commit", refuse)
        broken.setattr(corrections, "probe", refuse)
        with pytest.raises(SessionError, match="is gone"):
            overlay[0, 0, 0] = 1
        with pytest.raises(SessionError, match="Nothing was painted"):
            overlay[0, 0, 1] = 1
        assert overlay.state == "failed"
    overlay.retry()
    assert overlay.state == "saved"
    overlay[0, 0, 1] = 1
    assert np.asarray(overlay).sum() == 1


def test_an_undo_over_a_damaged_stroke_changes_nothing(overlay, corrections):
    with overlay.stroke():
        overlay[0, 0, 0] = 1
        overlay[0, 0, 100] = 1
    corrections.connection.execute("UPDATE patch SET before = x'00' WHERE id = 1")
    with pytest.raises(SessionError, match="damaged"):
        overlay.undo()
    assert np.asarray(overlay).sum() == 2
    assert overlay.state == "saved"
    assert corrections.seq == 1


def test_a_brush_is_as_cheap_on_a_huge_volume(corrections, classes):
    overlay = Overlay(corrections, (100_000, 100_000, 100_000), classes)
    overlay[50_000, 70_000:70_020, 99_990:] = 1
    assert len(overlay.painted_in(Box.whole(overlay.shape))) <= 4
    assert overlay[50_000, 70_000:70_020, -10:].all()
