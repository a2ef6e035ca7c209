"""Tracheae: trees that grow from the spiracles towards the organs, by space colonisation.

Runions, Lane, Prusinkiewicz (2007), https://doi.org/10.2312/NPH/NPH07/063-070. Each attractor pulls at the
nearest twig end; a twig grows to the mean of those that pull, and an attractor that is reached is gone.
Radii follow from the tips (Murray 1926): the cube of a parent's is the sum of its children's cubes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from napari_memseg.phantom.body import ABDOMEN, THORAX, body_distance, surface_point
from napari_memseg.phantom.compiled import compiled
from napari_memseg.phantom.solids import SAC, TRACHEA, SolidsBuilder

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_memseg.phantom.body import Body
    from napari_memseg.phantom.hashing import Draws
    from napari_memseg.phantom.parameters import AnimalParameters

STEP_UM, REACHED_UM, MAX_STEPS = 32.0, 46.0, 90
"""How far a twig grows at once, how near an attractor counts as reached, when growing ends."""
TWIG_UM = 70.0
"""Length of the last, tapering twig."""
DEEP_UM = 32.0
"""Attractors lie at least so deep under the skin."""

Sacs = list[tuple["NDArray[np.float64]", "NDArray[np.float64]"]]


def spiracles(body: Body) -> NDArray[np.float64]:
    """Return (n, 3) places on the skin where tracheae open: pairs, two on the thorax, five on the abdomen."""
    semi = body.semi
    rows = [(THORAX, -0.55, -0.05), (THORAX, 0.45, -0.1)] + [
        (ABDOMEN, -0.45 + 0.24 * k, -0.3) for k in range(5)
    ]
    found = []
    for part, along, up in rows:
        axis = body.centre[part] + [along * semi[part, 0], up * semi[part, 1], 0.0]
        found += [surface_point(body, axis, np.array([0.0, 0.0, side])) for side in (-1.0, 1.0)]
    return np.array(found)


def add_tracheae(
    solids: SolidsBuilder, body: Body, sacs: Sacs, animal: AnimalParameters, draws: Draws
) -> None:
    """Grow a tree from each spiracle, and join the air sacs to the nearest."""
    scale = animal.scale
    roots = spiracles(body)
    places, parents = _grow(roots, _attractors(body, animal, draws), scale)
    tree, radii = _radii(
        parents, len(roots), [draws.size(36 * scale, "spiracle", i) for i in range(len(roots))]
    )
    for node in range(len(roots), len(places)):
        radius = max(radii[node], animal.twig_um)
        solids.cone(TRACHEA, places[parents[node]], places[node], radius, radius, int(tree[node]) + 1)
    _add_twigs(solids, places, parents, tree, radii, animal, draws)
    _add_mouths(solids, body, roots, radii)
    _add_sacs(solids, sacs, places, tree, radii)


def _attractors(body: Body, animal: AnimalParameters, draws: Draws) -> NDArray[np.float64]:
    """Return places inside the body, evenly."""
    low = (body.centre - body.semi).min(0)
    high = (body.centre + body.semi).max(0)
    count = 8 * animal.attractors
    spots = np.array([[draws.uniform(f"attractor {axis}", i) for axis in "uvw"] for i in range(count)])
    spots = low + spots * (high - low)
    return spots[_depths(body, spots) > DEEP_UM][: animal.attractors]


@compiled
def _depths(body: Body, places: NDArray[np.float64]) -> NDArray[np.float64]:
    out = np.empty(len(places))
    for i in range(len(places)):
        out[i] = -body_distance(body, places[i, 0], places[i, 1], places[i, 2])
    return out


def _grow(
    roots: NDArray[np.float64], attractors: NDArray[np.float64], scale: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return places and parents (a root's is -1) of the nodes of all trees, in the order they grew."""
    places, parents = roots, np.full(len(roots), -1)
    left = attractors
    for _ in range(MAX_STEPS):
        if not len(left):
            break
        _, nearest = cKDTree(places).query(left)
        pulls = left - places[nearest]
        pulls /= np.linalg.norm(pulls, axis=1)[:, None]
        total = np.zeros_like(places)
        np.add.at(total, nearest, pulls)
        length = np.linalg.norm(total, axis=1)
        growing = np.flatnonzero(length > 1e-3)
        ends = places[growing] + STEP_UM * scale * total[growing] / length[growing][:, None]
        fresh = cKDTree(places).query(ends)[0] > 0.3 * STEP_UM * scale
        places = np.concatenate([places, ends[fresh]])
        parents = np.concatenate([parents, growing[fresh]])
        left = left[cKDTree(places).query(left)[0] > REACHED_UM * scale]
    return places, parents


def _radii(
    parents: NDArray[np.int64], roots: int, widths: list[float]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return each node's tree and radius, from how many tips hang on it."""
    tips, tree = np.zeros(len(parents)), np.arange(len(parents))
    is_parent = np.zeros(len(parents), bool)
    is_parent[parents[roots:]] = True
    tips[~is_parent] = 1
    for node in range(len(parents) - 1, roots - 1, -1):
        tips[parents[node]] += tips[node]
    for node in range(roots, len(parents)):
        tree[node] = tree[parents[node]]
    return tree, np.asarray(np.array(widths)[tree] * np.cbrt(tips / tips[tree]))


def _add_twigs(
    solids: SolidsBuilder,
    places: NDArray[np.float64],
    parents: NDArray[np.int64],
    tree: NDArray[np.int64],
    radii: NDArray[np.float64],
    animal: AnimalParameters,
    draws: Draws,
) -> None:
    """Let each tip taper off."""
    tips = np.setdiff1d(np.arange(len(places)), parents)
    for node in tips[parents[tips] >= 0]:
        along = places[node] - places[parents[node]]
        stray = np.array([draws.normal(f"twig {axis}", int(node)) for axis in "uvw"])
        way = along / np.linalg.norm(along) + 0.5 * stray
        end = places[node] + TWIG_UM * animal.scale * way / np.linalg.norm(way)
        radius = max(radii[node], animal.twig_um)
        solids.cone(TRACHEA, places[node], end, radius, animal.twig_um, int(tree[node]) + 1)


def _add_mouths(
    solids: SolidsBuilder, body: Body, roots: NDArray[np.float64], radii: NDArray[np.float64]
) -> None:
    """Open each tree through the skin."""
    for i, root in enumerate(roots):
        out = np.array([0.0, 0.0, np.sign(root[2])])
        solids.cone(TRACHEA, root, root + 1.5 * body.cuticle * out, radii[i], radii[i], i + 1)


def _add_sacs(
    solids: SolidsBuilder,
    sacs: Sacs,
    places: NDArray[np.float64],
    tree: NDArray[np.int64],
    radii: NDArray[np.float64],
) -> None:
    for centre, semi in sacs:
        node = int(cKDTree(places).query(centre)[1])
        number = int(tree[node]) + 1
        solids.ellipsoid(SAC, centre, semi, number=number)
        solids.cone(TRACHEA, places[node], centre, max(radii[node], 9.0), 14.0, number)
