"""Votes of half-overlapping windows: the published way to segment with a cascade, exact over tiles.

Windows of one size step by half of it. The volume is padded with zeros, evenly, until they fit. Each
window votes for the class of each of its voxels, and twice in its middle half along every axis::

    ├──────── window ────────┤
                ├──────── window ────────┤
    1     2     2     1                           votes of the first, by quarters

Every window that touches a voxel lies within one window's length of it, so with that halo a tile sees all
votes of its core, and the answer does not depend on the tiles. What is kept in memory is one byte a class
and voxel of a tile.

Wang et al., MIDL 2022, https://arxiv.org/abs/2205.15941, section A.6.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from napari_memseg.geometry import Box, Zyx, zyx
from napari_memseg.models.base import SCORES, Halo, Reads, Stage, Where, Writes
from napari_memseg.models.blocks import class_of_largest, one_hot, pad_to_box, require_finite

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@dataclass(frozen=True)
class Voting:
    """A stage that runs in half-overlapping windows, whose votes decide.

    Attributes
    ----------
    stage : Stage
        What runs in each window; all it reads and writes lies on the working level's grid.
    window : int
        Edge of a window, in voxels.
    classes : int
        How many there are to vote for.
    """

    stage: Stage
    window: int
    classes: int

    @property
    def name(self) -> str:
        """That of the stage."""
        return self.stage.name

    @property
    def reads(self) -> tuple[Reads, ...]:
        """What the stage reads, a window's length around."""
        halo = Halo.even(*[self.window - 1] * 3)
        return tuple(replace(read, halo_exact=halo, halo_recommended=halo) for read in self.stage.reads)

    @property
    def writes(self) -> tuple[Writes, ...]:
        """What the stage writes: class indices, or votes in the place of scores."""
        return self.stage.writes

    @property
    def multiple(self) -> Zyx:
        """Windows lie where the volume says, wherever a tile begins."""
        return (1, 1, 1)

    @property
    def whole(self) -> bool:
        """It runs tile by tile."""
        return False

    def __call__(self, inputs: dict[str, Tensor], where: Sequence[Where]) -> dict[str, Tensor]:
        """Let every window of each sample vote."""
        samples = [self._votes({k: x[n : n + 1] for k, x in inputs.items()}, w) for n, w in enumerate(where)]
        votes = torch.cat(samples)
        (writes,) = self.writes
        return {writes.array: votes.float() if writes.array == SCORES else class_of_largest(votes)}

    def _votes(self, inputs: dict[str, Tensor], where: Where) -> Tensor:
        """Return the votes (1, C, z, y, x) of all windows that lie in a box, or over the volume's faces."""
        device = next(iter(inputs.values())).device
        weight = self._weight().to(device)
        votes = torch.zeros((1, self.classes, *where.box.shape), dtype=torch.uint8, device=device)
        for window in self._windows(where):
            found = self._run(
                {name: padded(x, where.box, window) for name, x in inputs.items()}, where, window
            )
            shared = window & where.box
            inside, there = (shared.relative_to(box.start).slices for box in (window, where.box))
            votes[(..., *there)] += (found * weight)[(..., *inside)]
        return votes

    def _run(self, inputs: dict[str, Tensor], where: Where, window: Box) -> Tensor:
        """Return the one-hot choice (1, C, z, y, x) of a window."""
        here = replace(where, box=window, boxes=dict.fromkeys(inputs, window))
        (writes,) = self.stage.writes
        made = self.stage(inputs, [here])[writes.array]
        chosen = class_of_largest(require_finite(made, self.name)) if writes.array == SCORES else made
        return one_hot(chosen, self.classes).to(torch.uint8)

    def _weight(self) -> Tensor:
        """Return the votes that a window has, voxel by voxel: 2 in its middle half, else 1."""
        place = 4 * torch.arange(self.window)
        middle = (place >= self.window) & (place < 3 * self.window)
        inside = middle[:, None, None] & middle[None, :, None] & middle[None, None, :]
        return 1 + inside.to(torch.uint8)

    def _windows(self, where: Where) -> Iterator[Box]:
        """Yield the windows that lie in a box, where it ends at a face of the volume also beyond."""
        axes = [
            window_starts(n, self.window, a, b)
            for n, a, b in zip(where.shape, where.box.start, where.box.stop, strict=True)
        ]
        for start in product(*axes):
            yield Box.at(zyx(start), zyx([self.window] * 3))


def window_starts(length: int, window: int, low: int, high: int) -> list[int]:
    """Return where windows begin along an axis of the volume that lie in ``[low, high)``.

    They step by half a window over the axis, padded evenly until they fit; an odd voxel of padding comes
    last. Where the interval ends at the volume's end, windows may reach over it.
    """
    step = max(window // 2, 1)
    padded_length = window + -(-max(length - window, 0) // step) * step
    first = -((padded_length - length) // 2)
    starts = range(first, first + padded_length - window + 1, step)
    return [s for s in starts if (s >= low or low == 0) and (s + window <= high or high == length)]


def padded(x: Tensor, have: Box, want: Box) -> Tensor:
    """Cut ``want`` out of (1, C, z, y, x) that covers ``have``, with zeros where it does not reach."""
    shared = want & have
    return pad_to_box(x[(..., *shared.relative_to(have.start).slices)], shared, want)
