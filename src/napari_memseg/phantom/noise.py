"""Random fields that are a function of the place: smooth noise, and cells in two and three dimensions.

Cells are those of Worley (1996), https://doi.org/10.1145/237170.237267: each box of a lattice holds one
seed, and a place belongs to the nearest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_memseg.phantom.compiled import compiled
from napari_memseg.phantom.hashing import hash3, mix, thirds, unit

if TYPE_CHECKING:
    from numpy.typing import NDArray


@compiled
def lattice_value(key: np.uint64, i: int, j: int, k: int) -> float:
    """Return a number in [-1, 1) for a lattice point."""
    return 2.0 * unit(hash3(key, i, j, k)) - 1.0


@compiled
def smooth_noise(key: np.uint64, u: float, v: float, w: float) -> float:
    """Return a smooth random number in [-1, 1] that changes over about one unit of length."""
    i, j, k = int(np.floor(u)), int(np.floor(v)), int(np.floor(w))
    a, b, c = u - i, v - j, w - k
    a, b, c = a * a * (3.0 - 2.0 * a), b * b * (3.0 - 2.0 * b), c * c * (3.0 - 2.0 * c)
    total = 0.0
    for di in range(2):
        wi = a if di else 1.0 - a
        for dj in range(2):
            wj = wi * (b if dj else 1.0 - b)
            for dk in range(2):
                total += wj * (c if dk else 1.0 - c) * lattice_value(key, i + di, j + dj, k + dk)
    return total


@compiled
def cells3(key: np.uint64, u: float, v: float, w: float, jitter: float) -> tuple[float, float, int, int, int]:
    """Return the distances from the nearest and the second nearest seed, and whose the nearest is.

    Lengths are in cells; a seed strays from the middle of its box by up to ``jitter`` / 2.
    """
    ci, cj, ck = int(np.floor(u)), int(np.floor(v)), int(np.floor(w))
    first, second, bi, bj, bk = 1e9, 1e9, ci, cj, ck
    for i in range(ci - 1, ci + 2):
        for j in range(cj - 1, cj + 2):
            for k in range(ck - 1, ck + 2):
                a, b, c = thirds(hash3(key, i, j, k))
                du = i + 0.5 + jitter * (a - 0.5) - u
                dv = j + 0.5 + jitter * (b - 0.5) - v
                dw = k + 0.5 + jitter * (c - 0.5) - w
                far = du * du + dv * dv + dw * dw
                if far < first:
                    second = first
                    first, bi, bj, bk = far, i, j, k
                elif far < second:
                    second = far
    return np.sqrt(first), np.sqrt(second), bi, bj, bk


@compiled
def cells2(key: np.uint64, number: int, v: float, w: float, jitter: float) -> tuple[float, float, int, int]:
    """Return the same as ``cells3`` in the plane; rows are shifted by half a cell, as packed fibres lie.

    ``number`` tells planes apart.
    """
    height = 0.8660254037844386
    cj = int(np.floor(v / height))
    first, second, bj, bk = 1e9, 1e9, 0, 0
    for j in range(cj - 1, cj + 2):
        shift = 0.5 * (j & 1)
        ck = int(np.floor(w - shift))
        for k in range(ck - 1, ck + 2):
            a, b, _ = thirds(hash3(key, number, j, k))
            dv = (j + 0.5 + jitter * (a - 0.5)) * height - v
            dw = k + 0.5 + shift + jitter * (b - 0.5) - w
            far = dv * dv + dw * dw
            if far < first:
                second = first
                first, bj, bk = far, j, k
            elif far < second:
                second = far
    return np.sqrt(first), np.sqrt(second), bj, bk


@compiled
def bell(bits: np.uint64) -> float:
    """Return a number close to the normal distribution: the sum of four, with variance 1."""
    total = 0.0
    for part in range(4):
        total += float((bits >> np.uint64(16 * part)) & np.uint64(0xFFFF))
    return (total / 65536.0 - 2.0 + 2.0 / 65536.0) * 1.7320508075688772


def between_knots(values: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Go smoothly from value to value; ``at`` counts them from 0, and is less than the last."""
    k, t = at.astype(int), at - np.floor(at)
    t = t * t * (3.0 - 2.0 * t)
    return np.asarray(values[k] * (1.0 - t) + values[k + 1] * t)


@compiled
def line_value(key: np.uint64, index: int) -> float:
    """Return a number close to the normal distribution for a whole number."""
    return bell(mix(key ^ mix(np.uint64(index & 0xFFFFFFFF))))
