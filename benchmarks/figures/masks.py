"""Parts of the phantom that are looked at: some slices, the inside of a material, the body without legs."""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from figures.renders import attenuation, render
from napari_memseg.geometry import Box
from napari_memseg.phantom.fly import Phantom
from napari_memseg.phantom.labels import OUTSIDE
from napari_memseg.phantom.parameters import PhantomParameters

BAND = 112, 144
"""Slices that rings, cupping and noise are looked at in: through the abdomen."""
NOISELESS, UNCLIPPED = 1e6, 1e-6
"""A signal to noise, and a part of the voxels that are clipped."""

Image = NDArray[Any]
Mask = NDArray[np.bool_]


@lru_cache(maxsize=3)
def noise_of(difficulty: str) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return the noise alone in some slices, as attenuation, and the truth there."""
    parameters = PhantomParameters.named("small", difficulty).with_scan(clip=UNCLIPPED)
    noisy, truth = slices_of(parameters)
    clean, _ = slices_of(parameters.with_scan(snr=NOISELESS))
    return noisy - clean, truth


def slices_of(parameters: PhantomParameters) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return attenuation and truth of those slices."""
    phantom = Phantom(parameters)
    found = render(phantom, Box((BAND[0], 0, 0), (BAND[1], *phantom.shape[1:])))
    return attenuation(phantom, found.image), found.truth


def inside_of(mask: Mask, margin: int) -> Mask:
    """Return a mask without its border."""
    return np.asarray(ndimage.binary_erosion(mask, iterations=margin, border_value=1))


def body_of(truth: NDArray[np.uint8]) -> tuple[Mask, Mask]:
    """Return the body without legs and wings, and what is not near those."""
    animal = truth != OUTSIDE
    body = ndimage.binary_opening(animal, iterations=5)
    return body, ~ndimage.binary_dilation(animal & ~body, iterations=4)


def box_of(mask: Mask, margin: int) -> tuple[slice, ...]:
    """Return the box that a mask fills, with a margin."""
    (found,) = ndimage.find_objects(mask.astype(np.uint8))
    return tuple(slice(max(span.start - margin, 0), span.stop + margin) for span in found)
