"""Correct: paint over what is wrong, undo, see that all is on disk; then train again from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from napari.layers import Layer
from qtpy.QtWidgets import QCheckBox

from napari_memseg.geometry import Box
from napari_memseg.widgets.class_list import ClassList
from napari_memseg.widgets.desk import Desk
from napari_memseg.widgets.keys import shown
from napari_memseg.widgets.pages.page import NO_SESSION, Page, why_read_only
from napari_memseg.widgets.painting import REDO, UNDO
from napari_memseg.widgets.parts import Button, Hint, group, row
from napari_memseg.widgets.tools import Tools
from napari_memseg.workflows.session import models_in


class CorrectPage(Page):
    """The brush on top of the result, and one undo for all of it.

    Parameters
    ----------
    desk : Desk
        Whose session it is.
    retrain : callable of Path
        Shows the page Train with a model to start from.
    """

    title: ClassVar[str] = "Correct"

    def __init__(self, desk: Desk, retrain: Callable[[Path], None]) -> None:
        super().__init__(desk)
        self._retrain_from = retrain
        self.classes = ClassList(desk)
        self.undo = Button("Undo", self._undo, f"{shown(UNDO)}; reaches back across restarts")
        self.redo = Button("Redo", self._redo, shown(REDO))
        self.strokes = Hint()
        self.retry = Button("Try to store again", self._retry, "After making room on the disk")
        self.result = QCheckBox("result")
        self.corrections = QCheckBox("corrections")
        for box, name in ((self.result, "result"), (self.corrections, "corrections")):
            box.setToolTip(f"Show or hide the {name}")
            box.clicked.connect(self._shower(name))
        self.again = Button("Show layers again", desk.show_layers)
        self.look = Button("Look again", self._look_again, "Read what the other window has stored meanwhile")
        self.retrain = Button(
            "Retrain from corrections", self._retrain, "The last model learns from all that is painted"
        )
        self.content = group(
            "Corrections",
            self.classes,
            row(self.undo, self.redo),
            self.strokes,
            self.retry,
            row(self.result, self.corrections),
            self.again,
            self.look,
            self.retrain,
            self.retrain.reason,
        )
        self.tools = Tools(desk)
        self.tools_group = group("Tools", self.tools)
        self.add(self.content, self.tools_group)
        self.column.addStretch()
        desk.stored.connect(self._on_stored)
        desk.counted.connect(self._show_strokes)
        self.refresh()

    def refresh(self) -> None:
        """Show what can be undone, which layers are there, and what to do next."""
        session, layers = self.desk.session, self.desk.shown
        self.content.setVisible(session is not None)
        self.tools_group.setVisible(session is not None and not session.read_only)
        if session is None or layers is None:
            self.hint.say(NO_SESSION)
            return
        self.hint.say(self._next())
        self.again.setVisible(bool(layers.missing))
        self.again.setText(f"Show again: {', '.join(layers.missing)}")
        self.look.setVisible(session.read_only)
        for box, layer in ((self.result, layers.result), (self.corrections, layers.corrections)):
            box.setEnabled(layer is not None)
            box.setChecked(layer is not None and bool(layer.visible))
        self.retrain.allow(self._why_not_retrain())
        self._show_strokes()

    def _next(self) -> str:
        session = self.desk.session
        if session is not None and session.read_only:
            return why_read_only(session)
        if session is not None and not session.runs():
            return "There is no prediction to correct yet: segment first, on the page Segment."
        return (
            "Paint what is wrong in the colour that is right; background is a class like any other. "
            "The result shows it at once, and no later prediction changes it."
        )

    def _why_not_retrain(self) -> str:
        session = self.desk.session
        if session is None or not models_in(session.path):
            return "There is no model yet: train one first, on the page Train."
        return "A training is going on." if self.desk.training.busy else ""

    def _show_strokes(self) -> None:
        session, layers = self.desk.session, self.desk.shown
        if session is None or layers is None:
            return
        overlay = session.overlay
        editable = layers.painter is not None and not session.read_only
        self.undo.allow("" if editable and overlay.can_undo else "There is nothing to undo.", quiet=True)
        self.redo.allow("" if editable and overlay.can_redo else "There is nothing to redo.", quiet=True)
        painted = sum(self.desk.counting.voxels.values()) if self.desk.counting else 0
        self.strokes.say(f"{painted:,} voxels are painted, with {session.corrections.seq:,} strokes stored.")
        self.retry.setVisible(overlay.state == "failed")

    def _on_stored(self, state: str) -> None:
        if state != "pending":
            self._show_strokes()

    def _shower(self, name: str) -> Callable[[bool], None]:
        def show(visible: bool) -> None:
            layer: Layer | None = getattr(self.desk.shown, name, None)
            if layer is not None:
                layer.visible = visible

        return show

    def _undo(self) -> None:
        if self.desk.shown is not None and self.desk.shown.painter is not None:
            self.desk.shown.painter.undo()

    def _redo(self) -> None:
        if self.desk.shown is not None and self.desk.shown.painter is not None:
            self.desk.shown.painter.redo()

    def _retry(self) -> None:
        if self.desk.shown is not None and self.desk.shown.painter is not None:
            self.desk.shown.painter.retry()

    def _look_again(self) -> None:
        session, layers = self.desk.session, self.desk.shown
        if session is not None and layers is not None:
            session.overlay.refresh()
            layers.show_runs()
            if layers.corrections is not None:
                layers.corrections.refresh(extent=False)
            if self.desk.counting is not None:
                self.desk.counting.changed(Box.whole(session.shape))
            self.refresh()

    def _retrain(self) -> None:
        session = self.desk.session
        if session is not None:
            self._retrain_from(models_in(session.path)[0])
