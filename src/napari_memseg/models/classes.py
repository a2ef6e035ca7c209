"""What the numbers in a label array mean.

Ids need not be contiguous (1, 2, 3, 15, 21), since they are those of the person
who labelled. A network counts its classes 0, 1, 2, ... in the order of the table,
and two values of the dtype are never a class::

    0           background, always the first class
    1 ...       classes
    highest-1   an opinion: "this is background" (corrections only)
    highest     not predicted (runs only): nobody has looked here yet
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_memseg.errors import ClassTableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

IGNORE = -1
"""Index of a voxel that has no opinion: left out of losses, sampling and scores."""

PALETTE = (
    "#4477aa",
    "#ee6677",
    "#228833",
    "#ccbb44",
    "#66ccee",
    "#aa3377",
    "#ee8866",
    "#44bb99",
    "#99ddff",
    "#bbbbbb",
)
"""Paul Tol's bright scheme, legible for the colour blind; https://personal.sron.nl/~pault/"""


@dataclass(frozen=True, slots=True)
class LabelClass:
    """One class: its id in label arrays, its name, its colour as ``#rrggbb``."""

    id: int
    name: str
    color: str
    merged_into: int | None = None
    """The class that it counts as; None for a class of its own."""


@dataclass(frozen=True)
class ClassTable:
    """The classes of a segmentation, background (id 0) first, ids rising.

    A class that was merged into another is no class any more, but its id keeps a meaning: labels that
    hold it, painted or predicted before, are read as the other class by ``resolve``.

    Parameters
    ----------
    classes : tuple of LabelClass
        What is told apart.
    merged : tuple of LabelClass
        Those with a ``merged_into``, which is the id of one of ``classes``.

    Raises
    ------
    ClassTableError
        If background is missing, an id is negative, repeated or out of order, or one is merged into
        what is no class.
    """

    classes: tuple[LabelClass, ...]
    merged: tuple[LabelClass, ...] = ()

    def __post_init__(self) -> None:
        ids = list(self.ids)
        if not ids or ids[0] != 0 or ids != sorted(set(ids)):
            raise ClassTableError(
                f"A class table needs background (id 0) first and rising ids, got {ids}. "
                "Use ClassTable.from_ids, which puts them in order."
            )
        lost = [c.id for c in self.merged if c.merged_into not in ids or c.id in ids]
        if lost:
            raise ClassTableError(f"Classes {lost} are merged into none of the classes {ids}.")
        highest = max(self.known_ids)
        if highest > np.iinfo(np.uint32).max - 2:
            raise ClassTableError(f"Class id {highest} does not fit 32 bits. Renumber the labels.")

    @classmethod
    def from_ids(cls, ids: Iterable[int], names: dict[int, str] | None = None) -> ClassTable:
        """Make a table of these ids, and background, with names and colours of our choice."""
        known = {0: "background", **(names or {})}
        rising = sorted({0, *map(int, ids)})
        return cls(
            tuple(
                LabelClass(
                    i, known.get(i, f"class {i}"), "#000000" if i == 0 else PALETTE[n % len(PALETTE) - 1]
                )
                for n, i in enumerate(rising)
            )
        )

    @classmethod
    def from_json(cls, rows: list[dict[str, Any]]) -> ClassTable:
        """Read what ``to_json`` wrote."""
        try:
            found = [_from_row(row) for row in rows]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ClassTableError(
                f"Not a class table: {rows!r:.200}. Expected rows of id, name, color."
            ) from error
        own, merged = (tuple(c for c in found if (c.merged_into is None) == alone) for alone in (True, False))
        return cls(own, merged)

    def to_json(self) -> list[dict[str, Any]]:
        """Return plain rows of id, name and color, and of merged classes ``merged_into``."""
        return [_to_row(c) for c in (*self.classes, *self.merged)]

    @property
    def ids(self) -> tuple[int, ...]:
        """Ids in the order in which a network counts them."""
        return tuple(c.id for c in self.classes)

    @property
    def known_ids(self) -> tuple[int, ...]:
        """Ids that have a meaning, those of merged classes last."""
        return (*self.ids, *(c.id for c in self.merged))

    def opinions(self, class_id: int) -> frozenset[int]:
        """Return what corrections hold where somebody painted a class, or one that was merged into it."""
        merged = (c.id for c in self.merged if c.merged_into == class_id)
        return frozenset([class_id or self.background_opinion, *merged])

    def resolve(self, labels: NDArray[Any], *, opinions: bool = False) -> NDArray[Any]:
        """Return labels in which merged classes are what they were merged into.

        Parameters
        ----------
        labels : array
            Ids; it is returned itself where no class was merged.
        opinions : bool
            Whether they are corrections, in which background has a value of its own.
        """
        background = self.background_opinion if opinions else 0
        out = labels
        for one in self.merged:
            out = np.where(labels == one.id, labels.dtype.type(one.merged_into or background), out)
        return out

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """The smallest unsigned dtype that holds all known ids and the two reserved values."""
        highest = max(self.known_ids) + 2
        return np.dtype(next(t for t in (np.uint8, np.uint16, np.uint32) if highest <= np.iinfo(t).max))

    @property
    def not_predicted(self) -> int:
        """The highest value of the dtype: the fill value of every run."""
        return int(np.iinfo(self.dtype).max)

    @property
    def background_opinion(self) -> int:
        """The value that a correction stores for "this is background"."""
        return self.not_predicted - 1

    def indices(self, labels: NDArray[Any], unlabelled: int | None = None) -> NDArray[np.int16]:
        """Turn ids into class indices; ``unlabelled`` and unknown ids become ``IGNORE``."""
        out = np.full(labels.shape, IGNORE, np.int16)
        for index, class_id in enumerate(self.ids):
            if class_id != unlabelled:
                out[labels == class_id] = index
        return out

    def __iter__(self) -> Iterator[LabelClass]:
        return iter(self.classes)

    def __len__(self) -> int:
        return len(self.classes)


def _from_row(row: dict[str, Any]) -> LabelClass:
    one = LabelClass(int(row["id"]), str(row["name"]), str(row["color"]))
    into = row.get("merged_into")
    return one if into is None else replace(one, merged_into=int(into))


def _to_row(one: LabelClass) -> dict[str, Any]:
    row = {"id": one.id, "name": one.name, "color": one.color}
    return row if one.merged_into is None else {**row, "merged_into": one.merged_into}
