"""From mouse and keys to the journal: where a stroke begins and ends, undo, and a disk that refuses.

napari paints on the overlay as on any array. Here is said what belongs together::

    button down ──> begin_stroke    dab, dab, dab    button up ──> commit: on disk
                                    (a second's worth at most is in memory alone)

Strokes are stored before anything could take them away: another layer is chosen, the
window loses focus or is closed, the layer is deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any

from napari.layers import Labels
from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import QObject, QTimer, Signal

from napari_memseg.annotation.indexing import MOST_VOXELS
from napari_memseg.annotation.overlay import FEW_CELLS, Overlay
from napari_memseg.annotation.tools.edit import Edit, painting
from napari_memseg.errors import InputError
from napari_memseg.geometry import Box
from napari_memseg.widgets.napari_compat import forget_history, patch, shown_box

STORE_MS = 1000
"""What is painted with the button down reaches the disk after so long."""
SLICE_SECONDS = 0.02
"""Of a large edit that is painted at a time."""
PAINTING = ("paint", "erase", "fill", "polygon")
"""Modes of a labels layer that change it."""
MOST_FILLED = 4096**2
"""Voxels that napari's fill may look at; beyond, the viewer would stand still."""
UNDO, REDO = "Control-Z", "Control-Shift-Z"


@dataclass
class _Editing:
    """What is being painted in slices."""

    steps: Generator[Box, None, Any]
    at_once: int = 0
    """Steps that are taken in one go."""
    boxes: list[Box] = field(default_factory=list)
    """To be shown anew at the end."""
    done: Callable[[bool], None] = lambda stored: None


