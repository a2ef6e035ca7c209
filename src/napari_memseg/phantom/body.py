"""The outside of the animal: head, thorax and abdomen as one skin, legs, antennae, wings, bristles, eyes.

Body coordinates are (u, v, w) in µm: u along the body, the head at negative values; v up, the back
at positive ones; w to the right. The body's axis is bent; everything is built straight, and a point
is straightened before it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from napari_memseg.phantom.compiled import compiled
from napari_memseg.phantom.solids import BRISTLE, EYE, LIMB, WING, SolidsBuilder

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_memseg.phantom.hashing import Draws
    from napari_memseg.phantom.parameters import AnimalParameters

BLEND_UM = 60.0
"""How softly head, thorax and abdomen go over into each other."""
FURROW_UM = 7.0
"""Depth of the furrows between the plates of the abdomen."""
HEAD, THORAX, ABDOMEN = 0, 1, 2

# centre (u, v, w) and half axes of a fly's head, thorax and abdomen
PARTS_UM = np.array(
    [
        ((-960.0, 30.0, 0.0), (200.0, 280.0, 360.0)),
        ((-400.0, 60.0, 0.0), (430.0, 420.0, 380.0)),
        ((470.0, -20.0, 0.0), (700.0, 360.0, 380.0)),
    ]
)
# legs of the right side: where they leave the body, their joints, in (u, v, w)
_LEGS = (
    ((-640, -280, 150), (-700, -480, 190), (-950, -560, 330), (-1150, -640, 230), (-1230, -690, 150)),
    ((-420, -330, 190), (-400, -500, 280), (-180, -600, 520), (150, -660, 420), (450, -640, 300)),
    ((-180, -320, 200), (-130, -480, 270), (250, -560, 500), (650, -560, 350), (1000, -560, 230)),
)
_LEG_RADII = (62.0, 46.0, 32.0, 20.0, 9.0)


class Body(NamedTuple):
    """The skin of head, thorax and abdomen."""

    centre: NDArray[np.float64]
    semi: NDArray[np.float64]
    """(3, 3): rows head, thorax, abdomen."""
    furrows: NDArray[np.float64]
    """Places along u."""
    bend: float
    """v that the axis has dropped at ``half``."""
    half: float
    """Half the length of the body."""
    cuticle: float
    membrane: float
    blend: float


def build_body(animal: AnimalParameters, draws: Draws) -> Body:
    """Draw the skin of one animal."""
    scale = animal.scale
    centre = PARTS_UM[:, 0] * scale
    sizes = np.array([animal.head, animal.thorax, animal.abdomen])
    strays = [[draws.size(1.0, f"body {axis}", part) for axis in "uvw"] for part in range(3)]
    semi = PARTS_UM[:, 1] * scale * sizes[:, None] * (1 + (np.array(strays) - 1) / 2)
    centre[HEAD, 0] = centre[THORAX, 0] - 0.88 * (semi[HEAD, 0] + semi[THORAX, 0])
    centre[ABDOMEN, 0] = centre[THORAX, 0] + 0.78 * (semi[THORAX, 0] + semi[ABDOMEN, 0])
    first, last = centre[ABDOMEN, 0] - 0.45 * semi[ABDOMEN, 0], centre[ABDOMEN, 0] + 0.85 * semi[ABDOMEN, 0]
    return Body(
        centre,
        semi,
        np.linspace(first, last, 7),
        animal.bend * animal.length_um,
        animal.length_um / 2,
        draws.size(animal.cuticle_um, "cuticle"),
        animal.membrane_um,
        BLEND_UM * scale,
    )


@compiled
def straighten(body: Body, u: float, v: float) -> float:
    """Return v as it would be if the body's axis were straight."""
    return v + body.bend * (u / body.half) ** 2


@compiled
def bend(body: Body, u: float, v: float) -> float:
    """Return v as it is where the body's axis is bent: what ``straighten`` undoes."""
    return v - body.bend * (u / body.half) ** 2


