from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_memseg.geometry import Box, cells
from napari_memseg.workflows.rows import plan_rows


def zyx(low, high):
    return st.tuples(*[st.integers(low, high)] * 3)


@given(shape=zyx(1, 40), start=zyx(0, 9), written=zyx(1, 8), read=zyx(1, 40), limit=st.integers(1, 20_000))
def test_rows_cover_every_voxel_once_cut_no_chunk_and_keep_to_the_limit(shape, start, written, read, limit):
    rows = plan_rows(Box.at(start, shape), written=written, read=read, limit=limit)
    times = np.zeros(shape, int)
    boxes = list(rows.boxes())
    for box in boxes:
        times[box.slices] += 1
    assert (times == 1).all()
    assert len(boxes) == rows.count
    assert all(n % c == 0 for n, c in zip(rows.step, written, strict=True))
    assert prod(rows.step) <= max(limit, prod(written))
    assert list(rows.boxes(rows.count // 2)) == boxes[rows.count // 2 :]


@given(shape=zyx(1, 20), written=zyx(1, 5), read=zyx(1, 9), box=st.tuples(zyx(0, 19), zyx(1, 20)))
def test_the_last_row_that_touches_a_box_is_known_without_looking(shape, written, read, box):
    rows = plan_rows(Box.whole(shape), written=written, read=read, limit=300)
    wanted = Box(*box).clip(shape)
    touched = [n for n, row in enumerate(rows.boxes()) if not (row & wanted).is_empty]
    if not wanted.is_empty:
        assert rows.last(wanted) == max(touched)


@pytest.mark.parametrize(
    ("read", "start", "step"),
    [
        ((64, 64, 64), (0, 0, 0), (64, 64, 1024)),
        ((128, 32, 64), (0, 0, 0), (128, 64, 1024)),
        ((96, 64, 64), (0, 0, 0), (192, 64, 1024)),
        ((100, 64, 64), (0, 0, 0), (448, 64, 1024)),
        ((64, 64, 64), (0, 5, 0), (64, 256, 1024)),
        ((1, 1000, 1000), (0, 0, 0), (64, 1024, 1024)),
    ],
)
def test_rows_are_as_thick_as_the_chunks_they_read_ask_for(read, start, step):
    region = Box(start, (1000, 1000, 1000))
    assert plan_rows(region, written=(64, 64, 64), read=read, limit=2**30).step == step


@given(read=zyx(1, 16), start=zyx(0, 16))
@settings(max_examples=30, deadline=None)
def test_few_chunks_are_read_twice(read, start):
    region = Box(start, (128, 128, 128))
    rows = plan_rows(region, written=(8, 8, 8), read=read, limit=2**24)
    shift = tuple(-a for a in start)
    decoded = sum(len(list(cells(box.relative_to(shift), read))) for box in rows.boxes())
    assert decoded <= 1.65 * len(list(cells(region, read)))
