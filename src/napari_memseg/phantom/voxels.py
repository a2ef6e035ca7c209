"""Turn a box of voxels into labels, instances and attenuation, eight samples to a voxel."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from napari_memseg.phantom import labels as L
from napari_memseg.phantom.body import straighten
from napari_memseg.phantom.compiled import compiled
from napari_memseg.phantom.grid import cell_of
from napari_memseg.phantom.noise import smooth_noise
from napari_memseg.phantom.tissue import PARTS, Animal, Tissue, Traits, surroundings, tissue

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_memseg.geometry import Box, Zyx
    from napari_memseg.phantom.pose import Pose

TEXTURES = np.array([L.TEXTURES.get(i, (0.0, 1.0)) for i in L.NAMES])
RANK = np.array(L.RANK)
SAMPLES = (0, 3, 5, 6, 1, 2, 4, 7)
"""Corners of a tetrahedron first; bits are z, y, x."""


class Voxels(NamedTuple):
    """What is in a box, (z, y, x) arrays."""

    labels: NDArray[np.uint8]
    instances: NDArray[np.uint32]
    light: NDArray[np.float32]
    heavy: NDArray[np.float32]
    """Attenuation relative to water, of what behaves as water does and of heavier elements."""


class Room(NamedTuple):
    """Scratch numbers of one loop over voxels: of the solids that are asked, and of the samples."""

    near: NDArray[np.float64]
    who: NDArray[np.int64]
    tissues: NDArray[np.int64]
    numbers: NDArray[np.int64]
    votes: NDArray[np.int64]


@compiled
def _new_room() -> Room:
    return Room(
        np.empty(PARTS),
        np.zeros(PARTS, np.int64),
        np.zeros(8, np.int64),
        np.zeros(8, np.int64),
        np.zeros(len(RANK), np.int64),
    )


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def sample(animal: Animal, pose: Pose, box: Box, threads: int = 1) -> Voxels:
    """Return the voxels of ``box``, which may reach beyond the volume by the pose's ``pad`` in z."""
    out, start = _empty(box.shape), np.array(box.start)
    if threads < 2:
        _sample(animal, pose, start, 0, box.shape[1], out)
        return out
    lines = np.linspace(0, box.shape[1], threads + 1).astype(int)
    with ThreadPoolExecutor(threads) as pool:
        parts = pairwise(map(int, lines))
        for done in [pool.submit(_sample, animal, pose, start, low, high, out) for low, high in parts]:
            done.result()
    return out


def _empty(shape: Zyx) -> Voxels:
    return Voxels(
        np.zeros(shape, np.uint8),
        np.zeros(shape, np.uint32),
        np.zeros(shape, np.float32),
        np.zeros(shape, np.float32),
    )


@compiled
def is_plain(traits: Traits) -> bool:
    """Whether what surrounds the animal is the same everywhere."""
    return traits.tube_um == 0.0 and traits.medium == 0.0 and traits.dust[3] == 0.0


@compiled
def has_twin(pose: Pose) -> bool:
    """Whether a second animal lies there."""
    return pose.twin_offset[1] != 0.0


@compiled
def _sample(animal: Animal, pose: Pose, start: NDArray[np.int64], low: int, high: int, out: Voxels) -> None:
    """Fill the lines y from ``low`` to ``high``."""
    room = _new_room()
    nz, _, nx = out.labels.shape
    plain = is_plain(animal.traits) and not has_twin(pose)
    for z in range(nz):
        pz, dy, dx = _slice(pose, start[0] + z)
        for y in range(low, high):
            for x in range(nx):
                _voxel(animal, pose, plain, (pz, start[1] + dy + y, start[2] + dx + x), room, out, (z, y, x))


@compiled
def _slice(pose: Pose, z: int) -> tuple[float, float, float]:
    slot = min(max(z + pose.pad, 0), len(pose.source_z) - 1)
    return pose.source_z[slot], pose.dy[slot], pose.dx[slot]


@compiled
def _to_body(pose: Pose, z: float, y: float, x: float) -> tuple[float, float, float]:
    m, o = pose.matrix, pose.offset
    return (
        m[0, 0] * z + m[0, 1] * y + m[0, 2] * x + o[0],
        m[1, 0] * z + m[1, 1] * y + m[1, 2] * x + o[1],
        m[2, 0] * z + m[2, 1] * y + m[2, 2] * x + o[2],
    )


