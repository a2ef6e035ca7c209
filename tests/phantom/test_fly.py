"""The phantom as a user meets it: any box, at any level, whoever asks for it and in whatever order."""

import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flies import boxes, phantom, whole
from napari_memseg.errors import GeometryError
from napari_memseg.geometry import Box, cell_box, cells
from napari_memseg.phantom.fly import Phantom
from napari_memseg.phantom.parameters import PhantomParameters

ODD = (28, 25, 34)
LONG = PhantomParameters.named((24, 30, 520), "normal")
KINDS = {
    "normal": PhantomParameters.named(ODD, "normal"),
    "hard, with seams": PhantomParameters.named(ODD, "hard", seed=1).with_scan(seam_every=11, seam_jump=3.0),
    "in ethanol, two": PhantomParameters.named(ODD, "easy").with_animal(
        medium="ethanol", tube=True, second=True, dust=True, stain="iodine"
    ),
    "projected": PhantomParameters.named((10, 20, 24), "normal", mode="projection"),
}
"""Phantoms in which different things could go wrong at the faces of a box."""


def assert_same(rendered, parameters, box):
    for made, all_of_it in zip(rendered, whole(parameters), strict=True):
        assert made.tobytes() == all_of_it[box.slices].tobytes()


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=8)
def test_a_box_cut_anywhere_has_the_bytes_of_the_whole(kind, data):
    parameters = KINDS[kind]
    box = data.draw(boxes(parameters.shape, largest=10))
    assert_same(phantom(parameters).render(box), parameters, box)


@pytest.mark.parametrize("kind", KINDS)
def test_threads_make_the_bytes_of_the_whole(kind):
    parameters, fresh = KINDS[kind], Phantom(KINDS[kind])
    blocks = [cell_box(at, (16, 16, 16), fresh.shape) for at in cells(Box.whole(fresh.shape), (16, 16, 16))]
    with ThreadPoolExecutor(8) as pool:
        for box, made in zip(blocks[::-1], pool.map(fresh.render, blocks[::-1]), strict=True):
            assert_same(made, parameters, box)


@pytest.mark.parametrize("threads", [2, 3, 16])
def test_a_box_that_threads_share_has_the_bytes_of_the_whole(threads):
    parameters, box = KINDS["normal"], Box((8, 10, 12), (20, 19, 26))
    assert_same(phantom(parameters).levels[0].render(box, threads), parameters, box)


def test_what_a_caller_writes_into_labels_is_not_what_the_next_one_reads():
    level, box = Phantom(KINDS["normal"]).levels[0], Box((8, 8, 8), (20, 20, 20))
    for ask in (level.image, level.truth, level.instances):
        before = ask(box).copy()
        ask(box)[:] = 77
        assert np.array_equal(ask(box), before)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=8)
def test_labels_alone_are_those_of_the_image(kind, data):
    parameters = KINDS[kind]
    box, level = data.draw(boxes(parameters.shape, largest=10)), phantom(parameters).levels[0]
    assert np.array_equal(level.truth(box), whole(parameters).truth[box.slices])
    assert np.array_equal(level.instances(box), whole(parameters).instances[box.slices])


@given(level=st.integers(0, 2), data=st.data())
@settings(max_examples=15)
def test_volumes_read_what_is_rendered_at_every_level(level, data):
    made = phantom(LONG)
    box = data.draw(boxes(made.levels[level].shape, largest=12))
    rendered = made.render(box, level)
    for volume, expected in zip((made.image, made.truth, made.instances), rendered, strict=True):
        read = volume.read(box, level)
        assert read.dtype == volume.dtype == expected.dtype
        assert read.tobytes() == expected.tobytes()


def test_levels_are_halved_until_none_is_longer_than_256():
    made = phantom(LONG)
    assert [level.shape for level in made.levels] == [(24, 30, 520), (12, 15, 260), (6, 8, 130)]
    assert [level.step for level in made.levels] == [1, 2, 4]
    assert len(phantom(PhantomParameters.named((8, 8, 256))).levels) == 1


def test_volumes_say_what_they_are():
    made = phantom(LONG)
    for volume in (made.image, made.truth, made.instances):
        assert volume.shape == LONG.shape
        assert volume.unit == "micrometer"
        assert volume.voxel_size == (made.voxel_um,) * 3
        assert volume.voxel_size_at(2) == (4 * made.voxel_um,) * 3
        assert "synthetic" in volume.name
        assert "synthetic" in volume.source
    assert [v.is_labels for v in (made.image, made.truth, made.instances)] == [False, True, True]
    assert [v.dtype for v in (made.image, made.truth, made.instances)] == [np.uint16, np.uint8, np.uint32]


