"""Boxes of voxels in (z, y, x): the one vocabulary of place.

A box is half open, as a slice is, and knows nothing of chunks, tiles or files::

    start ├──────── shape ────────┤ stop        voxel ``stop`` is outside
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import TYPE_CHECKING, TypeAlias

from napari_memseg.errors import GeometryError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Zyx: TypeAlias = tuple[int, int, int]
"""Three whole numbers in the order (z, y, x)."""

_SPAN = re.compile(r"\s*(\d*)\s*:\s*(\d*)\s*")


@dataclass(frozen=True, slots=True, order=True)
class Box:
    """The voxels from ``start`` up to, but not including, ``stop``."""

    start: Zyx
    stop: Zyx

    @classmethod
    def at(cls, start: Zyx, shape: Zyx) -> Box:
        """Return the box of ``shape`` voxels that begins at ``start``."""
        return cls(start, zyx(a + n for a, n in zip(start, shape, strict=True)))

    @classmethod
    def whole(cls, shape: Zyx) -> Box:
        """Return the box that a volume of ``shape`` fills."""
        return cls((0, 0, 0), shape)

    @classmethod
    def parse(cls, text: str, shape: Zyx) -> Box:
        """Read ``Z0:Z1,Y0:Y1,X0:X1`` as numpy would; an empty bound is the volume's face.

        Raises
        ------
        GeometryError
            If the text is no box, or leaves the volume.
        """
        spans = [_SPAN.fullmatch(part) for part in text.split(",")]
        if len(spans) != 3 or None in spans:
            raise GeometryError(
                f"{text!r} is not a box. Write three spans of voxels as Z0:Z1,Y0:Y1,X0:X1, "
                f"for example 0:{shape[0]},:,:."
            )
        found = [span for span in spans if span]
        start = zyx(int(span[1] or 0) for span in found)
        stop = zyx(int(span[2] or n) for span, n in zip(found, shape, strict=True))
        box = cls(start, stop)
        if box.is_empty or not cls.whole(shape).contains(box):
            raise GeometryError(
                f"The box {text} is empty or leaves the volume of {shape} voxels (z, y, x). "
                f"Choose it inside {cls.whole(shape)}."
            )
        return box

    @property
    def shape(self) -> Zyx:
        """Length of each axis, in voxels; never negative."""
        return zyx(max(b - a, 0) for a, b in zip(self.start, self.stop, strict=True))

    @property
    def size(self) -> int:
        """Number of voxels."""
        return prod(self.shape)

    @property
    def is_empty(self) -> bool:
        """Whether there is no voxel inside."""
        return self.size == 0

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """The box as an index into a (z, y, x) array."""
        z, y, x = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return z, y, x

    def contains(self, other: Box) -> bool:
        """Whether every voxel of ``other`` is inside; an empty box always is."""
        return other.is_empty or self & other == other

    def __and__(self, other: Box) -> Box:
        """Return the voxels that both boxes share (perhaps none)."""
        start = zyx(map(max, self.start, other.start))
        stop = zyx(map(min, self.stop, other.stop))
        return Box(start, zyx(map(max, start, stop)))

    def __or__(self, other: Box) -> Box:
        """Return the smallest box around both boxes; an empty one counts for nothing."""
        if self.is_empty or other.is_empty:
            return other if self.is_empty else self
        start = zyx(map(min, self.start, other.start))
        return Box(start, zyx(map(max, self.stop, other.stop)))

    def clip(self, shape: Zyx) -> Box:
        """Return the part inside a volume of ``shape``."""
        return self & Box.whole(shape)

    def grow(self, low: Zyx, high: Zyx | None = None) -> Box:
        """Return the box with ``low`` voxels more before it and ``high`` behind (default: the same)."""
        start = zyx(a - h for a, h in zip(self.start, low, strict=True))
        return Box(start, zyx(b + h for b, h in zip(self.stop, high or low, strict=True)))

    def relative_to(self, origin: Zyx) -> Box:
        """Return the same box, counted from ``origin``."""
        return Box.at(zyx(a - o for a, o in zip(self.start, origin, strict=True)), self.shape)

    def snap(self, step: Zyx) -> Box:
        """Return the smallest box around this one whose faces are multiples of ``step``."""
        start = zyx(a // n * n for a, n in zip(self.start, step, strict=True))
        return Box(start, zyx(-(-b // n) * n for b, n in zip(self.stop, step, strict=True)))

    def coarsen(self, factor: Zyx) -> Box:
        """Return the cells of ``factor`` voxels that this box touches, on their own grid."""
        start = zyx(a // n for a, n in zip(self.start, factor, strict=True))
        return Box(start, zyx(-(-b // n) for b, n in zip(self.stop, factor, strict=True)))

    def refine(self, factor: Zyx) -> Box:
        """Return the voxels that the cells of this box cover, ``factor`` voxels each."""
        start = zyx(a * n for a, n in zip(self.start, factor, strict=True))
        return Box(start, zyx(b * n for b, n in zip(self.stop, factor, strict=True)))

    def __str__(self) -> str:
        return ",".join(f"{a}:{b}" for a, b in zip(self.start, self.stop, strict=True))


def cells(box: Box, cell: Zyx) -> Iterator[Zyx]:
    """Yield the indices, in storage order, of the grid cells of ``cell`` voxels that ``box`` touches."""
    touched = box.coarsen(cell)
    if not box.is_empty:
        yield from product(*map(range, touched.start, touched.stop))


def cell_box(index: Zyx, cell: Zyx, shape: Zyx) -> Box:
    """Return the voxels of grid cell ``index``, cut off at the faces of a volume of ``shape``."""
    return Box.at(zyx(i * n for i, n in zip(index, cell, strict=True)), cell).clip(shape)


def ceil_div(shape: Zyx, factor: Zyx) -> Zyx:
    """Return how many cells of ``factor`` voxels cover ``shape``, per axis."""
    return zyx(-(-n // f) for n, f in zip(shape, factor, strict=True))


def zyx(values: Iterable[int]) -> Zyx:
    """Return three values as a tuple whose length the type checker knows."""
    z, y, x = (int(value) for value in values)
    return z, y, x
