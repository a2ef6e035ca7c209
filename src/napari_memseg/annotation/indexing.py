"""Read a numpy index as a box of voxels, so that a store of cells can answer it.

napari, and whoever holds the array, indexes as numpy allows: integers, slices with
any step, an ellipsis, and one array of integers per axis (``Labels.data_setitem``).
The first three are a box, read with a stride and turned round where a step is
negative; the last is a list of points::

    overlay[3, ::2, -5:]       Strided(box, stride, flips, squeezed axes)
    overlay[(zs, ys, xs)]      Points(zs, ys, xs)
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from operator import index as as_int
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from napari_memseg.errors import GeometryError
from napari_memseg.geometry import Box, Zyx, ceil_div, cell_box, zyx

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import DTypeLike, NDArray

CELL: Zyx = (64, 64, 64)
"""The unit in which corrections are stored, in voxels."""

MOST_VOXELS = 2**28
"""More voxels are never read at once by an index: a plane of 16384² is, the volume behind it is not."""

Slices = tuple[slice, slice, slice]


@dataclass(frozen=True, slots=True)
class Strided:
    """Every ``stride``-th voxel of ``box``, as a basic index asks for it."""

    box: Box
    stride: Zyx
    flips: Slices
    keep: tuple[int | slice, int | slice, int | slice]

    @property
    def grid(self) -> Zyx:
        """How many voxels it names, per axis."""
        return ceil_div(self.box.shape, self.stride)

    def of(self, outer: Strided) -> Strided:
        """Return the same, counted in the voxels that ``outer`` names."""
        steps = list(zip(outer.box.start, self.box.start, self.box.shape, outer.stride, strict=True))
        start = zyx(o + a * s for o, a, _, s in steps)
        shape = zyx((n - 1) * s + 1 if n else 0 for _, _, n, s in steps)
        stride = zyx(a * b for a, b in zip(outer.stride, self.stride, strict=True))
        return Strided(Box.at(start, shape), stride, self.flips, self.keep)

    def present(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """Turn voxels in rising order, shaped as ``grid``, into what numpy would return."""
        out: NDArray[Any] = voxels[self.flips][self.keep]
        return out

    def expand(self, value: NDArray[Any]) -> NDArray[Any]:
        """Broadcast a value that numpy would assign to ``grid``, in rising order; a view, read-only."""
        asked = tuple(n for n, k in zip(self.grid, self.keep, strict=True) if isinstance(k, slice))
        while value.ndim > len(asked) and value.shape[0] == 1:
            value = value[0]
        new_axes = tuple(slice(None) if isinstance(k, slice) else None for k in self.keep)
        whole = np.broadcast_to(np.broadcast_to(value, asked)[new_axes], self.grid)
        return whole[self.flips]


@dataclass(frozen=True, slots=True)
class Points:
    """Single voxels, one array of coordinates per axis, all of one shape."""

    z: NDArray[np.int64]
    y: NDArray[np.int64]
    x: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the result."""
        return self.z.shape

    @property
    def box(self) -> Box:
        """The smallest box around all points; at least one is needed."""
        axes = (self.z, self.y, self.x)
        return Box(zyx(a.min() for a in axes), zyx(a.max() + 1 for a in axes))

    def expand(self, value: NDArray[Any]) -> NDArray[Any]:
        """Broadcast a value that numpy would assign to ``shape``; a view, read-only."""
        return np.broadcast_to(value, self.shape)

    def by_cell(self) -> Iterator[tuple[Zyx, tuple[Any, Any, Any], NDArray[np.intp]]]:
        """Yield (cell, index into the cell, which of the points), in the points' order within a cell."""
        if self.z.size == 0:
            return
        axes = [a.ravel() for a in (self.z, self.y, self.x)]
        keys = np.stack([a // n for a, n in zip(axes, CELL, strict=True)], axis=1)
        unique, which = np.unique(keys, axis=0, return_inverse=True)
        order = np.argsort(which.ravel(), kind="stable")
        ends = np.cumsum(np.bincount(which.ravel(), minlength=len(unique)))
        for key, points in zip(unique, np.split(order, ends[:-1]), strict=True):
            z, y, x = (a[points] % n for a, n in zip(axes, CELL, strict=True))
            yield zyx(key), (z, y, x), points


def parse(index: object, shape: Zyx) -> Strided | Points:
    """Read an index into an array of ``shape``, as numpy would.

    Raises
    ------
    IndexError
        If it is out of bounds, has too many axes, or is of a kind that is not served.
    """
    parts = list(index) if isinstance(index, tuple) else [index]
    if any(isinstance(p, (np.ndarray, list)) and np.ndim(p) > 0 for p in parts):
        return _points(parts, shape)
    parts = _spell_out(parts)
    axes = [_axis(part, n) for part, n in zip(parts, shape, strict=True)]
    low, high, stride = (zyx(axis[k] for axis in axes) for k in range(3))
    z, y, x = (slice(None, None, -1) if axis[3] else slice(None) for axis in axes)
    a, b, c = (slice(None) if isinstance(part, slice) else 0 for part in parts)
    return Strided(Box(low, high), stride, (z, y, x), (a, b, c))


def _spell_out(parts: list[Any]) -> list[Any]:
    """Replace the ellipsis, said or not, by full slices."""
    ellipses = [i for i, part in enumerate(parts) if part is Ellipsis]
    known = len(parts) - len(ellipses)
    if len(ellipses) > 1 or known > 3:
        raise IndexError(f"An index of {len(parts)} parts into an array (z, y, x). Give three at most.")
    at = ellipses[0] if ellipses else len(parts)
    return parts[:at] + [slice(None)] * (3 - known) + parts[at + len(ellipses) :]


def _axis(part: object, length: int) -> tuple[int, int, int, bool]:
    """Return start, stop, stride and whether the order is reversed, all rising."""
    if isinstance(part, slice):
        start, stop, step = part.indices(length)
        count = len(range(start, stop, step))
        if count == 0:
            return 0, 0, 1, False
        if step < 0:
            start, step = start + (count - 1) * step, -step
            return start, start + (count - 1) * step + 1, step, True
        return start, start + (count - 1) * step + 1, step, False
    try:
        at = as_int(part)  # type: ignore[arg-type]
    except TypeError:
        raise IndexError(
            f"{part!r} is no index here. Use integers, slices, an ellipsis, or an array of integers per axis."
        ) from None
    if not -length <= at < length:
        raise IndexError(f"Index {at} is out of bounds for an axis of {length} voxels.")
    return at % length, at % length + 1, 1, False


def _points(parts: list[Any], shape: Zyx) -> Points:
    arrays = [np.asarray(part) for part in parts]
    empty = all(a.size == 0 for a in arrays)
    if len(arrays) != 3 or not (empty or all(a.dtype.kind in "iu" for a in arrays)):
        raise IndexError("A list of voxels needs one array of integers per axis: (z, y, x).")
    z, y, x = np.broadcast_arrays(*(a.astype(np.int64) for a in arrays))
    for axis, n in zip((z, y, x), shape, strict=True):
        if axis.size and (axis.min() < -n or axis.max() >= n):
            raise IndexError(f"Voxels {axis.min()} to {axis.max()} leave an axis of {n} voxels.")
    return Points(z % shape[0], y % shape[1], x % shape[2])


def strided_part(part: Box, box: Box, stride: Zyx) -> tuple[Slices, Slices]:
    """Return where ``part`` of a strided box lies: in the result, and counted from ``part.start``.

    Parameters
    ----------
    part : Box
        A cell or block that overlaps ``box``.
    box, stride
        Every ``stride``-th voxel of the box, from its start, is in the result.
    """
    out, local = [], []
    for a, b, start, stop, step in zip(part.start, part.stop, box.start, box.stop, stride, strict=True):
        first = -(-max(a - start, 0) // step)
        last = -(-(min(b, stop) - start) // step)
        out.append(slice(first, max(last, first)))
        local.append(slice(start + first * step - a, max(start + (last - 1) * step - a + 1, 0), step))
    return (out[0], out[1], out[2]), (local[0], local[1], local[2])


def cell_at(key: Zyx, shape: Zyx) -> Box:
    """Return the voxels of one cell, cut off at the faces of a volume of ``shape``."""
    return cell_box(key, CELL, shape)


def check_size(shape: Zyx) -> None:
    """Raise GeometryError where so many voxels are too many to read at once."""
    if prod(shape) > MOST_VOXELS:
        raise GeometryError(
            f"{prod(shape):,} voxels {shape} are too many to read at once: {MOST_VOXELS:,} is the most. "
            "Work on slices (2D) or on a part of the volume, or look at a coarser level."
        )


class LazyIndex(NDArrayOperatorsMixin):
    """What ``array[integer]`` gives: it knows its shape and dtype, and reads when somebody looks.

    napari asks ``layer.data[0].dtype`` at every dab of a brush, which must not decode a plane; and of a
    multiscale layer it cuts out what is in view along all of z, before it asks for one slice of that.
    """

    def __init__(self, read: Any, selection: Strided, dtype: np.dtype[Any]) -> None:
        self._read, self._selection, self.dtype = read, selection, dtype
        self.shape = tuple(
            n for n, k in zip(selection.grid, selection.keep, strict=True) if isinstance(k, slice)
        )
        self.ndim = len(self.shape)
        self.size = int(np.prod(self.shape))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        inner = parse(index, self._selection.grid) if self.ndim == 3 else None
        if not isinstance(inner, Strided) or any(turn.step for turn in self._selection.flips):
            return np.asarray(self)[index]
        return LazyIndex(self._read, inner.of(self._selection), self.dtype).unless_volume()

    def unless_volume(self) -> Any:
        """Return it as it is while it has three axes, else what it reads."""
        found = self if self.ndim == 3 else np.asarray(self)
        return found[()] if self.ndim == 0 else found

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        check_size(self._selection.grid)
        voxels = self._selection.present(self._read(self._selection.box, self._selection.stride))
        return np.asarray(voxels, dtype or self.dtype)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        plain = [np.asarray(i) if isinstance(i, LazyIndex) else i for i in inputs]
        return getattr(ufunc, method)(*plain, **kwargs)


class ReadByBox:
    """numpy's reading manners for whatever can read a strided box: slices, integers, lists of voxels.

    Whoever asks for more than ``MOST_VOXELS`` at once gets a GeometryError in place of a full memory: a fill
    in three dimensions would, for example, or a viewer that shows the finest level as a volume.
    """

    shape: Zyx
    dtype: np.dtype[Any]
    ndim = 3
    cuts_lazily = False
    """Whether a slice along every axis gives a part that is read when somebody looks."""

    def read(self, box: Box, stride: Zyx = (1, 1, 1)) -> NDArray[Any]:
        """Return every ``stride``-th voxel of ``box`` as a new array."""
        raise NotImplementedError

    @property
    def size(self) -> int:
        """Number of voxels."""
        return Box.whole(self.shape).size

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        selection = parse(index, self.shape)
        if isinstance(selection, Points):
            return self._read_points(selection)
        if not isinstance(index, (tuple, slice)) and index is not Ellipsis:
            return LazyIndex(self.read, selection, self.dtype)
        found = LazyIndex(self.read, selection, self.dtype)
        if self.cuts_lazily:
            return found.unless_volume()
        voxels = np.asarray(found)
        return voxels[()] if voxels.ndim == 0 else voxels

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        check_size(self.shape)
        return self.read(Box.whole(self.shape)).astype(dtype or self.dtype, copy=False)

    def _read_points(self, points: Points) -> NDArray[Any]:
        out = np.zeros(points.z.size, self.dtype)
        for key, inside, which in points.by_cell():
            z, y, x = inside
            box = Box(zyx(a.min() for a in inside), zyx(a.max() + 1 for a in inside))
            origin = zyx(k * n for k, n in zip(key, CELL, strict=True))
            block = self.read(Box.at(zyx(o + s for o, s in zip(origin, box.start, strict=True)), box.shape))
            out[which] = block[z - box.start[0], y - box.start[1], x - box.start[2]]
        return out.reshape(points.shape)
