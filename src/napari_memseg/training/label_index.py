"""Where the labels are: one pass over them, and a table small enough to keep.

A volume is cut into cells, and of each cell that holds labels the table keeps how
many voxels of each class are there. From it a voxel of any class can be drawn at
random, by reading one cell, and some cells can be held back to validate with::

              class 0  class 1
    cell 3       4012        0    trained on
    cell 7      90210      188    held back: IGNORE in every patch

Few labels are counted in smaller cells, so that there is something to hold back
even where three slices, or one, are all that was painted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from napari_memseg.errors import TrainingError
from napari_memseg.geometry import Box, cell_box, cells, zyx
from napari_memseg.training.sources import CELL, LabelSource, TrainingVolume

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from napari_memseg.models.classes import ClassTable

ENOUGH_CELLS = 24
"""With fewer labelled cells than this, they are halved and counted again, down to 8 voxels an edge."""
ENOUGH_OF_A_CLASS = 8
"""With fewer cells of any class than this, too, down to 16 voxels an edge."""
MANY_CELLS = 4096
"""From here on nothing is halved: the table stays small."""


@dataclass(frozen=True, eq=False)
class LabelIndex:
    """Cells that hold labels, and how many of each class."""

    volume: NDArray[np.int64]
    """(n,) number of the training volume."""
    bounds: NDArray[np.int64]
    """(n, 2, 3) start and stop of each cell in voxels (z, y, x)."""
    counts: NDArray[np.int64]
    """(n, C) labelled voxels per class, in the order of the class table."""
    digest: str = ""
    """xxh3 of all labels that were looked at, voxel by voxel; the same for any choice of their cells."""

    def __len__(self) -> int:
        return len(self.volume)

    @property
    def totals(self) -> NDArray[np.int64]:
        """(C,) labelled voxels per class."""
        totals: NDArray[np.int64] = self.counts.sum(0)
        return totals

    def box(self, row: int) -> Box:
        """Return the voxels of a cell."""
        return Box(zyx(self.bounds[row, 0]), zyx(self.bounds[row, 1]))

    def take(self, rows: NDArray[Any]) -> LabelIndex:
        """Return the chosen cells (a mask, or row numbers)."""
        return LabelIndex(self.volume[rows], self.bounds[rows], self.counts[rows], self.digest)

    def boxes(self, volume: int) -> list[Box]:
        """Return the cells of one volume."""
        return [self.box(int(row)) for row in np.flatnonzero(self.volume == volume)]


def index_labels(volumes: Sequence[TrainingVolume], classes: ClassTable) -> LabelIndex:
    """Count the labels of some volumes, cell by cell, in one pass and bounded memory.

    Returns
    -------
    LabelIndex
        In storage order. Where few cells hold labels, or a class, the labelled ones are
        read again in halves.
    """
    index = _scan(volumes, classes, (volume.labels.cells() for volume in volumes), CELL)
    cell = CELL
    while _is_coarse(index, cell):
        cell //= 2
        finer = _scan(volumes, classes, (index.boxes(number) for number in range(len(volumes))), cell)
        index = replace(finer, digest=index.digest)
    return index


def _is_coarse(index: LabelIndex, cell: int) -> bool:
    """Whether cells are so few that holding one back would take too much."""
    per_class = np.count_nonzero(index.counts, 0)
    rare = bool(((per_class > 0) & (per_class < ENOUGH_OF_A_CLASS)).any())
    few = 0 < len(index) < ENOUGH_CELLS
    return (few and cell > 8) or (rare and cell > 16 and len(index) < MANY_CELLS)


def check_labels(index: LabelIndex, volumes: Sequence[TrainingVolume], classes: ClassTable) -> None:
    """Make sure that there is something to learn of every class.

    Background may be missing where 0 is the value of unlabelled voxels.

    Raises
    ------
    TrainingError
        If no voxel is labelled, a class has none, or there are fewer than two classes with some.
    """
    if not len(index):
        raise TrainingError(
            f"No voxel is labelled with one of the ids {list(classes.ids)}. Label a few voxels of every "
            "class, or choose the class table and the unlabelled value that fit the labels."
        )
    optional = {0} if all(volume.labels.unlabelled == 0 for volume in volumes) else set()
    empty = [c for c, total in zip(classes, index.totals, strict=True) if not total and c.id not in optional]
    if empty:
        named = ", ".join(f"{c.id} ({c.name})" for c in empty)
        raise TrainingError(
            f"No voxel is labelled as {named}, and a network cannot learn what it never sees. "
            "Label some voxels of it, or take it out of the class table."
        )
    if np.count_nonzero(index.totals) < 2:
        named = ", ".join(f"{c.id} ({c.name})" for c, n in zip(classes, index.totals, strict=True) if n)
        raise TrainingError(
            f"Only {named} is labelled, and a network learns to tell two classes apart, or more. Paint some "
            "background too. If 0 is the value of unlabelled voxels, it says nothing of background: give "
            "unlabelled voxels another value, for example 255."
        )


def hold_back(
    index: LabelIndex, share: float, *, most: int, seed: int, limit: float = 0.5
) -> NDArray[np.bool_]:
    """Choose cells to validate with, so that each class is there and none is lost to training.

    Class by class, the rarest first, random cells are taken until ``share`` of its
    voxels is held back, or the class has had its even part of ``most``. A cell stays
    if with it more than twice the share of any class would go; only where a class
    would have nothing to validate otherwise, up to ``limit`` may.

    A cell's turn depends on where it is, and on no other cell. So what was held back stays
    so while more is labelled, but for a cell or two where the share is reached sooner or later.

    Parameters
    ----------
    index : LabelIndex
        All labelled cells.
    share : float
        Of the voxels of each class, from 0 to 1.
    most : int
        About how many cells to take: more only makes validation slow.
    seed : int
        Makes the choice repeatable.
    limit : float
        Share of any class that may go, at most.

    Returns
    -------
    (n,) bool
        The cells that are held back; none where there are too few.
    """
    order = np.argsort(_turns(index, seed), kind="stable")
    taken = np.zeros(len(index), bool)
    for klass in np.argsort(index.totals, kind="stable"):
        rows = order[index.counts[order, klass] > 0]
        part = partial(_take, index, rows, klass, taken, goal=share, most=-(-most // len(index.totals)))
        part(bound=min(2 * share, limit))
        if not taken[rows].any():
            part(bound=limit)
    return taken


def _turns(index: LabelIndex, seed: int) -> NDArray[np.uint64]:
    """Return a random number for each cell, always the same for one volume, place and seed."""
    places = np.column_stack([index.volume, index.bounds[:, 0]]).astype("<i8")
    return np.array([xxhash.xxh3_64_intdigest(place.tobytes(), seed) for place in places], np.uint64)


def _take(
    index: LabelIndex,
    rows: NDArray[Any],
    klass: int,
    taken: NDArray[np.bool_],
    *,
    goal: float,
    bound: float,
    most: int,
) -> None:
    """Take cells of one class, in the order of ``rows``, until its goal is reached."""
    held = index.counts[taken].sum(0)
    for row in rows[~taken[rows]]:
        if held[klass] >= goal * index.totals[klass] or not most:
            return
        if (held + index.counts[row] <= bound * index.totals).all():
            taken[row], most = True, most - 1
            held += index.counts[row]


def _scan(
    volumes: Sequence[TrainingVolume], classes: ClassTable, boxes: Iterable[Iterable[Box]], cell: int
) -> LabelIndex:
    """Count some boxes of each volume, and take the digest of what they hold."""
    digest = xxhash.xxh3_128()
    parts = [
        LabelIndex(
            np.empty(0, np.int64), np.empty((0, 2, 3), np.int64), np.empty((0, len(classes)), np.int64)
        )
    ]
    for number, (volume, own) in enumerate(zip(volumes, boxes, strict=True)):
        parts += [_count(number, volume.labels, box, classes, cell, digest) for box in own]
    return LabelIndex(
        np.concatenate([part.volume for part in parts]),
        np.concatenate([part.bounds for part in parts]),
        np.concatenate([part.counts for part in parts]),
        str(digest.hexdigest()),
    )


def _count(
    number: int, labels: LabelSource, box: Box, classes: ClassTable, cell: int, digest: xxhash.xxh3_128
) -> LabelIndex:
    """Count the cells of one box of volume ``number``, and keep those that hold labels."""
    found = classes.indices(labels.read(box), labels.unlabelled)
    digest.update(f"{number} {box.start} {box.stop}".encode())
    digest.update(np.ascontiguousarray(found).data)
    subs = [cell_box(index, (cell,) * 3, box.stop) & box for index in cells(box, (cell,) * 3)]
    here = (found[sub.relative_to(box.start).slices].ravel() + 1 for sub in subs)
    counts = np.array([np.bincount(values, minlength=len(classes) + 1)[1:] for values in here], np.int64)
    bounds = np.array([(sub.start, sub.stop) for sub in subs], np.int64)
    some = np.flatnonzero(counts.any(1))
    return LabelIndex(np.full(len(subs), number, np.int64), bounds, counts).take(some)
