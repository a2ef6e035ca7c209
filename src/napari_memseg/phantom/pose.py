"""Where the animal lies in the volume, and how the slices moved while it was scanned.

The same map takes a voxel of the image and of the labels to a place in the animal, so the truth stays
exact: tilt and position of the animal, the drift of the slices, the seams between scans::

    voxel (z, y, x) ──slice z of the table: moved by (dy, dx), perhaps a repeated one──> place in µm
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from napari_memseg.phantom.body import build_body
from napari_memseg.phantom.hashing import Draws
from napari_memseg.phantom.noise import between_knots

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from napari_memseg.geometry import Zyx
    from napari_memseg.phantom.parameters import PhantomParameters, ScanParameters

KNOTS = 50
"""Slices between two steps of the random walk."""
EXTENT_UM = (2800.0, 1800.0, 1600.0)
"""Room that a fly of 2500 µm needs along its axis and across it, longest first."""
SPARE, SPARE_SHARE = 1, 0.01
"""Voxels, and share of an edge, that an animal leaves free at each face, whatever it measures.

Seams and drift move it there, and its skin is a little wider than the parts that it goes around.
"""
MIDDLE_UM = np.array([60.0, -60.0, 0.0])
"""The place (u, v, w) in a fly of 2500 µm that lies in the middle of the volume."""


class Pose(NamedTuple):
    """The map from voxels to body coordinates."""

    matrix: NDArray[np.float64]
    """(3, 3) columns z, y, x: µm in (u, v, w) per voxel."""
    offset: NDArray[np.float64]
    source_z: NDArray[np.float64]
    dy: NDArray[np.float64]
    dx: NDArray[np.float64]
    """For slices from -``pad`` on."""
    pad: int
    twin_matrix: NDArray[np.float64]
    twin_offset: NDArray[np.float64]
    """From body coordinates to those of a second animal; zeros for none."""


def voxel_um(parameters: PhantomParameters) -> float:
    """Return the edge of a voxel of level 0: the one told, or the least with which the animal fits."""
    if parameters.voxel_um:
        return parameters.voxel_um
    lengths = sorted(parameters.shape, reverse=True)
    usual = max(parameters.animal.scale * extent / n for extent, n in zip(EXTENT_UM, lengths, strict=True))
    within = np.maximum(np.array(parameters.shape) * (1 - 2 * SPARE_SHARE) - 2 * SPARE, 1)
    return max(usual, float((_skin_um(parameters) / within).max()))


def _skin_um(parameters: PhantomParameters) -> NDArray[np.float64]:
    """Return the edges (z, y, x), in µm, of the volume that holds this animal's head, thorax and abdomen.

    An ellipsoid of half axes s reaches sqrt(sum((s d)^2)) from its centre in the direction d.
    """
    animal = parameters.animal
    body = build_body(animal, Draws(parameters.seed, animal.spread))
    ways = _rotation(parameters, Draws(parameters.seed)).T
    away = np.abs((body.centre - MIDDLE_UM * animal.scale) @ ways.T)
    radii = np.sqrt(body.semi**2 @ ways.T**2)
    return np.asarray(2 * ((away + radii).max(axis=0) + np.abs(ways[:, 1] * body.bend)))


def build_pose(parameters: PhantomParameters, shape: Zyx, step: int, pad: int) -> Pose:
    """Return the pose in a volume of ``shape``, each voxel of which is ``step`` of the finest level long."""
    draws = Draws(parameters.seed)
    matrix = _rotation(parameters, draws) * (voxel_um(parameters) * step)
    middle = (np.array(parameters.shape) / step - 1.0) / 2.0
    scale = parameters.animal.scale
    offset = MIDDLE_UM * scale - matrix @ middle
    fine = np.arange(-pad, shape[0] + pad, dtype=np.float64) * step + (step - 1) / 2.0
    source, dy, dx = slices(parameters.scan, parameters.seed, parameters.shape[0], fine)
    twin = _twin(scale) if parameters.animal.second else (np.zeros((3, 3)), np.zeros(3))
    return Pose(matrix, offset, (source - (step - 1) / 2.0) / step, dy / step, dx / step, pad, *twin)


def slices(
    scan: ScanParameters, seed: int, depth: int, z: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return, for slices ``z``, which slice of the animal each shows and where it moved (y, x), in voxels."""
    draws = Draws(seed)
    walks = []
    for axis in ("y", "x"):
        steps = [draws.normal(f"drift {axis}", k) for k in range(depth // KNOTS + 4)]
        walk = np.cumsum(steps) * scan.drift_voxels * np.sqrt(KNOTS / 1000.0)
        at = np.clip(z / KNOTS + 1.0, 0.0, len(walk) - 1.001)
        walks.append(between_knots(walk, at) - walk[len(walk) // 2])
    source = z.astype(float).copy()
    if scan.seam_every:
        seams = range(1, depth // scan.seam_every + 1)
        passed = np.clip(z // scan.seam_every, 0, len(seams)).astype(int)
        source += _sums(1.0 if draws.uniform("seam slice", k) < 0.5 else -1.0 for k in seams)[passed]
        for walk, axis in zip(walks, ("y", "x"), strict=True):
            jumps = (draws.uniform(f"seam {axis}", k, -scan.seam_jump, scan.seam_jump) for k in seams)
            walk += _sums(jumps)[passed]
    return source, walks[0], walks[1]


def _sums(steps: Iterable[float]) -> NDArray[np.float64]:
    """Return what the first 0, 1, 2, ... of some steps come to."""
    return np.cumsum([0.0, *steps])


def _rotation(parameters: PhantomParameters, draws: Draws) -> NDArray[np.float64]:
    """Return the matrix whose columns are the directions of z, y and x in the body's axes."""
    longest = int(np.argmax(parameters.shape))
    across = [axis for axis in range(3) if axis != longest]
    order = sorted(across, key=lambda axis: (-parameters.shape[axis], axis))
    aligned = np.zeros((3, 3))
    aligned[0, longest] = 1.0
    aligned[1, order[0]] = -1.0 if order[0] == 1 else 1.0  # the back is up where y points down
    aligned[2, order[1]] = 1.0
    turn = np.eye(3)
    for i, (a, b) in enumerate(((0, 1), (0, 2), (1, 2))):
        angle = np.radians(draws.uniform("tilt", i, -1.0, 1.0) * parameters.tilt_degrees)
        step = np.eye(3)
        step[a, a] = step[b, b] = np.cos(angle)
        step[a, b], step[b, a] = -np.sin(angle), np.sin(angle)
        turn = turn @ step
    return np.asarray(turn @ aligned)


def _twin(scale: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the map to a second animal: across the first, beneath it."""
    turn = np.array([[0.0, 0.0, 1.0], [0.0, -1.0, 0.0], [1.0, 0.0, 0.0]])
    return turn, turn @ (np.array([0.0, 1250.0, 0.0]) * scale)
