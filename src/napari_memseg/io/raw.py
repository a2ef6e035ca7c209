"""Voxels that lie in a file one after the other, x fastest: read where they lie.

What is compressed as a whole can only be read as a whole, and only where memory allows it.
"""

from __future__ import annotations

import threading
import zlib
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from napari_memseg.errors import SourceError
from napari_memseg.geometry import Zyx, zyx
from napari_memseg.io.axes import check_array, voxel_dtype
from napari_memseg.io.volume import Volume

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_memseg.io.source import Source
    from napari_memseg.io.units import VoxelSize

PIECE: Zyx = (1, 64, 1024)
"""So much is read at a time, in voxels: rows lie together on the disk, slices do not."""
SHARE = 0.5
"""Of the free memory that a volume may take which can only be read whole."""


class ByPieces:
    """What ``LazyArray``s have in common that are read or copied a piece at a time."""

    shape: Zyx
    stored: np.dtype[Any]

    @property
    def chunks(self) -> Zyx:
        """What is read or copied at a time, in voxels."""
        return zyx(min(n, most) for n, most in zip(self.shape, PIECE, strict=True))

    @property
    def dtype(self) -> np.dtype[Any]:
        """What the voxels become."""
        return voxel_dtype(self.stored)


@dataclass(frozen=True, eq=False)
class RawArray(ByPieces):
    """A ``LazyArray`` over bare voxels in a file."""

    file: Path
    offset: int
    """Bytes before the first voxel."""
    shape: Zyx
    stored: np.dtype[Any]
    """With its byte order."""

    def __getitem__(self, index: tuple[slice, slice, slice]) -> NDArray[Any]:
        """Copy three slices out of the file."""
        voxels = np.memmap(self.file, self.stored, "r", self.offset, self.shape)
        return np.array(voxels[index], self.dtype)


@dataclass(eq=False)
class WholeArray(ByPieces):
    """A ``LazyArray`` over voxels that are decoded all at once, when the first of them is asked for."""

    decode: Callable[[], NDArray[Any]]
    """Returns an array of that shape and dtype."""
    shape: Zyx
    stored: np.dtype[Any]
    _voxels: NDArray[Any] | None = field(default=None, repr=False)
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    def __getitem__(self, index: tuple[slice, slice, slice]) -> NDArray[Any]:
        """Copy three slices of what was decoded."""
        with self._lock:
            if self._voxels is None:
                self._voxels = self.decode()
        return np.array(self._voxels[index], self.dtype)

    def __getstate__(self) -> dict[str, Any]:
        """Leave voxels and lock behind: another process decodes for itself."""
        return {"decode": self.decode, "shape": self.shape, "stored": self.stored}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc] # which makes the lock anew


def raw_volume(
    source: Source,
    array: RawArray,
    size: VoxelSize | None,
    unit: str | None,
    kind: str,
) -> Volume:
    """Return a volume of bare voxels, once the file is seen to hold them all.

    Raises
    ------
    SourceError
        If the shape cannot be, or the file is too short for it.
    """
    check_alone(source)
    check_array(array.shape, array.stored, array.chunks, source)
    needed = array.offset + prod(array.shape) * array.stored.itemsize
    there = array.file.stat().st_size
    if there < needed or array.offset < 0:
        raise SourceError(
            f"{array.file} is cut off: {array.shape} voxels (z, y, x) of {array.stored.name} need {needed:,} "
            f"bytes, and it has {there:,}. Copy it again, or correct the header that says so ({source.path})."
        )
    return Volume((array,), size, unit, source.name, str(source), kind)


def unpacked(
    file: Path,
    offset: int,
    unpack: Callable[[bytes, int], bytes],
    shape: Zyx,
    stored: np.dtype[Any],
    packed: int = -1,
) -> NDArray[Any]:
    """Unpack what lies behind an offset, and no more than the header says there is.

    Parameters
    ----------
    unpack : callable of bytes and int
        Returns at most so many bytes, as ``decompress`` does.
    packed : int
        Bytes to unpack; by default all there are.

    Raises
    ------
    SourceError
        If it becomes less than the voxels need.
    """
    size = prod(shape) * stored.itemsize
    with file.open("rb") as opened:
        opened.seek(offset)
        data = unpack(opened.read(packed), size)
    if len(data) < size:
        raise SourceError(
            f"{file} is cut off: it unpacks to {len(data):,} bytes and should hold {size:,}. Copy it again."
        )
    return np.frombuffer(data, stored, prod(shape)).reshape(shape)


def inflate(packed: bytes, size: int) -> bytes:
    """Undo zlib or gzip, up to so many bytes."""
    return zlib.decompressobj(wbits=47).decompress(packed, size)


def check_alone(source: Source) -> None:
    """Refuse to choose inside a file that holds one volume and nothing else.

    Raises
    ------
    SourceError
        If something is named inside it, or an index along an axis.
    """
    if source.inner or source.selection:
        raise SourceError(
            f"{source.path} holds one volume, and there is nothing to choose inside it. Open it as "
            f"{source.path}."
        )


def check_whole(source: Source, shape: Zyx, stored: np.dtype[Any]) -> None:
    """Refuse what can only be read whole and does not fit into memory.

    Raises
    ------
    SourceError
        Saying how large it is, how much is free, and what to do.
    """
    check_array(shape, stored, (1, 1, 1), source)
    size, free = prod(shape) * stored.itemsize, psutil.virtual_memory().available
    if size > free * SHARE:
        raise SourceError(
            f"{source} is compressed as a whole and becomes {size / 2**30:.3g} GiB, more than half of the "
            f"{free / 2**30:.3g} GiB of memory that are free. Save it uncompressed, which is read piece by "
            "piece, or convert it to OME-Zarr on a machine with more memory."
        )
