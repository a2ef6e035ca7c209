"""Show what a network would say of what is looked at, while it learns.

What is looked at is cut into pieces. Those in the middle come first, and learning is
never held up for long: it gets twice the time that looking takes::

    learn, learn, learn ──> piece, piece, piece ──> learn, learn, ... ──> the other pieces ──> ...
                            (at most a few seconds)

A person who looks elsewhere is followed at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np

from napari_memseg.errors import GeometryError, InputError
from napari_memseg.geometry import Box, Zyx, cell_box, cells, zyx
from napari_memseg.workflows.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from napari_memseg.inference.control import Control
    from napari_memseg.inference.preview import Preview

STAGE = "preview"
FIRST_STEPS, FIRST_SECONDS = 25, 10.0
"""Of learning before the first look, whichever is sooner: one that knows nothing has nothing to show."""
LOOK_SECONDS = 3.0
"""Of looking in one go, at most about."""
LEARN_SHARE = 2.0
"""Seconds of learning for each second of looking."""
FLAT, DEEP = 128, 48
"""Edge of a piece where a slice is looked at, and where a volume is, in voxels."""
MOST_PIECES = 256
"""So many are shown of one view, those in the middle."""


@dataclass(eq=False)
class Previews:
    """Pieces of what is looked at, as a network sees them now.

    Parameters
    ----------
    preview : Preview
        Asks the network.
    shape : (z, y, x)
        Of the volume, in voxels of the working level.
    control : Control
        Says what is looked at.
    clock : callable
        Seconds that never run backwards.
    """

    preview: Preview
    shape: Zyx
    control: Control
    clock: Callable[[], float] = monotonic
    _due: float = field(init=False)
    _steps: int = field(init=False, default=0)
    _seen: Box | None = field(init=False, default=None)
    _left: list[Box] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self._due = self.clock() + FIRST_SECONDS

    def while_learning(self) -> Iterator[Progress]:
        """Yield some pieces if it is their turn; to be asked after each step."""
        self._steps += 1
        if self._steps == FIRST_STEPS:
            self._due = min(self._due, self.clock())
        view = self._view()
        if view is None or self.clock() < self._due:
            return
        began = self.clock()
        if not self._left:
            self._begin(view)
        for step in self._pieces():
            yield step
            if self.clock() - began >= LOOK_SECONDS:
                break
        self._due = self.clock() + LEARN_SHARE * (self.clock() - began)

    def all_of(self) -> Iterator[Progress]:
        """Yield all pieces of what is looked at, anew; ends early if the control is cancelled."""
        view = self._view()
        if view is not None:
            self._begin(view)
            yield from self._pieces()

    @property
    def moved(self) -> bool:
        """Whether something else is looked at than what was shown last."""
        view = self._view()
        return view is not None and view != self._seen

    def _view(self) -> Box | None:
        looked_at = self.control.box
        inside = None if looked_at is None else looked_at.clip(self.shape)
        return None if inside is None or inside.is_empty else inside

    def _begin(self, view: Box) -> None:
        self._seen, self._left = view, pieces_of(view, self.shape)[:MOST_PIECES]

    def _pieces(self) -> Iterator[Progress]:
        while self._left and not self.control.cancelled:
            view = self._view()
            if view is None:
                return
            if view != self._seen:
                self._begin(view)
            piece = self._left.pop(0)
            total = self._total(view)
            done = total - len(self._left)
            yield self._shown(piece, done, total)

    def _shown(self, piece: Box, done: int, total: int) -> Progress:
        """Return a piece as it is predicted, or why it cannot be: learning goes on all the same."""
        try:
            voxels, why = self.preview(piece), ""
        except InputError as error:
            voxels, why = None, f"No preview here: {error}"
            if isinstance(error, GeometryError):  # it fits nowhere
                self._left.clear()
        return Progress(stage=STAGE, done=done, total=total, box=piece, voxels=voxels, message=why)

    def _total(self, view: Box) -> int:
        return min(len(pieces_of(view, self.shape)), MOST_PIECES)


def pieces_of(view: Box, shape: Zyx) -> list[Box]:
    """Cut what is looked at into pieces of a fixed grid, those nearest to its middle first.

    Parameters
    ----------
    view : Box
        One voxel thick where a slice is looked at.
    shape : (z, y, x)
        Of the volume, in voxels.
    """
    edge = FLAT if min(view.shape) == 1 else DEEP
    piece = zyx(1 if length == 1 else edge for length in view.shape)
    found = [cell_box(index, piece, shape) & view for index in cells(view, piece)]
    middle = (np.array(view.start) + view.stop) / 2

    def distance(box: Box) -> float:
        return float(np.abs((np.array(box.start) + box.stop) / 2 - middle).max())

    return sorted(found, key=distance)
