"""A point finds all solids that are near it by looking into one cell."""

from functools import cache

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from flies import FLY, directions
from napari_memseg.phantom.animal import build_animal
from napari_memseg.phantom.body import body_distance
from napari_memseg.phantom.grid import build_grid, cell_of
from napari_memseg.phantom.solids import CONE, ELLIPSOID, GUT, SHEET, SHEET_WAVE, SolidsBuilder, cone_distance

LOW, HIGH = np.full(3, -60.0), np.array([60.0, 75.0, 90.0])


def listed(grid, cell):
    return grid.members[grid.starts[cell] : grid.starts[cell + 1]].tolist()


def random_capsules(seed, count=12):
    rng, builder = np.random.default_rng(seed), SolidsBuilder()
    for _ in range(count):
        p, q = rng.uniform(-60, 60, (2, 3))
        builder.cone(GUT, p, q, *rng.uniform(0.5, 20, 2))
    return builder.build()


@given(st.tuples(*[st.floats(-80, 100)] * 3), st.floats(5, 60))
def test_each_point_is_in_the_cell_around_it_or_beside_the_grid(place, edge):
    grid = build_grid(random_capsules(0), np.zeros(12), LOW, HIGH, edge)
    cell = cell_of(grid, *place)
    index = np.floor((np.array(place) - LOW) / edge)
    if (index < 0).any() or (index >= grid.counts).any():
        assert cell == -1
    else:
        assert np.array_equal(np.unravel_index(cell, grid.counts), index)


@given(st.integers(0, 2**32 - 1), st.floats(5, 60), st.floats(0, 10))
@settings(max_examples=30)
def test_a_cell_lists_every_solid_within_the_margin_of_its_points(seed, edge, margin):
    solids = random_capsules(seed)
    grid = build_grid(solids, np.full(12, margin), LOW, HIGH, edge)
    for place in np.random.default_rng(seed).uniform(LOW, HIGH, (20, 3)):
        pairs = [cone_distance(shape, *place) for shape in solids.shape]
        near = [s for s, (far, radius) in enumerate(pairs) if far - radius < margin]
        assert set(near) <= set(listed(grid, cell_of(grid, *place)))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_a_cell_lists_a_solid_once_and_none_whose_box_is_elsewhere(seed):
    solids = random_capsules(seed)
    grid = build_grid(solids, np.zeros(12), LOW, HIGH, 20.0)
    for cell in range(len(grid.starts) - 1):
        low = LOW + 20.0 * np.array(np.unravel_index(cell, grid.counts))
        touching = ((solids.low < low + 20) & (solids.high >= low)).all(1)
        inside = [s for s in listed(grid, cell) if not touching[s]]
        assert len(set(listed(grid, cell))) == len(listed(grid, cell))
        assert all((solids.low[s] < LOW).any() or (solids.high[s] > HIGH).any() for s in inside)


def point_on(solids, s, rng):
    """Return a random point of the surface of a solid."""
    shape, ball = solids.shape[s], directions(1, rng.integers(2**32))[0]
    if solids.kind[s] == CONE:
        t = rng.uniform()
        return shape[:3] + t * (shape[3:6] - shape[:3]) + (shape[6] + t * (shape[7] - shape[6])) * ball
    if solids.kind[s] == SHEET:
        ball[:2] *= 0.999 / max(np.linalg.norm(ball[:2]), 1)
        ball[2] = SHEET_WAVE * np.sin(5 * ball[0]) * np.cos(3 * ball[1])
    return shape[:3] + np.linalg.solve(shape[3:12].reshape(3, 3), ball)


@given(seed=st.integers(0, 2**32 - 1), voxel_um=st.sampled_from([1.0, 20.0, 60.0]), kind=st.integers(0, 2))
@settings(max_examples=30)
def test_a_fly_finds_each_of_its_solids_where_its_surface_is(seed, voxel_um, kind):
    animal, rng = fly(voxel_um), np.random.default_rng(seed)
    solids, grid = animal.solids, animal.grid
    for s in rng.choice(np.flatnonzero(solids.kind == kind), 40):
        place = point_on(solids, s, rng) + animal.traits.sample_um * directions(1, seed)[0]
        assert s in listed(grid, cell_of(grid, *place)), (solids.part[s], s)


@cache
def fly(voxel_um):
    return build_animal(FLY, 0, voxel_um)


def test_a_fly_is_made_of_cones_ellipsoids_and_sheets():
    assert np.unique(fly(20.0).solids.kind).tolist() == [CONE, ELLIPSOID, SHEET]


def test_cells_outside_hold_no_solid_and_no_skin():
    animal, rng = fly(20.0), np.random.default_rng(0)
    grid, checked = animal.grid, 0
    for place in rng.uniform(grid.origin, grid.origin + grid.counts * grid.cell, (3000, 3)):
        cell = cell_of(grid, *place)
        if grid.is_outside[cell]:
            checked += 1
            assert not listed(grid, cell)
            assert body_distance(animal.body, *place) > 0
    assert checked > 500


def test_a_cell_is_far_where_all_around_it_is_outside():
    grid = fly(20.0).grid
    outside = np.pad(grid.is_outside.reshape(grid.counts), 1, constant_values=True)
    far = grid.is_far.reshape(grid.counts)
    for at in np.random.default_rng(0).integers(0, grid.counts, (500, 3)):
        around = outside[tuple(slice(n, n + 3) for n in at)]
        assert far[tuple(at)] == around.all()
