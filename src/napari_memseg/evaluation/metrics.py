"""Compare labels with the truth, block by block, however large they are.

All scores of overlap follow from one small table, to which each block adds its voxels::

                    labels
               0    3   15  other
    truth  0   ·    ·    ·    ·        Dice of 3 = 2 · hit / (row of 3 + column of 3)
           3   ·   hit   ·    ·        IoU of 3  =     hit / (row + column - hit)
          15   ·    ·    ·    ·
       other   ·    ·    ·    ·        "other": an id that was not asked for, or not predicted
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import nan, prod
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from napari_memseg.errors import InputError
from napari_memseg.geometry import Box, Zyx, cell_box, cells, zyx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

BLOCK: Zyx = (64, 256, 256)
"""Voxels that are compared at a time where nothing is known of chunks."""
BLOCK_VOXELS = 2**22
"""Voxels that are compared at a time: a few tens of megabytes."""
GROUP_VOXELS = 2**26
"""Blocks of the same chunks come one after another, so that these chunks are still in the cache."""


@runtime_checkable
class Readable(Protocol):
    """A volume, as far as scoring needs one."""

    @property
    def shape(self) -> Zyx:
        """Of all of it, in voxels."""

    def read(self, box: Box) -> NDArray[Any]:
        """Return the voxels in a box."""


class Sliceable(Protocol):
    """A (z, y, x) array, in memory or on disk."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of all of it, in voxels."""

    def __getitem__(self, index: tuple[slice, slice, slice], /) -> Any: ...


@dataclass(frozen=True, eq=False)
class Confusion:
    """How many voxels of each true id were given which id.

    Attributes
    ----------
    ids : tuple of int
        The classes, rising.
    table : (len(ids) + 1, len(ids) + 1) array of int64
        Rows are truth, columns labels, both in the order of ``ids``. The last
        row and column count every other id.
    """

    ids: tuple[int, ...]
    table: NDArray[np.int64]

    @property
    def voxels(self) -> int:
        """How many voxels were compared."""
        return int(self.table.sum())

    @property
    def dice(self) -> dict[int, float]:
        """2 hits / (true + labelled) of each id that occurs in truth or labels, in [0, 1]."""
        return {i: 2 * hits / (true + labelled) for i, hits, true, labelled in self._counts()}

    @property
    def iou(self) -> dict[int, float]:
        """Hits / (true or labelled) of each id that occurs in truth or labels, in [0, 1]."""
        return {i: hits / (true + labelled - hits) for i, hits, true, labelled in self._counts()}

    @property
    def mean_dice(self) -> float:
        """Plain mean of Dice over the ids that occur in truth or labels, background (0) left out.

        A class that is in neither counts for nothing; one that is in only one of them counts as 0.
        With no class left it is NaN: there was nothing to score.
        """
        return _mean(self.dice)

    @property
    def mean_iou(self) -> float:
        """Plain mean of IoU, over the same ids as ``mean_dice``."""
        return _mean(self.iou)

    def _counts(self) -> Iterator[tuple[int, int, int, int]]:
        """Yield id, hits, voxels in truth and voxels in labels of each id that occurs."""
        for n, class_id in enumerate(self.ids):
            true, labelled = int(self.table[n].sum()), int(self.table[:, n].sum())
            if true or labelled:
                yield class_id, int(self.table[n, n]), true, labelled


def _mean(scores: dict[int, float]) -> float:
    classes = [score for class_id, score in scores.items() if class_id != 0]
    return sum(classes) / len(classes) if classes else nan


def confusion(
    labels: Readable | Sliceable,
    truth: Readable | Sliceable,
    ids: Iterable[int],
    *,
    box: Box | None = None,
    ignore: int | Iterable[int] | None = None,
    mask: Callable[[Box], NDArray[np.bool_]] | None = None,
    block: Zyx | None = None,
) -> Confusion:
    """Count which id each voxel was given and which it should have.

    The numbers are exact and do not depend on ``block``.

    Parameters
    ----------
    labels, truth : Volume or (z, y, x) array of whole numbers
        Of one shape; floats are accepted as long as they have no fractions. Never more than one block
        of each is in memory.
    ids : iterable of int
        The classes, in any order, with gaps or without. Background, 0, is one where it is listed.
    box : Box, optional
        Count only there; default everywhere.
    ignore : int or iterable of int, optional
        Where the truth has such a value, the voxel is left out, whatever the label.
    mask : callable, optional
        Given a box, says for each of its voxels whether to count it.
    block : (z, y, x), optional
        Voxels to compare at a time; by default whole chunks along y and x, and as many slices as fit.

    Returns
    -------
    Confusion
        The table, and the scores that follow from it.

    Raises
    ------
    InputError
        If the shapes differ, or values are no whole numbers.
    GeometryError
        If the box leaves the volume.
    """
    shape = _same_shape(labels, truth)
    order = np.unique(np.fromiter(ids, np.int64))
    ignored = _as_array(ignore)
    size = len(order) + 1
    table = np.zeros(size * size, np.int64)
    for part in _blocks(shape, box, block, labels, truth):
        wanted, given = _integers(truth, part), _integers(labels, part)
        keep = np.ones(wanted.shape, bool) if mask is None else np.array(mask(part), bool)
        if len(ignored):
            keep &= ~np.isin(wanted, ignored)
        pairs = _index(wanted[keep], order) * size + _index(given[keep], order)
        table += np.bincount(pairs, minlength=size * size)
    return Confusion(tuple(order.tolist()), table.reshape(size, size))


