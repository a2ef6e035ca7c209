"""The volumes that several parts look at, each made once."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_memseg.geometry import Box, ceil_div, zyx
from napari_memseg.phantom.fly import Phantom, Rendered
from napari_memseg.phantom.labels import OUTSIDE
from napari_memseg.phantom.parameters import DIFFICULTIES as PRESETS
from napari_memseg.phantom.parameters import PhantomParameters

DIFFICULTIES = tuple(PRESETS)
THREADS, SLAB, LOOK = 2, 32, 64


@lru_cache(maxsize=4)
def small(difficulty: str, animal: str = "fly", seed: int = 0) -> Rendered:
    """Return a whole phantom of 256^3."""
    return whole(PhantomParameters.named("small", difficulty, animal=animal, seed=seed))


def whole(parameters: PhantomParameters) -> Rendered:
    """Render all of a phantom by two threads, slab by slab."""
    phantom = Phantom(parameters)
    return render(phantom, Box.whole(phantom.shape))


def render(phantom: Phantom, box: Box) -> Rendered:
    """Render a box by two threads, slab by slab."""
    phantom.prepare()
    with ThreadPoolExecutor(THREADS) as pool:
        parts = list(pool.map(phantom.render, _slabs(box)))
    return Rendered(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _slabs(box: Box) -> list[Box]:
    (first, *start), (last, *stop) = box.start, box.stop
    return [Box(zyx((z, *start)), zyx((min(z + SLAB, last), *stop))) for z in range(first, last, SLAB)]


def attenuation(phantom: Phantom, image: NDArray[Any]) -> NDArray[np.float32]:
    """Return grey values as attenuation relative to water."""
    low, high = phantom.window
    return (low + image.astype(np.float32) * ((high - low) / np.iinfo(image.dtype).max)).astype(np.float32)


@lru_cache(maxsize=1)
def mode_b(difficulty: str) -> NDArray[Any]:
    """Return the image of a phantom of 256^3 in mode B: the same animal, by projection."""
    return whole(replace(PhantomParameters.named("small", difficulty), mode="projection")).image


def truths(phantom: Phantom, box: Box) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    """Return labels and instances of a box, without forming an image."""
    level = phantom.levels[0]
    phantom.prepare()
    with ThreadPoolExecutor(THREADS) as pool:
        parts = list(pool.map(level.voxels, _slabs(box)))
    return np.concatenate([p.labels for p in parts]), np.concatenate([p.instances for p in parts])


def around(phantom: Phantom) -> Box:
    """Return a box that the animal lies in, from a coarse look."""
    step = max(max(phantom.shape) // LOOK, 1)
    shape = ceil_div(phantom.shape, zyx([step] * 3))
    coarse = Phantom(replace(phantom.parameters, shape=shape, voxel_um=phantom.voxel_um * step))
    places = np.argwhere(truths(coarse, Box.whole(shape))[0] != OUTSIDE)
    return Box(zyx((places.min(0) - 1) * step), zyx((places.max(0) + 2) * step)).clip(phantom.shape)
