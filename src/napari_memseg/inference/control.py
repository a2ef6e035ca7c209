"""The hand on a running job: pause, resume, cancel, look here first.

One object, shared by whoever computes and whoever watches, in any threads. The
engine asks it between two blocks, and between two layers of a network; no block is
ever written in part.
"""

from __future__ import annotations

from threading import Condition
from typing import TYPE_CHECKING

from napari_memseg.errors import Cancelled
from napari_memseg.geometry import Box

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_memseg.geometry import Zyx


class Interrupted(Exception):
    """Somebody paused in the middle of a block, which is to be computed again later."""


class Control:
    """Requests to a run, each of which takes effect before the next block, or sooner.

    Attributes
    ----------
    need : callable or None
        How late a box can wait, for a run that begins in this process: the lowest numbers come first, of
        all that is not looked at.
    """

    def __init__(self) -> None:
        self._changed = Condition()
        self._paused = False
        self._cancelled = False
        self._box: Box | None = None
        self.need: Callable[[Box], int] | None = None

    def pause(self) -> None:
        """Ask the run to wait once the blocks at hand are finished."""
        with self._changed:
            self._paused = True

    def resume(self) -> None:
        """Let a paused run go on."""
        with self._changed:
            self._paused = False
            self._changed.notify_all()

    def cancel(self) -> None:
        """Ask the run to end; it can be continued by another one."""
        with self._changed:
            self._cancelled = True
            self._changed.notify_all()

    def look_at(self, place: Box | Zyx | None) -> None:
        """Ask for a box or a voxel (of the working level) before all that has not begun; None withdraws."""
        with self._changed:
            self._box = Box.at(place, (1, 1, 1)) if isinstance(place, tuple) else place

    @property
    def paused(self) -> bool:
        """Whether somebody wants the run to wait."""
        return self._paused

    @property
    def cancelled(self) -> bool:
        """Whether somebody wants the run to end."""
        return self._cancelled

    @property
    def box(self) -> Box | None:
        """What is looked at, in working-level voxels."""
        return self._box

    def wait_if_paused(self) -> None:
        """Return at once, or when a paused run may go on or has been cancelled."""
        with self._changed:
            self._changed.wait_for(lambda: self._cancelled or not self._paused)

    def wait(self, seconds: float) -> None:
        """Return after so long, or as soon as somebody cancels."""
        with self._changed:
            self._changed.wait_for(lambda: self._cancelled, seconds)

    def ask(self) -> None:
        """Be asked in the middle of a block.

        Raises
        ------
        Cancelled
            If somebody asked for it.
        Interrupted
            If the run is to wait.
        """
        self.raise_if_cancelled()
        if self._paused:
            raise Interrupted

    def raise_if_cancelled(self) -> None:
        """Raise ``Cancelled`` if somebody asked for it."""
        if self._cancelled:
            raise Cancelled(
                "The run was cancelled. What is finished is kept: start it again to go on from there."
            )
