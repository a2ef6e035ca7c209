"""See a slice as a microCT sees it: project, count photons, filter, project back.

The beam is parallel, so a slice is all that one row of the detector sees::

    light, heavy ──rays──> path lengths ──8 energies──> photons ──gain, drift, noise──> counts
        slice <──back projection── filtered views <──ramp, window── -log, dead columns mended

Each random number is a hash of (seed, field, row, angle, column): a slice can be made alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from napari_memseg.errors import InputError
from napari_memseg.phantom.compiled import compiled
from napari_memseg.phantom.hashing import Draws, field_key, hash3, unit
from napari_memseg.phantom.spectrum import attenuation_per_cm, effective_water_per_cm, photon_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

    F32 = NDArray[np.float32]
    F64 = NDArray[np.float64]

Arc = Literal[180, 360]
Window = Literal["hann", "hamming"]

AIR_COLUMNS = 8
"""Columns of the detector on each side that see air at any angle."""
MAX_ROW = 2**20
CM_PER_UM = 1e-4

_LIMITS = {
    "angles": (2, 100_000),
    "counts": (100.0, 1e15),
    "readout_sigma": (0.0, 1e4),
    "axis_offset": (0.0, 2.0),
    "gain_sigma": (0.0, 0.1),
    "dead_pixels": (0.0, 0.1),
    "drift": (0.0, 0.1),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectionScan:
    """How to scan, and what goes wrong in it."""

    angles: int = 800
    """Views, evenly over the arc; 400 to 1800 are usual."""
    arc: Arc = 180
    """Degrees that the animal is turned by."""
    counts: float = 2e4
    """Photons per detector pixel and view without the animal, all frames of the view together."""
    readout_sigma: float = 10.0
    """Noise of the readout, in counts."""
    axis_offset: float = 0.0
    """How far the axis is off the detector's centre, in pixels; reconstruction does not know of it."""
    gain_sigma: float = 3e-4
    """What the flat field leaves of each column's gain error, as a fraction: rings."""
    dead_pixels: float = 0.0
    """Fraction of columns that are dead, and filled in from their neighbours."""
    drift: float = 0.0
    """How far the flat field strays while the animal turns, as a fraction."""
    window: Window = "hann"
    """What tames the ramp filter at high frequencies."""
    seed: int = 0
    """Of noise and errors."""

    def __post_init__(self) -> None:
        for name, (low, high) in _LIMITS.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(f"{name} must be from {low} to {high}, got {value}: set it within.")
        if self.angles != int(self.angles):
            raise InputError(f"angles must be a whole number, got {self.angles}: round it.")
        if self.arc not in get_args(Arc):
            raise InputError(f"arc must be 180 or 360 degrees, got {self.arc}: choose one of them.")
        if self.window not in get_args(Window):
            raise InputError(f"window must be 'hann' or 'hamming', got {self.window!r}: choose one of them.")


def reconstruct_slice(light: F32, heavy: F32, row: int, voxel_um: float, scan: ProjectionScan) -> F32:
    """Scan one slice and reconstruct it by filtered back projection.

    Kak & Slaney (1988), chapter 3, https://doi.org/10.1137/1.9780898719277

    Parameters
    ----------
    light, heavy : (y, x) float32
        Linear attenuation relative to water at 25 keV. With energy, ``light`` changes
        as water does (water is 1.0 in it) and ``heavy`` as calcium does.
    row : int
        Row of the detector, which is z: each has its own noise and rings.
    voxel_um : float
        Edge of a voxel, and of a detector pixel.
    scan : ProjectionScan
        How to scan. The axis passes through the middle of the slice.

    Returns
    -------
    (y, x) float32
        Air is 0 and a thin layer of water 1: the values are divided by what the whole
        spectrum sees as the attenuation of water. Thick water reads less, as in a scanner.

    Raises
    ------
    InputError
        If the maps are not two slices of one size, or row or voxel size are impossible.
    """
    _check_slice(light, heavy, row, voxel_um)
    columns = int(np.ceil(np.hypot(*light.shape))) + 2 * AIR_COLUMNS
    voxel_cm = voxel_um * CM_PER_UM
    turns = np.arange(scan.angles) * (np.deg2rad(scan.arc) / scan.angles)
    directions = np.stack([np.cos(turns), np.sin(turns)], axis=1)  # (angle, 2)
    axis = (columns - 1) / 2
    thin, thick = (
        _line_integrals(part, directions, axis + scan.axis_offset, columns) for part in (light, heavy)
    )
    photons = _transmission(thin, thick, attenuation_per_cm() * voxel_cm, photon_weights())
    views = _filtered(-np.log(_measured(photons, row, scan)), scan.window)
    image = np.zeros(light.shape, np.float32)
    _back_project(views.astype(np.float32), directions, axis, image)
    image *= np.float32(np.pi / scan.angles / (effective_water_per_cm() * voxel_cm))
    return image


