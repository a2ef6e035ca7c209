"""Cones, ellipsoids and sheets: how far from their surface a point is, and the boxes around them."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from flies import directions
from napari_memseg.phantom.solids import (
    GUT,
    NERVE,
    SHEET_WAVE,
    WING,
    SolidsBuilder,
    cone_distance,
    ellipsoid_distance,
    sheet_offset,
)

places = st.tuples(*[st.floats(-100, 100)] * 3).map(np.array)
radii = st.floats(1, 40)
semis = st.tuples(*[st.floats(10, 60)] * 3).map(np.array)
frames = st.integers(0, 2**32 - 1).map(
    lambda n: np.linalg.qr(np.random.default_rng(n).normal(size=(3, 3)))[0]
)


def one(add):
    """Return the only solid that ``add`` puts into a builder."""
    builder = SolidsBuilder()
    add(builder)
    return builder.build()


def cone(p, q, radius_p, radius_q):
    return one(lambda builder: builder.cone(GUT, p, q, radius_p, radius_q))


def ellipsoid(centre, semi, frame):
    return one(lambda builder: builder.ellipsoid(NERVE, centre, semi, frame))


def sheet(centre, semi, frame, thickness):
    return one(lambda builder: builder.sheet(WING, centre, semi, frame, thickness))


def distance_from_cone(solid, place):
    far, radius = cone_distance(solid.shape[0], *place)
    return far - radius


def spots_around(solid, count=300):
    """Return points in and about a solid's box."""
    low, high = solid.low[0], solid.high[0]
    return np.random.default_rng(0).uniform(1.25 * low - 0.25 * high, 1.25 * high - 0.25 * low, (count, 3))


def assert_inside_box(solid, places):
    assert (places >= solid.low[0] - 1e-9).all()
    assert (places <= solid.high[0] + 1e-9).all()


def far_from_segment(place, p, q):
    t = np.clip((place - p) @ (q - p) / max((q - p) @ (q - p), 1e-300), 0, 1)
    return np.linalg.norm(place - p - t * (q - p))


@given(places, places, radii, places)
def test_the_distance_from_a_capsule_is_exact(p, q, radius, place):
    solid = cone(p, q, radius, radius)
    expected = far_from_segment(place, p, q) - radius
    assert distance_from_cone(solid, place) == pytest.approx(expected, abs=1e-6)


@given(places, radii, radii, places)
def test_a_cone_of_no_length_is_a_ball(p, radius_p, radius_q, place):
    expected = np.linalg.norm(place - p) - radius_p
    assert distance_from_cone(cone(p, p, radius_p, radius_q), place) == pytest.approx(expected, abs=1e-9)


@given(places, places, radii, radii, st.floats(0, 1))
def test_a_cone_narrows_evenly_from_end_to_end(p, q, radius_p, radius_q, t):
    assume(np.linalg.norm(q - p) > 1e-3)
    solid = cone(p, q, radius_p, radius_q)
    _, radius = cone_distance(solid.shape[0], *(p + t * (q - p)))
    assert radius == pytest.approx(radius_p + t * (radius_q - radius_p))
    assert distance_from_cone(solid, p + t * (q - p)) < 0


@given(places, places, radii, radii)
@settings(max_examples=30)
def test_what_is_in_a_cone_is_in_its_box(p, q, radius_p, radius_q):
    solid = cone(p, q, radius_p, radius_q)
    spots = spots_around(solid)
    assert_inside_box(solid, spots[[distance_from_cone(solid, spot) < 0 for spot in spots]])


@given(places, semis, frames, st.integers(0, 2**32 - 1))
def test_an_ellipsoids_distance_is_zero_on_its_surface_and_negative_within(centre, semi, frame, seed):
    solid = ellipsoid(centre, semi, frame)
    for way in directions(5, seed) * semi @ frame:
        assert ellipsoid_distance(solid.shape[0], *(centre + way)) == pytest.approx(0, abs=1e-6)
        assert ellipsoid_distance(solid.shape[0], *(centre + 0.9 * way)) < 0
        assert ellipsoid_distance(solid.shape[0], *(centre + 1.1 * way)) > 0


