"""Whether labels stay what they are at another voxel size, and whether tracheae hang together.

Volumes of each class in µm³ are compared between two voxel sizes of one animal in one field, without drift;
how much of a class is wider than 4 of the coarse voxels is found by opening it with a ball of radius 2. Of
tracheae the parts are looked at whose radius is more than a voxel: the axis of each is sampled, and all of a
tree must lie in one component of its voxels (26 neighbours).
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from figures.renders import truths
from figures.table import Table
from napari_memseg.geometry import Box, zyx
from napari_memseg.phantom.animal import build_anatomy
from napari_memseg.phantom.body import body_distance
from napari_memseg.phantom.fly import Phantom
from napari_memseg.phantom.labels import KIND_BITS, NAMES, OUTSIDE, TREE
from napari_memseg.phantom.parameters import PhantomParameters
from napari_memseg.phantom.solids import CONE, TRACHEA

BAR, WIDE, MOSTLY = 0.02, 4, 0.9
"""Volumes must agree within so much, where this part of a class is wider than so many voxels."""


class Pair(NamedTuple):
    """Two voxel sizes of one field, and the part of it that is looked at, in coarse voxels."""

    coarse: int
    fine: int
    """Edges of the cube."""
    part: Box | None


PAIRS = {
    "whole animal": Pair(192, 256, None),
    "thorax": Pair(960, 1440, Box((240, 400, 400), (370, 560, 560))),
    "abdomen": Pair(960, 1440, Box((520, 400, 400), (650, 560, 560))),
}
FIELD_UM = 2900.0
TREES_EDGE = 512


def measure() -> Iterator[Table]:
    """Yield volumes for each pair of voxel sizes, and how tracheae hang together."""
    for name, pair in PAIRS.items():
        yield _volumes(name, pair)
    yield _trees()


def _phantom(edge: int) -> Phantom:
    still = PhantomParameters.named((edge,) * 3, "easy", voxel_um=FIELD_UM / edge).with_scan(drift_voxels=0.0)
    return Phantom(still)


def _volumes(name: str, pair: Pair) -> Table:
    coarse = _labels(pair.coarse, pair.part or Box.whole((pair.coarse,) * 3))
    scale = pair.fine / pair.coarse
    part = pair.part and Box(*(zyx(round(n * scale) for n in corner) for corner in (pair.part.start, pair.part.stop)))
    fine = _labels(pair.fine, part or Box.whole((pair.fine,) * 3))
    sizes = [FIELD_UM / edge for edge in (pair.coarse, pair.fine)]
    volumes = [np.bincount(found.ravel(), minlength=len(NAMES)) * size**3 for found, size in zip((coarse, fine), sizes, strict=True)]
    rows = {}
    for label, title in NAMES.items():
        if min(v[label] for v in volumes) < 1000 * sizes[0] ** 3:
            continue
        off, wide = volumes[0][label] / volumes[1][label] - 1, wide_part(coarse == label)
        verdict = "too thin" if wide < MOSTLY else "met" if abs(off) <= BAR else "missed"
        rows[title] = {
            "volume at the finer, 10⁶ µm³": volumes[1][label] / 1e6,
            "difference, %": 100 * off,
            f"wider than {WIDE} coarse voxels, %": 100 * wide,
            "bar": verdict,
        }
    return Table(f"{name}, {sizes[0]:.3g} against {sizes[1]:.3g} µm", rows)


def _labels(edge: int, box: Box) -> NDArray[np.uint8]:
    return truths(_phantom(edge), box)[0]


def wide_part(mask: NDArray[np.bool_]) -> float:
    """Return which part of a mask lies in balls of radius 2 that fit into it."""
    middle = ndimage.distance_transform_edt(mask) > WIDE / 2
    if not middle.any():
        return 0.0
    opened = mask & (ndimage.distance_transform_edt(~middle) <= WIDE / 2)
    return float(opened.sum() / mask.sum())


def _trees() -> Table:
    phantom = _phantom(TREES_EDGE)
    _, instances = truths(phantom, Box.whole(phantom.shape))
    kinds = np.unique(instances)
    numbers = [int(n) & ((1 << KIND_BITS) - 1) for n in kinds if n >> KIND_BITS == TREE]
    axes = _axes(phantom)
    rows = {}
    for number in numbers:
        mask = instances == (TREE << KIND_BITS) + number
        pieces = cc3d.connected_components(mask, connectivity=26)
        sizes = np.bincount(pieces.ravel())[1:]
        on_axis = pieces[tuple(axes[number].T)]
        counts = np.bincount(on_axis)
        counts[0] = 0
        rows[f"tree {number}"] = {
            "components": len(sizes),
            "voxels in the largest, %": float(100 * sizes.max() / sizes.sum()),
            "places on axes of r > 1 voxel": len(on_axis),
            "components they lie in": int((counts > 0).sum()),
            "in the largest, %": 100 * float(counts.max() / max(len(on_axis), 1)),
            "in no voxel of the tree": int((on_axis == 0).sum()),
        }
    whole = sum(row["components they lie in"] == 1 for row in rows.values())
    return Table(f"tracheae at {phantom.voxel_um:.3g} µm: {whole} of {len(rows)} trees are one", rows)


def _axes(phantom: Phantom) -> dict[int, NDArray[np.int64]]:
    """Return voxels (n, 3) along the axes of each tree's parts that are thicker than two voxels, under the skin."""
    parameters = phantom.parameters
    body, solids = build_anatomy(parameters.animal, parameters.seed)
    pose = phantom.levels[0].pose(0)
    found: dict[int, list[Any]] = {}
    for s in np.flatnonzero((solids.part == TRACHEA) & (solids.kind == CONE)):
        p, q, (r0, r1) = solids.shape[s, :3], solids.shape[s, 3:6], solids.shape[s, 6:8]
        steps = int(np.linalg.norm(q - p) / (0.5 * phantom.voxel_um)) + 2
        for t in np.linspace(0, 1, steps):
            place = p + t * (q - p)
            if r0 + t * (r1 - r0) > phantom.voxel_um and body_distance(body, *place) < -body.cuticle:
                bent = place - [0.0, body.bend * (place[0] / body.half) ** 2, 0.0]
                found.setdefault(int(solids.number[s]), []).append(np.linalg.solve(pose.matrix, bent - pose.offset))
    return {number: np.round(places).astype(int).clip(0, TREES_EDGE - 1) for number, places in found.items()}
