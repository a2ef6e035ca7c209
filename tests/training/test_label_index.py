from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learning import blocks, pair
from napari_memseg.errors import TrainingError
from napari_memseg.models.classes import ClassTable
from napari_memseg.training.label_index import check_labels, hold_back, index_labels

CLASSES = ClassTable.from_ids([3, 15, 21])


@given(
    shape=st.tuples(*[st.integers(1, 80)] * 3),
    density=st.sampled_from([0.0, 1e-4, 0.02, 1.0]),
    seed=st.integers(0, 99),
)
def test_the_index_counts_every_labelled_voxel_once(shape, density, seed):
    rng = np.random.default_rng(seed)
    labels = np.where(rng.random(shape) < density, rng.choice([0, 3, 15, 21, 99], shape), 255)
    index = index_labels([pair(labels.astype(np.uint8), labels.astype(np.uint8), 255)], CLASSES)
    assert index.totals.tolist() == [np.count_nonzero(labels == i) for i in CLASSES.ids]
    for row in range(len(index)):
        inside = labels[index.box(row).slices]
        assert index.counts[row].tolist() == [np.count_nonzero(inside == i) for i in CLASSES.ids]
        assert index.counts[row].any()


def test_few_labelled_cells_are_counted_in_smaller_ones():
    labels = np.full((40, 64, 64), 255, np.uint8)
    labels[20] = 3
    index = index_labels([pair(labels, labels, 255)], CLASSES)
    assert len(index) >= 24
    assert {box.start[0] <= 20 < box.stop[0] for box in index.boxes(0)} == {True}


def test_each_volume_keeps_its_own_cells():
    one, other = blocks((16, 16, 16), seed=1), blocks((16, 24, 24), seed=2)
    index = index_labels([one, other], ClassTable.from_ids([7, 200]))
    assert sum(box.size for box in index.boxes(0)) == 16**3
    assert sum(box.size for box in index.boxes(1)) == 16 * 24 * 24


def test_no_labelled_voxel_is_refused():
    nothing = np.full((9, 9, 9), 255, np.uint8)
    volumes = [pair(nothing, nothing, 255)]
    with pytest.raises(TrainingError, match="No voxel is labelled"):
        check_labels(index_labels(volumes, CLASSES), volumes, CLASSES)


def test_a_class_without_a_voxel_is_refused_by_name():
    labels = np.zeros((9, 9, 9), np.uint8)
    labels[0, 0, 0] = 3
    volumes = [pair(labels, labels)]
    with pytest.raises(TrainingError, match=r"15 \(class 15\), 21 \(class 21\).*take it out"):
        check_labels(index_labels(volumes, CLASSES), volumes, CLASSES)


def test_background_may_be_missing_only_where_0_means_unlabelled():
    labels = np.resize(np.array([3, 15, 21], np.uint8), (9, 9, 9))
    unlabelled, labelled = [pair(labels, labels, 0)], [pair(labels, labels, 255)]
    check_labels(index_labels(unlabelled, CLASSES), unlabelled, CLASSES)
    with pytest.raises(TrainingError, match=r"0 \(background\)"):
        check_labels(index_labels(labelled, CLASSES), labelled, CLASSES)


def test_one_class_alone_is_nothing_to_learn():
    labels = np.zeros((9, 9, 9), np.uint8)
    labels[2:5] = 3
    volumes, classes = [pair(labels, labels, 0)], ClassTable.from_ids([3])
    with pytest.raises(TrainingError, match=r"Only 3 \(class 3\).*Paint some background"):
        check_labels(index_labels(volumes, classes), volumes, classes)


@given(seed=st.integers(0, 200), most=st.integers(1, 40))
def test_held_back_cells_leave_half_of_every_class_to_learn_from(seed, most):
    rng = np.random.default_rng(seed)
    labels = rng.choice(np.array([0, 3, 15, 21], np.uint8), (4, 4, 4), p=[0.7, 0.2, 0.07, 0.03])
    labels = labels.repeat(8, 0).repeat(8, 1).repeat(8, 2)
    index = index_labels([pair(labels, labels)], CLASSES)
    held = hold_back(index, 0.15, most=most, seed=seed)
    left = index.take(~held).totals
    assert (left * 2 >= index.totals).all()
    assert (left[index.totals > 0] > 0).all()
    assert held.sum() <= most + len(CLASSES)
    assert np.array_equal(held, hold_back(index, 0.15, most=most, seed=seed))


@given(seed=st.integers(0, 200), data=st.data())
def test_of_the_cells_that_were_learned_from_one_is_held_back_at_most_when_another_comes(seed, data):
    rng = np.random.default_rng(seed)
    labels = rng.choice(np.array([0, 3, 15, 21], np.uint8), (4, 4, 4), p=[0.4, 0.2, 0.2, 0.2])
    labels = labels.repeat(8, 0).repeat(8, 1).repeat(8, 2)
    index = index_labels([pair(labels, labels)], CLASSES)
    assert len(index) == 64, "each cell is of one class"
    new = data.draw(st.integers(0, 63))
    known = np.delete(np.arange(64), new)
    before = hold_back(index.take(known), 0.15, most=99, seed=seed)
    after = hold_back(index, 0.15, most=99, seed=seed)[known]
    assert (after & ~before).sum() <= 1
    assert (before & ~after).sum() <= 1


def test_every_class_that_two_cells_hold_is_validated():
    labels = np.zeros((64, 64, 64), np.uint8)
    for class_id, x in zip((3, 15, 21), (4, 24, 44), strict=True):
        labels[2, 2, x] = labels[60, 60, x] = class_id
    index = index_labels([pair(labels, labels)], CLASSES)
    held = index.take(hold_back(index, 0.15, most=16, seed=0))
    assert (held.totals > 0).all()


def test_one_painted_slice_is_split_in_plane():
    labels = np.full((64, 64, 64), 255, np.uint8)
    labels[30] = np.tile(np.array([0, 3, 15, 21], np.uint8).repeat(2), (64, 8))
    index = index_labels([pair(labels, labels, 255)], CLASSES)
    held = hold_back(index, 0.15, most=16, seed=1)
    assert 0.1 < index.take(held).totals.sum() / index.totals.sum() < 0.3