@given(places, semis, frames, st.integers(0, 2**32 - 1))
def test_an_ellipsoids_distance_grows_as_the_way_off_its_surface(centre, semi, frame, seed):
    solid = ellipsoid(centre, semi, frame)
    for ball in directions(3, seed):
        on, normal = centre + ball * semi @ frame, (ball / semi) @ frame
        off = on + 1e-3 * normal / np.linalg.norm(normal)
        assert ellipsoid_distance(solid.shape[0], *off) == pytest.approx(1e-3, rel=0.01)


@given(places, radii, places)
def test_the_distance_from_a_ball_is_exact(centre, radius, place):
    solid = ellipsoid(centre, [radius] * 3, None)
    far = np.linalg.norm(place - centre)
    if far > 1e-6:
        assert ellipsoid_distance(solid.shape[0], *place) == pytest.approx(far - radius, abs=1e-6)
    assert ellipsoid_distance(solid.shape[0], *centre) < 0


@given(places, semis, frames)
@settings(max_examples=30)
def test_what_is_in_an_ellipsoid_is_in_its_box(centre, semi, frame):
    solid = ellipsoid(centre, semi, frame)
    spots = spots_around(solid)
    assert_inside_box(solid, spots[[ellipsoid_distance(solid.shape[0], *spot) < 0 for spot in spots]])


def points_of_sheet(centre, semi, frame, count, seed=0):
    """Return points on the middle of a sheet, which waves."""
    a, b = 0.999 * np.sqrt(np.random.default_rng(seed).uniform(size=count)) * directions(count, seed)[:, :2].T
    c = SHEET_WAVE * np.sin(5 * a) * np.cos(3 * b)
    return centre + np.stack([a * semi[0], b * semi[1], c], axis=1) @ frame


@given(places, semis, frames, st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_a_sheets_offset_is_zero_on_it_and_grows_off_it(centre, semi, frame, seed):
    solid = sheet(centre, semi[:2], frame, 2.0)
    for place in points_of_sheet(centre, semi, frame, 5, seed):
        assert sheet_offset(solid.shape[0], *place) == pytest.approx(0, abs=1e-6)
        assert sheet_offset(solid.shape[0], *(place + 3 * frame[2])) == pytest.approx(3, abs=1e-6)


@given(places, semis, frames)
def test_there_is_no_sheet_beside_it(centre, semi, frame):
    solid = sheet(centre, semi[:2], frame, 2.0)
    assert sheet_offset(solid.shape[0], *(centre + 1.01 * semi[0] * frame[0])) == 1e9


@pytest.mark.parametrize("seed", range(5))
def test_what_is_in_a_sheet_is_in_its_box(seed):
    centre, frame = (
        np.array([5.0, -3.0, 40.0]),
        np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0],
    )
    semi = np.array([50.0, 20.0 + 5 * seed])
    assert_inside_box(sheet(centre, semi, frame, 2.0), points_of_sheet(centre, semi, frame, 2000))


def test_a_chain_joins_its_points_and_all_keep_part_and_number():
    builder = SolidsBuilder()
    builder.chain(GUT, [(0, 0, 0), (10, 0, 0), (10, 5, 0)], [3.0, 2.0, 1.0], number=7)
    builder.ellipsoid(NERVE, (1, 2, 3), (4, 5, 6))
    made = builder.build()
    assert made.part.tolist() == [GUT, GUT, NERVE]
    assert made.number.tolist() == [7, 7, 0]
    assert made.shape[0, :8].tolist() == [0, 0, 0, 10, 0, 0, 3, 2]
    assert made.shape[1, :8].tolist() == [10, 0, 0, 10, 5, 0, 2, 1]
