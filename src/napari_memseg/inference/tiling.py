"""Cover a volume with tiles that read more than they write.

A network needs context, so the boxes that are read overlap, while the cores that
are written lie edge to edge, aligned to the volume's origin::

    ├─ halo ─┼──── core ────┼─ halo ─┤            read: the whole box, one regular length
    0        ├──── core ────┼─ halo ─┼─ more ─┤   at the near face: shifted inwards
         ├─ more ─┼─ halo ─┼─ core ──┤ n          at the far face: shifted, and longer by
                                                  less than one multiple, to end there

Nothing is padded: at the volume's faces the network's own padding acts, as it would
on the whole volume. Box starts lie on the model's multiple, so that poolings fall
alike in every tile. Two lengths per axis make at most eight shapes, which kernels
and graphs can be reused for. An axis shorter than the regular length is one box.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm
from typing import TYPE_CHECKING

from napari_memseg.errors import GeometryError
from napari_memseg.geometry import Box, Zyx, cell_box, cells, zyx

if TYPE_CHECKING:
    from napari_memseg.models.base import Halo


@dataclass(frozen=True, slots=True)
class Tile:
    """One unit of inference: read ``box``, write ``core``."""

    core: Box
    box: Box


def plan_tiles(shape: Zyx, *, core: Zyx, halo: Halo, multiple: Zyx, region: Box | None = None) -> list[Tile]:
    """Cover a volume, or a region of it, so that each voxel lies in one core.

    The overlap-tile strategy of U-Net (2015), https://doi.org/10.1007/978-3-319-24574-4_28,
    with shifted boxes in place of padded ones.

    Parameters
    ----------
    shape, core : (z, y, x)
        Voxels of the volume, and of what a tile writes.
    halo : Halo
        Context on each side of a core; rounded up to the multiple.
    multiple : (z, y, x)
        Starts of boxes are multiples of it; so must the core be.
    region : Box, optional
        What is to be covered; cores are cut off at its faces, their boxes are not.

    Returns
    -------
    list of Tile
        In storage order.

    Raises
    ------
    GeometryError
        If the core is no positive multiple of ``multiple``, or the halo is negative.
    """
    if min(core) < 1 or any(c % m for c, m in zip(core, multiple, strict=True)):
        raise GeometryError(
            f"A core of {core} voxels is no multiple of {multiple}, to which this model's tiles must keep. "
            f"The next larger one is {round_up(zyx(max(c, 1) for c in core), multiple)}."
        )
    if min(halo.low + halo.high) < 0:
        raise GeometryError(f"A halo cannot be negative, got {halo}. Use 0 for none.")
    inside = Box.whole(shape) if region is None else region.clip(shape)
    full = [cell_box(index, core, shape) for index in cells(inside, core)]
    return [Tile(cell & inside, box_around(cell.start, shape, core, halo, multiple)) for cell in full]


def box_around(start: Zyx, shape: Zyx, core: Zyx, halo: Halo, multiple: Zyx) -> Box:
    """Return the box to read for the core that begins at ``start``, all in voxels of one grid.

    ``core`` need not be a multiple here (an array on a coarser grid than the
    tile's own): the box is then one multiple longer, so that its length stays regular.
    """
    spans = [
        _span(*axis)
        for axis in zip(start, shape, regular_box(core, halo, multiple), halo.low, multiple, strict=True)
    ]
    return Box(zyx(a for a, _ in spans), zyx(b for _, b in spans))


def regular_box(core: Zyx, halo: Halo, multiple: Zyx) -> Zyx:
    """Return the one length per axis that a box has away from the far face."""
    slack = zyx(m if c % m else 0 for c, m in zip(core, multiple, strict=True))
    parts = [round_up(length, multiple) for length in (core, halo.low, halo.high)] + [slack]
    return zyx(sum(axis) for axis in zip(*parts, strict=True))


def _span(start: int, size: int, length: int, low: int, multiple: int) -> tuple[int, int]:
    """Return start and stop of a box along one axis of ``size`` voxels."""
    if size <= length:
        return 0, size
    first = max((start - -(-low // multiple) * multiple) // multiple * multiple, 0)
    if first + length < size:
        return first, first + length
    return (size - length) // multiple * multiple, size


def fit_core(wanted: Zyx, shape: Zyx, step: Zyx, halo: Halo, multiple: Zyx) -> Zyx:
    """Return the core nearest to the wanted one that can be tiled with.

    It is a multiple of ``step``, no larger than the volume needs; an axis that one box
    would read whole anyway is one core.
    """
    core = zyx(map(min, round_up(wanted, step), round_up(shape, step)))
    regular = regular_box(core, halo, multiple)
    full = round_up(shape, step)
    return zyx(f if n <= r else c for c, f, n, r in zip(core, full, shape, regular, strict=True))


def round_up(lengths: Zyx, step: Zyx) -> Zyx:
    """Return the next multiples of ``step`` at or above ``lengths``."""
    return zyx(-(-n // s) * s for n, s in zip(lengths, step, strict=True))


def common_multiple(*steps: Zyx) -> Zyx:
    """Return the least common multiple along each axis."""
    return zyx(lcm(*axis) for axis in zip(*steps, strict=True))
