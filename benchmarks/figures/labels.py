"""Whether labels stay what they are at another voxel size, and whether tracheae hang together.

Volumes of each class in µm³ are compared between two voxel sizes of one animal in one field, without drift;
how much of a class is wider than 4 of the coarse voxels is found by opening it with a ball of radius 2. Of
tracheae the parts are looked at whose radius is more than a voxel: the axis of each is sampled, and all of a
tree must lie in one component of its voxels (26 neighbours).
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from figures.renders import around, truths
from figures.table import Table
from napari_memseg.geometry import Box, zyx
from napari_memseg.phantom.animal import build_anatomy
from napari_memseg.phantom.body import body_distance
from napari_memseg.phantom.fly import Phantom
from napari_memseg.phantom.labels import KIND_BITS, NAMES, TREE
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
    "thorax": Pair(960, 1440, Box((260, 410, 410), (340, 540, 540))),
    "abdomen": Pair(960, 1440, Box((560, 410, 410), (640, 540, 540))),
}
FIELD_UM = 2900.0
TREES_EDGE = 384


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
    part = pair.part and Box(
        *(zyx(round(n * scale) for n in corner) for corner in (pair.part.start, pair.part.stop))
    )
    fine = _labels(pair.fine, part or Box.whole((pair.fine,) * 3))
    sizes = [FIELD_UM / edge for edge in (pair.coarse, pair.fine)]
    volumes = [
        np.bincount(found.ravel(), minlength=len(NAMES)) * size**3
        for found, size in zip((coarse, fine), sizes, strict=True)
    ]
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
    box = around(phantom)
    _, instances = truths(phantom, box)
    trees = np.where(instances >> KIND_BITS == TREE, instances & ((1 << KIND_BITS) - 1), 0).astype(np.uint8)
    axes = _axes(phantom, box)
    rows = {}
    for number, place in enumerate(ndimage.find_objects(trees), start=1):
        if place is not None:
            start = [span.start for span in place]
            rows[f"tree {number}"] = hanging_together(trees[place] == number, axes[number] - start)
    whole = sum(row["components they lie in"] == 1 for row in rows.values())
    return Table(f"tracheae at {phantom.voxel_um:.3g} µm: {whole} of {len(rows)} trees are one", rows)


def hanging_together(mask: NDArray[np.bool_], axes: NDArray[np.int64]) -> dict[str, Any]:
    """Return in how many components a tree is, and in how many those of its voxels that ``axes`` names."""
    pieces = cc3d.connected_components(mask, connectivity=26)
    sizes = np.bincount(pieces.ravel())[1:]
    inside = ((axes >= 0) & (axes < mask.shape)).all(axis=1)
    on_axis = pieces[tuple(axes[inside].T)]
    counts = np.bincount(on_axis[on_axis > 0], minlength=1)
    return {
        "voxels": int(sizes.sum()),
        "components": len(sizes),
        "in the largest, %": float(100 * sizes.max() / sizes.sum()),
        "places on axes of r > 1 voxel": len(axes),
        "components they lie in": int((counts > 0).sum()),
        "places in the largest, %": 100 * float(counts.max() / max(len(axes), 1)),
        "in none": int(len(axes) - counts.sum()),
    }


def _axes(phantom: Phantom, box: Box) -> dict[int, NDArray[np.int64]]:
    """Return places (n, 3) in a box along the axes of each tree's parts of more than a voxel's radius."""
    parameters = phantom.parameters
    body, solids = build_anatomy(parameters.animal, parameters.seed)
    pose = phantom.levels[0].pose(0)
    found: dict[int, list[Any]] = {}
    for s in np.flatnonzero((solids.part == TRACHEA) & (solids.kind == CONE)):
        p, q, (r0, r1) = solids.shape[s, :3], solids.shape[s, 3:6], solids.shape[s, 6:8]
        for t in np.linspace(0, 1, int(np.linalg.norm(q - p) / phantom.voxel_um) + 2):
            place = p + t * (q - p)
            if r0 + t * (r1 - r0) > phantom.voxel_um and body_distance(body, *place) < -body.cuticle:
                bent = place - [0.0, body.bend * (place[0] / body.half) ** 2, 0.0]
                voxel = np.linalg.solve(pose.matrix, bent - pose.offset)
                found.setdefault(int(solids.number[s]), []).append(voxel - box.start)
    return {number: np.round(places).astype(int) for number, places in found.items()}
