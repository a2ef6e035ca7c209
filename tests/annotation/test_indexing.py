"""Indexing: whatever numpy allows that a box can answer, answered as numpy would."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import basic_indices

from napari_memseg.annotation.indexing import LazyIndex, Points, ReadByBox, parse, strided_part
from napari_memseg.geometry import Box

SHAPE = (7, 5, 9)


class Plain(ReadByBox):
    """A numpy array behind the reading manners."""

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype

    def read(self, box, stride=(1, 1, 1)):
        spans = zip(box.start, box.stop, stride, strict=True)
        return self.array[tuple(slice(a, b, s) for a, b, s in spans)].copy()


def numbers():
    return np.arange(np.prod(SHAPE), dtype=np.uint16).reshape(SHAPE)


@given(index=basic_indices(SHAPE))
def test_a_basic_index_reads_what_numpy_reads(index):
    array = numbers()
    found = np.asarray(Plain(array)[index])
    np.testing.assert_array_equal(found, array[index])
    assert found.shape == array[index].shape


@given(index=basic_indices(SHAPE), data=st.data())
def test_a_value_is_broadcast_to_a_basic_index_as_numpy_does(index, data):
    expected, array = numbers(), numbers()
    shape = expected[index].shape
    arrays = [np.ones(shape, np.uint16), np.ones((1, *shape), np.uint16)] if shape else []
    value = data.draw(st.sampled_from([np.uint16(3), *arrays]))
    expected[index] = value
    selection = parse(index, SHAPE)
    where = tuple(slice(a, b, s) for a, b, s in zip(*_ends(selection.box), selection.stride, strict=True))
    array[where] = selection.expand(np.asarray(value))
    np.testing.assert_array_equal(array, expected)


def _ends(box):
    return box.start, box.stop


@given(st.lists(st.tuples(*(st.integers(-n, n - 1) for n in SHAPE)), max_size=20))
def test_a_list_of_voxels_reads_what_numpy_reads(voxels):
    index = tuple(np.array([v[axis] for v in voxels], int) for axis in range(3))
    np.testing.assert_array_equal(Plain(numbers())[index], numbers()[index])


def test_points_and_an_integer_are_broadcast():
    index = (2, np.array([[0, 1], [2, 3]]), np.array([4, -1]))
    np.testing.assert_array_equal(Plain(numbers())[index], numbers()[index])
    assert isinstance(parse(index, SHAPE), Points)


def test_an_integer_index_reads_nothing_until_it_is_looked_at():
    array = Plain(numbers())
    array.read = lambda *_: pytest.fail("something was read")
    plane = array[0]
    assert isinstance(plane, LazyIndex)
    assert (plane.dtype, plane.shape, plane.ndim, len(plane)) == (np.uint16, (5, 9), 2, 5)


def test_a_lazy_plane_computes_as_an_array():
    plane, expected = Plain(numbers())[-2], numbers()[-2]
    assert (plane == expected).all()
    np.testing.assert_array_equal(plane + plane, 2 * expected)
    np.testing.assert_array_equal(plane[1:3], expected[1:3])


@pytest.mark.parametrize(
    "index", [7, (0, -6), (0, 0, 9), "z", (0, 0, 0, 0), None, ([0], [7]), 1.5, (..., ...)]
)
def test_an_impossible_index_is_an_index_error(index):
    with pytest.raises(IndexError):
        Plain(numbers())[index]


def test_a_voxel_outside_is_an_index_error():
    with pytest.raises(IndexError, match="leave an axis of 9"):
        Plain(numbers())[np.array([0]), np.array([0]), np.array([9])]


@given(data=st.data())
def test_the_parts_of_a_strided_box_make_the_whole(data):
    ends = [sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in SHAPE]
    box = Box(tuple(a for a, _ in ends), tuple(b for _, b in ends))
    stride = data.draw(st.tuples(*[st.integers(1, 4)] * 3))
    array = numbers()
    whole = array[tuple(slice(a, b, s) for a, b, s in zip(box.start, box.stop, stride, strict=True))]
    out = np.zeros_like(whole)
    for z in range(0, 7, 3):
        for x in range(0, 9, 4):
            part = Box((z, 0, x), (z + 3, 5, x + 4)).clip(SHAPE)
            where, inside = strided_part(part, box, stride)
            out[where] += array[part.slices][inside]
    np.testing.assert_array_equal(out, whole)
