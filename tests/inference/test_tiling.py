"""The geometry of tiles, on all shapes that hypothesis can think of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_memseg.errors import GeometryError
from napari_memseg.geometry import Box, Zyx
from napari_memseg.inference.tiling import (
    box_around,
    fit_core,
    plan_tiles,
    regular_box,
    round_up,
)
from napari_memseg.models.base import Halo


def zyx(low: int, high: int) -> st.SearchStrategy[Zyx]:
    """Three lengths between ``low`` and ``high``."""
    return st.tuples(*[st.integers(low, high)] * 3)


halos = st.builds(Halo, zyx(0, 9), zyx(0, 9))


@st.composite
def tilings(draw: st.DrawFn) -> dict:
    multiple = draw(zyx(1, 5))
    core = tuple(m * k for m, k in zip(multiple, draw(zyx(1, 4)), strict=True))
    shape = draw(st.tuples(*(st.integers(1, min(4 * c + 3, 60)) for c in core)))
    return {"shape": shape, "core": core, "halo": draw(halos), "multiple": multiple}


@given(tilings())
def test_cores_cover_every_voxel_once(tiling):
    times = np.zeros(tiling["shape"], int)
    for tile in plan_tiles(**tiling):
        times[tile.core.slices] += 1
    assert (times == 1).all()


@given(tilings(), st.data())
def test_cores_of_a_region_cover_it_and_nothing_else(tiling, data):
    start = data.draw(st.tuples(*(st.integers(0, n - 1) for n in tiling["shape"])))
    stop = data.draw(st.tuples(*(st.integers(a + 1, n) for a, n in zip(start, tiling["shape"], strict=True))))
    region, times = Box(start, stop), np.zeros(tiling["shape"], int)
    for tile in plan_tiles(**tiling, region=region):
        times[tile.core.slices] += 1
    assert (times[region.slices] == 1).all()
    assert times.sum() == region.size


@given(tilings())
def test_a_box_holds_core_and_halo_or_ends_at_a_face(tiling):
    halo = tiling["halo"]
    for tile in plan_tiles(**tiling):
        assert Box.whole(tiling["shape"]).contains(tile.box)
        assert tile.box.contains(tile.core.grow(halo.low, halo.high).clip(tiling["shape"]))


@given(tilings())
def test_boxes_start_on_multiples_and_end_on_one_or_at_the_far_face(tiling):
    for tile in plan_tiles(**tiling):
        for start, stop, size, multiple in zip(
            tile.box.start, tile.box.stop, tiling["shape"], tiling["multiple"], strict=True
        ):
            assert start % multiple == 0
            assert stop % multiple == 0 or stop == size


@given(tilings())
def test_there_are_at_most_two_lengths_per_axis_and_they_differ_by_less_than_a_multiple(tiling):
    shapes = np.array([tile.box.shape for tile in plan_tiles(**tiling)])
    regular = regular_box(tiling["core"], tiling["halo"], tiling["multiple"])
    for axis in range(3):
        lengths, size = set(shapes[:, axis].tolist()), tiling["shape"][axis]
        assert len(lengths) <= 2
        if size <= regular[axis]:
            assert lengths == {size}
        else:
            assert all(0 <= n - regular[axis] < tiling["multiple"][axis] for n in lengths)


@given(tilings())
def test_tiles_of_one_shape_lie_on_the_same_phase_of_the_multiple(tiling):
    cores = {tile.core.start for tile in plan_tiles(**tiling)}
    assert all(a % c == 0 for start in cores for a, c in zip(start, tiling["core"], strict=True))


@given(shape=zyx(1, 60), core=zyx(1, 16), halo=halos, multiple=zyx(1, 5), data=st.data())
def test_the_box_of_a_coarser_array_holds_what_is_asked_for_whatever_the_core(
    shape, core, halo, multiple, data
):
    index = data.draw(st.tuples(*(st.integers(0, (n - 1) // c) for n, c in zip(shape, core, strict=True))))
    start = tuple(i * c for i, c in zip(index, core, strict=True))
    box = box_around(start, shape, core, halo, multiple)
    wanted = Box.at(start, core).grow(halo.low, halo.high).clip(shape)
    regular = regular_box(core, halo, multiple)
    assert box.contains(wanted)
    assert all(a % m == 0 for a, m in zip(box.start, multiple, strict=True))
    assert all(
        n == s or r <= n < r + m for n, s, r, m in zip(box.shape, shape, regular, multiple, strict=True)
    )


@given(wanted=zyx(1, 70), shape=zyx(1, 200), step=zyx(1, 16), halo=halos)
def test_a_fitted_core_keeps_to_its_step_and_is_no_larger_than_the_volume_needs(wanted, shape, step, halo):
    core = fit_core(wanted, shape, step, halo, (1, 1, 1))
    assert all(c % s == 0 for c, s in zip(core, step, strict=True))
    assert all(c <= n for c, n in zip(core, round_up(shape, step), strict=True))


def test_an_axis_that_one_box_reads_whole_is_one_core():
    assert fit_core((64, 64, 64), (150, 64, 1000), (16, 16, 16), Halo.even(48, 8, 8), (4, 4, 4)) == (
        160,
        64,
        64,
    )


def test_at_the_far_face_a_box_is_shifted_inwards_and_longer_by_less_than_a_multiple():
    tiles = plan_tiles((8, 8, 101), core=(8, 8, 32), halo=Halo.even(0, 0, 6), multiple=(8, 8, 8))
    spans = [(tile.box.start[2], tile.box.stop[2]) for tile in tiles]
    assert spans == [(0, 48), (24, 72), (48, 101), (48, 101)]


@pytest.mark.parametrize("core", [(0, 4, 4), (6, 4, 4)])
def test_a_core_off_the_multiple_is_refused_with_the_next_one_named(core):
    with pytest.raises(GeometryError, match="multiple"):
        plan_tiles((20, 20, 20), core=core, halo=Halo(), multiple=(4, 4, 4))


def test_a_negative_halo_is_refused():
    with pytest.raises(GeometryError, match="negative"):
        plan_tiles((20, 20, 20), core=(4, 4, 4), halo=Halo.even(0, -1, 0), multiple=(4, 4, 4))
