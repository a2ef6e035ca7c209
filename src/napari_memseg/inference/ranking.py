"""Which places of a prediction are worth a look: where most voxels are likely to be wrong.

Two kinds of evidence are weighed in one unit, voxels that are expected to be wrong,
and a third keeps the list honest::

    unsure    half of what confidence lacks, summed over a blob that lacks much of it
    differs   half of the voxels in which two predictions differ: one of them is wrong
    random    somewhere in the foreground, whatever anybody thinks of it

Thin shells along every border are unsure, and nobody wants to see them all: only what
stays after smoothing makes a blob. One block is looked at after the other, so memory
does not grow with the volume.

Mixing uncertainty with random foreground follows Luth et al. (nnActive, 2025), https://arxiv.org/abs/2511.19183
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, Literal, Protocol

import cc3d
import numpy as np
from scipy import ndimage

from napari_memseg.geometry import Box, Zyx, cell_box, cells, zyx

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

Kind = Literal["unsure", "differs", "random"]

BLOCK: Zyx = (64, 64, 64)
"""So much is looked at at a time; each block has at most one place of each kind."""
SMOOTH = 5
"""Edge of the cube over which evidence is averaged, in voxels: shells of one or two voxels fall below."""
UNSURE, DIFFERENT = 0.5, 0.6
"""What the average must reach: of what confidence lacks, from 0 to 1, and of voxels that differ."""
LEAST = 8.0
"""Voxels that are expected to be wrong, below which nobody is bothered."""
MARGIN, SMALLEST, LARGEST = 6, 24, 64
"""Around a blob, and the shortest and longest edge of a place, in voxels."""
RANDOM_EVERY = 5
"""Every so many places, one of the list is random."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known of one block, all of one shape (z, y, x)."""

    labels: NDArray[Any]
    """Class ids that are predicted."""
    asked: NDArray[np.bool_]
    """Where a look is of use: predicted, and nobody has an opinion yet."""
    confidence: NDArray[np.uint8] | None = None
    """255 is sure; None where it was not stored."""
    other: NDArray[Any] | None = None
    """Class ids of another prediction; None where there is none."""
    differs: NDArray[np.bool_] | None = None
    """Where both predicted, and not the same; None where there is no other."""


class Source(Protocol):
    """Evidence about a volume, block by block."""

    @property
    def shape(self) -> Zyx:
        """Of what ``read`` reads, in voxels."""

    def read(self, box: Box) -> Evidence:
        """Return what is known of a box."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A place that is worth a look, in voxels of the source."""

    kind: Kind
    score: float
    """Voxels that are expected to be wrong; 0 of a random place."""
    centre: Zyx
    """In the middle of the blob, where it is thickest."""
    box: Box
    """Around the blob."""
    label: int
    """The class that is predicted at the centre."""
    other: int | None = None
    """What the other prediction says there."""


class Ranking:
    """The best places so far, of all blocks that were looked at.

    Parameters
    ----------
    most : int
        Places of the finished list.
    seed : int
        Of the random ones.
    """

    def __init__(self, most: int, seed: int = 0) -> None:
        self._most = most
        self._best: list[tuple[float, int, Candidate]] = []
        self._random: list[tuple[float, int, Candidate]] = []
        self._chance = np.random.default_rng(seed)
        self._order = count()

    def look(self, source: Source, blocks: Iterable[Zyx]) -> Iterator[Box]:
        """Weigh blocks of a source, and yield the box of each when that is done."""
        for index in blocks:
            box = cell_box(index, BLOCK, source.shape)
            self._weigh(source.read(box), box, source.shape)
            yield box

    def places(self) -> list[Candidate]:
        """Return the places, the most worthwhile first, a random one mixed in now and then; none twice."""
        ranked = [found for _, _, found in sorted(self._best, reverse=True)]
        drawn = [found for _, _, found in sorted(self._random, reverse=True)]
        chosen: list[Candidate] = []
        while (ranked or drawn) and len(chosen) < self._most:
            is_turn = len(chosen) % RANDOM_EVERY == RANDOM_EVERY - 1
            pile = (drawn or ranked) if is_turn or not ranked else ranked
            one = pile.pop(0)
            if not any(_same_place(one, known) for known in chosen):
                chosen.append(one)
        return chosen

    def _weigh(self, evidence: Evidence, box: Box, shape: Zyx) -> None:
        for found in (_unsure(evidence, box, shape), _differing(evidence, box, shape)):
            if found is not None and found.score >= LEAST:
                self._keep(self._best, found.score, found)
        foreground = np.flatnonzero(evidence.asked & (evidence.labels != 0))
        if len(foreground):
            at = _index(int(self._chance.choice(foreground)), evidence.labels.shape)
            weight = float(self._chance.random() ** (1 / len(foreground)))  # each voxel has the same chance
            self._keep(
                self._random,
                weight,
                _candidate("random", 0.0, at, Box.at(at, (1, 1, 1)), evidence, box, shape),
            )

    def _keep(self, pile: list[tuple[float, int, Candidate]], weight: float, found: Candidate) -> None:
        heapq.heappush(pile, (weight, -next(self._order), found))
        if len(pile) > 2 * self._most:
            heapq.heappop(pile)


