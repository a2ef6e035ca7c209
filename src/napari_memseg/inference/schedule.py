"""Which block is next: what is looked at first, and never before what it needs.

Blocks of the last stage are wanted in pencils, so that neighbours find decoded what
they share; those that are needed more, and before them those under the eye of the viewer,
come first. Each pulls the
blocks of earlier stages that it reads, so that a place passes through all stages
before the next one begins::

    want second(0,0,1) ──needs──> first(0,0,0) done, first(0,0,1) not begun ──> next: first(0,0,1)

A block that failed takes with it all that need it.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from napari_memseg.errors import InputError
from napari_memseg.geometry import cells
from napari_memseg.inference.pencils import pencil_width, visiting_key
from napari_memseg.inference.plan import Block

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from napari_memseg.geometry import Box, Zyx
    from napari_memseg.inference.plan import Plan

LOOK_AHEAD = 16
"""Wanted blocks that are looked at for one that can begin, while others are being computed."""


def needs(plan: Plan, block: Block) -> Iterator[Block]:
    """Yield the blocks of earlier stages that a block reads from."""
    stage = plan.stage(block.stage)
    makers = {array.name: maker for maker in plan.stages for array in maker.writes}
    for read in stage.reads:
        if (maker := makers.get(read.name)) is None:
            continue
        if maker.whole:
            yield Block(maker.name, (0, 0, 0))
            continue
        core = plan.core_of(block)
        seen = stage.box(read, core.start, core.shape, plan.shape).refine(read.factor) & maker.region
        yield from (Block(maker.name, index) for index in cells(seen, plan.core))


class Schedule:
    """The blocks that are still to be done, in an order that can change while it runs.

    Parameters
    ----------
    plan : Plan
        Says what a block reads.
    blocks : iterable of Block
        What is to be done.
    is_done : callable
        Whether a block that is not among them is there: what is to be done may need it.
    chunks : sequence of (z, y, x), optional
        The unit of decoding of each level of the image, in voxels.
    need : callable, optional
        How late a box of the last stage can wait: those of the lowest number come first.

    Attributes
    ----------
    lost : list of Block
        Those that will never be begun, since what they need failed.
    """

    def __init__(
        self,
        plan: Plan,
        blocks: Iterable[Block],
        is_done: Callable[[Block], bool],
        chunks: Sequence[Zyx] | None = None,
        need: Callable[[Box], int] | None = None,
    ) -> None:
        self._plan, self._is_done, self._need = plan, is_done, need
        depth, width = {stage.name: n for n, stage in enumerate(plan.stages)}, pencil_width(plan, chunks)
        order = sorted(
            blocks, key=lambda block: (-depth[block.stage], self._rank(block), visiting_key(block, width))
        )
        self._waiting = dict.fromkeys(order)
        self._begun: set[Block] = set()
        self._failed: set[Block] = set()
        self._looked_at: Box | None = None
        self.lost: list[Block] = []

    def __len__(self) -> int:
        """Return how many blocks are not finished."""
        return len(self._waiting) + len(self._begun)

    def next(self, looked_at: Box | None = None) -> Block | None:
        """Begin the most wanted block that can be begun; None if they wait for others to be finished.

        Raises
        ------
        InputError
            If a block needs one that is neither done nor to be done.
        """
        if looked_at != self._looked_at:
            self._bring_forward(looked_at)
        for target in list(islice(self._waiting, LOOK_AHEAD)):
            given_up = target not in self._waiting  # while we looked at one that needs it
            block = None if given_up else self._ready_for(target)
            if block is not None:
                del self._waiting[block]
                self._begun.add(block)
                return block
        return None

    def finished(self, block: Block, *, failed: bool = False) -> None:
        """Take note that a block is on disk, or that it cannot be computed."""
        self._begun.discard(block)
        if failed:
            self._failed.add(block)

    def _bring_forward(self, looked_at: Box | None) -> None:
        self._looked_at = looked_at
        self._waiting = dict.fromkeys(sorted(self._waiting, key=lambda block: not self._is_seen(block)))

    def _rank(self, block: Block) -> int:
        """Return how late a block can wait; those of earlier stages are pulled by the last one's."""
        last = block.stage == self._plan.stages[-1].name
        return self._need(self._plan.box_of(block)) if self._need is not None and last else 0

    def _is_seen(self, block: Block) -> bool:
        if self._looked_at is None or block.stage != self._plan.stages[-1].name:
            return False
        return not (self._plan.box_of(block) & self._looked_at).is_empty

    def _ready_for(self, block: Block) -> Block | None:
        """Return the first block to begin so that ``block`` can be: itself, or what it lacks."""
        free = True
        for needed in needs(self._plan, block):
            if needed in self._failed:
                self._give_up(block)
                return None
            if needed in self._begun:
                free = False
            elif needed in self._waiting:
                if (earlier := self._ready_for(needed)) is not None:
                    return earlier
                free = False
            elif not self._is_done(needed):
                raise InputError(
                    f"Block {block.index} of {block.stage} needs block {needed.index} of {needed.stage}, "
                    "which is neither done nor among those to be done. Add it, or do it first."
                )
        return block if free else None

    def _give_up(self, block: Block) -> None:
        del self._waiting[block]
        self._failed.add(block)
        self.lost.append(block)
