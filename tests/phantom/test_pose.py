"""Where the animal lies, and how its slices move: by one map for image and labels."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flies import clean, directions, phantom, to_body, to_voxel, voxels, voxels_in
from napari_memseg.geometry import Box
from napari_memseg.phantom.body import build_body, surface_point
from napari_memseg.phantom.fly import Level, Phantom
from napari_memseg.phantom.hashing import Draws
from napari_memseg.phantom.parameters import ANIMALS, SIZES, PhantomParameters, ScanParameters
from napari_memseg.phantom.pose import slices
from napari_memseg.phantom.voxels import sample

OBLONG = [(64, 64, 128), (128, 64, 64), (40, 100, 60)]


def faces(shape):
    """Return the six outermost planes of a volume."""
    for axis in range(3):
        for at in (0, shape[axis] - 1):
            start, stop = [0, 0, 0], list(shape)
            start[axis], stop[axis] = at, at + 1
            yield Box(tuple(start), tuple(stop))


@pytest.mark.parametrize(("kind", "seed"), [("fly", 0), ("fly", 1), ("fly", 2), ("beetle", 3), ("larva", 4)])
def test_no_part_of_an_animal_touches_a_face_of_its_volume(kind, seed):
    touching = []
    for shape in (SIZES["tiny"], *OBLONG):
        parameters = PhantomParameters.named(shape, animal=kind, seed=seed)
        if any(voxels_in(parameters, face).labels.any() for face in faces(shape)):
            touching.append(shape)
    assert not touching


@given(
    kind=st.sampled_from(sorted(ANIMALS)),
    shape=st.sampled_from([*SIZES.values(), *OBLONG]),
    seed=st.integers(0, 2**32 - 1),
)
@example(kind="beetle", shape=(64, 64, 64), seed=168)  # longer than beetles are
@example(kind="beetle", shape=(4096, 4096, 4096), seed=27264)  # so is this one, and seams move it
@settings(max_examples=20)
def test_all_of_the_skin_is_in_the_volume(kind, shape, seed):
    parameters = PhantomParameters.named(shape, animal=kind, seed=seed)
    pose = Phantom(parameters).levels[0].pose(0)
    body = build_body(parameters.animal, Draws(seed, parameters.animal.spread))
    for part in range(3):
        for way in directions(30, seed):
            place = to_voxel(pose, body, surface_point(body, body.centre[part], way))
            assert (place >= -0.5).all()
            assert (place <= np.array(shape) - 0.5).all()


@pytest.mark.parametrize("shape", [*OBLONG, SIZES["huge"]], ids=str)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_body_lies_along_the_longest_axis(shape, seed):
    pose = phantom(PhantomParameters.named(shape, seed=seed)).levels[0].pose(0)
    along = np.abs(pose.matrix[0])
    assert along.argmax() == np.argmax(shape)
    assert along.max() > 0.98 * np.linalg.norm(pose.matrix[0])


def test_voxels_are_cubes_whatever_the_tilt():
    made = phantom(replace(clean(), tilt_degrees=30.0))
    scaled = made.levels[0].pose(0).matrix / made.voxel_um
    np.testing.assert_allclose(scaled @ scaled.T, np.eye(3), atol=1e-12)


@given(shape=st.tuples(*[st.integers(20, 90)] * 3), step=st.sampled_from([2, 4, 8]))
@settings(max_examples=15)
def test_a_coarse_voxel_lies_where_the_fine_ones_do_that_it_stands_for(shape, step):
    made = Phantom(clean(shape))
    fine, coarse = (Level(made, n).pose(0) for n in (1, step))
    at = np.array([(0, 0, 0), (3, 1, 2)])
    np.testing.assert_allclose(to_body(coarse, at), to_body(fine, at * step + (step - 1) / 2), atol=1e-6)


def test_slices_of_a_coarse_level_move_as_the_fine_ones_do():
    made = Phantom(clean((300, 40, 40)).with_scan(drift_voxels=30.0, seam_every=90))
    fine, coarse = (Level(made, n).pose(0) for n in (1, 4))
    for z in range(0, 75):
        if (4 * z) // 90 == (4 * z + 3) // 90:  # no seam between
            middle = (fine.dy[4 * z + 1] + fine.dy[4 * z + 2]) / 2
            assert 4 * coarse.dy[z] == pytest.approx(middle, abs=0.02)
            assert 4 * coarse.source_z[z] + 1.5 == pytest.approx(fine.source_z[4 * z + 1] + 0.5)


def test_a_slice_that_moved_by_whole_voxels_shows_its_neighbours_place():
    level = phantom(clean()).levels[0]
    still = level.pose(0)
    moved = still._replace(dy=still.dy + 3, dx=still.dx - 2, source_z=still.source_z + 1)
    here = sample(level.animal, moved, Box((20, 20, 20), (30, 36, 36)))
    there = sample(level.animal, still, Box((21, 23, 18), (31, 39, 34)))
    assert len(np.unique(here.labels)) > 5
    for one, other in zip(here, there, strict=True):
        assert np.array_equal(one, other)


def test_drift_moves_labels_and_attenuation_alike():
    still = clean(wings=False)
    drifting = still.with_scan(drift_voxels=15.0)
    pose = phantom(drifting).levels[0].pose(0)
    assert abs(pose.dy).max() > 2
    before, after = voxels(still), voxels(drifting)
    for z in np.flatnonzero((before.labels > 0).sum((1, 2)) > 100)[::4]:
        shift = (-round(pose.dy[z]), -round(pose.dx[z]))
        for values in ("labels", "light"):
            one, other = (getattr(found, values)[z] > 0 for found in (before, after))
            assert dice(np.roll(one, shift, (0, 1)), other) > 0.85


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def test_without_drift_nothing_moves():
    source, dy, dx = slices(ScanParameters(drift_voxels=0.0), 0, 500, np.arange(500.0))
    assert np.array_equal(source, np.arange(500))
    assert not dy.any()
    assert not dx.any()


def test_slices_drift_by_the_asked_distance_in_a_thousand_and_smoothly():
    scan, z = ScanParameters(drift_voxels=2.0), np.arange(2000.0)
    walks = np.array([slices(scan, seed, 2000, z)[1:] for seed in range(60)])
    assert (walks[..., 1500] - walks[..., 500]).std() == pytest.approx(2.0, rel=0.25)
    assert abs(np.diff(walks, axis=-1)).max() < 0.1


@pytest.mark.parametrize("seed", [0, 1])
def test_a_seam_repeats_or_loses_a_slice(seed):
    whole = clean((36, 36, 36), seed)
    joined = whole.with_scan(seam_every=18, seam_jump=0.0)
    before, after = voxels(whole), voxels(joined)
    step = int(phantom(joined).levels[0].pose(0).source_z[20]) - 20
    assert step in (-1, 1)
    for one, other in zip(before, after, strict=True):
        assert np.array_equal(one[:18], other[:18])
        assert np.array_equal(one[18 + step : 35 + step], other[18:35])


def test_some_seams_repeat_and_some_lose_a_slice_and_each_jumps_within_bounds():
    scan = ScanParameters(drift_voxels=0.0, seam_every=10, seam_jump=2.5)
    source, dy, dx = slices(scan, 0, 400, np.arange(400.0))
    steps = np.diff(source)
    seams = np.arange(10, 400, 10) - 1
    assert set(steps[seams]) == {0.0, 2.0}
    assert (np.delete(steps, seams) == 1).all()
    for walk in (dy, dx):
        jumps = np.diff(walk)
        assert 1.5 < abs(jumps[seams]).max() <= 2.5
        assert not np.delete(jumps, seams).any()
