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

from dataclasses import dataclass
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


@dataclass(frozen=True)
class ClassTable:
    """The classes of a segmentation, background (id 0) first, ids rising.

    Raises
    ------
    ClassTableError
        If background is missing, or an id is negative, repeated or out of order.
    """

    classes: tuple[LabelClass, ...]

    def __post_init__(self) -> None:
        ids = list(self.ids)
        if not ids or ids[0] != 0 or ids != sorted(set(ids)):
            raise ClassTableError(
                f"A class table needs background (id 0) first and rising ids, got {ids}. "
                "Use ClassTable.from_ids, which puts them in order."
            )
        if ids[-1] > np.iinfo(np.uint32).max - 2:
            raise ClassTableError(f"Class id {ids[-1]} does not fit 32 bits. Renumber the labels.")

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
            return cls(tuple(LabelClass(int(r["id"]), str(r["name"]), str(r["color"])) for r in rows))
        except (KeyError, TypeError, ValueError) as error:
            raise ClassTableError(
                f"Not a class table: {rows!r:.200}. Expected rows of id, name, color."
            ) from error

    def to_json(self) -> list[dict[str, Any]]:
        """Return plain rows of id, name and color."""
        return [{"id": c.id, "name": c.name, "color": c.color} for c in self.classes]

    @property
    def ids(self) -> tuple[int, ...]:
        """Ids in the order in which a network counts them."""
        return tuple(c.id for c in self.classes)

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """The smallest unsigned dtype that holds all ids and the two reserved values."""
        highest = self.ids[-1] + 2
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