@compiled
def _voxel(
    animal: Animal,
    pose: Pose,
    plain: bool,
    place: tuple[float, float, float],
    room: Room,
    out: Voxels,
    at: tuple[int, int, int],
) -> None:
    """Fill voxel ``at`` with the majority of the samples about ``place``, and their mean.

    Four samples, at corners of a tetrahedron, stand for all eight where they agree: seen along any axis,
    they lie where the eight do, so that nothing straight slips between them.
    """
    near, who, tissues, numbers, votes = room
    (z, y, x), (pz, py, px) = at, place
    u, v, w = _to_body(pose, pz, py, px)
    cell = cell_of(animal.grid, u, straighten(animal.body, u, v), w)
    if plain and (cell < 0 or animal.grid.is_far[cell]):
        out.light[z, y, x], out.heavy[z, y, x] = 0.0, 0.0
        return
    light, heavy, count, alike = 0.0, 0.0, 0, True
    for s in SAMPLES:
        if count == 4 and alike:
            break
        a, b, c = _to_body(
            pose, pz + 0.5 * (s >> 2) - 0.25, py + 0.5 * ((s >> 1) & 1) - 0.25, px + 0.5 * (s & 1) - 0.25
        )
        label, number, thin, dense = _at(animal, pose, plain, a, b, c, near, who)
        tissues[count], numbers[count] = label, number
        alike = alike and label == tissues[0] and number == numbers[0]
        light += thin
        heavy += dense
        count += 1
    label = _majority(tissues, votes, count)
    texture, size = TEXTURES[label]
    if texture > 0.0:
        texture *= 0.5 * smooth_noise(animal.traits.texture_key, u / size, v / size, w / size)
    out.labels[z, y, x] = label
    out.light[z, y, x] = light / count * (1.0 + texture)
    out.heavy[z, y, x] = heavy / count * (1.0 + texture)
    for s in range(count):
        if tissues[s] == label and numbers[s] != 0:
            out.instances[z, y, x] = numbers[s]
            break


@compiled
def _at(
    animal: Animal,
    pose: Pose,
    plain: bool,
    u: float,
    v: float,
    w: float,
    near: NDArray[np.float64],
    who: NDArray[np.int64],
) -> Tissue:
    """Return the tissue at a place: of the animal, or of a second one beside it; else what surrounds both."""
    found = _in_animal(animal, plain, u, v, w, near, who)
    if found[0] != L.OUTSIDE or not has_twin(pose):
        return found
    m, o = pose.twin_matrix, pose.twin_offset
    other = _in_animal(
        animal,
        plain,
        m[0, 0] * u + m[0, 1] * v + m[0, 2] * w + o[0],
        m[1, 0] * u + m[1, 1] * v + m[1, 2] * w + o[1],
        m[2, 0] * u + m[2, 1] * v + m[2, 2] * w + o[2],
        near,
        who,
    )
    label, number, light, heavy = other
    if label == L.OUTSIDE:
        return found
    return label, number + (L.TWIN if number != 0 else 0), light, heavy


@compiled
def _in_animal(
    animal: Animal,
    plain: bool,
    u: float,
    bent_v: float,
    w: float,
    near: NDArray[np.float64],
    who: NDArray[np.int64],
) -> Tissue:
    v = straighten(animal.body, u, bent_v)
    cell = cell_of(animal.grid, u, v, w)
    if cell >= 0 and not animal.grid.is_outside[cell]:
        return tissue(animal, cell, u, v, w, near, who)
    if plain:
        return L.OUTSIDE, 0, 0.0, 0.0
    return surroundings(animal, u, v, w)


@compiled
def _majority(tissues: NDArray[np.int64], votes: NDArray[np.int64], count: int) -> int:
    best, most = 0, -1
    for s in range(count):
        votes[tissues[s]] += 32
    for s in range(count):
        score = votes[tissues[s]] + RANK[tissues[s]]
        if score > most:
            best, most = tissues[s], score
    for s in range(count):
        votes[tissues[s]] = 0
    return best
