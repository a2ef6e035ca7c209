"""Voxels as they lie in the corrections database: zstd with a checksum, of a known size.

A checksum turns a flipped bit into an error instead of a wrong label, and since the
size is known before, a small blob cannot inflate into gigabytes. The reserved id
*background* depends on the dtype (254 or 65534), so the item size is stored too and
cells of a session that grew a class with a large id are read in the wider dtype::

    uint8   0 = no opinion   1, 2, ... = classes   254   = "this is background"
    uint16  0                1, 2, ...             65534
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numcodecs.zstd import Zstd

from napari_memseg.errors import SessionError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ZSTD = Zstd(level=1, checksum=True)
DAMAGED = (
    "The corrections are damaged: {what}. Nothing was changed. Restore a backup with recovery.restore()."
)


def pack(values: NDArray[Any]) -> bytes:
    """Compress an array of any shape."""
    packed: bytes = _ZSTD.encode(np.ascontiguousarray(values))
    return packed


def unpack(blob: bytes, shape: tuple[int, ...], itemsize: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Decompress what ``pack`` made of unsigned integers of ``itemsize`` bytes, into ``dtype``.

    Raises
    ------
    SessionError
        If the blob is damaged, or larger than that.
    """
    try:
        stored = np.dtype(f"u{itemsize}")
        out = np.zeros(prod(shape) * itemsize, np.uint8)
        if out.size:
            _ZSTD.decode(blob, out=out)
    except (RuntimeError, ValueError, TypeError) as error:
        raise SessionError(DAMAGED.format(what=f"a block cannot be decoded ({error})")) from error
    return widen(out.view(stored).reshape(shape), dtype)


def widen(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Convert to a dtype at least as wide; the reserved id for background moves to its new place."""
    if values.dtype == dtype:
        return values
    wide = values.astype(dtype)
    wide[values == background_of(values.dtype)] = background_of(dtype)
    return wide


def background_of(dtype: np.dtype[Any]) -> int:
    """Return the reserved id *background* of a dtype: the highest value but one."""
    return int(np.iinfo(dtype).max) - 1


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """What one stroke did to one cell: where, what was there, what is there now.

    Attributes
    ----------
    start, shape : (z, y, x)
        The box of changed voxels, counted from the cell's origin.
    mask : bool array of that shape
        The voxels that changed.
    before, after : (n,) arrays
        Their values, in storage order.
    """

    start: tuple[int, int, int]
    mask: NDArray[np.bool_]
    before: NDArray[Any]
    after: NDArray[Any]

    @classmethod
    def between(cls, before: NDArray[Any], after: NDArray[Any]) -> Patch | None:
        """Return what turns one state of a cell into another, or None where they are equal."""
        changed = before != after
        spans = [np.flatnonzero(changed.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
        if spans[0].size == 0:
            return None
        crop = tuple(slice(int(s[0]), int(s[-1]) + 1) for s in spans)
        mask = changed[crop]
        z, y, x = (s.start for s in crop)
        return cls((z, y, x), mask, before[crop][mask], after[crop][mask])

    @property
    def slices(self) -> tuple[slice, ...]:
        """The box of changed voxels as an index into the cell."""
        return tuple(slice(a, a + n) for a, n in zip(self.start, self.mask.shape, strict=True))

    def redo(self, cell: NDArray[Any]) -> None:
        """Put the values after the stroke into ``cell``, in place."""
        cell[self.slices][self.mask] = self.after

    def undo(self, cell: NDArray[Any]) -> None:
        """Put the values before the stroke into ``cell``, in place."""
        cell[self.slices][self.mask] = self.before

    def to_row(self) -> tuple[int, bytes, bytes, bytes, bytes]:
        """Return item size, box, mask, before and after, as the database keeps them."""
        box = bytes(self.start) + bytes(n - 1 for n in self.mask.shape)
        bits = np.packbits(self.mask)
        return self.after.itemsize, box, pack(bits), pack(self.before), pack(self.after)

    @classmethod
    def from_row(cls, row: tuple[int, bytes, bytes, bytes, bytes], dtype: np.dtype[Any]) -> Patch:
        """Read what ``to_row`` gave, in a dtype that may have become wider since.

        Raises
        ------
        SessionError
            If a part of it is damaged.
        """
        itemsize, box, mask, before, after = row
        z, y, x, *lengths = tuple(box)
        shape = tuple(n + 1 for n in lengths)
        bits = unpack(mask, (-(-prod(shape) // 8),), 1, np.dtype(np.uint8))
        inside = np.unpackbits(bits, count=prod(shape)).reshape(shape).astype(bool)
        n = (int(inside.sum()),)
        return cls((z, y, x), inside, unpack(before, n, itemsize, dtype), unpack(after, n, itemsize, dtype))
