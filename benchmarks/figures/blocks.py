"""Whether a block made alone equals the same region of the whole, byte for byte.

The whole is one call; a hundred boxes, drawn at random, come from another phantom of equal parameters, by one
thread and by sixteen. What is compared are image, truth and instances.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from figures.renders import DIFFICULTIES, THREADS
from figures.table import Table
from napari_memseg.geometry import Box, zyx
from napari_memseg.phantom.fly import Phantom, Rendered
from napari_memseg.phantom.parameters import PhantomParameters

BLOCKS, LONGEST = 100, 48
WORKERS = 1, 16
ODD, LESS = (96, 110, 101), (60, 70, 64)


class Case(NamedTuple):
    """A phantom, and the level that is looked at."""

    parameters: PhantomParameters
    level: int = 0


def measure() -> Iterator[Table]:
    """Yield how many blocks are equal, for each phantom."""
    rows: dict[str, dict[str, Any]] = {}
    for name, case in _cases().items():
        phantom = Phantom(case.parameters)
        shape = phantom.levels[case.level].shape
        whole = phantom.levels[case.level].render(Box.whole(shape), THREADS)
        rows[f"{name}, {' x '.join(map(str, shape))}"] = {
            f"{workers} worker{'s' * (workers > 1)}": _equal(case, whole, workers) for workers in WORKERS
        }
    yield Table(f"blocks of {BLOCKS} that equal the whole", rows)


def _cases() -> dict[str, Case]:
    cases = {name: Case(PhantomParameters.named(ODD, name)) for name in DIFFICULTIES}
    animal = {
        "medium": "ethanol",
        "tube": True,
        "torn": True,
        "dust": True,
        "collapsed": True,
        "second": True,
    }
    odd = PhantomParameters.named(LESS, "hard", seed=7).with_animal(
        **animal, stain="iodine", shrinkage_um=20.0
    )
    cases["hard, all defects"] = Case(odd.with_scan(seam_every=20, bits=8))
    cases["normal, level 1"] = Case(PhantomParameters.named((300, 260, 280), "normal"), 1)
    cases["normal, mode B"] = Case(
        replace(PhantomParameters.named((10, 70, 61), "normal"), mode="projection")
    )
    cases["normal, small"] = Case(PhantomParameters.named("small", "normal"))
    return cases


def _equal(case: Case, whole: Rendered, workers: int) -> int:
    phantom = Phantom(case.parameters)
    shape = whole.truth.shape

    def is_equal(box: Box) -> bool:
        found = phantom.render(box, case.level)
        return all(
            np.array_equal(getattr(found, what), getattr(whole, what)[box.slices])
            for what in Rendered._fields
        )

    with ThreadPoolExecutor(workers) as pool:
        return sum(pool.map(is_equal, _boxes(shape)))


def _boxes(shape: tuple[int, ...]) -> list[Box]:
    draw = np.random.default_rng(0)
    found = []
    for _ in range(BLOCKS):
        size = [int(draw.integers(1, min(LONGEST, n) + 1)) for n in shape]
        start = [int(draw.integers(0, n - s + 1)) for n, s in zip(shape, size, strict=True)]
        found.append(Box.at(zyx(start), zyx(size)))
    return found
