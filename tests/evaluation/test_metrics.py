from math import isnan

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_memseg.errors import GeometryError, InputError
from napari_memseg.evaluation.metrics import confusion, found_ids
from napari_memseg.geometry import Box
from napari_memseg.io.volume import Volume

IDS = (0, 1, 3, 21, 300)


class Watched:
    """A volume that remembers the largest box it was asked for."""

    def __init__(self, voxels):
        self.voxels, self.shape, self.largest = voxels, voxels.shape, 0

    def read(self, box):
        self.largest = max(self.largest, box.size)
        return self.voxels[box.slices]


def zyx(low, high):
    return st.tuples(*[st.integers(low, high)] * 3)


def pair(shape, seed=0, values=(*IDS, 7), dtype=np.uint16):
    rng = np.random.default_rng(seed)
    return tuple(rng.choice(np.array(values, dtype), shape) for _ in range(2))


def dice_of(labels, truth, class_id, counted):
    given, wanted = (labels == class_id) & counted, (truth == class_id) & counted
    return 2 * (given & wanted).sum() / (given.sum() + wanted.sum())


def iou_of(labels, truth, class_id, counted):
    given, wanted = (labels == class_id) & counted, (truth == class_id) & counted
    return (given & wanted).sum() / (given | wanted).sum()


@given(shape=zyx(4, 13), block=zyx(1, 15), start=zyx(0, 3), seed=st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_no_block_size_changes_a_number(shape, block, start, seed):
    labels, truth = pair(shape, seed)
    box = Box(start, shape)
    mask = np.random.default_rng(seed).random(shape) < 0.8
    result = confusion(
        labels, truth, IDS, box=box, ignore=21, mask=lambda part: mask[part.slices], block=block
    )
    inside = np.zeros(shape, bool)
    inside[box.slices] = True
    counted = inside & mask & (truth != 21)
    assert result.voxels == counted.sum()
    present = [i for i in IDS if (counted & ((labels == i) | (truth == i))).any()]
    assert result.dice == {i: pytest.approx(dice_of(labels, truth, i, counted)) for i in present}
    assert result.iou == {i: pytest.approx(iou_of(labels, truth, i, counted)) for i in present}


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int32, np.int64, np.uint64])
def test_rows_are_truth_columns_labels_and_other_ids_come_last(dtype):
    truth = np.array([0, 0, 5, 5, 100, 9], dtype).reshape(1, 2, 3)
    labels = np.array([0, 5, 5, 100, 9, 9], dtype).reshape(1, 2, 3)
    result = confusion(labels, truth, [100, 5, 0])
    assert result.ids == (0, 5, 100)
    assert result.table.tolist() == [[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 1]]


def test_labels_and_truth_may_differ_in_dtype():
    truth = np.array([0, 3, 3, 0], np.int64).reshape(1, 1, 4)
    assert confusion(truth.astype(bool) * np.uint8(3), truth, (0, 3)).dice == {0: 1.0, 3: 1.0}
    assert confusion(truth.astype(bool), truth > 0, (0, 1)).mean_dice == 1.0


def test_what_was_not_predicted_counts_as_missed():
    truth = np.full((2, 2, 2), 3, np.uint8)
    labels = truth.copy()
    labels[0] = 255
    result = confusion(labels, truth, (0, 3))
    assert result.dice == {3: pytest.approx(2 / 3)}
    assert result.iou == {3: 0.5}


def test_means_leave_out_background_and_classes_that_occur_nowhere():
    truth = np.array([0, 0, 1, 1, 3], np.uint8).reshape(1, 1, 5)
    labels = np.array([0, 0, 1, 1, 21], np.uint8).reshape(1, 1, 5)
    result = confusion(labels, truth, (0, 1, 3, 21, 40))
    assert result.dice == {0: 1.0, 1: 1.0, 3: 0.0, 21: 0.0}
    assert result.mean_dice == pytest.approx(1 / 3)
    assert result.mean_iou == pytest.approx(1 / 3)


def test_with_nothing_to_score_the_mean_is_not_a_number():
    empty = np.zeros((2, 2, 2), np.uint8)
    assert isnan(confusion(empty, empty, (0, 1)).mean_dice)
    assert isnan(confusion(empty, empty, (0, 1)).mean_iou)
    assert confusion(empty, empty, (1,), ignore=0).voxels == 0
    assert confusion(empty, empty, ()).dice == {}


