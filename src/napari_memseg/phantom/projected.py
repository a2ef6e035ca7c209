"""Mode B: form the image by projection, whole planes at a time. It judges mode A.

The point spread is applied to what is projected; rings, noise, hardening and streaks then come about by
themselves. Mode A's parameters are translated: how many photons give the wanted signal to noise, how large
an error of a column gives the wanted rings. Hardening, phase, noise_floor, streaks, blur_at_edge,
strong_rings, ring_run and axis_offset have no meaning here and are not looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_memseg.geometry import Box
from napari_memseg.phantom.detector import gains_of, noise_level
from napari_memseg.phantom.optics import blur
from napari_memseg.phantom.pose import voxel_um
from napari_memseg.phantom.projection import ProjectionScan, reconstruct_slice

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from napari_memseg.geometry import Zyx
    from napari_memseg.phantom.parameters import PhantomParameters, ScanParameters
    from napari_memseg.phantom.voxels import Voxels

NOISE_UM = 5000.0
"""Noise x voxel size x root of all photons of a pixel's views: measured with the Hann window."""
RINGS_UM = 530.0
"""Rings, relative to water, x voxel size per error of a column: measured likewise."""
FEWEST_ANGLES, MOST_ANGLES = 400, 1800


class Projecting:
    """Forms the image at one level of a phantom; parameters as for ``Imaging``.

    What the beam passes is computed ray by ray, and no coarse look is needed.
    """

    def __init__(
        self,
        parameters: PhantomParameters,
        shape: Zyx,
        step: int,
        window: tuple[float, float],
    ) -> None:
        scan = parameters.scan
        self._shape = shape
        self._voxel_um = voxel_um(parameters) * step
        self._sigma, self._sigma_z = scan.blur / step, scan.blur * scan.blur_z / step
        self.halo = int(np.ceil(4 * max(self._sigma, self._sigma_z)))
        self._scan = translated(scan, shape, self._voxel_um, parameters.seed, step)
        self._window = window
        self._gains = gains_of(parameters, shape[0], step)
        self._top, self._dtype = scan.top, scan.dtype

    @property
    def chunk(self) -> Zyx:
        """What is best formed at once: some whole planes."""
        return 16, self._shape[1], self._shape[2]

    def reads(self, box: Box) -> Box:
        """Return the voxels that the image of ``box`` is made of: whole planes, and what is blurred in."""
        _, ny, nx = self._shape
        planes = Box((box.start[0], 0, 0), (box.stop[0], ny, nx))
        return planes.grow((self.halo, self.halo, self.halo))

    def form(self, box: Box, found: Voxels) -> NDArray[Any]:
        """Return the grey values of ``box``; ``found`` is what is in ``reads(box)``."""
        light, heavy = (
            blur(part, self._sigma, self._sigma_z, self.halo) for part in (found.light, found.heavy)
        )
        low, high = self._window
        out = np.empty(box.shape, self._dtype)
        for i, z in enumerate(range(box.start[0], box.stop[0])):
            plane = reconstruct_slice(light[i], heavy[i], z, self._voxel_um, self._scan)
            grey = (plane[box.slices[1:]] * self._gains[z] - low) * (self._top / (high - low))
            out[i] = np.clip(grey, 0.0, self._top) + 0.5
        return out


def translated(scan: ScanParameters, shape: Zyx, pixel_um: float, seed: int, step: int = 1) -> ProjectionScan:
    """Return the projection scan whose images have the noise and the rings that ``scan`` asks for.

    Of a coarse level, each pixel ``step`` of the finest, they are what is left of both in a mean.
    """
    noise, ring = noise_level(scan) / step**1.5, scan.ring / step**0.5
    angles = int(np.clip(1.6 * max(shape[1:]), FEWEST_ANGLES, MOST_ANGLES))
    counts = float(np.clip((NOISE_UM / (noise * pixel_um)) ** 2 / angles, 100.0, 1e15))
    return ProjectionScan(
        angles=angles,
        arc=scan.arc,
        counts=counts,
        gain_sigma=min(ring * pixel_um / RINGS_UM, 0.1),
        dead_pixels=0.002,
        drift=0.001,
        readout_sigma=0.3 * counts**0.5,
        seed=seed,
    )
