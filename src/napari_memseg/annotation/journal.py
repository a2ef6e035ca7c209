"""What undo takes back next, worked out from the log alone, so that it survives a restart.

The log only grows: an undo is one more entry that names the step it undoes::

    log      paint 1   paint 2   undo 2   paint 4      (a step is named by its first seq)
    undoable    1        1 2       1        1 4
    redoable                       2
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

CHANGES = ("paint", "withdraw", "fill", "bulk", "import")
"""Kinds of stroke that undo takes back."""

KINDS = (*CHANGES, "undo", "redo", "confirm", "unconfirm")
"""All kinds that the log knows."""


class Journal:
    """Steps that can be undone and redone, the latest last.

    Parameters
    ----------
    rows : iterable of (step, kind, undoes)
        One per step, in the order of the log.
    """

    def __init__(self, rows: Iterable[tuple[int, str, int | None]] = ()) -> None:
        self._done: list[int] = []
        self._undone: list[int] = []
        for row in rows:
            self.record(*row)

    def record(self, step: int, kind: str, undoes: int | None = None) -> None:
        """Add one step that was just stored; further parts of the same step change nothing."""
        if kind in CHANGES and self._done[-1:] != [step]:
            self._done.append(step)
            self._undone.clear()
        elif kind == "undo" and undoes in self._done:
            self._done.remove(undoes)
            self._undone.append(undoes)
        elif kind == "redo" and undoes in self._undone:
            self._undone.remove(undoes)
            self._done.append(undoes)

    @property
    def undoable(self) -> int | None:
        """The step that undo takes back next."""
        return self._done[-1] if self._done else None

    @property
    def redoable(self) -> int | None:
        """The step that redo brings back next."""
        return self._undone[-1] if self._undone else None
