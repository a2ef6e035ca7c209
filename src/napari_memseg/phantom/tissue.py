"""Which tissue is at a point of the animal, and how much it attenuates.

All solids near the point are asked for their distance; the nearest of each part decides, in the order
in which structures take precedence over one another::

    tracheae > cuticle > eye > gut > nerve > ovary > tubule > flight muscle > strap > fat > haemolymph

What is thinner than the samples lie apart is widened to that and weakened likewise, so that it is
neither missed nor too dark: partial volume.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from napari_memseg.phantom import labels as L
from napari_memseg.phantom.body import Body, bend, body_distance, cuticle_thickness, smooth_min
from napari_memseg.phantom.compiled import compiled
from napari_memseg.phantom.hashing import hash3, unit
from napari_memseg.phantom.noise import cells2, cells3, smooth_noise
from napari_memseg.phantom.solids import (
    BRISTLE,
    BUNDLE,
    CONE,
    DUCT,
    EYE,
    GONAD,
    GUT,
    LIMB,
    NERVE,
    SAC,
    SHEET,
    STRAP,
    TRACHEA,
    TUBULE,
    Solids,
    cone_distance,
    ellipsoid_distance,
    sheet_offset,
    to_frame,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_memseg.phantom.grid import Grid

PARTS = 14
"""Places for the nearest solid of each part, and one for the thinnest."""
THIN = 13
"""Of these, the one for solids below the resolution; it holds their share of the sample."""
EYE_DEEP_UM = 95.0
LENS_UM = 18.0
TUBE_WALL_UM = 100.0
WALL_VALUE, CUTICLE_VALUE, MUSCLE_VALUE, HAEMOLYMPH_VALUE = 1.05, 1.28, 1.06, 1.02
HEAVY = 0.1
"""Part of the attenuation of cuticle that is due to heavier elements."""
FAT_VALUE, YOLK_VALUE, METAL_VALUE, PLASTIC_VALUE = 0.86, 1.14, 30.0, 0.92


class Traits(NamedTuple):
    """Numbers of an animal that are no solids."""

    medium: float
    tube_um: float
    """Radius of the tube; 0 for none."""
    fat_cell: float
    fat_reach: float
    fibre: float
    fibre_gap: float
    facet: float
    shrinkage: float
    collapsed: int
    """Number of the collapsed tree; 0 for none."""
    torn: NDArray[np.float64]
    dust: NDArray[np.float64]
    """(4,) centre and radius in body coordinates; radius 0 for none."""
    stain: float
    """How strong, 0 to 1."""
    stain_depth: float
    sample_um: float
    """Half of the distance between samples."""
    voxel_um: float
    fat_key: np.uint64
    lobe_key: np.uint64
    fibre_key: np.uint64
    content_key: np.uint64
    grain_key: np.uint64
    bubble_key: np.uint64
    texture_key: np.uint64


class Animal(NamedTuple):
    """All that decides what is where, in body coordinates."""

    body: Body
    solids: Solids
    grid: Grid
    traits: Traits


Tissue = tuple[int, int, float, float]
"""Class id, instance number, and attenuation as ``light`` (as water's) and ``heavy`` elements."""


@compiled
def tissue(
    animal: Animal, cell: int, u: float, v: float, w: float, near: NDArray[np.float64], who: NDArray[np.int64]
) -> Tissue:
    """Return what is at a straightened point in µm, in a cell of the grid that is not outside.

    ``near`` and ``who`` are room for ``PARTS`` numbers each.
    """
    _ask(animal, cell, u, v, w, near, who)
    d, shell = body_distance(animal.body, u, v, w), cuticle_thickness(animal.body, u)
    if near[EYE] < d:
        d, shell = near[EYE], 3.0
    torn = animal.traits.torn
    if d > -shell and torn[3] > 0.0 and _within(torn, u, v, w):
        return surroundings(animal, u, v, w)
    if d >= 0.0:
        found = _outside_skin(animal, u, v, w, near, who)
    else:
        found = _inside_skin(animal, d, shell, u, v, w, near, who)
    if animal.traits.stain > 0.0:
        found = _stained(animal.traits, found, max(-d, 0.0))
    return _with_thin(animal, found, d, near[THIN], who[THIN])


@compiled
def surroundings(animal: Animal, u: float, v: float, w: float) -> Tissue:
    """Return the medium, the tube around it, bubbles in it, or a grain of metal."""
    traits = animal.traits
    if traits.dust[3] > 0.0 and _within(traits.dust, u, v, w):
        return L.OUTSIDE, 0, 1.0, METAL_VALUE
    if traits.tube_um > 0.0:
        bent = bend(animal.body, u, v)  # the tube is straight, whatever lies in it
        across = np.sqrt(bent * bent + w * w) - traits.tube_um
        if across > TUBE_WALL_UM:
            return L.OUTSIDE, 0, 0.0, 0.0
        if across > 0.0:
            return L.OUTSIDE, 0, PLASTIC_VALUE, 0.0
    if traits.medium > 0.0:
        far, _, i, j, k = cells3(traits.bubble_key, u / 400.0, v / 400.0, w / 400.0, 0.5)
        size = unit(hash3(traits.bubble_key, i, j, k + 7919))
        if size < 0.15 and far < 0.6 * size + 0.03:
            return L.OUTSIDE, 0, 0.0, 0.0
    return L.OUTSIDE, 0, traits.medium, 0.0


@compiled
def _within(ball: NDArray[np.float64], u: float, v: float, w: float) -> bool:
    return (u - ball[0]) ** 2 + (v - ball[1]) ** 2 + (w - ball[2]) ** 2 < ball[3] ** 2


@compiled
def _ask(
    animal: Animal, cell: int, u: float, v: float, w: float, near: NDArray[np.float64], who: NDArray[np.int64]
) -> None:
    """Put the distance of the nearest solid of each part into ``near``, its number into ``who``."""
    near[:] = 1e9
    near[THIN] = 0.0
    solids, grid, half = animal.solids, animal.grid, animal.traits.sample_um
    for m in range(grid.starts[cell], grid.starts[cell + 1]):
        s = grid.members[m]
        part, shape = solids.part[s], solids.shape[s]
        if solids.kind[s] == CONE:
            far, radius = cone_distance(shape, u, v, w)
            d = far - radius
            if radius < half and part in (TRACHEA, BRISTLE):
                _note_thin(far, radius * radius / (half * half), half, s, near, who)
                continue
        elif solids.kind[s] == SHEET:
            far = sheet_offset(shape, u, v, w)
            _note_thin(far, min(shape[12] / (2.0 * half), 1.0), max(half, shape[12] / 2.0), s, near, who)
            continue
        else:
            d = ellipsoid_distance(shape, u, v, w)
        if part == NERVE and near[NERVE] < 1e8:
            d = smooth_min(d, near[NERVE], 25.0)
        if d < near[part]:
            near[part], who[part] = d, s


@compiled
def _note_thin(
    far: float, share: float, half: float, s: int, near: NDArray[np.float64], who: NDArray[np.int64]
) -> None:
    if far < half and share > near[THIN]:
        near[THIN], who[THIN] = share, s


@compiled
def _with_thin(animal: Animal, found: Tissue, d: float, share: float, s: int) -> Tissue:
    """Blend in what is thinner than a sample: tracheae inside, wings and bristles outside."""
    label, number, light, heavy = found
    if share <= 0.0:
        return found
    if animal.solids.part[s] == TRACHEA:
        if d >= 0.0 or label == L.CUTICLE:
            return found
        tree = animal.solids.number[s]
        if share >= 0.5:
            label, number = L.TRACHEAE, (L.TREE << L.KIND_BITS) + tree
        filling = HAEMOLYMPH_VALUE if tree == animal.traits.collapsed else 0.0
        return label, number, light * (1.0 - share) + filling * share, heavy * (1.0 - share)
    if d < 0.0:
        return found
    label = L.CUTICLE if share >= 0.5 else label
    return label, number, light + share * (CUTICLE_VALUE - HEAVY - light), heavy + share * (HEAVY - heavy)


@compiled
def _outside_skin(
    animal: Animal, u: float, v: float, w: float, near: NDArray[np.float64], who: NDArray[np.int64]
) -> Tissue:
    """Return legs and antennae, veins and bristles, or what surrounds the animal."""
    if near[BRISTLE] < 0.0:
        return L.CUTICLE, 0, CUTICLE_VALUE - HEAVY, HEAVY
    if near[LIMB] >= 0.0:
        return surroundings(animal, u, v, w)
    _, radius = cone_distance(animal.solids.shape[who[LIMB]], u, v, w)
    shell = min(0.1 * radius + 2.5, animal.body.cuticle)
    if near[LIMB] > -shell:
        return L.CUTICLE, 0, CUTICLE_VALUE - HEAVY, HEAVY
    if near[LIMB] < -shell - 0.2 * radius:
        return L.OTHER_MUSCLE, 0, MUSCLE_VALUE, 0.0
    return L.HAEMOLYMPH, 0, HAEMOLYMPH_VALUE, 0.0


@compiled
def _inside_skin(
    animal: Animal,
    d: float,
    shell: float,
    u: float,
    v: float,
    w: float,
    near: NDArray[np.float64],
    who: NDArray[np.int64],
) -> Tissue:
    """Return what is inside, in the order of precedence."""
    if near[TRACHEA] < 0.0 or near[SAC] < 0.0:
        return _trachea(animal, u, v, w, near, who)
    if d > -shell:
        return L.CUTICLE, 0, CUTICLE_VALUE - HEAVY, HEAVY
    if near[EYE] < 0.0 and near[EYE] > -EYE_DEEP_UM:
        return _eye(animal, -near[EYE], who[EYE], u, v, w)
    if d > -shell - animal.traits.shrinkage:
        return L.OUTSIDE, 0, animal.traits.medium, 0.0
    return _organ(animal, -d - shell, u, v, w, near, who)


@compiled
def _trachea(
    animal: Animal, u: float, v: float, w: float, near: NDArray[np.float64], who: NDArray[np.int64]
) -> Tissue:
    """Return air, or a wall of cuticle where that is thick enough to be seen."""
    part = TRACHEA if near[TRACHEA] <= near[SAC] else SAC
    tree = animal.solids.number[who[part]]
    number = (L.TREE << L.KIND_BITS) + tree
    if tree == animal.traits.collapsed:
        return L.TRACHEAE, number, HAEMOLYMPH_VALUE, 0.0
    wall = 1.5
    if part == TRACHEA:
        _, radius = cone_distance(animal.solids.shape[who[TRACHEA]], u, v, w)
        wall = 0.6 + 0.06 * radius
    if wall > 0.3 * animal.traits.voxel_um and near[part] > -wall:
        return L.TRACHEAE, number, CUTICLE_VALUE - HEAVY, HEAVY
    return L.TRACHEAE, number, 0.0, 0.0


@compiled
def _eye(animal: Animal, depth: float, s: int, u: float, v: float, w: float) -> Tissue:
    """Return lens, cone or what lies between facets, which are a hexagonal lattice of the eye's surface."""
    shape = animal.solids.shape[s]
    a, b, c = to_frame(shape, u, v, w)
    far = max(np.sqrt(a * a + b * b + c * c), 1e-6)
    flat = np.sqrt(2.0 / (1.0 + max(c / far, -0.999)))  # equal areas: Lambert's azimuthal projection
    size = 0.5 * (1.0 / abs(shape[3]) + 1.0 / abs(shape[7])) / animal.traits.facet
    first, second, j, k = cells2(np.uint64(1), 0, flat * a / far * size, flat * b / far * size, 0.0)
    eye = animal.solids.number[s]
    number = (L.FACET << L.KIND_BITS) + (eye << 24) + ((j + 2048) << 12) + (k + 2048)
    if depth < LENS_UM * (1.0 - 0.5 * first):
        return L.EYE_FACETS, number, 1.15, 0.1
    if (second - first) * animal.traits.facet < 2.0 + 4.0 * depth / EYE_DEEP_UM:
        return L.EYE_FACETS, number, 1.02, 0.0
    return L.EYE_FACETS, number, 1.1, 0.0


@compiled
def _organ(
    animal: Animal,
    depth: float,
    u: float,
    v: float,
    w: float,
    near: NDArray[np.float64],
    who: NDArray[np.int64],
) -> Tissue:
    """Return what fills the cavity; ``depth`` counts from the inner side of the cuticle."""
    if near[GUT] < 0.0:
        return _gut(animal.traits, near[GUT], u, v, w)
    if near[NERVE] < 0.0:
        return L.NERVOUS_TISSUE, 0, (1.03 if near[NERVE] > -14.0 else 1.04), 0.0
    if near[GONAD] < 0.0:
        number = (L.EGG << L.KIND_BITS) + animal.solids.number[who[GONAD]]
        return L.REPRODUCTIVE, number, (1.2 if near[GONAD] > -3.0 else YOLK_VALUE), 0.0
    if near[DUCT] < 0.0:
        return L.REPRODUCTIVE, 0, WALL_VALUE, 0.0
    if near[TUBULE] < 0.0:
        return L.EXCRETORY, 0, (WALL_VALUE if near[TUBULE] > -5.0 else 1.0), 0.16
    if near[BUNDLE] < 0.0:
        return _fibre(animal, who[BUNDLE], u, v, w)
    if near[STRAP] < 0.0:
        return L.OTHER_MUSCLE, 0, MUSCLE_VALUE, 0.0
    return _fat(animal.traits, depth, near[GUT], u, v, w)


@compiled
def _gut(traits: Traits, d: float, u: float, v: float, w: float) -> Tissue:
    """Return the wall, folded inside, or the content: grains, bubbles of gas, pulp."""
    wall = 13.0 + 6.0 * smooth_noise(traits.content_key, u / 14.0, v / 14.0, w / 14.0)
    if d > -wall:
        return L.GUT_WALL, 0, WALL_VALUE, 0.0
    far, _, i, j, k = cells3(traits.bubble_key, u / 70.0, v / 70.0, w / 70.0, 0.6)
    size = unit(hash3(traits.bubble_key, i, j, k + 7919))
    if size < 0.12 and far < 0.15 + 1.5 * size:
        return L.GUT_CONTENT, 0, 0.0, 0.0
    far, _, i, j, k = cells3(traits.grain_key, u / 22.0, v / 22.0, w / 22.0, 0.8)
    size = unit(hash3(traits.grain_key, i, j, k + 7919))
    if size < 0.2 and far < 0.12 + 1.0 * size:
        return L.GUT_CONTENT, 0, 1.2, 9.0 * size
    return L.GUT_CONTENT, 0, 1.15 + 0.25 * smooth_noise(traits.grain_key, u / 30.0, v / 30.0, w / 30.0), 0.05


@compiled
def _fibre(animal: Animal, s: int, u: float, v: float, w: float) -> Tissue:
    """Return a fibre of flight muscle, or the gap between two: a rounded packing across the bundle."""
    shape, traits = animal.solids.shape[s], animal.traits
    bu, bv, bw = shape[3] - shape[0], shape[4] - shape[1], shape[5] - shape[2]
    length = np.sqrt(bu * bu + bv * bv + bw * bw)
    bu, bv, bw = bu / length, bv / length, bw / length
    # two axes across: w made orthogonal to the bundle, and their cross product
    eu, ev, ew = -bw * bu, -bw * bv, 1.0 - bw * bw
    size = np.sqrt(eu * eu + ev * ev + ew * ew)
    eu, ev, ew = eu / size, ev / size, ew / size
    fu, fv, fw = bv * ew - bw * ev, bw * eu - bu * ew, bu * ev - bv * eu
    pu, pv, pw = u - shape[0], v - shape[1], w - shape[2]
    a, b = pu * eu + pv * ev + pw * ew, pu * fu + pv * fv + pw * fw
    bundle = animal.solids.number[s]
    first, second, j, k = cells2(traits.fibre_key, bundle, a / traits.fibre, b / traits.fibre, 0.45)
    if (second - first) * traits.fibre < traits.fibre_gap or first > 0.8:
        return L.HAEMOLYMPH, 0, HAEMOLYMPH_VALUE, 0.0
    number = (L.FIBRE << L.KIND_BITS) + (bundle << 20) + ((j + 512) << 10) + (k + 512)
    return L.FLIGHT_MUSCLE, number, MUSCLE_VALUE, 0.0


@compiled
def _fat(traits: Traits, depth: float, gut: float, u: float, v: float, w: float) -> Tissue:
    """Return a cell of fat body, in lobes near cuticle and gut, or haemolymph."""
    lobe = smooth_noise(traits.lobe_key, u / 85.0, v / 85.0, w / 85.0)
    if (depth > traits.fat_reach * (1.0 + 0.6 * lobe) and gut > 24.0 + 18.0 * lobe) or lobe < -0.25:
        return L.HAEMOLYMPH, 0, HAEMOLYMPH_VALUE, 0.0
    size = traits.fat_cell
    first, second, i, j, k = cells3(traits.fat_key, u / size, v / size, w / size, 0.7)
    if (second - first) * size < 1.5 or first > 0.9:
        return L.HAEMOLYMPH, 0, HAEMOLYMPH_VALUE, 0.0
    number = (L.CELL << L.KIND_BITS) + ((i + 256) << 18) + ((j + 256) << 9) + (k + 256)
    return L.FAT_BODY, number, FAT_VALUE, 0.0


@compiled
def _stained(traits: Traits, found: Tissue, depth: float) -> Tissue:
    """Add a heavy stain that came from outside and fades inwards."""
    label, number, light, heavy = found
    factor = 1.0
    if label == L.FLIGHT_MUSCLE or label == L.OTHER_MUSCLE:
        factor = 4.0
    elif label == L.NERVOUS_TISSUE or label == L.GUT_WALL:
        factor = 2.5
    elif label == L.FAT_BODY or label == L.REPRODUCTIVE or label == L.EXCRETORY:
        factor = 1.3
    elif label == L.CUTICLE:
        factor = 1.2
    fade = traits.stain * np.exp(-depth / traits.stain_depth)
    return label, number, light, heavy + light * (factor - 1.0) * fade
