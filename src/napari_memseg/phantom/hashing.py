"""Random numbers without a generator: a hash of what they are for and where they are.

Nothing is drawn in an order, so a block needs to know nothing of the others::

    (seed, field, lattice point) ──splitmix64──> 64 bits ──> a number in [0, 1)

The mixer is the finaliser of SplitMix64: Steele, Lea, Flood (2014),
https://doi.org/10.1145/2660193.2660195
"""

from __future__ import annotations

from zlib import crc32

import numpy as np

from napari_memseg.phantom.compiled import compiled

MASK = (1 << 64) - 1


@compiled
def mix(value: np.uint64) -> np.uint64:
    """Return 64 bits that look random for each 64 bits that come."""
    value += np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@compiled
def hash3(key: np.uint64, z: int, y: int, x: int) -> np.uint64:
    """Return 64 bits for a lattice point (z, y, x), each in ±2**20, of the field ``key``."""
    point = (np.uint64(z & 0x1FFFFF) << np.uint64(42)) | (np.uint64(y & 0x1FFFFF) << np.uint64(21))
    return mix(key ^ mix(point | np.uint64(x & 0x1FFFFF)))


@compiled
def unit(bits: np.uint64) -> float:
    """Return a number in [0, 1) of the upper 53 bits."""
    return float(bits >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@compiled
def thirds(bits: np.uint64) -> tuple[float, float, float]:
    """Return three numbers in [0, 1), of 21 bits each."""
    scale = 1.0 / 2097152.0
    return (
        float(bits & np.uint64(0x1FFFFF)) * scale,
        float((bits >> np.uint64(21)) & np.uint64(0x1FFFFF)) * scale,
        float(bits >> np.uint64(43)) * scale,
    )


def field_key(seed: int, field: str) -> np.uint64:
    """Return the key of one named field of random numbers."""
    return np.uint64(_mix((seed & MASK) ^ _mix(crc32(field.encode()))))


class Draws:
    """Named random numbers of one animal; the same name and index give the same number.

    Parameters
    ----------
    seed : int
        Of the animal.
    spread : float
        How far a size strays, as a fraction of it (one standard deviation).
    """

    def __init__(self, seed: int, spread: float = 0.12) -> None:
        self._seed = seed
        self._spread = spread

    def uniform(self, field: str, index: int = 0, low: float = 0.0, high: float = 1.0) -> float:
        """Return a number between ``low`` and ``high``."""
        bits = _mix(int(field_key(self._seed, field)) ^ _mix(index))
        return low + (high - low) * (bits >> 11) / 2.0**53

    def normal(self, field: str, index: int = 0) -> float:
        """Return a number of the standard normal distribution, cut at ±2.5."""
        radius = np.sqrt(-2.0 * np.log(1.0 - self.uniform(field, 2 * index)))
        value = radius * np.cos(2.0 * np.pi * self.uniform(field, 2 * index + 1))
        return float(np.clip(value, -2.5, 2.5))

    def size(self, mean: float, field: str, index: int = 0) -> float:
        """Return a length that strays from ``mean`` as animals do."""
        return mean * (1.0 + self._spread * self.normal(field, index))


def _mix(value: int) -> int:
    """Mix 64 bits as ``mix`` does, in whole numbers of Python."""
    value = (value + 0x9E3779B97F4A7C15) & MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)
