"""A coarse look at the whole animal, once: what the beam passes on its way, and how grey values spread.

The mean over all angles of the line integral through a place is the attenuation convolved with 1/r,
which is what unfiltered back projection gives (Kak and Slaney 1988, chapter 3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from napari_memseg.geometry import Box, ceil_div
from napari_memseg.phantom.animal import build_animal
from napari_memseg.phantom.body import bend
from napari_memseg.phantom.pose import build_pose, voxel_um
from napari_memseg.phantom.voxels import sample

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_memseg.phantom.parameters import PhantomParameters
    from napari_memseg.phantom.pose import Pose
    from napari_memseg.phantom.tissue import Animal

LONGEST = 64
"""Coarse voxels along the longest axis."""
WATER_PER_UM = 5.0e-5
"""Linear attenuation of water at about 25 keV, 1/µm."""
CENTRE = 4.0 * np.log(1.0 + np.sqrt(2.0))
"""Integral of 1/r over a square of edge 1 about the origin."""


class Prepass(NamedTuple):
    """Of a whole volume, on a coarse grid."""

    step: float
    """Voxels of level 0 in a coarse one, along each axis."""
    integral: NDArray[np.float32]
    """Mean line integral through each coarse voxel, in nepers."""
    largest: float
    """The largest of them."""
    densest: NDArray[np.float64]
    """(3, 3) places (z, y, x) of the densest parts, a grain of metal first, in voxels of level 0."""


def look(parameters: PhantomParameters) -> Prepass:
    """Return what a coarse look shows."""
    step = max(-(-max(parameters.shape) // LONGEST), 1)
    shape = ceil_div(parameters.shape, (step, step, step))
    coarse_um = voxel_um(parameters) * step
    animal = build_animal(parameters.animal, parameters.seed, coarse_um)
    found = sample(animal, build_pose(parameters, shape, step, 0), Box.whole(shape))
    values = (found.light + found.heavy).astype(np.float64)
    integral = line_integrals(values) * (coarse_um * WATER_PER_UM)
    ranked = np.argsort(values, axis=None, kind="stable")[::-1][:40:15]
    places = (np.stack(np.unravel_index(ranked, shape), axis=1).astype(np.float64) + 0.5) * step - 0.5
    if parameters.animal.dust:
        places[0] = _grain(animal, build_pose(parameters, parameters.shape, 1, 0))
    return Prepass(float(step), integral.astype(np.float32), max(float(integral.max()), 1e-9), places)


def _grain(animal: Animal, pose: Pose) -> NDArray[np.float64]:
    """Return where the grain of metal lies (z, y, x), in voxels of level 0; a coarse look may miss it."""
    u, v, w, _ = animal.traits.dust
    place = np.array([u, bend(animal.body, u, v), w])
    z, y, x = np.linalg.solve(pose.matrix, place - pose.offset)
    slot = int(np.clip(round(z), 0, len(pose.source_z) - 1))
    return np.array([z, y - pose.dy[slot], x - pose.dx[slot]])


def line_integrals(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return, for each voxel of (z, y, x), the mean over angles of the sum along the line through it."""
    _, ny, nx = values.shape
    y, x = (np.fft.fftfreq(2 * n, 1.0 / (2 * n)) for n in (ny, nx))
    far = np.hypot(y[:, None], x[None, :])
    kernel = np.where(far > 0, 1.0 / np.maximum(far, 0.5), CENTRE) / np.pi
    spectrum = np.fft.rfft2(values, s=(2 * ny, 2 * nx)) * np.fft.rfft2(kernel)
    found = np.fft.irfft2(spectrum, s=(2 * ny, 2 * nx))[:, :ny, :nx]
    return np.maximum(found, 0.0)
