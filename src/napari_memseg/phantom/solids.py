"""Simple solids, of which the animal is made: cones, ellipsoids and sheets, each with a signed distance.

Distances are in µm and negative inside. They are exact for capsules, and of first order for the rest,
which is exact enough near the surface, where it decides (after Quilez, "Distance functions",
https://iquilezles.org/articles/ellipsoids/).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from napari_memseg.phantom.compiled import compiled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

CONE, ELLIPSOID, SHEET = 0, 1, 2

TRACHEA, SAC, EYE, GUT, NERVE, GONAD, DUCT, TUBULE, BUNDLE, STRAP, LIMB, BRISTLE, WING = range(13)
"""Parts: which organ a solid belongs to."""

WIDTH = 14
"""Numbers that describe a solid; see ``SolidsBuilder``."""


class Solids(NamedTuple):
    """Solids in body coordinates, as arrays."""

    kind: NDArray[np.uint8]
    part: NDArray[np.uint8]
    number: NDArray[np.int64]
    """Which fibre bundle, egg, tree or eye it is, from 1; 0 for none."""
    shape: NDArray[np.float64]
    """(n, WIDTH)."""
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    """(n, 3) corners of the boxes around them."""


class SolidsBuilder:
    """Collect solids.

    A cone is (p, q, radius at p, radius at q); an ellipsoid (centre, 3 x 3 matrix to the unit sphere);
    a sheet (centre, 3 x 3 matrix to the unit disc and to µm off it, thickness).
    """

    def __init__(self) -> None:
        self._rows: list[
            tuple[int, int, int, NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
        ] = []

    def cone(
        self, part: int, p: ArrayLike, q: ArrayLike, radius_p: float, radius_q: float, number: int = 0
    ) -> None:
        """Add a capsule whose radius changes from end to end."""
        a, b = np.asarray(p, float), np.asarray(q, float)
        low = np.minimum(a - radius_p, b - radius_q)
        self._add(
            CONE, part, number, [*a, *b, radius_p, radius_q], low, np.maximum(a + radius_p, b + radius_q)
        )

    def chain(
        self, part: int, points: ArrayLike, radii: Sequence[float] | NDArray[np.float64], number: int = 0
    ) -> None:
        """Add cones from point to point."""
        places = np.asarray(points, float)
        for p, q, r, s in zip(places, places[1:], radii, radii[1:], strict=False):
            self.cone(part, p, q, r, s, number)

    def ellipsoid(
        self, part: int, centre: ArrayLike, semi: ArrayLike, axes: ArrayLike | None = None, number: int = 0
    ) -> None:
        """Add an ellipsoid with half axes ``semi`` along the rows of ``axes``."""
        c, s = np.asarray(centre, float), np.asarray(semi, float)
        frame = np.eye(3) if axes is None else np.asarray(axes, float)
        reach = np.sqrt(((frame * s[:, None]) ** 2).sum(0))
        self._add(ELLIPSOID, part, number, [*c, *(frame / s[:, None]).ravel()], c - reach, c + reach)

    def sheet(self, part: int, centre: ArrayLike, semi: ArrayLike, axes: ArrayLike, thickness: float) -> None:
        """Add an elliptic sheet that waves a little; its third axis is its normal."""
        c, frame = np.asarray(centre, float), np.asarray(axes, float)
        s = np.array([*np.asarray(semi, float), 1.0])
        flat = np.sqrt(((frame[:2] * s[:2, None]) ** 2).sum(0))
        reach = flat + np.abs(frame[2]) * (SHEET_WAVE + thickness)
        matrix = (frame / s[:, None]).ravel()
        self._add(SHEET, part, 0, [*c, *matrix, thickness], c - reach, c + reach)

    def build(self) -> Solids:
        """Return what was collected."""
        kinds, parts, numbers, shapes, lows, highs = zip(*self._rows, strict=True)
        return Solids(
            np.array(kinds, np.uint8),
            np.array(parts, np.uint8),
            np.array(numbers, np.int64),
            np.array(shapes),
            np.array(lows),
            np.array(highs),
        )

    def _add(self, kind: int, part: int, number: int, shape: Sequence[float], low: Any, high: Any) -> None:
        row = np.zeros(WIDTH)
        row[: len(shape)] = shape
        self._rows.append((kind, part, number, row, low, high))


SHEET_WAVE = 12.0
"""How far a sheet waves from its plane, in µm."""


@compiled
def cone_distance(s: NDArray[np.float64], u: float, v: float, w: float) -> tuple[float, float]:
    """Return the distance from a cone's axis, and its radius there."""
    pu, pv, pw = u - s[0], v - s[1], w - s[2]
    bu, bv, bw = s[3] - s[0], s[4] - s[1], s[5] - s[2]
    length2 = bu * bu + bv * bv + bw * bw
    t = 0.0
    if length2 > 0.0:
        t = min(max((pu * bu + pv * bv + pw * bw) / length2, 0.0), 1.0)
    du, dv, dw = pu - t * bu, pv - t * bv, pw - t * bw
    return np.sqrt(du * du + dv * dv + dw * dw), s[6] + t * (s[7] - s[6])


@compiled
def to_frame(s: NDArray[np.float64], u: float, v: float, w: float) -> tuple[float, float, float]:
    """Return a point in the frame of an ellipsoid or a sheet."""
    pu, pv, pw = u - s[0], v - s[1], w - s[2]
    return (
        s[3] * pu + s[4] * pv + s[5] * pw,
        s[6] * pu + s[7] * pv + s[8] * pw,
        s[9] * pu + s[10] * pv + s[11] * pw,
    )


@compiled
def ellipsoid_distance(s: NDArray[np.float64], u: float, v: float, w: float) -> float:
    """Return the distance from the surface of an ellipsoid."""
    a, b, c = to_frame(s, u, v, w)
    k0 = np.sqrt(a * a + b * b + c * c)
    gu, gv, gw = (
        s[3] * a + s[6] * b + s[9] * c,
        s[4] * a + s[7] * b + s[10] * c,
        s[5] * a + s[8] * b + s[11] * c,
    )
    k1 = np.sqrt(gu * gu + gv * gv + gw * gw)
    if k1 < 1e-12:
        return -1e3
    return k0 * (k0 - 1.0) / k1


@compiled
def sheet_offset(s: NDArray[np.float64], u: float, v: float, w: float) -> float:
    """Return how far a point is off the middle of a sheet; 1e9 beside it."""
    a, b, c = to_frame(s, u, v, w)
    if a * a + b * b >= 1.0:
        return 1e9
    return abs(c - SHEET_WAVE * np.sin(5.0 * a) * np.cos(3.0 * b))
