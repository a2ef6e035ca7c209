"""Keep the result layer true while blocks come in and strokes are made, without reading it anew.

What changed is gathered and looked up at most ten times a second: a thread reads the
part of it that is on the screen, the GUI thread patches it in::

    block finished ┐                ┌─ thread: read what is seen of them ─┐
    stroke made    ┴─> pending ─10 Hz┤                                     ├─> patch (GUI thread)
    view moved    ──> look again ───┘                                     ┘

A coarse level of a run is built when all of it is there, so until then a finished
block is read from the finest one.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Labels
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QTimer, Signal

from napari_memseg.annotation.composite import Composite
from napari_memseg.annotation.runs import RunLabels
from napari_memseg.errors import MemsegError
from napari_memseg.geometry import Box, Zyx, cells, zyx
from napari_memseg.inference.ledger import done_boxes
from napari_memseg.widgets.napari_compat import patch, shown_box, shows_volume

INTERVAL_MS = 100
"""Time between two looks at what changed."""
REFRESH_3D_MS = 2000
"""Time between two refreshes of a volume rendering, whose coarsest level is read whole."""
AT_ONCE = 16
"""Finished blocks that are read and patched at a time."""
GRID: Zyx = (256, 256, 256)
"""Cells by which finished blocks are found, in voxels of the working level."""
NOWHERE = Box((0, 0, 0), (0, 0, 0))


@dataclass(frozen=True, slots=True)
class _Patch:
    """Voxels of one level that were read to be shown."""

    box: Box
    level: int
    values: NDArray[Any]


class LiveResult(QObject):
    """What patches a result layer.

    Parameters
    ----------
    layer : Labels
        Of ``levels``.
    levels : sequence of Composite
        The finest first.

    Attributes
    ----------
    refreshes : int
        How often anything on the screen was patched.
    """

    patched = Signal()
    _read = Signal(object)
    _recalled = Signal(object)

    def __init__(self, layer: Labels, levels: Sequence[Composite], parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.layer, self.levels = layer, levels
        self.refreshes = 0
        self._pending: dict[Box, None] = {}
        self._painted = NOWHERE
        self._finished: dict[Zyx, set[Box]] = {}
        self._reading = self._ended = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="memseg-show")
        self._timer = QTimer(self, interval=INTERVAL_MS, singleShot=True)
        self._timer.timeout.connect(self._look)
        self._volume_timer = QTimer(self, interval=REFRESH_3D_MS, singleShot=True)
        self._volume_timer.timeout.connect(self._refresh_volume)
        self._read.connect(self._show)
        self._recalled.connect(self._on_recalled)
        layer.events.set_data.connect(self._look_again)

    def changed(self, box: Box) -> None:
        """Take note that opinions in ``box`` changed (voxels of the working level)."""
        self._painted |= box
        self._wake()

    def finished(self, box: Box) -> None:
        """Take note that a run has predicted ``box``."""
        self._keep([box])
        self._pending[box] = None
        self._wake()

    def _keep(self, boxes: Sequence[Box]) -> None:
        """Remember finished blocks by place, to find those in view among any number of them."""
        for box in boxes:
            for cell in cells(box, GRID):
                self._finished.setdefault(cell, set()).add(box)

    def _recall_in_thread(self, run: Path) -> None:
        """Find out what an unfinished run had finished before it was opened here."""
        try:
            boxes = done_boxes(run)
        except (MemsegError, OSError, ValueError, KeyError):  # it has not begun, or is being discarded
            return
        if boxes and not self._ended:
            self._recalled.emit(boxes)

    def _on_recalled(self, boxes: Sequence[Box]) -> None:
        self._keep(boxes)
        self._look_again()

    def show_runs(self, runs: Sequence[RunLabels]) -> None:
        """Show other runs from now on, the newest first."""
        self._finished.clear()
        for composite in self.levels:
            composite.runs = tuple(runs)
        self.refresh()
        if runs and not runs[0].run.is_finished:
            self._thread.submit(self._recall_in_thread, runs[0].run.path)

    def refresh(self) -> None:
        """Read all that is on the screen anew, as napari does when the view moves."""
        self.layer.refresh(extent=False)

    def close(self) -> None:
        """Show nothing any more."""
        self._ended = True
        self._timer.stop()
        self._volume_timer.stop()
        self.layer.events.set_data.disconnect(self._look_again)
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _wake(self) -> None:
        if not self._ended and not self._timer.isActive():
            self._timer.start()

    def _look_again(self) -> None:
        """After napari read a coarse level: finished blocks that it does not hold yet are to be shown."""
        if not self._finished or shows_volume(self.layer):
            return
        if (shown := shown_box(self.layer)) is not None and shown[1] > 0:
            for cell in cells(_finest(*shown, self.levels[0]), GRID):
                self._pending.update(dict.fromkeys(self._finished.get(cell, ())))
            self._wake()

    def _look(self) -> None:
        """Let what is seen of the pending boxes be read; the rest is read when somebody goes there."""
        if self._reading or not self._waits:
            return
        if shows_volume(self.layer):
            self._forget()
            if not self._volume_timer.isActive():
                self._volume_timer.start()
            return
        shown = shown_box(self.layer)
        view = NOWHERE if shown is None else _finest(*shown, self.levels[0])
        boxes = [box for box in (self._painted, *self._pending) if not (box & view).is_empty]
        self._forget()
        self._pending.update(dict.fromkeys(boxes[AT_ONCE:]))
        if shown is not None and boxes:
            self._reading = True
            self._thread.submit(self._read_in_thread, shown, boxes[:AT_ONCE])

    @property
    def _waits(self) -> bool:
        return bool(self._pending) or not self._painted.is_empty

    def _forget(self) -> None:
        self._pending.clear()
        self._painted = NOWHERE

    def _read_in_thread(self, shown: tuple[Box, int], boxes: Sequence[Box]) -> None:
        view, level = shown
        patches: list[_Patch] = []
        try:
            for box in boxes:
                part = box.coarsen(zyx([2**level] * 3)) & view
                if not part.is_empty:
                    patches.append(_Patch(part, level, self._values(part, level)))
        except (MemsegError, OSError, ValueError):  # a run that is being discarded: nothing to show of it
            patches = []
        finally:
            if not self._ended:
                self._read.emit(patches)

    def _values(self, part: Box, level: int) -> NDArray[Any]:
        values = self.levels[level].read(part)
        if level and (values == self.levels[0].classes.not_predicted).any():
            step = zyx([2**level] * 3)
            finest = _finest(part, level, self.levels[0])
            values = self.levels[0].read(finest, step)
        return np.asarray(values)

    def _show(self, patches: Sequence[_Patch]) -> None:
        self._reading = False
        if self._ended:
            return
        shown = shown_box(self.layer)
        seen = [patch(self.layer, p.box, p.level, p.values, shown=shown) for p in patches]
        if any(seen):
            self.refreshes += 1
            self.patched.emit()
        if self._waits:
            self._wake()

    def _refresh_volume(self) -> None:
        self.refreshes += 1
        self.refresh()
        self.patched.emit()


def _finest(box: Box, level: int, composite: Composite) -> Box:
    """Return the voxels of the finest level under ``box``."""
    return box.refine(zyx([2**level] * 3)).clip(composite.shape)
