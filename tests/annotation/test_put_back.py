"""An earlier run can be shown again, and compared; nothing is lost by it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotation.helpers import SHAPE, Picture, make_run, publish
from napari_memseg.annotation.difference import ADDED, GONE, OTHER, Difference
from napari_memseg.annotation.runs import RunLabels
from napari_memseg.annotation.session import Session
from napari_memseg.errors import SessionError
from napari_memseg.geometry import Box, zyx
from napari_memseg.models.classes import ClassTable

CLASSES = ClassTable.from_ids([1, 2])
WHOLE = Box.whole(SHAPE)


@pytest.fixture
def session(tmp_path):
    """A session with two runs: all 1, then all 2 but for the last slice, which is not predicted."""
    with Session.create(tmp_path / "s", Picture(), CLASSES) as session:
        for value, box in ((1, WHOLE), (2, Box((0, 0, 0), (SHAPE[0] - 1, *SHAPE[1:])))):
            _, path = session.new_run()
            publish(make_run(path), box, value)
        yield session


def shown(session):
    return set(np.unique(session.composite().read(WHOLE)).tolist())


def test_a_run_is_put_back_until_there_is_a_newer_one_and_is_its_parent(session, tmp_path):
    assert shown(session) == {1, 2}
    session.put_back("0001")
    assert shown(session) == {1}
    with Session.open(session.path, True, image=Picture()) as again:
        assert again.put_back_run == "0001"
    session.put_back(None)
    assert shown(session) == {1, 2}
    session.put_back("0001")
    assert session.new_run()[0] == "0003"
    assert session.runs()[-1].parent == "0001"
    assert session.put_back_run is None
    assert shown(session) == {1}, "the newest has predicted nothing, and its parent shows"


def test_corrections_stay_on_top_and_what_is_confirmed_is_what_was_seen(session):
    session.overlay[3, 3, 3] = session.classes.background_opinion
    session.put_back("0001")
    assert session.composite().read(Box((3, 3, 3), (4, 4, 5))).tolist() == [[[0, 1]]]
    session.confirm(Box((0, 0, 0), (5, 5, 5)))
    assert session.confirmed()[0].run_id == "0001"
    session.put_back(None)
    assert session.snapshot().counts() == {0: 1, 1: 124}


def test_a_run_that_is_not_there_is_refused(session):
    with pytest.raises(SessionError, match="no run '0009'"):
        session.put_back("0009")
    assert session.put_back_run is None


def test_nothing_is_written_while_a_large_edit_is_painted(session):
    steps = session.overlay.fill_from(WHOLE, lambda part: np.ones(part.shape, np.uint8), tool="tool")
    for _ in range(3):
        next(steps)
    for call in (
        lambda: session.confirm(Box((0, 0, 0), (5, 5, 5))),
        lambda: session.put_back("0001"),
        lambda: session.add_class(9, "x"),
    ):
        with pytest.raises(SessionError, match="still being painted"):
            call()
    for _ in steps:
        pass
    assert (session.snapshot().overlay.read(WHOLE) == 1).all(), "all of it is on disk"


def test_who_only_reads_puts_nothing_back(session):
    with (
        Session.open(session.path, True, image=Picture()) as beside,
        pytest.raises(SessionError, match="reading only"),
    ):
        beside.put_back("0001")


@settings(max_examples=30)
@given(st.integers(0, 99), st.integers(0, 2))
def test_a_difference_is_what_numpy_says_it_is(tmp_path_factory, seed, level):
    folder, chance = tmp_path_factory.mktemp("runs"), np.random.default_rng(seed)
    nobody = CLASSES.not_predicted
    shape = zyx(chance.integers(1, 20, 3))
    arrays = [chance.choice([0, 1, 2, nobody], shape).astype(np.uint8) for _ in range(2)]
    labels = []
    with Session.create(folder / "s", Picture(shape=shape), CLASSES) as session:
        for array in arrays:
            _, path = session.new_run()
            publish(make_run(path, shape), Box.whole(shape), array)
        labels = [RunLabels(run, shape, CLASSES) for run in session.runs()]
    step = 2**level
    one, two = (array[::step, ::step, ::step] for array in arrays)
    expected = np.select(
        [(one == two) | (one == nobody) | (two == nobody), two == 0, one == 0], [0, ADDED, GONE], OTHER
    )
    found = Difference(*labels, level)
    assert found.shape == expected.shape
    assert (found.read(Box.whole(found.shape)) == expected).all()
    assert (np.asarray(found[0]) == expected[0]).all()
