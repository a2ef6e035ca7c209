"""What there is to learn from: an image, opinions about its voxels, and what earlier stages made of it.

An opinion is a class id. Where nobody has one, the voxel carries the source's
``unlabelled`` value, or an id that no class has, and takes no part in anything::

    image   Volume       ┐
    labels  LabelSource  ├── on one grid: the image's, at the working level
    arrays  ArraySource  ┘   (each on a grid of its own, by name)
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from napari_memseg.errors import InputError
from napari_memseg.geometry import Box, Zyx, cell_box, cells, zyx
from napari_memseg.models.base import Grid

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import zarr
    from numpy.typing import NDArray

    from napari_memseg.io.units import VoxelSize
    from napari_memseg.io.volume import Volume
    from napari_memseg.models.intensity import Window

CELL = 64
"""Edge of a cell in voxels: the unit in which labels are counted and held back."""
BLOCK_VOXELS = 2**24
"""Labels that are looked at in one piece, at most (one cell or chunk if that is more)."""


class LabelSource(Protocol):
    """Class ids of a volume, read box by box."""

    @property
    def shape(self) -> Zyx:
        """Length of each axis, in voxels of the working level."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what ``read`` returns: whole numbers."""

    @property
    def unlabelled(self) -> int | None:
        """Value of a voxel that nobody has an opinion about; None if there is no such value."""

    def read(self, box: Box) -> NDArray[Any]:
        """Return the class ids of a box."""

    def cells(self) -> Iterator[Box]:
        """Yield boxes that may hold labels, none overlapping, each small enough to be read at once."""


class ArraySource(Protocol):
    """What an earlier stage wrote over a training volume."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, z, y, x) of an array, (length,) of a vector."""

    @property
    def grid(self) -> Grid:
        """Where its voxels lie; meaningless for a vector."""

    def read(self, box: Box | None = None) -> NDArray[Any]:
        """Return (C, z, y, x) of a box in the array's own voxels; the vector itself, if it is one."""