def _check_slice(light: F32, heavy: F32, row: int, voxel_um: float) -> None:
    if light.ndim != 2 or light.shape != heavy.shape or light.size == 0:
        raise InputError(
            f"light and heavy must be two slices (y, x) of one size, got {light.shape} and {heavy.shape}: "
            "cut both from the same plane."
        )
    if not 0 <= row < MAX_ROW:
        raise InputError(f"row must be from 0 to {MAX_ROW - 1}, got {row}: count it from the first slice.")
    if not 0 < voxel_um < np.inf:
        raise InputError(f"voxel_um must be above 0, got {voxel_um}: give the voxel's edge in micrometres.")


def _line_integrals(image: F32, directions: F64, axis: float, columns: int) -> F64:
    """Return what the rays of each view sum up, in voxels: (angle, column)."""
    views = np.zeros((len(directions), columns))
    upright, turned = _framed(image), _framed(image.T)
    _project(upright, _spans(upright), turned, _spans(turned), directions, axis, views)
    return views


def _framed(image: F32) -> F32:
    """Put zeros before and behind each line, so that rays need no border."""
    return np.ascontiguousarray(np.pad(image, ((0, 0), (1, 2))), np.float32)


def _spans(framed: F32) -> NDArray[np.int64]:
    """Return the first and last column of each line that is not zero; an empty line ends before it begins."""
    filled = framed != 0
    first = filled.argmax(axis=1)
    last = framed.shape[1] - 1 - filled[:, ::-1].argmax(axis=1)
    return np.stack([first, np.where(filled.any(axis=1), last, -1)], axis=1)


@compiled
def _project(
    upright: F32,
    upright_spans: NDArray[np.int64],
    turned: F32,
    turned_spans: NDArray[np.int64],
    directions: F64,
    axis: float,
    views: F64,
) -> None:
    """Trace each view through whichever copy of the slice its rays cross steeply."""
    for index in range(len(directions)):
        cosine, sine = directions[index]
        if abs(cosine) >= abs(sine):
            _trace(upright, upright_spans, cosine, sine, axis, views[index])
        else:
            _trace(turned, turned_spans, sine, cosine, axis, views[index])


@compiled
def _trace(
    framed: F32, spans: NDArray[np.int64], along: float, across: float, axis: float, view: F64
) -> None:
    """Sum a view's rays where they cross each line, between two voxels.

    Joseph (1982), https://doi.org/10.1109/TMI.1982.4307572
    """
    lines = len(framed)
    middle = (framed.shape[1] - 2) / 2  # of the framed columns
    for line in range(lines):
        first, last = spans[line]
        if last < first:
            continue
        foot = axis + (line - (lines - 1) / 2) * across  # column of the detector that sees the middle
        reach = (first - 1 - middle) * along + foot, (last + 1 - middle) * along + foot
        low, high = int(np.ceil(min(reach))), int(np.floor(max(reach)))
        for column in range(low, high + 1):
            place = middle + (column - foot) / along
            left = int(place)
            value = framed[line, left]
            view[column] += value + (place - left) * (framed[line, left + 1] - value)
    view /= abs(along)


@compiled
def _back_project(views: F32, directions: F64, axis: float, image: F32) -> None:
    """Add to each voxel what each view has where the voxel was seen."""
    height, width = image.shape
    for y in range(height):
        for index in range(len(directions)):
            cosine, sine = directions[index]
            foot = axis + (y - (height - 1) / 2) * sine - (width - 1) / 2 * cosine
            for x in range(width):
                place = foot + x * cosine
                left = int(place)
                value = views[index, left]
                image[y, x] += value + np.float32(place - left) * (views[index, left + 1] - value)


@compiled
def _transmission(light: F64, heavy: F64, attenuation: F64, weights: F64) -> F64:
    """Return the share of all photons that passes, by Beer and Lambert at each energy."""
    passed = np.ones(light.shape)
    for index in range(light.shape[0]):
        for column in range(light.shape[1]):
            thin, thick = light[index, column], heavy[index, column]
            if thin == 0.0 and thick == 0.0:
                continue
            total = 0.0
            for energy in range(len(weights)):
                depth = attenuation[0, energy] * thin + attenuation[1, energy] * thick
                total += weights[energy] * np.exp(-depth)
            passed[index, column] = total
    return passed


def _measured(photons: F64, row: int, scan: ProjectionScan) -> F64:
    """Return what the detector reports of the photons, after its flat field; never below one count."""
    angles, columns = photons.shape
    gain, dead = _detector_row(row, columns, scan)
    counts = photons * (scan.counts * gain) * _flat_field_drift(row, angles, columns, scan)
    keys = field_key(scan.seed, "photons"), field_key(scan.seed, "readout")
    _expose(counts, row, float(scan.readout_sigma), *keys)
    np.maximum(counts, 1.0, out=counts)
    _mend(counts, dead)
    return counts / scan.counts


