"""What the scanner adds to a blurred slice: hardening, rings, noise, streaks, and its grey values."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from napari_memseg.phantom.compiled import compiled
from napari_memseg.phantom.hashing import field_key, hash3, unit
from napari_memseg.phantom.noise import bell, between_knots, line_value
from napari_memseg.phantom.tissue import HAEMOLYMPH_VALUE, MUSCLE_VALUE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_memseg.phantom.parameters import PhantomParameters, ScanParameters
    from napari_memseg.phantom.prepass import Prepass

NOISE_RADIUS = 6
"""Voxels around a box, in its planes, that its noise is made of."""
STRONG = 6.0
"""A strong ring, in standard deviations of the others."""
STREAKS = 5
"""Pairs of rays from each dense part."""


class Detector(NamedTuple):
    """The numbers of one scan, in voxels of the level that is computed."""

    hardening: float
    ring: float
    strong_rings: int
    ring_run: float
    halves: bool
    """Whether left and right of the axis see different columns: a scan over 180 degrees."""
    axis_y: float
    axis_x: float
    reach: float
    """Half of the field of view."""
    step: float
    """Voxels of level 0 in one."""
    noise: float
    noise_floor: float
    streaks: float
    sources: NDArray[np.float64]
    """(n, 3) places (z, y, x) of dense parts."""
    source_reach: float
    """Slices over which a dense part makes streaks."""
    low: float
    high: float
    """Window of grey values."""
    top: float
    """The highest grey value."""
    gains: NDArray[np.float64]
    """Of each slice."""
    noise_key: np.uint64
    ring_key: np.uint64
    streak_key: np.uint64


def noise_filter() -> NDArray[np.float32]:
    """Return the square of weights that gives white noise the spectrum of filtered back projection.

    Its power is that of the ramp filter, |f| times the square of the Hann window (Riederer, Pelc, Chesler
    1978, https://doi.org/10.1088/0031-9155/23/3/004), and of linear interpolation between detector columns,
    sinc(f)^4. The weights sum to 0 and their squares to 1.
    """
    size = 64
    f = np.fft.fftfreq(size)
    far = np.hypot(f[:, None], f[None, :])
    window = np.where(far < 0.5, 0.5 + 0.5 * np.cos(2 * np.pi * far), 0.0)
    kernel = np.fft.fftshift(np.fft.ifft2(np.sqrt(far) * window * np.sinc(far) ** 2).real)
    cut = slice(size // 2 - NOISE_RADIUS, size // 2 + NOISE_RADIUS + 1)
    weights = kernel[cut, cut]
    weights = weights - weights.mean()
    return (weights / np.sqrt((weights**2).sum())).astype(np.float32)


@compiled
def white_noise(key: np.uint64, start: NDArray[np.int64], out: NDArray[np.float32]) -> None:
    """Fill ``out`` with noise of variance 1 that is white in the plane and goes over from slice to slice.

    The box begins at ``start``; one slice more on either side is drawn.
    """
    nz, ny, nx = out.shape
    room = np.empty((nz + 2, nx), np.float32)
    side, middle = np.float32(0.4082483), np.float32(0.8164966)
    for y in range(ny):
        for z in range(nz + 2):
            for x in range(nx):
                room[z, x] = np.float32(3.4641016) * np.float32(
                    unit(hash3(key, start[0] + z - 1, start[1] + y, start[2] + x)) - 0.5
                )
        for z in range(nz):
            for x in range(nx):
                out[z, y, x] = side * (room[z, x] + room[z + 2, x]) + middle * room[z + 1, x]


@compiled
def _integral(coarse: Prepass, step: float, z: float, y: float, x: float) -> float:
    """Interpolate the mean line integral at a voxel."""
    c = coarse.integral
    nz, ny, nx = c.shape
    scale = step / coarse.step
    a = min(max((z + 0.5) * scale - 0.5, 0.0), nz - 1.0)
    b = min(max((y + 0.5) * scale - 0.5, 0.0), ny - 1.0)
    d = min(max((x + 0.5) * scale - 0.5, 0.0), nx - 1.0)
    i, j, k = int(a), int(b), int(d)
    i2, j2, k2 = min(i + 1, nz - 1), min(j + 1, ny - 1), min(k + 1, nx - 1)
    a, b, d = a - i, b - j, d - k
    near = (c[i, j, k] * (1 - d) + c[i, j, k2] * d) * (1 - b) + (c[i, j2, k] * (1 - d) + c[i, j2, k2] * d) * b
    far = (c[i2, j, k] * (1 - d) + c[i2, j, k2] * d) * (1 - b) + (
        c[i2, j2, k] * (1 - d) + c[i2, j2, k2] * d
    ) * b
    return near * (1 - a) + far * a


@compiled
def harden(
    values: NDArray[np.float32], start: NDArray[np.int64], detector: Detector, coarse: Prepass
) -> None:
    """Darken, in place, what lies behind much else: value x (1 - c P)."""
    nz, ny, nx = values.shape
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                passed = _integral(coarse, detector.step, start[0] + z, start[1] + y, start[2] + x)
                values[z, y, x] *= np.float32(1.0 - detector.hardening * passed / coarse.largest)


@compiled
def expose(
    values: NDArray[np.float32],
    noise: NDArray[np.float32],
    start: NDArray[np.int64],
    detector: Detector,
    coarse: Prepass,
    out: NDArray[np.uint16],
) -> None:
    """Add rings, noise and streaks, and turn attenuation into grey values."""
    nz, ny, nx = values.shape
    scale = detector.top / (detector.high - detector.low)
    for z in range(nz):
        at = start[0] + z
        gain = detector.gains[min(max(at, 0), len(detector.gains) - 1)]
        for y in range(ny):
            for x in range(nx):
                dy, dx = start[1] + y - detector.axis_y, start[2] + x - detector.axis_x
                value = values[z, y, x] + _ring(detector, at, dy, dx)
                passed = _integral(coarse, detector.step, at, start[1] + y, start[2] + x)
                floor = detector.noise_floor
                value += detector.noise * np.sqrt(floor + (1.0 - floor) * np.exp(passed)) * noise[z, y, x]
                if detector.streaks > 0.0:
                    value += _streak(detector, at, start[1] + y, start[2] + x)
                grey = (value * gain - detector.low) * scale
                out[z, y, x] = np.uint16(min(max(grey, 0.0), detector.top) + 0.5)


@compiled
def _ring(detector: Detector, z: int, dy: float, dx: float) -> float:
    """Return the error of the detector's column that sees this distance from the axis."""
    if detector.ring <= 0.0:
        return 0.0
    far = np.sqrt(dy * dy + dx * dx)
    column = int(far * detector.step + 0.5)
    if detector.halves:
        column = 2 * column + (1 if dx > 0.0 else 0)
    run = detector.ring_run * (0.25 + 1.5 * unit(hash3(detector.ring_key, 1, 0, column)))
    run = min(max(run, 20.0), 400.0)
    part = int(np.floor(z * detector.step / run + unit(hash3(detector.ring_key, 2, 0, column))))
    value = detector.ring * bell(hash3(detector.ring_key, 3, part, column))
    for i in range(detector.strong_rings):
        where = 0.05 + 0.85 * unit(hash3(detector.ring_key, 4, 0, i))
        if abs(far - where * detector.reach) < 0.6:
            value += (
                STRONG * detector.ring * (1.0 if hash3(detector.ring_key, 5, 0, i) & np.uint64(1) else -1.0)
            )
    return value


@compiled
def _streak(detector: Detector, z: float, y: float, x: float) -> float:
    """Return the rays that go out from dense parts, weaker with distance (in voxels of level 0)."""
    total = 0.0
    for s in range(len(detector.sources)):
        if abs(z - detector.sources[s, 0]) > detector.source_reach:
            continue
        dy = (y - detector.sources[s, 1]) * detector.step
        dx = (x - detector.sources[s, 2]) * detector.step
        far = max(np.sqrt(dy * dy + dx * dx), 2.0)
        for ray in range(STREAKS):
            angle = np.pi * unit(hash3(detector.streak_key, s, 0, ray))
            off = dy * np.cos(angle) - dx * np.sin(angle)
            if abs(off) < 4.0:
                sign = 1.0 if ray & 1 else -1.0
                total += sign * detector.streaks * min(20.0 / far, 3.0) * np.exp(-0.5 * off * off / 1.44)
    return total


def slice_gains(
    depth: int,
    fine_depth: int,
    step: int,
    z_gain: float,
    flicker: float,
    seams: tuple[int, float],
    key: np.uint64,
) -> NDArray[np.float64]:
    """Return the gain of each slice: drift, flicker, and steps at ``seams`` (slices between, largest)."""
    z = np.minimum((np.arange(depth) + 0.5) * step - 0.5, fine_depth - 1.0)
    at = z / max(fine_depth / 4.0, 1.0)
    knots = np.array([line_value(key, k) for k in range(7)]).clip(-1, 1)
    gains = 1.0 + z_gain * between_knots(knots, at)
    gains *= 1.0 + flicker * np.array([line_value(key, 1000 + int(i)) for i in z])
    every, largest = seams
    if every:
        steps = np.array([0.0, *[line_value(key, -k - 1) for k in range(1, fine_depth // every + 2)]]).clip(
            -1, 1
        )
        gains *= 1.0 + largest * steps[(z // every).astype(int)]
    return np.asarray(gains)


def gains_of(parameters: PhantomParameters, depth: int, step: int) -> NDArray[np.float64]:
    """Return the gain of each of the ``depth`` slices of a level."""
    scan, key = parameters.scan, field_key(parameters.seed, "gains")
    seams = (scan.seam_every, scan.seam_gain)
    return slice_gains(depth, parameters.shape[0], step, scan.z_gain, scan.flicker, seams, key)


def noise_level(scan: ScanParameters) -> float:
    """Return the noise's standard deviation, relative to water."""
    return (MUSCLE_VALUE - HAEMOLYMPH_VALUE) / scan.snr
