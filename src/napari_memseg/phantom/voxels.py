"""Turn a box of voxels into labels, instances and attenuation, eight samples to a voxel."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from napari_memseg.phantom import labels as L
from napari_memseg.phantom.compiled import compiled
from napari_memseg.phantom.grid import cell_of
from napari_memseg.phantom.noise import smooth_noise
from napari_memseg.phantom.body import straighten
from napari_memseg.phantom.tissue import PARTS, Animal, Traits, surroundings, tissue

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_memseg.geometry import Box
    from napari_memseg.phantom.pose import Pose

TEXTURE = 0.04
"""Smooth noise inside each material, as a fraction of its attenuation."""
TEXTURE_UM = 18.0
RANK = np.array(L.RANK)


class Voxels(NamedTuple):
    """What is in a box, (z, y, x) arrays."""

    labels: NDArray[np.uint8]
    instances: NDArray[np.uint32]
    light: NDArray[np.float32]
    heavy: NDArray[np.float32]
    """Attenuation relative to water, of what behaves as water does and of heavier elements."""


def sample(animal: Animal, pose: Pose, box: Box) -> Voxels:
    """Return the voxels of ``box``, which may reach beyond the volume by the pose's ``pad`` in z."""
    shape = box.shape
    out = Voxels(
        np.zeros(shape, np.uint8),
        np.zeros(shape, np.uint32),
        np.empty(shape, np.float32),
        np.empty(shape, np.float32),
    )
    _sample(animal, pose, np.array(box.start), out)
    return out


@compiled
def is_plain(traits: Traits) -> bool:
    """Whether what surrounds the animal is the same everywhere."""
    return traits.tube_um == 0.0 and traits.medium == 0.0 and traits.dust[3] == 0.0


@compiled
def _sample(animal: Animal, pose: Pose, start: NDArray[np.int64], out: Voxels) -> None:
    near, who = np.empty(PARTS), np.zeros(PARTS, np.int64)
    tissues, numbers = np.zeros(8, np.int64), np.zeros(8, np.int64)
    votes = np.zeros(len(RANK), np.int64)
    nz, ny, nx = out.labels.shape
    plain = is_plain(animal.traits)
    for z in range(nz):
        slot = min(max(start[0] + z + pose.pad, 0), len(pose.source_z) - 1)
        pz, py0, px0 = pose.source_z[slot], start[1] + pose.dy[slot], start[2] + pose.dx[slot]
        for y in range(ny):
            for x in range(nx):
                _voxel(animal, pose, plain, pz, py0 + y, px0 + x, near, who, tissues, numbers, votes, out, z, y, x)


@compiled
def _to_body(pose: Pose, z: float, y: float, x: float) -> tuple[float, float, float]:
    m, o = pose.matrix, pose.offset
    return (
        m[0, 0] * z + m[0, 1] * y + m[0, 2] * x + o[0],
        m[1, 0] * z + m[1, 1] * y + m[1, 2] * x + o[1],
        m[2, 0] * z + m[2, 1] * y + m[2, 2] * x + o[2],
    )


@compiled
def _voxel(animal, pose, plain, pz, py, px, near, who, tissues, numbers, votes, out, z, y, x):  # type: ignore[no-untyped-def]
    """Fill one voxel: the majority of its samples, and their mean."""
    u, v, w = _to_body(pose, pz, py, px)
    cell = cell_of(animal.grid, u, straighten(animal.body, u, v), w)
    if plain and (cell < 0 or animal.grid.is_far[cell]):
        out.light[z, y, x], out.heavy[z, y, x] = animal.traits.medium, 0.0
        return
    light, heavy = 0.0, 0.0
    for s in range(8):
        dz, dy, dx = 0.5 * (s >> 2) - 0.25, 0.5 * ((s >> 1) & 1) - 0.25, 0.5 * (s & 1) - 0.25
        a, b, c = _to_body(pose, pz + dz, py + dy, px + dx)
        b = straighten(animal.body, a, b)
        cell = cell_of(animal.grid, a, b, c)
        if cell >= 0 and not animal.grid.is_outside[cell]:
            label, number, l, h = tissue(animal, cell, a, b, c, near, who)
        elif plain:
            label, number, l, h = L.OUTSIDE, 0, 0.0, 0.0
        else:
            label, number, l, h = surroundings(animal.traits, a, b, c)
        tissues[s], numbers[s] = label, number
        light += l
        heavy += h
    label = _majority(tissues, votes)
    texture = 1.0
    if label != L.OUTSIDE and label != L.TRACHEAE:
        size = TEXTURE_UM
        texture += TEXTURE * smooth_noise(animal.traits.texture_key, u / size, v / size, w / size)
    out.labels[z, y, x] = label
    out.light[z, y, x] = light / 8.0 * texture
    out.heavy[z, y, x] = heavy / 8.0 * texture
    for s in range(8):
        if tissues[s] == label and numbers[s] != 0:
            out.instances[z, y, x] = numbers[s]
            break


@compiled
def _majority(tissues: NDArray[np.int64], votes: NDArray[np.int64]) -> int:
    best, most = 0, -1
    for s in range(8):
        votes[tissues[s]] += 32
    for s in range(8):
        count = votes[tissues[s]] + RANK[tissues[s]]
        if count > most:
            best, most = tissues[s], count
    for s in range(8):
        votes[tissues[s]] = 0
    return best
