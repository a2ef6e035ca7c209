"""Mode A: form the image of a box of what is in it and around it, effect by effect.

In this order: blur, beam hardening, phase contrast, rings, noise, streaks, grey values. (Drift and seams
are in the pose: they move the labels as well.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_memseg.geometry import Box, zyx
from napari_memseg.phantom.compiled import compiled
from napari_memseg.phantom.detector import (
    NOISE_RADIUS,
    STRONG,
    Detector,
    expose,
    gains_of,
    harden,
    noise_filter,
    noise_level,
    white_noise,
)
from napari_memseg.phantom.hashing import field_key, hash3, thirds
from napari_memseg.phantom.optics import blur, filter_plane, laplacian
from napari_memseg.phantom.voxels import sample

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from napari_memseg.geometry import Zyx
    from napari_memseg.phantom.parameters import PhantomParameters
    from napari_memseg.phantom.pose import Pose
    from napari_memseg.phantom.prepass import Prepass
    from napari_memseg.phantom.tissue import Animal
    from napari_memseg.phantom.voxels import Voxels

RING_WIDTH = 1.9
"""Part of a plane that a strong ring takes, times the plane's edge in voxels."""
SHARP = 0.2
"""A blur of less, in voxels, is none."""
PLACES = 1000
LOOK: Zyx = (3, 3, 3)
"""Little boxes that the window of grey values is drawn from: how many, and how large."""


class Imaging:
    """Forms the image at one level of a phantom.

    Parameters
    ----------
    parameters : PhantomParameters
        Of level 0.
    shape : (z, y, x)
        Of this level.
    step : int
        Voxels of level 0 along an edge of one here.
    coarse : Prepass
        Of level 0.
    window : (low, high)
        Attenuation that becomes the lowest and the highest grey value.
    """

    def __init__(
        self,
        parameters: PhantomParameters,
        shape: Zyx,
        step: int,
        coarse: Prepass,
        window: tuple[float, float],
    ) -> None:
        scan = parameters.scan
        self._scan = scan
        self._coarse = coarse
        self._sigmas = [scan.blur / step, scan.blur * scan.blur_at_edge / step]
        self._is_sharp = max(self._sigmas) * max(scan.blur_z, 1.0) < SHARP
        self._radius = 0 if self._is_sharp else int(np.ceil(4 * max(self._sigmas) * max(scan.blur_z, 1.0)))
        self._phase = scan.phase / step**2 if scan.phase / step**2 > 0.01 else 0.0
        self._detector = _detector(parameters, shape, step, coarse, window)
        self._noise_filter = noise_filter()

    @property
    def halo(self) -> int:
        """Voxels around a box that its values depend on."""
        return self._radius + (1 if self._phase else 0)

    @property
    def chunk(self) -> Zyx:
        """What is best formed at once: a block, or planes where no halo is needed."""
        return (64, 128, 128) if self.halo > 2 else (1, 256, 256)

    def reads(self, box: Box) -> Box:
        """Return the voxels that the image of ``box`` is made of."""
        return box.grow(zyx([self.halo] * 3))

    def form(self, box: Box, found: Voxels) -> NDArray[Any]:
        """Return the grey values of ``box``; ``found`` is what is in ``reads(box)``."""
        room = box.grow((1, 1, 1)) if self._phase else box
        values = self._blurred(room, found.light + found.heavy)
        start = np.array(room.start)
        harden(values, start, self._detector, self._coarse)
        if self._phase:
            inner = np.ascontiguousarray(values[1:-1, 1:-1, 1:-1])
            values = inner - np.float32(self._phase) * laplacian(values)
        out = np.empty(box.shape, np.uint16)
        expose(values, self._noise(box), np.array(box.start), self._detector, self._coarse, out)
        return out.astype(self._scan.dtype, copy=False)

    def _blurred(self, box: Box, attenuation: NDArray[np.float32]) -> NDArray[np.float32]:
        """Blur, more towards the edge of the field of view."""
        if self._is_sharp:
            return attenuation.copy()
        if not attenuation.any():
            return np.zeros(box.shape, np.float32)
        middle, edge = (blur(attenuation, s, s * self._scan.blur_z, self._radius) for s in self._sigmas)
        d = self._detector
        y, x = (np.arange(a, b, dtype=np.float64) for a, b in zip(box.start[1:], box.stop[1:], strict=True))
        far = ((y - d.axis_y)[:, None] ** 2 + (x - d.axis_x)[None, :] ** 2) / d.reach**2
        part = np.minimum(far, 1.0).astype(np.float32)
        return np.asarray(middle + part * (edge - middle), np.float32)

    def _noise(self, box: Box) -> NDArray[np.float32]:
        grown = box.grow((0, NOISE_RADIUS, NOISE_RADIUS))
        white = np.empty(grown.shape, np.float32)
        white_noise(self._detector.noise_key, np.array(grown.start), white)
        return filter_plane(white, self._noise_filter)


