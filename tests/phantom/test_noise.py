"""Smooth fields and cells, against the slow way."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from flies import KEY
from napari_memseg.phantom.hashing import hash3, mix, thirds
from napari_memseg.phantom.noise import bell, cells2, cells3, lattice_value, line_value, smooth_noise

coordinates = st.floats(-500, 500)
places = st.tuples(*[coordinates] * 3)
steps = st.tuples(*[st.floats(-1e-4, 1e-4)] * 3)
keys = st.integers(0, 2**64 - 1).map(np.uint64)


@given(keys, places)
def test_smooth_noise_is_within_one(key, place):
    assert -1 <= smooth_noise(key, *place) <= 1


@given(keys, places | st.tuples(*[st.integers(-500, 500).map(float)] * 3), steps)
def test_a_small_step_changes_smooth_noise_a_little(key, place, step):
    there = np.add(place, step)
    assert abs(smooth_noise(key, *there) - smooth_noise(key, *place)) < 1e-3


@given(keys, st.tuples(*[st.integers(-500, 500)] * 3))
def test_smooth_noise_is_the_lattices_value_at_its_points(key, point):
    assert smooth_noise(key, *map(float, point)) == lattice_value(key, *point)


def test_smooth_noise_has_no_preferred_sign():
    rng = np.random.default_rng(0)
    values = np.array([smooth_noise(KEY, *place) for place in rng.uniform(-50, 50, (5000, 3))])
    assert values.mean() == pytest.approx(0, abs=0.02)
    assert values.std() > 0.15


def seeds3(jitter, reach):
    lattice = np.array(list(np.ndindex(*[2 * reach] * 3))) - reach
    strays = np.array([thirds(np.uint64(hash3(KEY, *map(int, point)))) for point in lattice])
    return lattice, lattice + 0.5 + jitter * (strays - 0.5)


@pytest.mark.parametrize("jitter", [0.5, 0.6, 0.7, 0.8])
def test_a_place_belongs_to_the_nearest_seed_of_all_even_far_ones(jitter):
    lattice, seeds = seeds3(jitter, 6)
    spots = np.random.default_rng(0).uniform(-3, 3, (20_000, 3))
    far, nearest = cKDTree(seeds).query(spots, k=2)
    found = np.array([cells3(KEY, *spot, jitter) for spot in spots])
    assert (found[:, 0] <= found[:, 1]).all()
    np.testing.assert_allclose(found[:, :2], far)
    assert np.array_equal(found[:, 2:], lattice[nearest[:, 0]])


def seeds2(jitter, reach, number):
    height = np.sqrt(3) / 2
    lattice = np.array(list(np.ndindex(2 * reach, 2 * reach))) - reach
    strays = np.array([thirds(np.uint64(hash3(KEY, number, *map(int, point))))[:2] for point in lattice])
    seeds = lattice + 0.5 + jitter * (strays - 0.5)
    seeds[:, 1] += 0.5 * (lattice[:, 0] % 2)
    return lattice, seeds * [height, 1]


@pytest.mark.parametrize("jitter", [0.0, 0.45])
def test_a_place_of_a_plane_belongs_to_the_nearest_seed_of_its_packing(jitter):
    lattice, seeds = seeds2(jitter, 9, number=7)
    spots = np.random.default_rng(0).uniform(-4, 4, (20_000, 2))
    far, nearest = cKDTree(seeds).query(spots, k=2)
    found = np.array([cells2(KEY, 7, *spot, jitter) for spot in spots])
    assert (found[:, 0] <= found[:, 1]).all()
    np.testing.assert_allclose(found[:, :2], far, atol=1e-12)
    assert np.array_equal(found[:, 2:], lattice[nearest[:, 0]])


@given(coordinates, coordinates)
def test_cells_without_jitter_are_hexagons_of_one_size(v, w):
    first, _, _, _ = cells2(KEY, 0, v, w, 0.0)
    assert first <= 1 / np.sqrt(3) + 1e-9


@given(coordinates, coordinates)
@settings(max_examples=20)
def test_planes_of_different_numbers_differ(v, w):
    assert cells2(KEY, 1, v, w, 0.45)[0] != cells2(KEY, 2, v, w, 0.45)[0]


def test_the_bell_has_mean_0_and_variance_1():
    values = np.array([bell(np.uint64(mix(np.uint64(i)))) for i in range(20_000)])
    assert values.mean() == pytest.approx(0, abs=0.03)
    assert values.var() == pytest.approx(1, abs=0.03)


def test_numbers_of_a_line_are_bells_too_and_know_negative_places():
    values = np.array([line_value(KEY, i) for i in range(-5000, 5000)])
    assert values.mean() == pytest.approx(0, abs=0.04)
    assert values.var() == pytest.approx(1, abs=0.05)
    assert len(np.unique(values)) > 9000
