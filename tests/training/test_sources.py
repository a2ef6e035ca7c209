from __future__ import annotations

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from learning import pair, volume_of
from napari_memseg.errors import InputError
from napari_memseg.geometry import Box
from napari_memseg.models.base import Grid
from napari_memseg.training import sources
from napari_memseg.training.sources import TrainingVolume, VolumeLabels, ZarrArray, count_ids

SHAPE = (6, 7, 9)


def labels_of(values, dtype, **options):
    data = np.zeros(SHAPE, dtype)
    data.ravel()[: len(values)] = values
    return VolumeLabels(volume_of(data, name="teeth.tif"), **options)


def test_image_and_labels_of_different_shape_are_refused_with_both_named():
    image, labels = (
        volume_of(np.zeros((4, 5, 6)), name="a.tif"),
        volume_of(np.zeros((4, 6, 6), int), name="b.tif"),
    )
    with pytest.raises(InputError, match=r"a\.tif has \(4, 5, 6\).* b\.tif has \(4, 6, 6\)"):
        TrainingVolume(image, 0, VolumeLabels(labels))


@pytest.mark.parametrize("dtype", ["u1", "i1", "<u2", ">u2", "i4", ">i4", "u4", "i8", "u8", "f4", ">f8", "?"])
def test_whole_numbers_of_any_dtype_are_class_ids(dtype):
    found = labels_of([0, 1, 1], dtype).read(Box.whole(SHAPE))
    assert found.dtype.kind in "iu"
    assert found.dtype.isnative
    assert found.ravel()[:3].tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("dtype", "value"), [("f4", 1.5), ("f4", np.nan), ("f8", np.inf), ("f4", -1), ("i2", -3)]
)
def test_what_is_no_class_id_is_refused_with_its_file(dtype, value):
    with pytest.raises(InputError, match=r"teeth\.tif.*whole number"):
        labels_of([2, value], dtype).read(Box.whole(SHAPE))


def test_complex_labels_are_refused_before_anything_is_read():
    with pytest.raises(InputError, match="complex64"):
        labels_of([], np.complex64)


def test_a_negative_value_may_stand_for_unlabelled():
    labels = labels_of([-1, 5, 70000], np.int32, unlabelled=-1)
    assert count_ids(labels) == {5: 1, 70000: 1, 0: np.prod(SHAPE) - 3}


@given(
    shape=st.tuples(*[st.integers(1, 150)] * 3),
    chunks=st.tuples(*[st.integers(1, 150)] * 3),
    most=st.sampled_from([1, 64**3, 2 * 64**3, 2**24]),
)
def test_cells_cover_every_voxel_once_in_blocks_of_bounded_size(shape, chunks, most):
    labels = VolumeLabels(volume_of(np.broadcast_to(np.uint8(0), shape), chunks=chunks))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "BLOCK_VOXELS", most)
        boxes = list(labels.cells())
    times = np.zeros(shape, np.uint8)
    for box in boxes:
        times[box.slices] += 1
    assert (times == 1).all()
    assert max(box.size for box in boxes) <= max(most, 64**3)


def test_a_level_of_the_image_pairs_with_labels_of_its_size():
    image = volume_of(np.zeros((8, 8, 8), np.uint8), np.zeros((4, 4, 4), np.uint8))
    volume = TrainingVolume(image, 1, VolumeLabels(volume_of(np.zeros((4, 4, 4), np.uint8))))
    assert volume.shape == (4, 4, 4)
    assert volume.voxel_size == (2.0, 2.0, 2.0)


@pytest.mark.parametrize("level", [-1, 2])
def test_a_level_that_the_image_does_not_have_is_refused_with_those_it_has(level):
    image = volume_of(np.zeros((8, 8, 8), np.uint8), np.zeros((4, 4, 4), np.uint8), name="a.tif")
    with pytest.raises(InputError, match=rf"a\.tif has no level {level}\. .* 0, the finest, to 1"):
        TrainingVolume(image, level, VolumeLabels(volume_of(np.zeros((4, 4, 4), np.uint8))))


def test_a_zarr_array_is_read_by_box_with_all_its_channels(tmp_path):
    data = np.arange(2 * 4 * 4 * 4, dtype=np.float32).reshape(2, 4, 4, 4)
    stored = zarr.create_array(tmp_path / "a.zarr", data=data)
    source = ZarrArray(stored, Grid(factor=(2, 2, 2)))
    assert source.shape == (2, 4, 4, 4)
    assert np.array_equal(source.read(Box((1, 0, 2), (3, 4, 4))), data[:, 1:3, :, 2:4])


def test_counting_ids_leaves_the_unlabelled_value_out():
    data = np.zeros(SHAPE, np.uint16)
    data[0, 0, :3] = [15, 21, 21]
    assert count_ids(pair(data, data, unlabelled=0).labels) == {15: 1, 21: 2}
