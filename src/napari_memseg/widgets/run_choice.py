"""Which run of a session is shown, and which other one it is compared with.

Earlier runs stay for ever: one is put back by choosing it, and a layer shows where two differ::

    show          0002 (of 0001, 0002)        ──> Session.put_back ──> the result shows it
    compare with  0001                        ──> layer "difference": added, gone, another class
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari.layers import Labels
from napari.utils.colormaps import DirectLabelColormap
from napari.utils.notifications import show_error
from qtpy.QtWidgets import QWidget

from napari_memseg.annotation.difference import ADDED, GONE, OTHER, Difference
from napari_memseg.annotation.runs import Run, RunLabels
from napari_memseg.annotation.session import Session
from napari_memseg.errors import InputError
from napari_memseg.models.classes import ClassTable
from napari_memseg.widgets.desk import Desk
from napari_memseg.widgets.layers import TRANSPARENT, grid, insert
from napari_memseg.widgets.parts import Choice, Hint, column, form

if TYPE_CHECKING:
    from collections.abc import Sequence

LAYER = "difference"
COLORS = {ADDED: "#4caf50", GONE: "#e53935", OTHER: "#fdd835"}
LEGEND = "Green: only in the run that is shown. Red: only in the other. Yellow: another class."
NOTHING = "none"


class RunChoice(QWidget):
    """Two lists of runs: which is shown, and which it is compared with."""

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk
        self._layer: Labels | None = None
        self._compared: tuple[str | None, str | None, ClassTable | None] = (None, None, None)
        self.shown = Choice(tip="An earlier run can be put back; later ones stay, and can be chosen again")
        self.shown.activated.connect(self._on_shown)
        self.other = Choice(tip="Show where the two runs differ, as a layer of its own")
        self.other.activated.connect(self._compare)
        self.legend = Hint()
        layout = column(self)
        layout.addWidget(form(Show_run=self.shown, Compare_with=self.other))
        layout.addWidget(self.legend)
        desk.session_changed.connect(self._remove)
        desk.viewer_layers_changed.connect(self._on_layers)

    def refresh(self) -> None:
        """List the runs of the session that wrote something."""
        session = self._desk.session
        runs = _written(session) if session is not None else []
        self.setVisible(len(runs) > 1)
        if session is None:
            return
        shown = session.shown_run
        for choice, chosen, empty in (
            (self.shown, shown, None),
            (self.other, self.other.currentData(), NOTHING),
        ):
            choice.clear()
            if empty is not None:
                choice.addItem(empty, None)
            for run in reversed(runs):
                choice.addItem(run.id, run.id)
            choice.choose(chosen)
        self.shown.setEnabled(not session.read_only)
        if self._layer is not None and self._compared != (shown, self.other.currentData(), session.classes):
            self._compare()

    def _on_shown(self) -> None:
        session, run = self._desk.session, self.shown.currentData()
        if session is None or self._desk.shown is None or run is None:
            return
        try:
            session.put_back(None if run == session.runs()[-1].id else run)
        except InputError as error:
            show_error(str(error))
            return
        self._desk.shown.show_runs()
        self._desk.shown.show_confidence()
        self._desk.segmenting.runs_changed.emit()
        self._compare()

    def _compare(self) -> None:
        """Show where the run that is shown differs from the one that was chosen; nothing without one."""
        session, other = self._desk.session, self.other.currentData()
        self._remove()
        shown = self.shown.currentData()
        self._compared = shown, other, None if session is None else session.classes
        if session is None or other is None or shown is None:
            return
        runs = {run.id: RunLabels(run, session.shape, session.classes) for run in session.runs()}
        levels = Difference(runs[shown], runs[other]).levels
        self._layer = _layer(session, levels)
        above = self._desk.shown.corrections if self._desk.shown is not None else None
        insert(self._desk.viewer.layers, self._layer, below=above)
        self.legend.say(LEGEND)

    def _remove(self) -> None:
        layer, self._layer = self._layer, None
        self.legend.say("")
        if layer is not None and layer in self._desk.viewer.layers:
            self._desk.viewer.layers.remove(layer)

    def _on_layers(self) -> None:
        """Take note where somebody deleted the layer."""
        if self._layer is not None and self._layer not in self._desk.viewer.layers:
            self._layer = None
            self.legend.say("")
            self.other.choose(None)


def _written(session: Session) -> list[Run]:
    return [run for run in session.runs() if (run.path / "0").exists()]


def _layer(session: Session, levels: Sequence[Difference]) -> Labels:
    colors = {None: TRANSPARENT, 0: TRANSPARENT} | dict[int | None, str](COLORS.items())
    pyramid = len(levels) > 1
    layer = Labels(
        list(levels) if pyramid else levels[0],
        multiscale=pyramid,
        name=LAYER,
        opacity=0.7,
        colormap=DirectLabelColormap(color_dict=colors),
        **grid(session),
    )
    layer.editable = False
    return layer
