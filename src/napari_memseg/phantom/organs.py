"""What fills the animal: muscles, gut, nerves, ovaries, tubules, vessel, air sacs.

Places are given for a fly of 2500 µm in body coordinates (u, v, w), and scaled; each number strays
from animal to animal. What would come out of the body is cut off by its skin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_memseg.phantom.body import ABDOMEN, HEAD, PARTS_UM, THORAX, surface_point
from napari_memseg.phantom.solids import BUNDLE, DUCT, GONAD, GUT, NERVE, STRAP, TUBULE, SolidsBuilder

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from napari_memseg.phantom.body import Body
    from napari_memseg.phantom.hashing import Draws
    from napari_memseg.phantom.parameters import AnimalParameters

SIDES = (-1, 1)


class Organs:
    """Builds the organs of one animal, each method one kind."""

    def __init__(self, solids: SolidsBuilder, body: Body, animal: AnimalParameters, draws: Draws) -> None:
        self._solids = solids
        self._body = body
        self._animal = animal
        self._draws = draws
        self._scale = animal.scale

    def add(self) -> None:
        """Add all of them."""
        if self._animal.flight_muscle:
            self._flight_muscles()
        self._straps()
        self._gut()
        self._nerves()
        self._ovaries()
        self._tubules()
        self._vessel()

    def air_sacs(self) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Return centre and half axes of the air sacs."""
        kinds = [
            (HEAD, (-930, 230, 110), (70, 50, 90)),
            (THORAX, (-250, 250, 260), (110, 85, 60)),
            (THORAX, (-600, -80, 290), (115, 120, 48)),
            (THORAX, (-20, 190, 110), (80, 70, 80)),
            (HEAD, (-1070, -40, 130), (45, 75, 60)),
        ]
        found = []
        for i in range(self._animal.air_sacs):
            part, centre, semi = kinds[(i // 2) % len(kinds)]
            place = self._at(part, np.array(centre) * [1, 1, SIDES[i % 2]])
            size = self._draws.size(self._scale, "air sac", i)
            found.append((place, np.array(semi, float) * size))
        return found

    def _at(self, part: int, places: ArrayLike) -> NDArray[np.float64]:
        """Move places in a fly's part of the body to where this animal has them."""
        relative = (np.asarray(places, float) - PARTS_UM[part, 0]) / PARTS_UM[part, 1]
        return np.asarray(self._body.centre[part] + relative * self._body.semi[part], np.float64)

    def _stray(self, field: str, index: int, count: int, reach: float) -> NDArray[np.float64]:
        """Return ``count`` small displacements, in µm."""
        numbers = [
            self._draws.normal(f"{field} {axis}", 64 * index + i) for i in range(count) for axis in "uvw"
        ]
        return np.array(numbers).reshape(count, 3) * reach * self._scale

    def _flight_muscles(self) -> None:
        number = 0
        for side in SIDES:
            for k in range(6):
                number += 1
                v = -175 + 82 * k
                bow = 40 * (1 - abs(k - 2.5) / 3)
                lengthwise = [(-745 - bow, v - 25, 58 * side), (-60 + bow, v + 30, 58 * side)]
                radius = self._draws.size(48, "bundle", number) * self._scale
                places = self._at(THORAX, lengthwise) + self._stray("bundle", number, 2, 6)
                self._solids.cone(BUNDLE, places[0], places[1], radius, radius, number)
            for k in range(7):
                number += 1
                row = k >= 4
                u = -640 + 115 * (k - 4 * row) + 50 * row
                upright = [
                    (u - 25, -310, (170 + 95 * row) * side),
                    (u + 25, 390 - 90 * row, (165 + 85 * row) * side),
                ]
                radius = self._draws.size(49, "bundle", number) * self._scale
                places = self._at(THORAX, upright) + self._stray("bundle", number, 2, 6)
                self._solids.cone(BUNDLE, places[0], places[1], radius, radius, number)

    def _straps(self) -> None:
        for i in range(12):
            u, side = 0 + 95 * (i // 2), SIDES[i % 2]
            ends = self._at(ABDOMEN, [(u, 330, 215 * side), (u + 30, -330, 190 * side)])
            self._strap(ends, 15, i)
        for i in range(60):
            turn = 2 * np.pi * (i % 10) / 10 + 0.2 * self._draws.normal("strap turn", i)
            self._strap(self._along(-40 + 170 * (i // 10), turn), 15, 100 + i)
        for i in range(8):
            side, k = SIDES[i % 2], i // 2
            ends = self._at(
                HEAD, [(-1010 + 15 * k, -230, 60 * side), (-900 + 20 * k, 215 - 20 * k, 150 * side)]
            )
            self._strap(ends, 15, 200 + i)
        for i in range(8):
            side, k = SIDES[i % 2], i // 2
            neck = [(-800 + 20 * k, 200 - 130 * k, 150 * side), (-560, 120 - 110 * k, 330 * side)]
            self._strap(self._at(THORAX, neck), 14, 300 + i)

    def _along(self, u: float, turn: float) -> NDArray[np.float64]:
        """Return the two ends of a strap under the plates of the abdomen."""
        places = []
        for end in (u, u + 150):
            axis = self._at(ABDOMEN, (end, -20, 0))
            skin = surface_point(self._body, axis, np.array([0, np.sin(turn), np.cos(turn)]))
            places.append(
                axis + (skin - axis) * max(1 - 32 / max(float(np.linalg.norm(skin - axis)), 33.0), 0)
            )
        return np.array(places)

    def _strap(self, ends: NDArray[np.float64], radius: float, index: int) -> None:
        size = self._draws.size(radius, "strap", index)
        self._solids.cone(STRAP, ends[0], ends[1], size, size)

    def _gut(self) -> None:
        front = self._at(HEAD, [(-1010, -190, 0), (-945, -25, 0)])
        middle = self._at(THORAX, [(-790, -40, 0), (-640, -190, 0), (-300, -215, 0), (-70, -150, 0)])
        loops = self._loops()
        behind = self._at(ABDOMEN, [(880, 40, -60), (960, -60, 20), (1060, -80, 0), (1165, -110, 0)])
        points = np.concatenate([front, middle, loops, behind])
        size = self._draws.size(1.0, "gut") * self._scale
        radii = (
            np.array([34, 18, 19, 20, 24, 55, *[78] * (len(loops) - 3), 62, 45, 40, 42, 95, 100, 45]) * size
        )
        places, widths = _curve(points, radii, 24 * self._scale)
        self._solids.chain(GUT, places, widths)
        crop = self._at(ABDOMEN, [(-150, -170, 0), (60, -215, 90), (200, -225, 125), (300, -225, 130)])
        self._solids.chain(GUT, *_curve(crop, np.array([14, 18, 85, 80]) * size, 24 * self._scale))

    def _loops(self) -> NDArray[np.float64]:
        """Return the points of the midgut, which winds through the abdomen."""
        count = 13
        turn = np.linspace(0, 2 * np.pi * self._draws.size(1.7, "gut turns"), count)
        reach = 115 + 45 * np.sin(1.3 * turn)
        u = np.linspace(60, 800, count) + 60 * np.sin(2.1 * turn)
        places = np.stack([u, 10 + reach * np.sin(turn), 1.15 * reach * np.cos(turn)], axis=1)
        return self._at(ABDOMEN, places) + self._stray("gut", 0, count, 18)

    def _nerves(self) -> None:
        brain = [
            ((-950, 70, 72), (92, 112, 95)),
            ((-950, 80, 185), (82, 118, 55)),
            ((-930, -85, 45), (80, 70, 75)),
        ]
        for i, (centre, half) in enumerate(brain):
            size = self._draws.size(self._scale, "brain", i)
            for side in SIDES:
                place = self._at(HEAD, np.array(centre) * [1, 1, side])
                self._solids.ellipsoid(NERVE, place, np.array(half, float) * size)
        for i, u in enumerate((-620, -480, -340)):
            place = self._at(THORAX, (u, -262, 0))
            semi = np.array([105, 62, 95 - 8 * i]) * self._draws.size(self._scale, "ganglion", i)
            self._solids.ellipsoid(NERVE, place, semi)
        neck = [
            self._at(HEAD, (-900, -80, 0)),
            self._at(THORAX, (-800, -60, 0)),
            self._at(THORAX, (-640, -250, 0)),
        ]
        self._solids.chain(NERVE, neck, [38 * self._scale, 28 * self._scale, 36 * self._scale])
        cord = [self._at(THORAX, (-300, -260, 0))] + [
            self._at(ABDOMEN, (u, -325 + 70 * (u > 800), 0)) for u in (0, 300, 600, 900)
        ]
        self._solids.chain(NERVE, cord, np.array([28, 20, 18, 15, 11]) * self._scale)

    def _ovaries(self) -> None:
        number = 0
        for side in SIDES:
            mouth = self._at(ABDOMEN, (900, -150, 45 * side))
            for string in range(5):
                tilt = (string - 2) * 0.42
                end = self._at(ABDOMEN, (300, 60 + 230 * np.sin(tilt), (150 + 110 * np.cos(tilt)) * side))
                where, along = mouth + 0.18 * (end - mouth), end - mouth
                forward = along / np.linalg.norm(along)
                for egg in range(5):
                    number += 1
                    size = self._draws.size(1.0, "egg", number) * 0.74**egg * self._scale
                    where = where + forward * 92 * size
                    self._solids.ellipsoid(
                        GONAD, where, np.array([92, 46, 46]) * size, _frame(forward), number
                    )
                    where = where + forward * 92 * size
                self._solids.cone(DUCT, mouth, mouth + 0.2 * along, 12 * self._scale, 14 * self._scale)
            self._solids.cone(
                DUCT, mouth, self._at(ABDOMEN, (1080, -190, 0)), 26 * self._scale, 34 * self._scale
            )

    def _tubules(self) -> None:
        start = self._at(ABDOMEN, (800, 20, 0))
        for tubule in range(4):
            place, turn, places = start, 1.57 * tubule, [start]
            for step in range(70):
                index = 100 * tubule + step
                turn += 0.5 * self._draws.normal("tubule turn", index)
                ahead = -0.55 + 0.9 * np.sin(0.17 * step + tubule) + 0.3 * self._draws.normal("tubule", index)
                move = np.array([ahead, np.sin(turn), np.cos(turn)])
                place = self._kept(place + 34 * self._scale * move / np.linalg.norm(move))
                places.append(place)
            radius = self._draws.size(20, "tubule radius", tubule) * self._scale
            self._solids.chain(
                TUBULE, *_curve(np.array(places), np.full(len(places), radius), 20 * self._scale)
            )

    def _kept(self, place: NDArray[np.float64]) -> NDArray[np.float64]:
        """Pull a place back into the abdomen."""
        off = (place - self._body.centre[ABDOMEN]) / (0.84 * self._body.semi[ABDOMEN])
        far = float(np.linalg.norm(off))
        return place if far < 1 else self._body.centre[ABDOMEN] + off / far * 0.84 * self._body.semi[ABDOMEN]

    def _vessel(self) -> None:
        behind = self._at(ABDOMEN, [(1060, 90, 0), (850, 215, 0), (600, 275, 0), (300, 292, 0), (0, 250, 0)])
        ahead = self._at(THORAX, [(-120, 110, 0), (-280, -95, 0), (-560, -110, 0), (-800, 20, 0)])
        places = np.concatenate([behind, ahead, self._at(HEAD, [(-870, 30, 0)])])
        radii = np.array([20, 28, 32, 32, 28, 22, 18, 18, 17, 15]) * self._draws.size(self._scale, "vessel")
        self._solids.chain(TUBULE, *_curve(places, radii, 30 * self._scale))


def _curve(
    points: NDArray[np.float64], radii: NDArray[np.float64], step: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw a smooth curve through points (Catmull-Rom), in steps of about ``step`` µm."""
    rows = np.concatenate([points, radii[:, None]], axis=1)
    padded = np.concatenate([2 * rows[:1] - rows[1:2], rows, 2 * rows[-1:] - rows[-2:-1]])
    out = []
    for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        count = max(int(np.linalg.norm((c - b)[:3]) / step), 1)
        t = (np.arange(count) / count)[:, None]
        out.append(b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a))))
    found = np.concatenate([*out, rows[-1:]])
    return found[:, :3], np.maximum(found[:, 3], radii.min() * 0.8)


def _frame(forward: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return three orthogonal rows, the first along ``forward``."""
    side = np.cross(forward, [0.0, 1.0, 0.0] if abs(forward[1]) < 0.9 else [1.0, 0.0, 0.0])
    side /= np.linalg.norm(side)
    return np.stack([forward, side, np.cross(forward, side)])
