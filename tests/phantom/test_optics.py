"""Filters: constants stay, sums stay, and a voxel is the same whatever box it is computed in."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_memseg.phantom.optics import blur, filter_plane, gaussian, laplacian

sigmas = st.floats(0.3, 1.5)
RADIUS = 6


def random_values(shape=(24, 26, 28)):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@given(st.floats(0, 3), st.integers(0, 12))
def test_the_weights_sum_to_one_and_are_alike_on_both_sides(sigma, radius):
    weights = gaussian(sigma, radius)
    assert len(weights) == 2 * radius + 1
    assert weights.sum() == pytest.approx(1, abs=1e-6)
    assert np.array_equal(weights, weights[::-1])


def test_no_sigma_means_no_blur():
    values = random_values()
    assert np.array_equal(blur(values, 0.0, 0.0, 2), values[2:-2, 2:-2, 2:-2])


@given(st.floats(-3, 3, width=32), sigmas, sigmas)
@settings(max_examples=20)
def test_a_constant_stays_a_constant(value, sigma, sigma_z):
    blurred = blur(np.full((15, 15, 15), value, np.float32), sigma, sigma_z, RADIUS)
    assert blurred.shape == (3, 3, 3)
    np.testing.assert_allclose(blurred, value, rtol=1e-6, atol=1e-6)


@given(sigmas, sigmas)
@settings(max_examples=20)
def test_a_point_is_spread_but_not_lost(sigma, sigma_z):
    point = np.zeros((25, 25, 25), np.float32)
    point[12, 12, 12] = 1
    spread = blur(point, sigma, sigma_z, RADIUS)
    assert spread.sum() == pytest.approx(1, abs=1e-5)
    for axis, width in enumerate((sigma_z, sigma, sigma)):
        profile = spread.sum(tuple({0, 1, 2} - {axis}))
        expected = np.sqrt(gaussian(width, RADIUS) @ (np.arange(-RADIUS, RADIUS + 1) ** 2.0))
        assert np.sqrt(profile @ (np.arange(-6, 7) ** 2.0)) == pytest.approx(expected, rel=1e-4)


@st.composite
def cuts(draw, margin):
    """Draw a box of the filtered volume, and the box of the input that it needs."""
    start = [draw(st.integers(0, n - 2 * margin - 1)) for n in (24, 26, 28)]
    stop = [draw(st.integers(a + 1, n - 2 * margin)) for a, n in zip(start, (24, 26, 28), strict=True)]
    inner = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    return inner, tuple(slice(a, b + 2 * margin) for a, b in zip(start, stop, strict=True))


@given(cuts(3), sigmas)
@settings(max_examples=25)
def test_a_blurred_box_is_that_of_the_whole(cut, sigma):
    values, (inner, needed) = random_values(), cut
    assert blur(values, sigma, 0.7, 3)[inner].tobytes() == blur(values[needed], sigma, 0.7, 3).tobytes()


@given(cuts(2))
@settings(max_examples=25)
def test_a_filtered_plane_is_that_of_the_whole(cut):
    values, (inner, needed) = random_values(), cut
    weights = random_values((1, 5, 5))[0]
    inner, needed = (inner[0], *inner[1:]), (inner[0], *needed[1:])
    assert filter_plane(values, weights)[inner].tobytes() == filter_plane(values[needed], weights).tobytes()


@given(cuts(1))
@settings(max_examples=25)
def test_the_laplacian_of_a_box_is_that_of_the_whole(cut):
    values, (inner, needed) = random_values(), cut
    assert laplacian(values)[inner].tobytes() == laplacian(values[needed]).tobytes()


@given(st.tuples(*[st.integers(-50, 50)] * 4))
def test_a_ramp_has_no_laplacian(slopes):
    z, y, x = np.indices((6, 7, 8))
    ramp = slopes[0] * z + slopes[1] * y + slopes[2] * x + slopes[3]
    assert not laplacian(ramp.astype(np.float32)).any()


def test_the_laplacian_of_a_bowl_is_its_curvature():
    z, y, x = np.indices((6, 7, 8))
    assert (laplacian((z**2 + y**2 + 2 * x**2).astype(np.float32)) == 8).all()


def test_a_plane_filter_weighs_the_neighbours_of_its_own_slice():
    point = np.zeros((3, 9, 9), np.float32)
    point[1, 4, 4] = 1
    weights = random_values((1, 3, 3))[0]
    found = filter_plane(point, weights)
    assert not found[[0, 2]].any()
    assert np.array_equal(found[1, 2:5, 2:5], weights[::-1, ::-1])
