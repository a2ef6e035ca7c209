"""Voxels that lie in a file one after the other, x fastest: read where they lie.

What is compressed as a whole can only be read as a whole, and only where memory allows it. It is unpacked
piece by piece into the array it becomes, so that no second copy of the voxels lies beside it::

    file ──256 KiB──> inflate ──256 KiB──> ┤███████████░░░░░░░░░░░├ all voxels
"""

from __future__ import annotations

import bz2
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import numpy as np

from napari_memseg.errors import SourceError
from napari_memseg.geometry import Zyx, zyx
from napari_memseg.io.axes import check_array, voxel_dtype
from napari_memseg.io.volume import Volume
from napari_memseg.memory import free_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_memseg.io.source import Source
    from napari_memseg.io.units import VoxelSize

PIECE: Zyx = (1, 64, 1024)
"""So much is read at a time, in voxels: rows lie together on the disk, slices do not."""
PIECE_BYTES = 2**18
"""Of packed, and of unpacked, voxels that are held beside those that are finished."""
GAP_BYTES = 2**14
"""What lies between two rows is read along up to here: that is quicker than to ask for each row."""
SHARE = 0.5
"""Of the free memory that a volume may take which can only be read whole."""

Unpack: TypeAlias = Callable[[Iterable[bytes]], Iterator[bytes]]
"""Makes unpacked pieces of packed ones."""


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
    """A ``LazyArray`` over bare voxels in a file.

    The file is read, not mapped into memory: one that somebody cuts off meanwhile is an error, not the end of
    this process.
    """

    file: Path
    offset: int
    """Bytes before the first voxel."""
    shape: Zyx
    stored: np.dtype[Any]
    """With its byte order."""

    def __getitem__(self, index: tuple[slice, slice, slice]) -> NDArray[Any]:
        """Read three slices, plane by plane; SourceError where the file ends before them."""
        z, y, x = (range(n)[span] for n, span in zip(self.shape, index, strict=True))
        voxels = np.empty((len(z), len(y), len(x)), self.stored)
        if voxels.size:
            with self.file.open("rb", buffering=0) as opened:
                for number, plane in zip(z, voxels, strict=True):
                    self._read_plane(opened, number, y, x, plane)
        return voxels.astype(self.dtype, copy=False)

    def _read_plane(self, opened: BinaryIO, z: int, y: range, x: range, into: NDArray[Any]) -> None:
        """Read a rectangle of one plane: in one go, or row by row where much lies between its rows."""
        _, height, width = self.shape
        first = (z * height + y.start) * width + x.start
        if (width - len(x)) * self.stored.itemsize > GAP_BYTES:
            for number, row in enumerate(into):
                self._read_run(opened, first + number * width, row)
            return
        run = np.empty(len(y) * width, self.stored)
        self._read_run(opened, first, run[: run.size - width + len(x)])
        into[...] = run.reshape(len(y), width)[:, : len(x)]

    def _read_run(self, opened: BinaryIO, first: int, into: NDArray[Any]) -> None:
        """Read voxels that lie one after the other."""
        opened.seek(self.offset + first * self.stored.itemsize)
        missing = into.view(np.uint8).data
        while missing:
            count = opened.readinto(missing)  # type: ignore[attr-defined] # which files have
            if not count:
                raise SourceError(
                    f"{self.file} has become shorter since it was opened: it has "
                    f"{self.file.stat().st_size:,} bytes now. Open it again once it is complete."
                )
            missing = missing[count:]