class Painter(QObject):
    """Who turns what happens on a corrections layer into strokes of its overlay.

    Signals
    -------
    changed : Box
        Voxels whose opinions changed.
    stored : str
        The state of the overlay, whenever it may be another: ``saved``, ``pending``, ``failed``.
    """

    changed = Signal(object)
    stored = Signal(str)

    def __init__(self, layer: Labels, overlay: Overlay, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.layer, self.overlay = layer, overlay
        self._told = overlay.state
        self._mode = ""
        self._editing: _Editing | None = None
        self._timer = QTimer(self, interval=STORE_MS, singleShot=True)
        self._timer.timeout.connect(self._store_pending)
        overlay.changed.append(self._on_change)
        layer.mouse_drag_callbacks.insert(0, self._stroke)
        layer.bind_key(UNDO, self._on_undo, overwrite=True)
        layer.bind_key(REDO, self._on_redo, overwrite=True)
        layer.events.mode.connect(self.save)
        layer.events.visible.connect(self.save)

    def save(self) -> bool:
        """Store what is pending and close the stroke; return whether all is on disk."""
        with self._answering():
            self.overlay.commit()
        self._tell()
        return self.overlay.state == "saved"

    def undo(self) -> None:
        """Take back the last step, of this day or an earlier one."""
        self._walk(
            lambda: self.overlay.can_undo, self.overlay.undoing, "Nothing to undo: there is no step before."
        )

    def redo(self) -> None:
        """Bring back what undo took."""
        self._walk(lambda: self.overlay.can_redo, self.overlay.redoing, "Nothing to redo.")

    def retry(self) -> None:
        """Paint again, if the disk takes it again."""
        with self._answering():
            self.overlay.retry()
        self.layer.editable = self.overlay.state != "failed"
        self._tell()

    def paint(self, edit: Edit, done: Callable[[bool], None]) -> None:
        """Paint what a tool made of this overlay, as one step; ``done`` is told whether it is on disk.

        A large one is painted in short slices, between which the viewer lives; there is no brush until then,
        and no other edit begins.
        """
        with self._answering():
            self.overlay.settle()
            self._editing = _Editing(painting(edit, self.overlay), boxes=[edit.box], done=done)
            self._paint_slice()
            return
        done(False)

    def _walk(
        self, can: Callable[[], bool], steps: Callable[[], Generator[Box, None, Any]], nothing: str
    ) -> None:
        """Take a step back or bring one back; a large one as a large edit is painted, a small one at once."""
        with self._answering():
            self.overlay.settle()  # which refuses in the middle of a large edit
            if can():
                self._editing = _Editing(steps(), at_once=FEW_CELLS)
                self._paint_slice()
            else:
                show_info(nothing)
        self._tell()

    def _paint_slice(self) -> None:
        editing = self._editing
        if editing is None:  # the layer is gone, and with it the edit
            return
        goes_on = stored = False
        try:
            with self._answering():
                goes_on = _some_of(editing.steps, editing.at_once)
                stored = not goes_on
        finally:  # whatever went wrong, the brush comes back, and who waits is told
            if not goes_on:
                self._finish(editing, stored)
        if goes_on:
            self._rest()
            QTimer.singleShot(0, self._paint_slice)

    def _finish(self, editing: _Editing, stored: bool) -> None:
        """Show what is there now, and tell who asked for the edit whether it is that."""
        self._editing = None
        self._go_on()
        for box in editing.boxes:
            self._patch(box)
        self._tell()
        editing.done(stored and self.overlay.state == "saved")

    def _rest(self) -> None:
        """Take the brush away while a large edit is painted."""
        if self.layer.editable:
            self._mode = str(self.layer.mode)
            self.layer.editable = False

    def _go_on(self) -> None:
        """Give the brush back, as it was."""
        if self._mode:
            self.layer.editable = self.overlay.state != "failed"
            if self.layer.editable:
                self.layer.mode = self._mode
            self._mode = ""

    def close(self) -> None:
        """Store what is pending, and listen no more; an edit that is not finished leaves no trace."""
        if self._editing is not None:
            editing, self._editing = self._editing, None
            editing.steps.close()
            self._go_on()
            editing.done(False)
        self.save()
        self._timer.stop()
        self.overlay.changed.remove(self._on_change)
        self.layer.events.mode.disconnect(self.save)
        self.layer.events.visible.disconnect(self.save)
        self.layer.mouse_drag_callbacks.remove(self._stroke)
        for key in (UNDO, REDO):
            self.layer.bind_key(key, None)

    # What napari tells

    def _stroke(self, layer: Labels, event: Any) -> Iterator[None]:
        """Begin a stroke at button down, before napari paints; store it at button up."""
        mode = str(layer.mode)
        if mode not in PAINTING or not layer.editable:
            return
        if mode == "fill" and (why := self._too_much_to_fill()):
            layer.mode = "pan_zoom"
            show_info(why)
            return
        forget_history(layer)
        if not self._begin(mode):
            return
        yield
        while event.type == "mouse_move":
            if not self._goes_on(mode):
                return
            yield
        self.save()

    def _goes_on(self, mode: str) -> bool:
        """Begin anew where the stroke was stored on the way: the focus was lost, or a key pressed."""
        return self.overlay.state != "failed" and (self.overlay.in_stroke or self._begin(mode))

    def _begin(self, mode: str) -> bool:
        """Begin a stroke, and return whether the disk takes it."""
        erases = mode == "erase" or self.layer.selected_label == 0
        with self._answering():
            self.overlay.begin_stroke(tool=mode, kind="withdraw" if erases else "paint")
        return self.overlay.state != "failed"

    def _too_much_to_fill(self) -> str:
        shape, dims = self.overlay.shape, self.layer.n_edit_dimensions
        size = shape[0] * shape[1] * shape[2]
        if dims == 3 and size > MOST_FILLED:
            return (
                f"Filling in 3D would look at all {size:,} voxels. Choose 'n edit dim: 2' in the "
                "layer controls, or paint with a large brush."
            )
        shown = shown_box(self.layer)
        if dims == 2 and shown is not None and shown[0].size > MOST_FILLED:
            return f"This slice has {shown[0].size:,} voxels, too many to fill. Paint with a large brush."
        return ""

    def _on_undo(self, layer: Labels) -> None:
        self.undo()

    def _on_redo(self, layer: Labels) -> None:
        self.redo()

    # What the overlay tells

    def _on_change(self, box: Box) -> None:
        if self.overlay.state == "failed":
            QTimer.singleShot(0, self._stop)
        elif self.overlay.has_pending and not self._timer.isActive():
            self._timer.start()
        if self._editing is not None:
            self._editing.boxes.append(box)
        elif self.overlay.locked or self.overlay.only_where is not None:
            QTimer.singleShot(0, partial(self._patch, box))  # once napari has drawn the whole dab
        self.changed.emit(box)
        if self.overlay.state != self._told:
            self._tell()

    def _store_pending(self) -> None:
        with self._answering():
            self.overlay.flush()
        self._tell()

    def _patch(self, box: Box) -> None:
        """Show what is in memory now, where it is on the screen; napari did not make this change."""
        shown = shown_box(self.layer)
        part = box if shown is None else box & shown[0]
        if shown is not None and not part.is_empty and part.size <= MOST_VOXELS:
            patch(self.layer, part, 0, self.overlay.read(part))

    def _stop(self) -> None:
        """Paint no more until the disk takes it: what cannot be kept must not be seen."""
        self.layer.editable = False
        self._patch(Box.whole(self.overlay.shape))
        self._tell()

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Say what went wrong; the overlay has gone back to what is on disk."""
        try:
            yield
        except InputError as error:
            show_error(str(error))
            if self.overlay.state == "failed":
                self._stop()

    def _tell(self) -> None:
        self._told = self.overlay.state
        self.stored.emit(self._told)


def _some_of(steps: Iterator[Box], at_once: int) -> bool:
    """Take so many steps, and more for a short while; return whether there may be more."""
    until = monotonic() + SLICE_SECONDS
    return any(n > at_once and monotonic() >= until for n, _ in enumerate(steps, 1))
