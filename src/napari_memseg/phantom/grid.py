"""Find the solids that may touch a place: a grid of boxes, each with a short list.

It does what a tree of bounding boxes would, in one step: a point looks into its cell and asks only
what is listed there. Lists hold every solid whose box, with a margin, touches the cell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from napari_memseg.phantom.compiled import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_memseg.phantom.solids import Solids


class Grid(NamedTuple):
    """Cells in body coordinates."""

    origin: NDArray[np.float64]
    counts: NDArray[np.int64]
    """(3,) cells along each axis."""
    cell: float
    """Edge of a cell, in µm."""
    starts: NDArray[np.int64]
    """Where each cell's list begins; one more than there are cells."""
    members: NDArray[np.int32]
    """Solids, cell by cell."""
    is_outside: NDArray[np.bool_]
    """Cells that hold nothing but what surrounds the animal."""
    is_far: NDArray[np.bool_]
    """Cells whose neighbours are outside as well: so is all of a voxel whose middle is here."""


@compiled
def cell_of(grid: Grid, u: float, v: float, w: float) -> int:
    """Return the number of the cell that a point is in, -1 beside the grid."""
    i = int(np.floor((u - grid.origin[0]) / grid.cell))
    j = int(np.floor((v - grid.origin[1]) / grid.cell))
    k = int(np.floor((w - grid.origin[2]) / grid.cell))
    if i < 0 or j < 0 or k < 0 or i >= grid.counts[0] or j >= grid.counts[1] or k >= grid.counts[2]:
        return -1
    return int((i * grid.counts[1] + j) * grid.counts[2] + k)


def build_grid(
    solids: Solids,
    margins: NDArray[np.float64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    cell: float,
) -> Grid:
    """List the solids of each cell; ``margins`` (n,) in µm widen their boxes. Nothing is outside yet."""
    counts = np.ceil((high - low) / cell).astype(np.int64)
    first = np.floor((solids.low - margins[:, None] - low) / cell).astype(np.int64).clip(0, counts - 1)
    last = np.floor((solids.high + margins[:, None] - low) / cell).astype(np.int64).clip(0, counts - 1)
    starts = np.zeros(int(np.prod(counts)) + 1, np.int64)
    _count(first, last, counts, starts)
    np.cumsum(starts, out=starts)
    members = np.zeros(int(starts[-1]), np.int32)
    _list(first, last, counts, starts[:-1].copy(), members)
    return Grid(
        low.copy(),
        counts,
        float(cell),
        starts,
        members,
        np.zeros(len(starts) - 1, np.bool_),
        np.zeros(len(starts) - 1, np.bool_),
    )


@compiled
def _count(
    first: NDArray[np.int64], last: NDArray[np.int64], counts: NDArray[np.int64], starts: NDArray[np.int64]
) -> None:
    for s in range(len(first)):
        for i in range(first[s, 0], last[s, 0] + 1):
            for j in range(first[s, 1], last[s, 1] + 1):
                for k in range(first[s, 2], last[s, 2] + 1):
                    starts[(i * counts[1] + j) * counts[2] + k + 1] += 1


@compiled
def _list(
    first: NDArray[np.int64],
    last: NDArray[np.int64],
    counts: NDArray[np.int64],
    ends: NDArray[np.int64],
    members: NDArray[np.int32],
) -> None:
    for s in range(len(first)):
        for i in range(first[s, 0], last[s, 0] + 1):
            for j in range(first[s, 1], last[s, 1] + 1):
                for k in range(first[s, 2], last[s, 2] + 1):
                    cell = (i * counts[1] + j) * counts[2] + k
                    members[ends[cell]] = s
                    ends[cell] += 1
