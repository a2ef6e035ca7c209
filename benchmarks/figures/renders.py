"""The volumes that several parts look at, each made once."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_memseg.geometry import Box
from napari_memseg.phantom.fly import Phantom, Rendered
from napari_memseg.phantom.parameters import DIFFICULTIES as PRESETS
from napari_memseg.phantom.parameters import PhantomParameters

DIFFICULTIES = tuple(PRESETS)
THREADS = 2


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
    phantom.render(Box.at(box.start, (1, 1, 1)))  # so that threads need not wait for what is made once
    slabs = [Box((z, *box.start[1:]), (min(z + 32, box.stop[0]), *box.stop[1:])) for z in range(box.start[0], box.stop[0], 32)]
    with ThreadPoolExecutor(THREADS) as pool:
        parts = list(pool.map(phantom.render, slabs))
    return Rendered(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def attenuation(phantom: Phantom, image: NDArray[Any]) -> NDArray[np.float32]:
    """Return grey values as attenuation relative to water."""
    low, high = phantom.window
    return (low + image.astype(np.float32) * ((high - low) / np.iinfo(image.dtype).max)).astype(np.float32)


@lru_cache(maxsize=1)
def mode_b(difficulty: str) -> NDArray[Any]:
    """Return the image of a phantom of 256^3 in mode B: the same animal, by projection."""
    return whole(replace(PhantomParameters.named("small", difficulty), mode="projection")).image