def blocks_of(shape: Zyx) -> Iterator[Zyx]:
    """Yield the blocks of a source, in storage order."""
    return cells(Box.whole(shape), BLOCK)


def _unsure(evidence: Evidence, box: Box, shape: Zyx) -> Candidate | None:
    """Return the blob of a block in which most voxels are likely to be wrong, as the network itself says."""
    if evidence.confidence is None:
        return None
    lacks = np.where(evidence.asked, (255.0 - evidence.confidence) / 255.0, 0.0).astype(np.float32)
    blob = _largest_blob(ndimage.uniform_filter(lacks, SMOOTH, mode="nearest") >= UNSURE, lacks / 2)
    return None if blob is None else _candidate("unsure", *blob, evidence, box, shape)


def _differing(evidence: Evidence, box: Box, shape: Zyx) -> Candidate | None:
    """Return the blob of a block in which two predictions differ most."""
    if evidence.differs is None:
        return None
    differs = (evidence.differs & evidence.asked).astype(np.float32)
    thick = ndimage.uniform_filter(differs, SMOOTH, mode="nearest") >= DIFFERENT
    blob = _largest_blob(thick & (differs > 0), differs / 2)
    return None if blob is None else _candidate("differs", *blob, evidence, box, shape)


def _largest_blob(mask: NDArray[np.bool_], wrong: NDArray[np.floating[Any]]) -> tuple[float, Zyx, Box] | None:
    """Return how many voxels are expected to be wrong in the worst blob, its thickest voxel and its box."""
    if not mask.any():
        return None
    blobs = cc3d.connected_components(mask, connectivity=6)
    sums = np.bincount(blobs.ravel(), weights=wrong.ravel())
    sums[0] = -1
    worst = int(sums.argmax())
    (where,) = ndimage.find_objects((blobs == worst).astype(np.uint8))
    inside = np.pad(blobs[where] == worst, 1)
    deep = _index(int(ndimage.distance_transform_cdt(inside).argmax()), inside.shape)
    centre = zyx(d - 1 + span.start for d, span in zip(deep, where, strict=True))
    return float(sums[worst]), centre, Box(zyx(s.start for s in where), zyx(s.stop for s in where))


def _index(flat: int, shape: tuple[int, ...]) -> Zyx:
    return zyx(map(int, np.unravel_index(flat, shape)))


def _candidate(
    kind: Kind, score: float, centre: Zyx, blob: Box, evidence: Evidence, block: Box, shape: Zyx
) -> Candidate:
    """Return a place in voxels of the source, from one counted from the start of a block."""
    other = None if evidence.other is None else int(evidence.other[centre])
    label = int(evidence.labels[centre])
    middle = zyx(c + s for c, s in zip(centre, block.start, strict=True))
    around = blob.relative_to(zyx(-s for s in block.start))
    return Candidate(
        kind=kind, score=score, centre=middle, box=_sized(around, middle, shape), label=label, other=other
    )


def _sized(blob: Box, centre: Zyx, shape: Zyx) -> Box:
    """Return a box around a blob that a person can look through: not too small, and not too large."""
    start, stop = [], []
    for a, b, middle, size in zip(blob.start, blob.stop, centre, shape, strict=True):
        length = min(max(b - a + 2 * MARGIN, SMALLEST), LARGEST, size)
        begin = (a + b - length) // 2 if b - a + 2 * MARGIN <= LARGEST else middle - length // 2
        begin = min(max(begin, 0), size - length)
        start.append(begin)
        stop.append(begin + length)
    return Box(zyx(start), zyx(stop))


def _same_place(one: Candidate, other: Candidate) -> bool:
    """Whether two places share so much that nobody wants to be taken to both."""
    shared = (one.box & other.box).size
    return 2 * shared > min(one.box.size, other.box.size)