@compiled
def _part_distance(body: Body, part: int, u: float, v: float, w: float) -> float:
    """Return the distance from a superellipsoid with exponent 5/2, to first order."""
    a, b, c = body.semi[part, 0], body.semi[part, 1], body.semi[part, 2]
    x, y, z = (
        abs(u - body.centre[part, 0]) / a,
        abs(v - body.centre[part, 1]) / b,
        abs(w - body.centre[part, 2]) / c,
    )
    rx, ry, rz = x * np.sqrt(x), y * np.sqrt(y), z * np.sqrt(z)
    total = rx * x + ry * y + rz * z
    if total < 1e-9:
        return -min(a, b, c)
    value = total**0.4
    slope = np.sqrt((rx / a) ** 2 + (ry / b) ** 2 + (rz / c) ** 2) * value / total
    return (value - 1.0) / slope


@compiled
def smooth_min(a: float, b: float, width: float) -> float:
    """Return the lesser of two, rounded where they are close (Quilez, "Smooth minimum")."""
    h = max(width - abs(a - b), 0.0) / width
    return min(a, b) - h * h * width * 0.25


@compiled
def body_distance(body: Body, u: float, v: float, w: float) -> float:
    """Return the distance in µm from the skin, negative inside, of a straightened point."""
    d = _part_distance(body, 1, u, v, w)
    d = smooth_min(d, _part_distance(body, 0, u, v, w), body.blend)
    return smooth_min(d, _part_distance(body, 2, u, v, w), body.blend) + FURROW_UM * furrow(body, u)


@compiled
def furrow(body: Body, u: float) -> float:
    """Return 1 in the furrows of the abdomen, 0 away from them."""
    f = body.furrows
    if u < f[0] - 40.0 or u > f[-1] + 40.0:
        return 0.0
    t = (u - f[0]) / (f[1] - f[0])
    off = (t - np.floor(t + 0.5)) * (f[1] - f[0]) / 12.0
    return np.exp(-off * off)


@compiled
def cuticle_thickness(body: Body, u: float) -> float:
    """Return how thick the skin is in µm: membranes in furrows and at the joints of the parts."""
    neck = abs(u - (body.centre[0, 0] + 0.97 * body.semi[0, 0])) / 30.0
    waist = abs(u - (body.centre[2, 0] - 0.80 * body.semi[2, 0])) / 50.0
    soft = max(furrow(body, u), np.exp(-neck * neck), np.exp(-waist * waist))
    return body.cuticle + (body.membrane - body.cuticle) * soft


