"""What is seen: opinions over the newest run over its parents."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import basic_indices

from annotation.helpers import SHAPE, make_run, publish
from napari_memseg.annotation.runs import run_chain
from napari_memseg.errors import GeometryError, SessionError
from napari_memseg.geometry import Box

NOBODY = 255


@pytest.fixture
def seen(session):
    """A session with opinions and two runs, and what should be seen."""
    model = np.full(SHAPE, NOBODY, np.uint8)
    draw = np.random.default_rng(3)
    for block, at in [(Box((0, 0, 0), (64, 64, 130)), 1), (Box((0, 0, 0), (64, 66, 64)), 2)]:
        _, path = session.new_run()
        run = make_run(path)
        predicted = draw.choice([0, at, 15], block.shape).astype(np.uint8)
        publish(run, block, predicted)
        model[block.slices] = predicted
    session.overlay[10:30, 20:40, 60:70] = 2
    session.overlay[15:68, 22:24, 65:129] = session.classes.background_opinion
    model[10:30, 20:40, 60:70] = 2
    model[15:68, 22:24, 65:129] = 0
    return session, model


def test_nothing_is_seen_where_nobody_looked(session):
    assert (np.asarray(session.composite()) == NOBODY).all()


def test_opinions_lie_over_the_newest_run_over_its_parent(seen):
    session, model = seen
    np.testing.assert_array_equal(np.asarray(session.composite()), model)


def test_an_older_run_can_be_looked_at(seen):
    session, _ = seen
    older = np.asarray(session.composite(run="0001"))
    assert not (older[session.overlay[:] == 0] == 2).any()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(index=basic_indices(SHAPE))
def test_any_index_reads_the_same_voxels(seen, index):
    session, model = seen
    np.testing.assert_array_equal(np.asarray(session.composite()[index]), model[index])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_part_that_was_cut_out_lazily_reads_like_one_that_was_copied(seen, data):
    session, model = seen
    outer = data.draw(basic_indices(SHAPE, allow_ellipsis=False).filter(lambda i: model[i].size > 0))
    cut = session.composite().levels[0][outer]
    assert cut.shape == model[outer].shape
    inner = data.draw(basic_indices(model[outer].shape)) if model[outer].ndim else ()
    np.testing.assert_array_equal(np.asarray(cut[inner]), model[outer][inner])


def test_a_slice_of_a_cut_reads_that_slice_alone(seen, monkeypatch):
    session, model = seen
    composite, read = session.composite().levels[0], []
    monkeypatch.setattr(
        composite, "read", lambda *a: read.append(a[0].shape) or type(composite).read(composite, *a)
    )
    np.testing.assert_array_equal(composite[:, 3:40, 5:50][7], model[7, 3:40, 5:50])
    assert read == [(1, 37, 45)]


def test_large_reads_are_merged_in_blocks(seen, monkeypatch):
    session, model = seen
    monkeypatch.setattr("napari_memseg.annotation.composite.BLOCK", (16, 32, 48))
    composite = session.composite()
    np.testing.assert_array_equal(composite[:], model)
    np.testing.assert_array_equal(composite[::3, 5::2, ::7], model[::3, 5::2, ::7])


def test_coarse_levels_are_every_second_voxel(seen):
    session, model = seen
    levels = session.composite().levels
    assert [level.shape for level in levels] == [SHAPE, (35, 33, 65)]
    np.testing.assert_array_equal(levels[1][:], model[::2, ::2, ::2])
    np.testing.assert_array_equal(levels[1][3:, 4, ::2], model[6::2, 8, ::4])


def test_coarse_levels_are_read_from_the_pyramid_of_a_run_where_there_is_one(session):
    _, path = session.new_run()
    publish(make_run(path), Box.whole(SHAPE), 1)
    coarse = make_run(path, (35, 33, 65), level=1)
    assert (session.composite().levels[1][:] == NOBODY).all()
    publish(coarse, Box.whole((35, 33, 65)), 1)
    assert (session.composite().levels[1][:] == 1).all()


def test_a_live_composite_follows_strokes_and_blocks(session):
    composite = session.composite()
    session.overlay[0, 0, 0] = 1
    assert composite[0, 0, 0] == 1
    _, path = session.new_run()
    composite = session.composite()
    assert composite[0, 0, 1] == NOBODY
    publish(make_run(path), Box((0, 0, 0), (64, 64, 64)), 2)
    assert composite[0, 0, 1] == 2
    assert composite[0, 0, 0] == 1


def test_a_run_of_another_shape_does_not_belong_here(session):
    _, path = session.new_run()
    make_run(path, (70, 66, 131))
    with pytest.raises(SessionError, match="another shape"):
        session.composite()[0, 0, 0]


def test_a_run_with_classes_that_do_not_fit_is_refused_and_never_wraps(session):
    _, path = session.new_run()
    make_run(path, dtype="uint16")
    with pytest.raises(SessionError, match="larger ids"):
        session.composite()[0, 0, 0]


def test_a_narrow_run_shows_in_a_session_whose_classes_grew(session):
    _, path = session.new_run()
    publish(make_run(path), Box((0, 0, 0), (64, 64, 64)), 15)
    session.overlay[0, 0, 0] = session.classes.background_opinion
    session.add_class(300, "enamel")
    composite = session.composite()
    assert composite.dtype == np.uint16
    assert composite[0, 0, :2].tolist() == [0, 15]
    assert composite[69, 65, 129] == 65535


def test_a_box_outside_is_refused(session):
    with pytest.raises(GeometryError, match="leaves the volume"):
        session.composite().read(Box((0, 0, 0), (71, 1, 1)))


def test_a_chain_that_leads_nowhere_is_refused(session):
    session.new_run()
    with pytest.raises(SessionError, match="no run '7'"):
        session.composite(run="7")
    (run,) = session.runs()
    (run.path.with_suffix(".json")).write_text('{"parent": "0001", "created": ""}')
    with pytest.raises(SessionError, match="no run"):
        run_chain(session.runs(), "0001")