def grey_window(parameters: PhantomParameters, animal: Animal, pose: Pose) -> tuple[float, float]:
    """Return the attenuations of the lowest and highest grey value; ``clip`` of the voxels lie beyond each.

    From voxels here and there, with noise and rings as they will be, but sharp.
    """
    scan = parameters.scan
    places = _random_places(parameters.seed, parameters.shape, PLACES)
    boxes = [Box.at(zyx(place), LOOK).clip(parameters.shape) for place in places]
    found = [sample(animal, pose, box) for box in boxes]
    values = np.concatenate([(part.light + part.heavy).ravel() for part in found]).astype(np.float64)
    steps = np.linspace(-5.0, 5.0, 101)
    weights = np.exp(-0.5 * steps**2)
    spread = np.hypot(noise_level(scan), scan.ring)
    levels, counts = np.unique(np.round(values, 3), return_counts=True)
    strong = min(scan.strong_rings * RING_WIDTH / max(parameters.shape[1:]), 0.5)  # part of all voxels
    shifts, shares = np.array([0.0, -1.0, 1.0]) * STRONG * scan.ring, (1 - strong, strong, strong)
    grid = (levels[:, None, None] + shifts[:, None] + spread * steps).ravel()
    mass = (counts[:, None, None] * np.array(shares)[:, None] * weights).ravel()
    order = np.argsort(grid, kind="stable")
    share = np.cumsum(mass[order]) / mass.sum()
    low, high = (
        float(grid[order][min(np.searchsorted(share, q), len(grid) - 1)])
        for q in (scan.clip, 1.0 - scan.clip)
    )
    return low, max(high, low + 0.1)


def _random_places(seed: int, shape: Zyx, count: int) -> NDArray[np.int64]:
    """Return ``count`` voxels (z, y, x) of a volume, drawn evenly."""
    out = np.empty((count, 3), np.int64)
    _draw_places(field_key(seed, "places"), np.array(shape), out)
    return out


@compiled
def _draw_places(key: np.uint64, shape: NDArray[np.int64], out: NDArray[np.int64]) -> None:
    for i in range(len(out)):
        parts = thirds(hash3(key, 0, 0, i))
        for axis in range(3):
            out[i, axis] = int(parts[axis] * shape[axis])


def _detector(
    parameters: PhantomParameters, shape: Zyx, step: int, coarse: Prepass, window: tuple[float, float]
) -> Detector:
    scan, seed = parameters.scan, parameters.seed
    reach = max(shape[1:]) / 2.0
    return Detector(
        hardening=scan.hardening,
        ring=scan.ring / np.sqrt(step),
        strong_rings=scan.strong_rings,
        ring_run=float(scan.ring_run),
        halves=scan.arc == 180,
        axis_y=(shape[1] - 1) / 2.0 + scan.axis_offset[0] * 2.0 * reach,
        axis_x=(shape[2] - 1) / 2.0 + scan.axis_offset[1] * 2.0 * reach,
        reach=reach,
        step=float(step),
        noise=noise_level(scan) / step**1.5,
        noise_floor=scan.noise_floor,
        streaks=scan.streaks,
        sources=(coarse.densest + 0.5) / step - 0.5,
        source_reach=coarse.step / step / 2.0,
        low=window[0],
        high=window[1],
        top=scan.top,
        gains=gains_of(parameters, shape[0], step),
        noise_key=field_key(seed, f"noise {step}"),
        ring_key=field_key(seed, "rings"),
        streak_key=field_key(seed, "streaks"),
    )
