"""Filters that give a voxel the same value whatever box it is computed in.

Every sum runs over the same terms in the same order for each voxel, in float32 and without
reassociation, so boxes may be cut anywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_memseg.phantom.compiled import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray


def gaussian(sigma: float, radius: int) -> NDArray[np.float32]:
    """Return 2 ``radius`` + 1 weights of sum 1; a single 1 where sigma is next to nothing."""
    at = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (at / max(sigma, 1e-3)) ** 2)
    return (weights / weights.sum()).astype(np.float32)


def blur(values: NDArray[np.float32], sigma: float, sigma_z: float, radius: int) -> NDArray[np.float32]:
    """Filter with a Gaussian; the result is smaller by ``radius`` voxels on each side.

    Parameters
    ----------
    values : (z, y, x) array
        With a margin of ``radius`` voxels.
    sigma, sigma_z : float
        In plane and along z, in voxels.
    """
    across, along = gaussian(sigma, radius), gaussian(sigma_z, radius)
    return _filter_x(_filter_y(_filter_z(values, along), across), across)


@compiled
def _filter_z(values: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    nz, ny, nx = values.shape
    count = len(weights)
    out = np.zeros((nz - count + 1, ny, nx), np.float32)
    for z in range(len(out)):
        for t in range(count):
            for y in range(ny):
                for x in range(nx):
                    out[z, y, x] += weights[t] * values[z + t, y, x]
    return out


@compiled
def _filter_y(values: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    nz, ny, nx = values.shape
    count = len(weights)
    out = np.zeros((nz, ny - count + 1, nx), np.float32)
    for z in range(nz):
        for y in range(ny - count + 1):
            for t in range(count):
                for x in range(nx):
                    out[z, y, x] += weights[t] * values[z, y + t, x]
    return out


@compiled
def _filter_x(values: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    nz, ny, nx = values.shape
    count = len(weights)
    out = np.zeros((nz, ny, nx - count + 1), np.float32)
    for z in range(nz):
        for y in range(ny):
            for t in range(count):
                for x in range(nx - count + 1):
                    out[z, y, x] += weights[t] * values[z, y, x + t]
    return out


@compiled
def filter_plane(values: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Filter each plane with a square of ``weights``, odd in size; the result is smaller by its margins."""
    nz, ny, nx = values.shape
    size = len(weights)
    out = np.zeros((nz, ny - size + 1, nx - size + 1), np.float32)
    for z in range(nz):
        for y in range(ny - size + 1):
            for i in range(size):
                for j in range(size):
                    weight = weights[i, j]
                    for x in range(nx - size + 1):
                        out[z, y, x] += weight * values[z, y + i, x + j]
    return out


@compiled
def laplacian(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the Laplacian over the six neighbours; smaller by one voxel on each side."""
    nz, ny, nx = values.shape
    out = np.empty((nz - 2, ny - 2, nx - 2), np.float32)
    for z in range(nz - 2):
        for y in range(ny - 2):
            for x in range(nx - 2):
                around = values[z, y + 1, x + 1] + values[z + 2, y + 1, x + 1]
                around += values[z + 1, y, x + 1] + values[z + 1, y + 2, x + 1]
                around += values[z + 1, y + 1, x] + values[z + 1, y + 1, x + 2]
                out[z, y, x] = around - np.float32(6.0) * values[z + 1, y + 1, x + 1]
    return out
