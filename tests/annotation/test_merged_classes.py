"""A class that is merged into another counts as that everywhere, and nothing that was painted changes."""

import numpy as np
import pytest

from annotation.helpers import make_run, publish
from napari_memseg.annotation.session import Session
from napari_memseg.annotation.tools import fill
from napari_memseg.annotation.tools.edit import apply
from napari_memseg.errors import ClassTableError
from napari_memseg.geometry import Box

BONE, MARROW, CARTILAGE = 1, 2, 15
WHOLE = Box((0, 0, 0), (4, 4, 8))


@pytest.fixture
def painted(session):
    """A session in which one half is predicted, and one row of each class painted."""
    _, path = session.new_run()
    publish(make_run(path), WHOLE, MARROW)
    session.overlay[0, 0, :4] = BONE
    session.overlay[0, 1, :4] = MARROW
    session.overlay[0, 2, :4] = session.classes.background_opinion
    return session


def seen(session):
    return session.composite().read(WHOLE)


def learned(session):
    with session.snapshot() as snapshot:
        return snapshot.read(WHOLE), snapshot.counts()


def test_what_was_painted_and_predicted_is_seen_and_learned_as_the_other_class(painted):
    painted.merge_class(MARROW, BONE)
    assert painted.classes.ids == (0, BONE, CARTILAGE)
    assert sorted(np.unique(seen(painted))) == [0, BONE]
    labels, counts = learned(painted)
    assert (labels[0, 1, :4] == BONE).all()
    assert counts == {0: 4, BONE: 8}


def test_what_was_merged_into_background_is_an_opinion_and_not_a_gap(painted):
    painted.merge_class(MARROW, 0)
    assert (seen(painted)[0, 1, :4] == 0).all()
    assert learned(painted)[1] == {0: 8, BONE: 4}


def test_taking_a_class_out_again_brings_all_of_it_back(painted):
    before, labels = seen(painted), learned(painted)[0]
    strokes, classes = list(painted.log()), painted.classes
    painted.merge_class(MARROW, BONE)
    painted.merge_class(BONE, CARTILAGE)
    assert (seen(painted)[0, :2, :4] == CARTILAGE).all()
    painted.part_class(MARROW)
    painted.part_class(BONE)
    np.testing.assert_array_equal(seen(painted), before)
    np.testing.assert_array_equal(learned(painted)[0], labels)
    assert painted.classes == classes
    assert list(painted.log()) == strokes


def test_a_merge_is_there_when_the_session_is_opened_again(painted, picture):
    painted.merge_class(CARTILAGE, MARROW)
    expected = seen(painted)
    painted.close()
    with Session.open(painted.path, image=picture) as again:
        assert again.classes.ids == (0, BONE, MARROW)
        assert again.classes.opinions(MARROW) == {MARROW, CARTILAGE}
        np.testing.assert_array_equal(seen(again), expected)


def test_an_id_that_was_merged_keeps_its_meaning(painted):
    painted.merge_class(MARROW, BONE)
    painted.overlay.undo()
    painted.overlay.undo()
    assert not painted.overlay[0, 1, :4].any()
    painted.overlay.redo()
    assert (painted.overlay[0, 1, :4] == MARROW).all()


def test_a_name_or_a_number_of_a_merged_class_is_not_given_again(painted):
    color = painted.classes.classes[2].color
    painted.merge_class(MARROW, BONE)
    for change in (painted.add_class, painted.rename_class):
        with pytest.raises(ClassTableError, match=r"Class 2 \(marrow\) is merged into 1. Take it out first"):
            change(MARROW, "another")
    painted.add_class(16, "new")
    assert color not in {c.color for c in painted.classes}


def test_a_tool_leaves_voxels_of_a_merged_class_which_count_as_the_chosen_one(painted):
    painted.merge_class(MARROW, BONE)
    view = Box((0, 0, 0), (1, 2, 4))
    edit = fill.fill(painted.composite(), (0, 0, 0), BONE, view)
    apply(edit, painted.overlay)
    assert (painted.overlay[0, 1, :4] == MARROW).all()
    assert not edit.changes(painted.overlay, edit.box).any()


@pytest.mark.parametrize(("one", "into"), [(0, BONE), (BONE, BONE), (7, BONE), (BONE, 7)])
def test_only_two_classes_can_be_merged(painted, one, into):
    with pytest.raises(ClassTableError, match="cannot be merged"):
        painted.merge_class(one, into)
    with pytest.raises(ClassTableError, match="is not merged"):
        painted.part_class(BONE)
