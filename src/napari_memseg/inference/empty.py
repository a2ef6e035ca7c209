"""Which tiles hold nothing worth a look: decided on a coarse level, before anything is decoded.

Around a specimen there is air, often more of it than specimen. Who states a grey value
below which there is nothing lets such tiles be background at once. The coarse voxels
that touch a core, and one more on every side, must all lie below it; a coarse voxel is a mean,
so that what is smaller than one may be missed: it is off unless somebody asks for it::

    ░░░░░░░░▓▓▓▓░░░░     coarse level
    │skip│tile│tile│     cores
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_memseg.inference.choices import coarse_factor
from napari_memseg.inference.schedule import needs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_memseg.inference.plan import Block, Plan
    from napari_memseg.io.volume import Volume


def split_empty(plan: Plan, image: Volume, blocks: Sequence[Block]) -> tuple[list[Block], list[Block]]:
    """Divide blocks into those to compute, and those to skip.

    A block of the last stage is skipped where it is empty, one of an earlier stage
    where no block that is to be computed needs it; unless none of the last stage is among them.

    Returns
    -------
    to_do, empty : list of Block
    """
    last = plan.stages[-1].name
    wanted = [block for block in blocks if block.stage == last]
    if plan.skip_below is None or not wanted:
        return list(blocks), []
    kept = {block for block in wanted if not _is_empty(plan, image, block)}
    frontier = kept
    while frontier:
        frontier = {needed for block in frontier for needed in needs(plan, block)} - kept
        kept |= frontier
    return [b for b in blocks if b in kept], [b for b in blocks if b not in kept]


def _is_empty(plan: Plan, image: Volume, block: Block) -> bool:
    level = plan.skip_level
    assert level is not None
    shape = image.arrays[level].shape
    coarse = plan.box_of(block).coarsen(coarse_factor(image, plan.level, level))
    spans = zip(coarse.start, coarse.stop, shape, strict=True)
    if any(a >= n or b > n + 1 for a, b, n in spans):
        return False  # pyramids may lack an odd last plane, but nobody knows what lies farther out
    seen = coarse.grow((1, 1, 1)).clip(shape)
    return bool((image.read(seen, level) < plan.skip_below).all())