@dataclass(frozen=True, slots=True)
class ZarrArray:
    """An intermediate array of a run, stored with Zarr."""

    array: zarr.Array[Any]
    grid: Grid = field(default_factory=Grid)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, z, y, x) of an array, (length,) of a vector."""
        return tuple(self.array.shape)

    def read(self, box: Box | None = None) -> NDArray[Any]:
        """Return (C, z, y, x) of a box, or the whole array without one."""
        return np.asarray(self.array[...] if box is None else self.array[(slice(None), *box.slices)])


@dataclass(frozen=True, eq=False)
class VolumeLabels:
    """Labels that lie in a volume of their own, beside the image.

    Attributes
    ----------
    volume : Volume
        Class ids. Floats are accepted as long as every value is a whole number.
    level : int
        Of ``volume``, whose grid is the image's working level.
    unlabelled : int, optional
        Value of the voxels that nobody has an opinion about; it may be negative.

    Raises
    ------
    InputError
        If the dtype holds no class ids; from ``read``, if a value is negative or no whole number.
    """

    volume: Volume
    level: int = 0
    unlabelled: int | None = None

    def __post_init__(self) -> None:
        if self.volume.dtype.kind not in "biuf":
            raise InputError(
                f"{self.volume.source} holds {self.volume.dtype}, which are no class ids. "
                "Save the labels as whole numbers (uint8, uint16), 0 for background."
            )

    @property
    def name(self) -> str:
        """Where the labels come from."""
        return self.volume.source

    @property
    def shape(self) -> Zyx:
        """Length of each axis, in voxels."""
        return self.volume.arrays[self.level].shape

    @property
    def voxel_size(self) -> VoxelSize | None:
        """Of the level, in the volume's unit; None if unknown."""
        return self.volume.voxel_size_at(self.level)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what ``read`` returns: that of the file, or int64 where it holds floats or bool."""
        kept = self.volume.dtype.kind in "iu"
        return self.volume.dtype.newbyteorder("=") if kept else np.dtype(np.int64)

    def read(self, box: Box) -> NDArray[Any]:
        """Return the class ids of a box, checked."""
        found = self.volume.read(box, self.level)
        whole = found.astype(self.dtype) if self._is_whole(found) else None
        if whole is None or self._is_negative(whole):
            raise InputError(
                f"The labels {self.name} hold values from {found.min()} to {found.max()} ({found.dtype}) "
                f"in the box {box}, but a class id is a whole number, 0 or more. Save the labels as whole "
                "numbers; if one negative value stands for voxels without a label, name it as unlabelled."
            )
        return whole

    def cells(self) -> Iterator[Box]:
        """Yield the whole volume in blocks of whole cells and chunks."""
        block = _block(self.shape, self.volume.arrays[self.level].chunks)
        for index in cells(Box.whole(self.shape), block):
            yield cell_box(index, block, self.shape)

    def _is_whole(self, found: NDArray[Any]) -> bool:
        return found.dtype.kind != "f" or bool((np.isfinite(found) & (found == np.rint(found))).all())

    def _is_negative(self, ids: NDArray[Any]) -> bool:
        return ids.dtype.kind == "i" and bool(((ids < 0) & (ids != self._outsider)).any())

    @property
    def _outsider(self) -> int:
        return 0 if self.unlabelled is None else self.unlabelled


@dataclass(frozen=True, eq=False)
class TrainingVolume:
    """One image with labels on the same grid.

    Attributes
    ----------
    image : Volume
        What the network sees.
    level : int
        The working level: of ``image``, and of all boxes.
    labels : LabelSource
        What it shall say.
    arrays : mapping of str to ArraySource
        What earlier stages wrote over this volume, for phases that need it.
    window : Window, optional
        Grey values of this image that become 0 and 1; by default the model's.

    Raises
    ------
    InputError
        If image and labels differ in shape, or the image has no such level.
    """

    image: Volume
    level: int
    labels: LabelSource
    arrays: Mapping[str, ArraySource] = field(default_factory=dict)
    window: Window | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.level < len(self.image.arrays):
            raise InputError(
                f"{self.image.source} has no level {self.level}. "
                f"Its levels are 0, the finest, to {len(self.image.arrays) - 1}."
            )
        if self.shape != self.labels.shape:
            raise InputError(
                f"The image {self.image.source} has {self.shape} voxels (z, y, x) at level {self.level}, but "
                f"{getattr(self.labels, 'name', 'its labels')} has {self.labels.shape}. Labels lie on the "
                "grid of their image: choose the labels made for it, or another level."
            )

    @property
    def shape(self) -> Zyx:
        """Length of each axis at the working level, in voxels."""
        return zyx(self.image.arrays[self.level].shape)

    @property
    def voxel_size(self) -> VoxelSize | None:
        """Of the working level, in the image's unit; None if unknown."""
        return self.image.voxel_size_at(self.level)


def count_ids(labels: LabelSource) -> Counter[int]:
    """Count the voxels of each id, in one pass and bounded memory; unlabelled ones left out.

    Raises
    ------
    InputError
        If a value is no class id.
    """
    found: Counter[int] = Counter()
    for box in labels.cells():
        ids, counts = np.unique(labels.read(box), return_counts=True)
        found.update(dict(zip(ids.tolist(), counts.tolist(), strict=True)))
    if labels.unlabelled is not None:
        del found[labels.unlabelled]
    return found


def _block(shape: Zyx, chunks: Zyx) -> Zyx:
    """Return a block of whole cells, and of whole chunks where they fit, of bounded size."""
    block = [min(-(-max(CELL, chunk) // CELL) * CELL, n) for chunk, n in zip(chunks, shape, strict=True)]
    for axis in range(3):
        while prod(block) > BLOCK_VOXELS and block[axis] > CELL:
            block[axis] = max(block[axis] // 2 // CELL * CELL, CELL)
    return zyx(block)