def _detector_row(row: int, columns: int, scan: ProjectionScan) -> tuple[F64, NDArray[np.bool_]]:
    """Return the gain that is left after the flat field, and which columns are dead."""
    noise = _row_noise(field_key(scan.seed, "gain"), field_key(scan.seed, "dead"), row, columns)
    return 1.0 + scan.gain_sigma * noise[0], noise[1] < scan.dead_pixels


def _flat_field_drift(row: int, angles: int, columns: int, scan: ProjectionScan) -> F64:
    """Return how the beam strays from the flat field: in level, tilt and bend, slowly in time and row."""
    time = np.pi * np.arange(angles) / angles
    place = np.pi * np.arange(columns) / columns
    ways = [(when, where) for when in (1, 2) for where in (0, 1, 2)]
    drift = np.ones((angles, columns))
    for index, (when, where) in enumerate(ways if scan.drift else ()):
        phase = 2 * np.pi * Draws(scan.seed).uniform("drift", index) + row / 200
        grown = (1 - np.cos(when * time)) / 2  # 0 in the first view
        drift += scan.drift / np.sqrt(3) * np.cos(phase) * np.outer(grown, np.cos(where * place))
    return drift


def _mend(counts: F64, dead: NDArray[np.bool_]) -> None:
    """Fill dead columns in place, on a line between the live ones beside them."""
    live, gaps = np.flatnonzero(~dead), np.flatnonzero(dead)
    behind = np.searchsorted(live, gaps)
    left, right = live[np.maximum(behind - 1, 0)], live[np.minimum(behind, len(live) - 1)]
    share = (gaps - left) / np.maximum(right - left, 1)
    counts[:, gaps] = counts[:, left] + share * (counts[:, right] - counts[:, left])


@compiled
def _normal(bits: np.uint64) -> float:
    """Return a number of the standard normal distribution. Box & Muller (1958), https://doi.org/10.1214/aoms/1177706645."""
    radius = np.sqrt(-2.0 * np.log((float(bits >> np.uint64(32)) + 0.5) / 4294967296.0))
    turn = float(bits & np.uint64(0xFFFFFFFF)) / 4294967296.0
    return float(radius * np.cos(2.0 * np.pi * turn))


@compiled
def _row_noise(gain_key: np.uint64, dead_key: np.uint64, row: int, columns: int) -> F64:
    """Return for each column a normal number, and one in [0, 1)."""
    noise = np.empty((2, columns))
    for column in range(columns):
        noise[0, column] = _normal(hash3(gain_key, row, 0, column))
        noise[1, column] = unit(hash3(dead_key, row, 0, column))
    return noise


@compiled
def _expose(
    counts: F64, row: int, readout_sigma: float, photon_key: np.uint64, readout_key: np.uint64
) -> None:
    """Replace expected by counted photons: Poisson's below 50, above it the normal of the same variance."""
    for index in range(counts.shape[0]):
        for column in range(counts.shape[1]):
            mean = counts[index, column]
            noise = _normal(hash3(readout_key, row, index, column))
            if mean < 50.0:
                photons = _poisson(mean, unit(hash3(photon_key, row, index, column)))
                counts[index, column] = photons + readout_sigma * noise
            else:
                counts[index, column] = mean + np.sqrt(mean + readout_sigma * readout_sigma) * noise


@compiled
def _poisson(mean: float, quantile: float) -> float:
    """Return how many photons came, by inversion of the cumulative distribution."""
    photons = 0.0
    chance = np.exp(-mean)
    total = chance
    while total < quantile and photons < 200.0:
        photons += 1.0
        chance *= mean / photons
        total += chance
    return photons


def _filtered(views: F64, window: Window) -> F64:
    """Sharpen each view by the ramp, tamed by the window; zeros behind it keep its ends apart."""
    columns = views.shape[1]
    size = 1 << (2 * columns - 1).bit_length()
    response = _ramp(size) * _taper(size, window)
    return np.fft.irfft(np.fft.rfft(views, size) * response, size)[:, :columns]


def _ramp(size: int) -> F64:
    """Return the frequency response of the ramp, cut off at the pixel's highest frequency.

    Ramachandran & Lakshminarayanan (1971), https://doi.org/10.1073/pnas.68.9.2236
    """
    distance = np.minimum(np.arange(size), size - np.arange(size))
    kernel = np.zeros(size)
    odd = distance % 2 == 1
    kernel[odd] = -1.0 / (np.pi * distance[odd]) ** 2
    kernel[0] = 0.25
    return np.fft.rfft(kernel).real


def _taper(size: int, window: Window) -> F64:
    """Return the window from frequency 0, where it is 1, to the highest."""
    floor = {"hann": 0.5, "hamming": 0.54}[window]
    return floor + (1 - floor) * np.cos(np.linspace(0, np.pi, size // 2 + 1))
