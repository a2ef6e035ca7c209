"""Render a cube block by block, keep nothing, and print what it cost, as JSON.

    python -m figures.blockwise EDGE EVERY THREADS

One of EVERY blocks is rendered, by so many threads.
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from peers.measure import Stopwatch, peak_resident

from napari_memseg.geometry import Box, cell_box, cells
from napari_memseg.phantom.fly import Phantom
from napari_memseg.phantom.labels import OUTSIDE
from napari_memseg.phantom.parameters import PhantomParameters

BLOCK = 64, 128, 128
DENSE = 0.5
"""Part of a block from which it counts as mostly animal."""


def main() -> None:
    """Render, and print."""
    edge, every, threads = map(int, sys.argv[1:])
    tiny = Phantom(PhantomParameters.named("tiny"))
    tiny.render(Box.whole(tiny.shape))  # compiled, or fetched from the cache
    phantom = Phantom(PhantomParameters.named((edge,) * 3, "normal"))
    with Stopwatch() as watch, ThreadPoolExecutor(threads) as pool:
        phantom.prepare()
        boxes = _boxes(phantom, every)
        found = list(pool.map(lambda box: _cost(phantom, box), boxes))
    dense = [row for row in found if row["part"] > DENSE]
    answer = {
        "wall": watch.wall,
        "cpu": watch.cpu,
        "voxels": sum(row["voxels"] for row in found),
        "dense voxels": sum(row["voxels"] for row in dense),
        "dense seconds": sum(row["cpu"] for row in dense),
        "peak": peak_resident(),
    }
    print(json.dumps(answer))


def _boxes(phantom: Phantom, every: int) -> list[Box]:
    whole = Box.whole(phantom.shape)
    return [cell_box(cell, BLOCK, phantom.shape) for cell in cells(whole, BLOCK)][::every]


def _cost(phantom: Phantom, box: Box) -> dict[str, Any]:
    start = time.thread_time()
    found = phantom.render(box)
    part = float(np.mean(found.truth != OUTSIDE))
    return {"voxels": box.size, "cpu": time.thread_time() - start, "part": part}


if __name__ == "__main__":
    main()
