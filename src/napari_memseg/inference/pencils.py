"""The order in which blocks are visited, so that a chunk is decoded once and used by all.

Neighbouring tiles read the same chunks. A pencil is as many blocks side by side (y, x)
as the cache holds decoded chunks for; it is swept along z, so that what one layer has
read is still there when the next one begins::

        ┌──┬──┐                ┌──┬──┐
       ╱  ╱  ╱│ layer 0       ╱  ╱  ╱│
      ├──┼──┤ │              ├──┼──┤ │
      │  │  │╱│ layer 1      │  │  │╱│       z downwards; then the next pencil
      ├──┼──┤ │              ├──┼──┤ │

It is also the unit of work on a cluster.
"""

from __future__ import annotations

from itertools import groupby, product
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from napari_memseg.geometry import Box, zyx
from napari_memseg.io.pyramid import CHUNK
from napari_memseg.io.volume import CACHE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from napari_memseg.geometry import Zyx
    from napari_memseg.inference.plan import Block, Plan
    from napari_memseg.inference.stages import ReadPlan, StagePlan

Width: TypeAlias = tuple[int, int]
"""Blocks side by side in a pencil, along y and x."""

WIDEST = 8
"""Blocks along an axis from which wider pencils hardly save reading; only all of the axis saves more."""


def pencil_width(plan: Plan, chunks: Sequence[Zyx] | None = None, limit: int = CACHE_BYTES) -> Width:
    """Choose the pencil that reads least, among those whose layers the cache can hold.

    Coarse chunks of the labels then have all their eight children in one pencil.

    Parameters
    ----------
    plan : Plan
        Says what a block reads.
    chunks : sequence of (z, y, x), optional
        The unit of decoding, in voxels, for each level of the image; by default that of our own volumes.
    limit : int
        Bytes of decoded chunks that are kept.

    Returns
    -------
    (y, x)
        Blocks; (1, 1) where not even the chunks that one block reads can be kept.
    """
    unit = chunks or [CHUNK] * (1 + max(read.level or 0 for stage in plan.stages for read in stage.reads))
    along_y, along_x = _candidates(plan)
    cost = {width: _layer_bytes(plan, unit, width) for width in product(along_y, along_x)}
    fit = [width for width, size in cost.items() if size <= limit]
    return min(fit, key=lambda w: (cost[w] / _layer(plan, plan.stages[-1], w).size, w), default=(1, 1))


def _candidates(plan: Plan) -> Iterator[list[int]]:
    """Yield how many blocks a pencil may have along y, then along x: few, or as many as there are."""
    ends = [stage.region.coarsen(plan.core).stop for stage in plan.stages]
    for axis in (1, 2):
        end = max(stop[axis] for stop in ends)
        few = range(1, min(WIDEST + 1, end))
        yield [1, *(n for n in few if n > 1 and n * plan.core[axis] % (2 * plan.chunk[axis]) == 0), end]


def _layer_bytes(plan: Plan, chunks: Sequence[Zyx], width: Width) -> int:
    """Return the decoded size of all chunks that a layer reads, in the stage that reads most."""
    itemsize = np.dtype(plan.window.dtype).itemsize
    stages = [[_voxels(plan, stage, r, chunks, width) for r in stage.reads] for stage in plan.stages]
    return max(map(sum, stages)) * itemsize


def _voxels(plan: Plan, stage: StagePlan, read: ReadPlan, chunks: Sequence[Zyx], width: Width) -> int:
    """Return the voxels of all chunks of one array that a layer reads."""
    if read.level is None or read.whole or stage.whole:
        return 0
    layer = _layer(plan, stage, width)
    ends = (layer.start, zyx(n - 1 for n in layer.stop))
    starts = [zyx(i * n for i, n in zip(index, plan.core, strict=True)) for index in ends]
    first, last = (stage.box(read, start, plan.core, plan.shape) for start in starts)
    stored, chunk = (first | last).refine(zyx([2**read.halvings] * 3)), chunks[read.level]
    return stored.coarsen(chunk).refine(chunk).size


def _layer(plan: Plan, stage: StagePlan, width: Width) -> Box:
    """Return the blocks of a layer of a pencil, amid the volume, where it reads most."""
    grid = stage.region.coarsen(plan.core)
    z, y, x = ((a + b) // 2 for a, b in zip(grid.start, grid.stop, strict=True))
    corner = (z, y // width[0] * width[0], x // width[1] * width[1])
    return Box.at(corner, (1, *width)) & grid


def visiting_key(block: Block, width: Width) -> tuple[int, ...]:
    """Return what to sort the blocks of one stage by: pencil after pencil, each layer by layer along z."""
    z, y, x = block.index
    return y // width[0], x // width[1], z, y, x


def pencils(blocks: Iterable[Block], width: Width, longest: int | None = None) -> list[list[Block]]:
    """Cut the blocks of one stage into pencils.

    Parameters
    ----------
    blocks : iterable of Block
        Of one stage.
    width : (y, x)
        As ``pencil_width`` gives it.
    longest : int, optional
        The most blocks that a piece may have; longer pencils are cut along z, between layers if
        a layer has no more blocks than that.

    Returns
    -------
    list of list of Block
        Each block once, in the order in which to visit them.
    """
    ordered = sorted(blocks, key=lambda block: visiting_key(block, width))
    columns = [list(column) for _, column in groupby(ordered, lambda block: visiting_key(block, width)[:2])]
    return [piece for column in columns for piece in _pieces(column, longest or len(column))]


def _pieces(column: list[Block], longest: int) -> Iterator[list[Block]]:
    layer = max(len(list(blocks)) for _, blocks in groupby(column, lambda block: block.index[0]))
    step = longest // layer * layer or longest
    return (column[start : start + step] for start in range(0, len(column), step))
