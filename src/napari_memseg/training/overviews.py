"""The whole of a training volume at a coarse size, for networks that look at all of it.

The image is halved, and of the labels is kept which classes lie in each coarse voxel::

    image  (z, y, x) ──mean──> (z, y, x) / 2^k
    labels (z, y, x) ──any───> (C, z, y, x) / 2^k, without what is held back to validate
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_memseg.errors import InputError
from napari_memseg.geometry import Box, ceil_div, zyx
from napari_memseg.io.coarser import read_halved, stored_level
from napari_memseg.models.base import Overview
from napari_memseg.models.classes import IGNORE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from napari_memseg.models.classes import ClassTable
    from napari_memseg.models.intensity import Window
    from napari_memseg.training.sources import TrainingVolume

MOST_VOXELS = 2**25
"""Of an overview; those of all volumes are kept."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Overviews:
    """The overviews of some volumes, each made when first asked for, by whatever thread.

    Attributes
    ----------
    volumes : sequence of TrainingVolume
        What is looked at.
    halvings : int, optional
        How often they are halved; None: nobody asks for overviews.
    classes, window
        As for training.
    held : function of a volume's number, optional
        Gives boxes whose labels are not in it; None: no label is.
    """

    volumes: Sequence[TrainingVolume]
    halvings: int | None
    classes: ClassTable
    window: Window
    held: Callable[[int], Sequence[Box]] | None = None
    _made: dict[int, Overview] = field(default_factory=dict, init=False, repr=False)
    _lock: Any = field(default_factory=Lock, init=False, repr=False)

    def of(self, number: int) -> Overview | None:
        """Return the overview of a volume, if anybody asks for overviews."""
        if self.halvings is None:
            return None
        with self._lock:
            if number not in self._made:
                held = None if self.held is None else self.held(number)
                volume = self.volumes[number]
                self._made[number] = overview_of(volume, self.halvings, self.classes, self.window, held)
            return self._made[number]


def overview_of(
    volume: TrainingVolume, halvings: int, classes: ClassTable, window: Window, held: Sequence[Box] | None
) -> Overview:
    """Return the overview of a volume, so often halved, without the labels in ``held``; None: without any.

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
    volume: TrainingVolume, halvings: int, classes: ClassTable, held: Sequence[Box] | None
) -> NDArray[np.bool_]:
    factor = zyx([2**halvings] * 3)
    found = np.zeros((len(classes), *ceil_div(volume.shape, factor)), bool)
    if held is None:
        return found
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