def test_several_ids_of_the_truth_may_be_ignored_whatever_the_labels_say():
    truth = np.array([1, 2, 255, 1], np.uint8).reshape(1, 1, 4)
    labels = np.array([1, 1, 1, 255], np.uint8).reshape(1, 1, 4)
    assert confusion(labels, truth, (1,), ignore=(2, 255)).table.tolist() == [[1, 1], [0, 0]]


def test_only_a_block_at_a_time_is_read():
    labels, truth = map(Watched, pair((9, 9, 9)))
    confusion(labels, truth, IDS, block=(3, 4, 5))
    assert (labels.largest, truth.largest) == (60, 60)


def test_arrays_on_disk_are_compared_as_they_are(tmp_path):
    labels, truth = pair((5, 6, 7))
    stored = zarr.create_array(tmp_path / "labels", data=labels, chunks=(2, 2, 2))
    expected = confusion(labels, truth, IDS).table
    assert np.array_equal(confusion(stored, truth, IDS).table, expected)


class Chunked:
    """One level that counts how often each voxel is decoded."""

    dtype = np.dtype(np.uint8)

    def __init__(self, shape, chunks):
        self.shape, self.chunks, self.decoded = shape, chunks, []

    def __getitem__(self, index):
        self.decoded.append(index)
        z = np.arange(index[0].start, index[0].stop) % 3
        return np.broadcast_to(z[:, None, None], [s.stop - s.start for s in index]).astype(np.uint8)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((1, 700, 500), (1, 700, 500)),
        ((1, 700, 500), (64, 64, 64)),
        ((40, 16, 500), (7, 100, 30)),
        ((40, 700, 500), (40, 700, 500)),
    ],
)
def test_every_chunk_is_decoded_once_however_it_lies(first, second):
    shape = (40, 700, 500)
    pair = [Chunked(shape, chunks) for chunks in (first, second)]
    labels, truth = (Volume([level], None, None, "a", "a", "memory") for level in pair)
    result = confusion(labels, truth, (0, 1, 2))
    assert result.voxels == np.prod(shape)
    assert result.mean_dice == 1.0
    for level in pair:
        assert len(level.decoded) == np.prod(np.ceil(np.divide(shape, level.chunks)))


def test_no_block_of_large_chunks_is_itself_large():
    sizes, shape = [], (100, 1000, 1000)

    class Noted(Chunked):
        def __getitem__(self, index):
            sizes.append(np.prod([s.stop - s.start for s in index]))
            return super().__getitem__(index)

    level = Noted(shape, shape)
    confusion(level, level, (1,), box=Box((0, 0, 0), (9, 1000, 1000)))
    assert max(sizes) <= 2**22


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_whole_numbers_may_be_stored_as_floats(dtype):
    labels, truth = pair((4, 5, 6))
    expected = confusion(labels, truth, IDS).table
    assert np.array_equal(confusion(labels.astype(dtype), truth, IDS).table, expected)
    assert found_ids(truth.astype(dtype)) == found_ids(truth)


@pytest.mark.parametrize("value", [0.5, np.nan, np.inf, 1e30])
def test_fractions_are_no_labels(value):
    grey = np.array([0, 1, value]).reshape(1, 1, 3)
    with pytest.raises(InputError, match="whole numbers, but these are float64"):
        confusion(grey, np.zeros((1, 1, 3), int), (0, 1))


def test_different_shapes_are_refused_and_both_named():
    with pytest.raises(InputError, match=r"labels have the shape \(2, 3, 4\), the truth \(2, 3, 5\)"):
        confusion(np.zeros((2, 3, 4), int), np.zeros((2, 3, 5), int), (0, 1))


def test_a_box_outside_is_refused():
    zeros = np.zeros((2, 3, 4), np.uint8)
    with pytest.raises(GeometryError, match="leaves the volume"):
        confusion(zeros, zeros, (0,), box=Box((0, 0, 0), (2, 3, 5)))


def test_the_ids_that_occur_are_found_block_by_block():
    labels = Watched(pair((7, 8, 9))[0])
    assert found_ids(labels, block=(2, 3, 4)) == (0, 1, 3, 7, 21, 300)
    assert labels.largest == 24
    assert found_ids(np.zeros((2, 2, 2), np.uint8), box=Box.whole((1, 1, 1))) == (0,)
