"""Trees of tracheae: from a spiracle to the last twig, and as wide as what hangs on them."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flies import FLY
from napari_memseg.phantom.animal import build_anatomy
from napari_memseg.phantom.body import body_distance, build_body
from napari_memseg.phantom.hashing import Draws
from napari_memseg.phantom.parameters import AnimalParameters
from napari_memseg.phantom.solids import SAC, TRACHEA, SolidsBuilder
from napari_memseg.phantom.tracheae import add_tracheae, spiracles

NARROW = AnimalParameters(twig_um=1e-6, attractors=200)
"""So that no radius is widened to a twig's."""


def grown(animal=NARROW, seed=0, sacs=()):
    draws, solids = Draws(seed, animal.spread), SolidsBuilder()
    body = build_body(animal, draws)
    add_tracheae(solids, body, list(sacs), animal, draws)
    return body, solids.build()


def pipes(solids):
    """Return (tree, from, to, radius there, radius here) of each cone, places as tuples."""
    for number, shape in zip(solids.number, solids.shape, strict=True):
        yield int(number), tuple(shape[:3]), tuple(shape[3:6]), shape[6], shape[7]


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=6)
def test_the_cube_of_a_radius_is_the_sum_of_those_of_the_branches(seed):
    body, solids = grown(seed=seed)
    roots = set(map(tuple, spiracles(body)))
    into, out = defaultdict(float), defaultdict(float)
    for _, start, end, wide, _ in pipes(solids):
        is_mouth = start in roots and abs(end[2]) > abs(start[2]) and end[:2] == start[:2]
        into[start if is_mouth else end] += wide**3
        if not is_mouth:
            out[start] += wide**3
    assert len(out) > 100
    childless = set(into) - set(out)
    for node in set(out):
        assert into[node] == pytest.approx(out[node], rel=1e-9)
    assert all(into[node] > 0 for node in childless)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=6)
def test_every_branch_leads_back_to_the_spiracle_of_its_tree(seed):
    body, solids = grown(seed=seed)
    parent = {}
    for number, start, end, _, _ in pipes(solids):
        parent[number, end] = start
    roots = list(map(tuple, spiracles(body)))
    for number, start, _, _, _ in pipes(solids):
        node, steps = start, 0
        while node != roots[number - 1]:
            node, steps = parent[number, node], steps + 1
            assert steps <= len(parent)


def test_there_is_a_tree_for_each_spiracle_and_no_other():
    body, solids = grown(FLY)
    assert np.unique(solids.number).tolist() == list(range(1, len(spiracles(body)) + 1))


def test_spiracles_are_pairs_on_the_skin():
    body, _ = grown()
    places = spiracles(body)
    assert len(places) == 14
    for left, right in zip(places[::2], places[1::2], strict=True):
        np.testing.assert_allclose(left, right * [1, 1, -1], atol=1e-6)
        assert body_distance(body, *left) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("twig_um", [1.0, 3.0, 14.0])
def test_no_branch_is_narrower_than_a_twig(twig_um):
    _, solids = grown(AnimalParameters(twig_um=twig_um, attractors=400))
    assert solids.shape[:, 6:8].min() >= twig_um


def test_branches_stay_in_the_body_but_for_their_mouths():
    body, solids = grown(FLY)
    ends = np.array([end for _, start, end, wide, here in pipes(solids) if wide == here and start != end])
    outside = np.array([body_distance(body, *end) > 0 for end in ends])
    assert outside.sum() == len(spiracles(body))


def test_trees_reach_all_of_the_body():
    body, solids = grown(FLY)
    ends = solids.shape[:, 3:6]
    assert ends[:, 0].min() < body.centre[0, 0]
    assert ends[:, 0].max() > body.centre[2, 0] + 0.5 * body.semi[2, 0]


def test_each_air_sac_hangs_on_a_tree():
    sac = np.array([-250.0, 250.0, 260.0]), np.array([110.0, 85.0, 60.0])
    _, solids = grown(sacs=[sac])
    found = np.flatnonzero(solids.part == SAC)
    assert solids.shape[found, :3].tolist() == [sac[0].tolist()]
    number, joined = solids.number[found[0]], solids.shape[solids.part == TRACHEA]
    to_sac = (joined[:, 3:6] == sac[0]).all(1)
    assert solids.number[solids.part == TRACHEA][to_sac].tolist() == [number]


def test_the_fly_has_its_sacs():
    solids = build_anatomy(FLY, 0)[1]
    assert (solids.part == SAC).sum() == FLY.air_sacs
    assert (build_anatomy(AnimalParameters(air_sacs=0), 0)[1].part == SAC).sum() == 0
