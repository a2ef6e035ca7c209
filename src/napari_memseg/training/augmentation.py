"""Change a patch as another scan might have, and its labels with it.

Flips go along allowed axes alone, since left and right may be different classes.
Grey values change in brightness, contrast, gamma and noise, as in nnU-Net
(https://doi.org/10.1038/s41592-020-01008-z) but more mildly, because in microCT the
grey value itself means a material.

The transforms of batchgeneratorsv2 draw from the global generators of numpy and
torch. Patches are made in threads beside a network that draws from the same ones,
so no patch would be repeatable; hence these few lines with a generator of their own.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

CHANCE = 0.3
"""That one of the changes happens to a patch; each is drawn for itself."""
BRIGHTNESS = 0.05
"""Standard deviation of what is added, in windows."""
CONTRAST = 0.15
"""The most that contrast about the mean rises or falls, as a fraction."""
GAMMA = 0.2
"""The most that gamma rises or falls, as a fraction."""
NOISE = 0.05
"""The highest standard deviation of added noise, in windows."""


def draw_flips(allowed: frozenset[str], rng: np.random.Generator) -> tuple[int, ...]:
    """Return the axes to flip, counted from the last (-3 is z), each with even chances."""
    coins = rng.random(3) < 0.5  # always three, so that other draws do not depend on what is allowed
    return tuple(axis - 3 for axis, name in enumerate("zyx") if name in allowed and coins[axis])


def flip(array: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Mirror the last three axes of an image, of labels or of an array of a stage."""
    return torch.flip(array, axes) if axes else array


def change_greys(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Return a normalised image as a scan of other settings might show it.

    Parameters
    ----------
    image : Tensor
        float32 of any shape.
    rng : Generator
        The only source of chance.
    """
    low, mean, high = float(image.min()), float(image.mean()), float(image.max())
    brightness, contrast, gamma, noise = rng.random(4) < CHANCE
    if gamma and high > low:
        power = 1 + GAMMA * rng.uniform(-1, 1)
        image = ((image - low) / (high - low)).pow(power) * (high - low) + low
    if contrast:
        image = (image - mean) * (1 + CONTRAST * rng.uniform(-1, 1)) + mean
    if brightness:
        image = image + BRIGHTNESS * rng.standard_normal()
    if noise:
        grain = rng.standard_normal(tuple(image.shape), np.float32)
        image = image + rng.uniform(0, NOISE) * torch.from_numpy(grain)
    return image
