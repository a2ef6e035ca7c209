"""The skin: closed, bent along its axis, and another one for each seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flies import FLY, directions
from napari_memseg.phantom.animal import build_anatomy
from napari_memseg.phantom.body import (
    ABDOMEN,
    HEAD,
    THORAX,
    body_distance,
    build_body,
    cuticle_thickness,
    furrow,
    straighten,
    surface_point,
)
from napari_memseg.phantom.hashing import Draws
from napari_memseg.phantom.parameters import ANIMALS, AnimalParameters
from napari_memseg.phantom.solids import EYE, GUT, LIMB, WING

BODY = build_body(FLY, Draws(0, FLY.spread))


@given(st.sampled_from([HEAD, THORAX, ABDOMEN]), st.integers(0, 2**32 - 1), st.sampled_from(sorted(ANIMALS)))
@settings(max_examples=30)
def test_the_skin_is_met_in_every_direction(part, seed, kind):
    animal = ANIMALS[kind]
    body = build_body(animal, Draws(seed, animal.spread))
    for way in directions(5, seed):
        place = surface_point(body, body.centre[part], way)
        assert body_distance(body, *place) == pytest.approx(0, abs=1e-6)
        assert body_distance(body, *(place + 5 * way)) > 0


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_near_the_skin_the_distance_is_within_a_factor_of_the_way_to_it(seed):
    """Less in the crease of the neck, more at the tail."""
    for way in directions(5, seed):
        place = surface_point(BODY, BODY.centre[THORAX], way)
        step = 1e-2 * gradient(place)
        assert 0.4 < body_distance(BODY, *(place + step / np.linalg.norm(step))) < 1.45


def gradient(place, step=1e-3):
    axes = step * np.eye(3)
    return np.array([body_distance(BODY, *(place + a)) - body_distance(BODY, *(place - a)) for a in axes])


@given(st.floats(0, 1), st.sampled_from([(HEAD, THORAX), (THORAX, ABDOMEN)]))
def test_head_thorax_and_abdomen_are_one(t, pair):
    start, end = BODY.centre[list(pair)]
    assert body_distance(BODY, *(start + t * (end - start))) < 0


def test_the_animal_is_about_as_long_as_was_asked():
    for length in (1000.0, 2500.0, 4000.0):
        body = build_body(AnimalParameters(length_um=length, spread=0.0), Draws(0, 0.0))
        head = surface_point(body, body.centre[HEAD], np.array([-1.0, 0, 0]))
        tail = surface_point(body, body.centre[ABDOMEN], np.array([1.0, 0, 0]))
        assert tail[0] - head[0] == pytest.approx(length, rel=0.1)


@given(st.floats(-1250, 1250), st.floats(-500, 500))
def test_a_bent_axis_drops_at_both_ends_and_a_straight_one_nowhere(u, v):
    assert straighten(BODY, u, v) - v == pytest.approx(BODY.bend * (u / BODY.half) ** 2)
    assert straighten(BODY._replace(bend=0.0), u, v) == v
    assert straighten(BODY, 0.0, v) == v


def test_the_cuticle_is_thinner_in_furrows_and_at_the_joints():
    along = np.linspace(-1300, 1300, 2000)
    thickness = np.array([cuticle_thickness(BODY, u) for u in along])
    assert thickness.max() == pytest.approx(BODY.cuticle, rel=0.01)
    assert thickness.min() == pytest.approx(BODY.membrane, rel=0.05)
    assert min(BODY.cuticle, BODY.membrane) <= thickness.min()
    for u in BODY.furrows:
        assert furrow(BODY, u) == pytest.approx(1)
        assert cuticle_thickness(BODY, u) == pytest.approx(BODY.membrane)


def test_the_same_seed_gives_the_same_animal():
    build_anatomy.cache_clear()
    first = build_anatomy(FLY, 3)
    build_anatomy.cache_clear()
    again = build_anatomy(FLY, 3)
    for one, other in zip([*first[0], *first[1]], [*again[0], *again[1]], strict=True):
        assert np.array_equal(one, other)


def test_another_seed_gives_another_animal():
    (body, solids), (other_body, others) = build_anatomy(FLY, 3), build_anatomy(FLY, 4)
    assert not np.array_equal(body.semi, other_body.semi)
    for part in (GUT, LIMB, WING):
        assert not np.array_equal(solids.shape[solids.part == part], others.shape[others.part == part])


def test_without_spread_all_skins_are_alike():
    one, other = (build_body(FLY, Draws(seed, spread=0.0)) for seed in (3, 4))
    assert np.array_equal(one.semi, other.semi)
    assert one.cuticle == other.cuticle


@pytest.mark.parametrize(("option", "part"), [("legs", LIMB), ("wings", WING), ("eyes", EYE)])
def test_what_an_animal_has_none_of_is_not_built(option, part):
    animals = (AnimalParameters(attractors=20, **{option: has}) for has in (True, False))
    with_it, without = (build_anatomy(animal, 0)[1] for animal in animals)
    count, less = ((solids.part == part).sum() for solids in (with_it, without))
    assert less < count
    assert part == LIMB or less == 0  # mouthparts and antennae are limbs too