def surface_point(
    body: Body, start: NDArray[np.float64], direction: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return where a ray from inside the body meets the skin."""
    near, far = 0.0, 4.0 * body.half
    step = np.asarray(direction, float) / np.linalg.norm(direction)
    for _ in range(40):
        middle = (near + far) / 2
        inside = body_distance(body, *(start + middle * step)) < 0
        near, far = (middle, far) if inside else (near, middle)
    return np.asarray(start + near * step, np.float64)


def add_appendages(solids: SolidsBuilder, body: Body, animal: AnimalParameters, draws: Draws) -> None:
    """Add legs, mouthparts, antennae, eyes, wings and bristles."""
    scale = animal.scale
    if animal.legs:
        _add_legs(solids, scale, draws)
    _add_head(solids, body, scale, draws)
    if animal.eyes:
        for number, side in enumerate((-1, 1), start=1):
            _add_eye(solids, body, side, number)
    if animal.wings:
        for side in (-1, 1):
            _add_wing(solids, body, side, animal, draws)
    _add_bristles(solids, body, animal.bristles, draws)


def _add_legs(solids: SolidsBuilder, scale: float, draws: Draws) -> None:
    for leg, joints in enumerate(_LEGS):
        for side in (-1, 1):
            index = 2 * leg + (side > 0)
            places = np.array(joints, float) * scale
            places[1:] += [
                [25 * scale * draws.normal(f"leg {axis}", 8 * index + j) for axis in "uvw"] for j in range(4)
            ]
            radii = np.array(_LEG_RADII) * scale * draws.size(1.0, "leg radius", index)
            solids.chain(LIMB, places * [1, 1, side], radii)


def _add_head(solids: SolidsBuilder, body: Body, scale: float, draws: Draws) -> None:
    front = body.centre[HEAD] - [body.semi[HEAD, 0], 0, 0]
    mouth = body.centre[HEAD] + np.array([-60, -0.85 * body.semi[HEAD, 1] / scale, 0]) * scale
    solids.chain(
        LIMB,
        mouth + np.array([(0, 0, 0), (-60, -190, 0), (0, -310, 0)]) * scale,
        [80 * scale, 60 * scale, 48 * scale],
    )
    for side in (-1, 1):
        joints = np.array([(15, 90, 60), (-75, 30, 80), (-105, 0, 95)]) * scale * [1, 1, side]
        solids.chain(LIMB, front + joints, [34 * scale, 27 * scale, 20 * scale])
        bend = draws.size(1.0, "arista", side + 1)
        arista = (
            np.array([(-95, 10, 90), (-140, 70 * bend, 150), (-150, 160 * bend, 240)]) * scale * [1, 1, side]
        )
        solids.chain(BRISTLE, front + arista, [6 * scale, 3 * scale, 1 * scale])


def _add_eye(solids: SolidsBuilder, body: Body, side: int, number: int) -> None:
    semi = body.semi[HEAD] * [0.92, 0.92, 0.42]
    centre = body.centre[HEAD] + [0, 0.14 * body.semi[HEAD, 1], side * 0.68 * body.semi[HEAD, 2]]
    solids.ellipsoid(EYE, centre, semi, np.diag([1.0, 1.0, float(side)]), number)


def _add_wing(solids: SolidsBuilder, body: Body, side: int, animal: AnimalParameters, draws: Draws) -> None:
    scale = animal.scale
    back = body.centre[ABDOMEN, 1] + body.semi[ABDOMEN, 1] + 45 * scale
    centre = np.array([420 * scale, back + 12 * (side + 1) * scale, side * 175 * scale])
    tilt = np.radians(8 * side)
    axes = np.array([(1, 0, 0.06 * side), (0, -np.sin(tilt), np.cos(tilt)), (0, np.cos(tilt), np.sin(tilt))])
    axes /= np.linalg.norm(axes, axis=1)[:, None]
    semi = np.array([draws.size(1000, "wing", side + 1), 390]) * scale
    solids.sheet(WING, centre, semi, axes, animal.wing_um)
    for vein in range(5):
        along = np.linspace(-0.97, 0.80, 7)[:, None] * semi[0] * axes[0]
        across = (vein - 2) * 0.17 * semi[1] * (1 + np.linspace(-0.8, 0.8, 7))[:, None] * axes[1]
        solids.chain(BRISTLE, centre + along + across, np.linspace(10, 5, 7) * scale)


def _add_bristles(solids: SolidsBuilder, body: Body, count: int, draws: Draws) -> None:
    for i in range(count):
        part = THORAX if i % 3 else HEAD
        turn, tip = (
            draws.uniform("bristle turn", i, -1.9, 1.9),
            draws.uniform("bristle along", i, -0.75, 0.75),
        )
        start = body.centre[part] + [tip * body.semi[part, 0], 0, 0]
        out = np.array([0.0, np.cos(turn), np.sin(turn)])
        root = surface_point(body, start, out)
        lean = out + np.array([0.9, 0.0, 0.0])
        length = draws.size(150, "bristle length", i)
        solids.cone(BRISTLE, root - 5 * out, root + length * lean / np.linalg.norm(lean), 4.0, 0.7)