def found_ids(
    array: Readable | Sliceable, *, box: Box | None = None, block: Zyx | None = None
) -> tuple[int, ...]:
    """Return the ids that occur in labels, rising, for ``confusion`` where no class table is known.

    Parameters and errors as there.
    """
    found: set[int] = set()
    for part in _blocks(zyx(array.shape), box, block, array):
        found.update(np.unique(_integers(array, part)).tolist())
    return tuple(sorted(found))


def _same_shape(labels: Readable | Sliceable, truth: Readable | Sliceable) -> Zyx:
    if tuple(labels.shape) != tuple(truth.shape) or len(truth.shape) != 3:
        raise InputError(
            f"The labels have the shape {tuple(labels.shape)}, the truth {tuple(truth.shape)}. To be "
            "compared, both must be volumes (z, y, x) of one shape: take the same level and box of both."
        )
    return zyx(truth.shape)


def _blocks(shape: Zyx, box: Box | None, block: Zyx | None, *arrays: Readable | Sliceable) -> Iterator[Box]:
    """Yield blocks on a grid from the volume's origin, so that chunks are decoded once or nearly."""
    region = Box.whole(shape) if box is None else Box.parse(str(box), shape)
    group = block or _group(shape, [_chunks(array) for array in arrays])
    inner = block or _thin(group)
    for index in cells(region, group):
        around = cell_box(index, group, shape) & region
        for place in cells(around, inner):
            yield cell_box(place, inner, shape) & around


def _chunks(array: Any) -> Zyx | None:
    """Return the unit of decoding of a volume or an array on disk; None where there is none."""
    levels = getattr(array, "arrays", None)
    chunks = getattr(levels[0] if levels else array, "chunks", None)
    return zyx(chunks) if chunks is not None and all(isinstance(n, int) for n in chunks) else None


def _group(shape: Zyx, chunks: Sequence[Zyx | None]) -> Zyx:
    """Return whole chunks of all arrays along y and x, and more of them where they are small."""
    known = [chunk for chunk in chunks if chunk is not None] or [BLOCK]
    group = [min(max(lengths), n) for *lengths, n in zip(*known, shape, strict=True)]
    for axis in (1, 2):
        while prod(group) > GROUP_VOXELS and group[axis] > 1:
            group[axis] = -(-group[axis] // 2)
    for axis in (2, 1, 0):
        room = BLOCK_VOXELS // prod(group)
        group[axis] *= max(min(room, -(-shape[axis] // group[axis])), 1)
    return zyx(group)


def _thin(group: Zyx) -> Zyx:
    """Cut a group into slabs, and a slice into stripes where one is too large by itself."""
    z, y, x = group
    z = min(z, max(BLOCK_VOXELS // (y * x), 1))
    y = min(y, max(BLOCK_VOXELS // x, 1))
    return z, y, min(x, BLOCK_VOXELS)


def _integers(array: Readable | Sliceable, box: Box) -> NDArray[Any]:
    values = np.asarray(array.read(box) if isinstance(array, Readable) else array[box.slices])
    if values.dtype.kind in "iub":
        return values
    if values.dtype.kind == "f":
        wide = values.astype(np.float64)
        if ((wide == np.rint(wide)) & (np.abs(wide) < 2**63)).all():
            return wide.astype(np.int64)
    raise InputError(
        f"Labels are whole numbers, but these are {values.dtype} with fractions or NaN in the box {box}. "
        "Choose the file with labels, or convert it first."
    )


def _as_array(ignore: int | Iterable[int] | None) -> NDArray[np.int64]:
    if ignore is None:
        return np.empty(0, np.int64)
    return np.fromiter(ignore if isinstance(ignore, Iterable) else [ignore], np.int64)


def _index(values: NDArray[Any], ids: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return where each value stands in the rising ``ids``; one past the end where nowhere."""
    if values.dtype in (np.uint8, np.uint16):
        places: NDArray[np.intp] = _search(np.arange(np.iinfo(values.dtype).max + 1), ids)[values]
        return places
    return _search(values, ids)


def _search(values: NDArray[Any], ids: NDArray[np.int64]) -> NDArray[np.intp]:
    place = np.searchsorted(ids, values)
    known = np.append(ids, 0)[place] == values
    return np.where(known & (place < len(ids)), place, len(ids))