def test_a_volume_read_through_dask_is_the_same():
    made = phantom(LONG)
    assert np.array_equal(made.truth.levels[1][2:6, 3:9, 100:130].compute(), truth_at(made, 1))


def truth_at(made, level):
    return made.render(Box((2, 3, 100), (6, 9, 130)), level).truth


@pytest.mark.parametrize("level", [1, 2])
def test_a_coarse_level_shows_the_same_animal(level):
    made = phantom(PhantomParameters.named((40, 40, 516), voxel_um=50.0).with_scan(drift_voxels=0.0))
    step = 2**level
    fine = made.levels[0].truth(Box((0, 0, 216), (40, 40, 296))) > 0
    coarse = made.levels[level].truth(Box((0, 0, 216 // step), (40 // step, 40 // step, 296 // step))) > 0
    shares = fine.reshape([n for axis in coarse.shape for n in (axis, step)]).mean((1, 3, 5))
    assert coarse[shares == 1].mean() > 0.97
    assert coarse[shares == 0].mean() < 0.01


def test_the_same_parameters_give_the_same_phantom_and_another_seed_another():
    same, other = (PhantomParameters.named(ODD, seed=seed) for seed in (0, 5))
    again = Phantom(same).render(Box.whole(ODD))
    assert_same(again, same, Box.whole(ODD))
    for one, two in zip(again, whole(other), strict=True):
        assert not np.array_equal(one, two)


def test_the_voxel_size_is_that_asked_for_or_fits_the_animal():
    assert phantom(PhantomParameters.named(ODD, voxel_um=12.5)).voxel_um == 12.5
    small, large = (phantom(PhantomParameters.named((n,) * 3)).voxel_um for n in (32, 64))
    assert small == 2 * large
    assert 64 * large > 2500


@pytest.mark.parametrize(
    ("box", "level"),
    [
        (Box((0, 0, 0), (1, 1, 521)), 0),
        (Box((-1, 0, 0), (3, 3, 3)), 0),
        (Box((24, 0, 0), (25, 3, 3)), 0),
        (Box((0, 0, 0), (13, 3, 3)), 1),
        (Box((3, 3, 3), (3, 5, 5)), 0),
    ],
    ids=str,
)
def test_a_box_outside_or_empty_is_refused(box, level):
    found = phantom(LONG)
    for ask in (
        found.render,
        lambda b, n: found.levels[n].truth(b),
        lambda b, n: found.levels[n].instances(b),
    ):
        with pytest.raises(GeometryError, match="leaves"):
            ask(box, level)


@pytest.mark.parametrize("level", [-1, 3])
def test_a_level_that_is_not_there_is_refused(level):
    made = phantom(LONG)
    with pytest.raises(GeometryError, match="level"):
        made.image.read(Box((0, 0, 0), (1, 1, 1)), level)
    with pytest.raises(GeometryError, match="level"):
        made.render(Box((0, 0, 0), (1, 1, 1)), level)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 20, 30), (30, 1, 20), (2, 3, 5)], ids=str)
@pytest.mark.parametrize("mode", ["image", "projection"])
def test_thin_volumes_are_possible(shape, mode):
    made = phantom(PhantomParameters.named(shape, mode=mode)).render(Box.whole(shape))
    assert [part.shape for part in made] == [shape] * 3


def test_a_huge_phantom_opens_and_reads_without_room_for_it():
    made = Phantom(PhantomParameters.named("huge"))
    assert made.levels[0].animal.solids.kind.size > 1000
    tracemalloc.start()
    try:
        fine = made.render(Box.at((4000, 4100, 8000), (16, 16, 16)))
        coarse = made.render(Box.at((125, 120, 250), (16, 16, 16)), level=5)
        corner = made.truth.read(Box.at((0, 0, 0), (16, 16, 16)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * 2**20
    assert [level.shape for level in made.image.arrays][-1] == (128, 128, 256)
    assert fine.truth.all()
    assert len(np.unique(coarse.truth)) > 1
    assert not corner.any()


def test_a_thin_wide_volume_has_all_its_coarse_levels():
    fly = phantom(PhantomParameters.named((3, 2100, 2100), "hard", seed=1))
    for level in fly.levels[2:]:
        assert level.render(Box((0, 0, 0), (1, 8, 8))).image.shape == (1, 8, 8)
