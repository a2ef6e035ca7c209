"""Make one animal of its parameters and a seed: skin, organs, tracheae, and the grid to find them by."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from napari_memseg.phantom.body import (
    ABDOMEN,
    Body,
    add_appendages,
    body_distance,
    build_body,
    surface_point,
)
from napari_memseg.phantom.compiled import compiled
from napari_memseg.phantom.grid import Grid, build_grid
from napari_memseg.phantom.hashing import Draws, field_key
from napari_memseg.phantom.organs import Organs
from napari_memseg.phantom.parameters import MEDIA, AnimalParameters
from napari_memseg.phantom.solids import GUT, NERVE, Solids, SolidsBuilder
from napari_memseg.phantom.tissue import Animal, Traits
from napari_memseg.phantom.tracheae import add_tracheae

CELL_UM = 50.0
"""Edge of a cell of the grid, for a fly; never less than half a voxel."""
FAT_NEAR_GUT_UM = 45.0
STAINS = {"none": 0.0, "iodine": 1.0, "pta": 0.85}


@lru_cache(maxsize=4)
def build_anatomy(animal: AnimalParameters, seed: int) -> tuple[Body, Solids]:
    """Return skin and solids of an animal; they do not depend on the voxel size."""
    draws = Draws(seed, animal.spread)
    body, solids = build_body(animal, draws), SolidsBuilder()
    organs = Organs(solids, body, animal, draws)
    add_appendages(solids, body, animal, draws)
    organs.add()
    add_tracheae(solids, body, organs.air_sacs(), animal, draws)
    return body, solids.build()


def build_animal(animal: AnimalParameters, seed: int, voxel_um: float) -> Animal:
    """Return an animal, ready to be asked at voxels of ``voxel_um``."""
    body, solids = build_anatomy(animal, seed)
    traits = _traits(animal, seed, body, voxel_um)
    margins = np.full(len(solids.kind), traits.sample_um)
    margins[solids.part == GUT] += FAT_NEAR_GUT_UM
    margins[solids.part == NERVE] += 25.0  # over which two of them blend
    cell = max(CELL_UM * animal.scale, voxel_um / 2)
    low = np.minimum(solids.low.min(0), (body.centre - body.semi).min(0)) - 3 * cell
    high = np.maximum(solids.high.max(0), (body.centre + body.semi).max(0)) + 3 * cell
    grid = build_grid(solids, margins, low, high, cell)
    _mark_outside(grid, body)
    _mark_far(grid)
    return Animal(body, solids, grid, traits)


def _traits(animal: AnimalParameters, seed: int, body: Body, voxel_um: float) -> Traits:
    back = np.array([body.centre[ABDOMEN, 0], body.centre[ABDOMEN, 1], 0.0])
    wound = surface_point(body, back, np.array([0.1, 0.7, 0.7]))
    grain = surface_point(body, back, np.array([0.0, -0.6, 0.8]))
    radius = max(body.semi[:, 1:].max() * 1.5, 900.0 * animal.scale)
    keys = ("fat", "lobes", "fibres", "content", "grains", "bubbles", "texture")
    return Traits(
        MEDIA[animal.medium],
        radius if animal.tube else 0.0,
        animal.fat_cell_um,
        animal.fat_reach_um,
        animal.fibre_um,
        animal.fibre_gap_um,
        animal.facet_um,
        animal.shrinkage_um,
        4 if animal.collapsed else 0,
        np.array([*wound, 90.0 if animal.torn else 0.0]),
        np.array([*(grain * 1.02), 14.0 if animal.dust else 0.0]),
        STAINS[animal.stain],
        animal.stain_depth_um,
        voxel_um / 4,
        voxel_um,
        *(field_key(seed, key) for key in keys),
    )


@compiled
def _mark_outside(grid: Grid, body: Body) -> None:
    """Mark the cells that no solid and no skin comes near."""
    far = 1.5 * grid.cell  # half a diagonal is 0.87, and distances may come out 1.4 times too long
    for i in range(grid.counts[0]):
        for j in range(grid.counts[1]):
            for k in range(grid.counts[2]):
                cell = (i * grid.counts[1] + j) * grid.counts[2] + k
                u = grid.origin[0] + (i + 0.5) * grid.cell
                v = grid.origin[1] + (j + 0.5) * grid.cell
                w = grid.origin[2] + (k + 0.5) * grid.cell
                empty = grid.starts[cell] == grid.starts[cell + 1]
                grid.is_outside[cell] = empty and body_distance(body, u, v, w) > far


def _mark_far(grid: Grid) -> None:
    """Mark the cells that all of the 26 around them are outside, or beyond the grid."""
    outside = np.pad(grid.is_outside.reshape(grid.counts), 1, constant_values=True)
    shape = [slice(None)] * 3
    for axis in range(3):
        before, here, after = list(shape), list(shape), list(shape)
        before[axis], here[axis], after[axis] = slice(0, -2), slice(1, -1), slice(2, None)
        outside = outside[tuple(before)] & outside[tuple(here)] & outside[tuple(after)]
    grid.is_far[:] = outside.ravel()
