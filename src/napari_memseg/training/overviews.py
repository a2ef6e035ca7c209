"""The whole of a training volume at a coarse size, for networks that look at all of it.

The image is halved, and of the labels is kept which classes lie in each coarse voxel::

    image  (z, y, x) ──mean──> (z, y, x) / 2^k
    labels (z, y, x) ──any───> (C, z, y, x) / 2^k, without what is held back to validate
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np
import torch

from napari_memseg.errors import InputError
from napari_memseg.geometry import Box, ceil_div, zyx
from napari_memseg.io.coarser import read_halved, stored_level
from napari_memseg.models.base import Overview
from napari_memseg.models.classes import IGNORE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_memseg.models.classes import ClassTable
    from napari_memseg.models.intensity import Window
    from napari_memseg.training.sources import TrainingVolume

MOST_VOXELS = 2**25
"""Of an overview; those of all volumes are kept."""


def overview_of(
    volume: TrainingVolume, halvings: int, classes: ClassTable, window: Window, held: Sequence[Box]
) -> Overview:
    """Return the overview of a volume, so often halved.

    Raises
    ------
    InputError
        If it is too large to be held in memory.
    """
    shape = ceil_div(volume.shape, zyx([2**halvings] * 3))
    if prod(shape) > MOST_VOXELS:
        raise InputError(
            f"{volume.image.source} has {volume.shape} voxels at level {volume.level}: even {halvings} times "
            "halved it is too large for a network that looks at all of it. Train at a coarser level: --level."
        )
    grey = torch.from_numpy(_image(volume, halvings, Box.whole(shape)))
    presence = _presence(volume, halvings, classes, held)
    return Overview(
        image=(volume.window or window).normalise(grey)[None], presence=torch.from_numpy(presence)
    )


def _image(volume: TrainingVolume, halvings: int, box: Box) -> NDArray[np.float32]:
    image, level = volume.image, volume.level
    stored = level if halvings == 0 else stored_level(image, level, halvings)
    if stored is not None:
        return np.ascontiguousarray(image.read(box, stored), np.float32)
    return read_halved(lambda fine: image.read(fine, level), box, volume.shape, halvings)


def _presence(
    volume: TrainingVolume, halvings: int, classes: ClassTable, held: Sequence[Box]
) -> NDArray[np.bool_]:
    factor = zyx([2**halvings] * 3)
    found = np.zeros((len(classes), *ceil_div(volume.shape, factor)), bool)
    for cell in volume.labels.cells():
        coarse = cell.coarsen(factor)
        room = coarse.refine(factor)
        labels = np.full(room.shape, IGNORE, np.int64)
        labels[cell.relative_to(room.start).slices] = classes.indices(
            volume.labels.read(cell), volume.labels.unlabelled
        )
        for box in held:
            labels[(box & room).relative_to(room.start).slices] = IGNORE
        blocks = labels.reshape([n for pair in zip(coarse.shape, factor, strict=True) for n in pair])
        for index in range(len(classes)):
            found[(index, *coarse.slices)] |= (blocks == index).any((1, 3, 5))
    return found