@dataclass(eq=False)
class WholeArray(ByPieces):
    """A ``LazyArray`` over voxels that are decoded all at once, when the first of them is asked for."""

    decode: Callable[[], NDArray[Any]]
    """Returns an array of that shape and dtype."""
    shape: Zyx
    stored: np.dtype[Any]
    name: str = "The volume"
    """What opens it, for messages."""
    _voxels: NDArray[Any] | None = field(default=None, repr=False)
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    def __getitem__(self, index: tuple[slice, slice, slice]) -> NDArray[Any]:
        """Copy three slices of what was decoded; SourceError where the memory for it has gone meanwhile."""
        with self._lock:
            if self._voxels is None:
                try:
                    self._voxels = self.decode()
                except MemoryError as error:
                    raise _no_room(self.name, self.shape, self.stored) from error
        return np.array(self._voxels[index], self.dtype)

    def __getstate__(self) -> dict[str, Any]:
        """Leave voxels and lock behind: another process decodes for itself."""
        return {"decode": self.decode, "shape": self.shape, "stored": self.stored, "name": self.name}

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


def whole_volume(
    source: Source,
    array: WholeArray,
    size: VoxelSize | None,
    unit: str | None,
    kind: str,
) -> Volume:
    """Return a volume that can only be read whole, once it is seen to fit into memory.

    Raises
    ------
    SourceError
        If the shape cannot be, or is too large.
    """
    check_alone(source)
    check_whole(source, array.shape, array.stored)
    return Volume((replace(array, name=str(source)),), size, unit, source.name, str(source), kind)


def unpacked(
    file: Path,
    offset: int,
    unpack: Unpack,
    shape: Zyx,
    stored: np.dtype[Any],
    packed: int | None = None,
) -> NDArray[Any]:
    """Unpack what lies behind an offset, and no more than the header says there is.

    Parameters
    ----------
    unpack : callable
        ``inflate``, ``bunzip`` or alike.
    packed : int, optional
        Bytes to unpack; by default all there are.

    Raises
    ------
    SourceError
        If it becomes less than the voxels need.
    """
    size = prod(shape) * stored.itemsize
    voxels = np.empty(size, np.uint8)
    room, filled = voxels.data, 0
    for piece in unpack(_pieces(file, offset, packed)):
        count = min(len(piece), size - filled)
        room[filled : filled + count] = piece[:count]
        filled += count
        if filled == size:
            return voxels.view(stored).reshape(shape)
    raise SourceError(
        f"{file} is cut off: it unpacks to {filled:,} bytes and should hold {size:,}. Copy it again."
    )


def _pieces(file: Path, offset: int, count: int | None) -> Iterator[bytes]:
    """Yield so many bytes of a file, or all behind an offset."""
    with file.open("rb") as opened:
        left = opened.seek(0, 2) - offset if count is None else count
        opened.seek(offset)
        while left > 0 and (piece := opened.read(min(left, PIECE_BYTES))):
            left -= len(piece)
            yield piece


def inflate(packed: Iterable[bytes]) -> Iterator[bytes]:
    """Undo zlib or gzip, also of several streams one after the other."""
    stream = zlib.decompressobj(wbits=47)
    for piece in packed:
        while piece:
            yield stream.decompress(piece, PIECE_BYTES)
            piece = stream.unconsumed_tail
            if stream.eof:
                piece, stream = stream.unused_data, zlib.decompressobj(wbits=47)
    yield stream.flush()


def bunzip(packed: Iterable[bytes]) -> Iterator[bytes]:
    """Undo bzip2, also of several streams one after the other."""
    stream = bz2.BZ2Decompressor()
    for piece in packed:
        while piece or not stream.needs_input:
            yield stream.decompress(piece, PIECE_BYTES)
            piece = b""
            if stream.eof:
                piece, stream = stream.unused_data, bz2.BZ2Decompressor()


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
    if prod(shape) * stored.itemsize > free_bytes() * SHARE:
        raise _no_room(str(source), shape, stored)


def _no_room(name: str, shape: Zyx, stored: np.dtype[Any]) -> SourceError:
    size = prod(shape) * stored.itemsize
    return SourceError(
        f"{name} is compressed as a whole and becomes {size / 2**30:.3g} GiB, but of the "
        f"{free_bytes() / 2**30:.3g} GiB of memory that are free it may take {SHARE:.0%}. Save it "
        "uncompressed, which is read piece by piece, or convert it to OME-Zarr on a machine with more memory."
    )
