"""How fast it is, in how much memory, and what compiling is worth.

Each volume is rendered block by block in a process of its own, which keeps none of them. Voxels per second
and core are by CPU seconds, which other work on the machine changes less than those of the clock. Of large
volumes a sample of blocks is rendered, spread over all of each. The weight of numba is that of two
loops, written as plainly as numpy lets one; results are compared. Compiling is timed with an empty cache.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from figures.table import Table, spread
from napari_memseg.phantom.compiled import compiled
from napari_memseg.phantom.hashing import field_key
from napari_memseg.phantom.noise import cells3
from napari_memseg.phantom.optics import blur, gaussian

RUNS, REPEATS, THREADS = 3, 5, 2
VOLUMES = {128: 1, 256: 1, 512: 3, 1024: 31}
"""Edges of cubes, and of how many blocks one is rendered."""
POINTS, CUBE = 10**6, 128
SIGMA, RADIUS = 1.5, 6
JITTER = 0.7
MASK = np.uint64(0x1FFFFF)


def measure() -> Iterator[Table]:
    """Yield seconds, memory, and what numba saves and costs."""
    runs = [_child(256, 1) for _ in range(RUNS)]
    yield Table(
        f"256^3, mode A, normal, blocks of 64 x 128 x 128, {THREADS} threads",
        {
            "seconds": spread(run["wall"] for run in runs),
            "CPU seconds": spread(run["cpu"] for run in runs),
            "voxels per second and core, 10⁶": spread(run["voxels"] / run["cpu"] / 1e6 for run in runs),
        },
    )
    yield Table("by size", {f"{edge}^3": _row(_child(edge, every), every) for edge, every in VOLUMES.items()})
    yield Table(f"numba and numpy, seconds, one thread, n = {REPEATS}", {"cells": _cells(), "blur": _blur()})
    yield Table("the first box of 64^3, seconds", _first())


def _row(run: dict[str, Any], every: int) -> dict[str, Any]:
    return {
        "blocks": f"1 of {every}" if every > 1 else "all",
        "voxels": run["voxels"],
        "seconds": run["wall"],
        "CPU seconds": run["cpu"],
        "voxels per second and core, 10⁶": run["voxels"] / run["cpu"] / 1e6,
        "of blocks mostly animal": run["dense voxels"] / run["dense seconds"] / 1e6
        if run["dense seconds"]
        else "none",
        "peak RSS, MiB": run["peak"] / 2**20,
    }


def _child(edge: int, every: int) -> dict[str, Any]:
    call = [sys.executable, "-m", "figures.blockwise", str(edge), str(every), str(THREADS)]
    done = subprocess.run(call, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _first() -> dict[str, dict[str, Any]]:
    with tempfile.TemporaryDirectory() as cache:
        return {
            name: {"seconds": _start(cache), "n": 1}
            for name in ("with an empty cache of compiled code", "in the next process")
        }


def _start(cache: str) -> float:
    code = (
        "from napari_memseg.phantom.fly import Phantom; from napari_memseg.geometry import Box\n"
        "from napari_memseg.phantom.parameters import PhantomParameters\n"
        "import time; start = time.perf_counter(); phantom = Phantom(PhantomParameters.named('tiny'))\n"
        "phantom.render(Box.whole(phantom.shape)); print(time.perf_counter() - start)"
    )
    env = {**os.environ, "NUMBA_CACHE_DIR": cache}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    return float(done.stdout)


def _seconds(call: Callable[[], Any]) -> dict[str, Any]:
    call()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return spread(times)


def _compared(what: str, ours: Callable[[], Any], plain: Callable[[], Any]) -> dict[str, Any]:
    assert np.allclose(ours(), plain(), atol=1e-5), what
    rows = {"numba": _seconds(ours), "numpy": _seconds(plain)}
    cells = {f"{name}, {key}": rows[name][key] for name in rows for key in ("median", "lowest", "highest")}
    return {"what": what, **cells, "ratio of medians": rows["numpy"]["median"] / rows["numba"]["median"]}


def _cells() -> dict[str, Any]:
    key = field_key(0, "speed")
    points = np.random.default_rng(0).uniform(-100, 100, (POINTS, 3))
    return _compared(
        "nearest and second nearest seed of 10⁶ points",
        lambda: _cells_numba(key, points),
        lambda: cells_numpy(key, points),
    )


@compiled
def _cells_numba(key: np.uint64, points: NDArray[np.float64]) -> NDArray[np.float64]:
    out = np.empty((len(points), 2))
    for i in range(len(points)):
        first, second, _, _, _ = cells3(key, points[i, 0], points[i, 1], points[i, 2], JITTER)
        out[i, 0], out[i, 1] = first, second
    return out


def cells_numpy(key: np.uint64, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return for (n, 3) points the distances to the nearest two seeds, as ``cells3`` does."""
    corner = np.floor(points).astype(np.int64)
    best = np.full((len(points), 2), np.inf)
    for step in product((-1, 0, 1), repeat=3):
        cell = corner + step
        away = cell + 0.5 + JITTER * (_thirds(key, cell) - 0.5) - points
        far = (away**2).sum(axis=1)
        best[:, 1] = np.minimum(best[:, 1], np.maximum(best[:, 0], far))
        best[:, 0] = np.minimum(best[:, 0], far)
    return np.asarray(np.sqrt(best))


def _thirds(key: np.uint64, cell: NDArray[np.int64]) -> NDArray[np.float64]:
    z, y, x = (cell.astype(np.uint64) & MASK).T
    point = (z << np.uint64(42)) | (y << np.uint64(21)) | x
    bits = _mixed(key ^ _mixed(point))
    parts = bits & MASK, (bits >> np.uint64(21)) & MASK, bits >> np.uint64(43)
    return np.stack(parts, axis=1) / 2.0**21


def _mixed(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(value ^ (value >> np.uint64(31)))


def _blur() -> dict[str, Any]:
    values = np.random.default_rng(0).random((CUBE,) * 3, np.float32)
    return _compared(
        f"13 taps along each axis of {CUBE}^3",
        lambda: blur(values, SIGMA, SIGMA, RADIUS),
        lambda: blur_numpy(values),
    )


def blur_numpy(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the same as ``blur``: shifted copies, weighted and summed, along one axis after the other."""
    weights = gaussian(SIGMA, RADIUS)
    for axis in range(3):
        length = values.shape[axis] - 2 * RADIUS
        lines = np.moveaxis(values, axis, 0)
        total = sum(weight * lines[t : t + length] for t, weight in enumerate(weights))
        values = np.moveaxis(total, 0, axis)
    return values
