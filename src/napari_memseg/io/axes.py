"""Show a stored array of any number of dimensions as a volume (z, y, x).

Channels and times are chosen by name; whatever is one long needs no choice. An array
without z is one slice. What numpy can hold in several ways becomes the native one::

    stored   c  t  z  y  x      big-endian, float16, bool
             │  │  └──┴──┴─> volume
             └──┴──────────> one index each, chosen
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_memseg.errors import SourceError
from napari_memseg.geometry import Zyx, zyx
from napari_memseg.io.source import Source

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

SPACE = ("z", "y", "x")
"""Names of the axes of space, in the order of a volume."""
MAX_VOXELS = 2**50
"""A volume that claims more voxels than this is not believed."""
MAX_CHUNK_BYTES = 2**31
"""A chunk that is decoded at once may hold so many bytes at most."""


@dataclass(frozen=True, eq=False)
class VolumeView:
    """A ``LazyArray`` over an array with more or fewer axes.

    Attributes
    ----------
    stored : array-like
        What is indexed with one slice for each axis; zarr or alike.
    chunk : tuple of int
        The unit of decoding along the stored axes.
    axes : sequence of str
        Name of each stored axis; those of space are "z" (it may be missing), "y" and "x".
    picked : mapping of str to int
        Index along each axis that is not space.
    """

    stored: Any
    chunk: Sequence[int]
    axes: Sequence[str]
    picked: Mapping[str, int]

    @property
    def shape(self) -> Zyx:
        """Length of each axis, in voxels."""
        return self._of_space(self.stored.shape)

    @property
    def chunks(self) -> Zyx:
        """The unit of decoding, in voxels."""
        return self._of_space(self.chunk)

    @property
    def dtype(self) -> np.dtype[Any]:
        """What the voxels become."""
        return voxel_dtype(self.stored.dtype)

    def __getitem__(self, index: tuple[slice, slice, slice]) -> NDArray[Any]:
        """Decode three slices, each with a start and a stop."""
        spans = dict(zip(SPACE, index, strict=True)) | {a: slice(i, i + 1) for a, i in self.picked.items()}
        voxels = np.asarray(self.stored[tuple(spans[axis] for axis in self.axes)])
        order = [self.axes.index(axis) for axis in (*self.picked, *SPACE) if axis in self.axes]
        voxels = voxels.transpose(order).reshape(voxels.transpose(order).shape[len(self.picked) :])
        voxels = voxels if "z" in self.axes else voxels[np.newaxis][index[0]]
        return voxels.astype(self.dtype, copy=False)

    def _of_space(self, lengths: Sequence[int]) -> Zyx:
        of = dict(zip(self.axes, lengths, strict=True))
        return zyx(of.get(axis, 1) for axis in SPACE)


def voxel_dtype(stored: np.dtype[Any]) -> np.dtype[Any]:
    """Return the native dtype for what is stored: bool as uint8, float16 as float32."""
    if stored.kind == "b":
        return np.dtype(np.uint8)
    return np.dtype(np.float32) if stored == np.float16 else stored.newbyteorder("=")


def check_array(shape: Sequence[int], dtype: np.dtype[Any], chunk: Sequence[int], source: Source) -> None:
    """Refuse what is no scalar image, or claims what no disk holds, before anything is decoded.

    Raises
    ------
    SourceError
        Naming what was found.
    """
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise SourceError(
            f"{source} holds {dtype} values, but a voxel is one integer or float of at most 64 bits. "
            "Convert it first: a complex image to its magnitude, for example."
        )
    if not shape or min(shape) < 1 or min(chunk) < 1:
        raise SourceError(
            f"{source} has shape {tuple(shape)} in chunks of {tuple(chunk)}, so it holds no voxel. "
            "Every length must be at least 1: the file is damaged or was never filled."
        )
    voxels, chunk_bytes = prod(map(int, shape)), prod(map(int, chunk)) * dtype.itemsize
    if voxels > MAX_VOXELS:
        raise SourceError(
            f"{source} claims {voxels:.3g} voxels, more than {MAX_VOXELS:.3g}, the most that is "
            "believed. Its description is damaged; nothing was read."
        )
    if chunk_bytes > MAX_CHUNK_BYTES:
        raise SourceError(
            f"{source} claims chunks of {tuple(chunk)}, {chunk_bytes / 2**30:.3g} GiB each. One that is "
            f"decoded at once may hold {MAX_CHUNK_BYTES / 2**30:.3g} GiB at most, so it is larger than "
            "can be read piece by piece. Store it in smaller chunks or tiles, 64 voxels a side for example."
        )


def pick(axes: Sequence[str], shape: Sequence[int], source: Source) -> dict[str, int]:
    """Return the index along every axis that is not space: the one selected, or 0 where it is one long.

    Raises
    ------
    SourceError
        If an axis longer than 1 has no index, or the selection names what there is not.
    """
    lengths = {axis: n for axis, n in zip(axes, shape, strict=True) if axis not in SPACE}
    for axis, index in source.selection.items():
        if index >= lengths.get(axis, 0):
            raise SourceError(f"{source} selects {axis}={index}, but {_choices(lengths, source)}")
    if missing := [axis for axis, n in lengths.items() if n > 1 and axis not in source.selection]:
        many = ", ".join(f"{axis} ({lengths[axis]})" for axis in missing)
        raise SourceError(
            f"{source} has {len(shape)} axes {' '.join(axes)} of lengths {tuple(shape)}, more than "
            f"a volume's z y x: choose one index along {many}. In it {_choices(lengths, source)}"
        )
    return {axis: source.selection.get(axis, 0) for axis in lengths}


def _choices(lengths: Mapping[str, int], source: Source) -> str:
    if not lengths:
        return "there is nothing to select: leave the @ and what follows it away."
    ranges = ", ".join(f"{axis} is 0 to {n - 1}" for axis, n in lengths.items())
    example = ",".join(f"{axis}=0" for axis, n in lengths.items() if n > 1) or f"{next(iter(lengths))}=0"
    bare = Source(source.path, source.inner)
    return f"{ranges}. Write it behind the path, for example {bare}@{example}"
