"""Runs of a session while they come in: what is looked at comes first, and is shown at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_error, show_warning
from qtpy.QtCore import QObject, QTimer, Signal

from napari_memseg.inference.config import SegmentConfig
from napari_memseg.widgets.relay import JobRelay, Outcome
from napari_memseg.workflows.progress import Progress
from napari_memseg.workflows.run_report import tells_failure

if TYPE_CHECKING:
    from napari_memseg.widgets.desk import Desk

LOOK_MS = 200
"""Time that the view stands still before the run is told what is looked at."""
TOLD = 3
"""Failed tiles of a run that a notification tells of; more of them would bury the viewer."""


class Segmenting(QObject):
    """The run that is being made, and what of it is on the screen.

    Attributes
    ----------
    relay : JobRelay
        Pause, resume, cancel.

    Signals
    -------
    runs_changed
        There is another run, or one was finished.
    moved
        The view stands still, somewhere else than before.
    """

    runs_changed = Signal()
    moved = Signal()

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self._desk = desk
        self.relay = JobRelay(self, after=desk.forecasting.relay)
        self.relay.stepped.connect(self._on_step)
        self.relay.ended.connect(self._on_end)
        self._timer = QTimer(self, interval=LOOK_MS, singleShot=True)
        self._timer.timeout.connect(self._on_still)
        for event in self._view_events():
            event.connect(self._on_view)

    def start(self, model: Path, config: SegmentConfig, *, restart: bool = False) -> None:
        """Begin a run, or go on with the unfinished one of the same kind."""
        self._begin("segment_session", model, config, restart=restart)

    def resume(self, run: str) -> None:
        """Go on with an unfinished run, by the plan that it was begun with."""
        self._begin("resume_run", run)

    def _begin(self, workflow: str, *args: Any, **kwargs: Any) -> None:
        session = self._desk.session
        if session is not None:
            self._desk.forecasting.relay.cancel()
            self._desk.previewing.empty()
            title = f"segmenting {session.path.name}: it can be continued later"
            place = f"napari_memseg.workflows.segment:{workflow}"
            self.relay.start(title, place, session.path, *args, **kwargs)
            self.look()

    def look(self) -> None:
        """Tell the run what is on the screen, to do that next."""
        if self.relay.busy and (box := self._desk.visible_box()) is not None:
            self.relay.look_at(box)

    def close(self) -> None:
        """Watch the view no more."""
        self._timer.stop()
        for event in self._view_events():
            event.disconnect(self._on_view)

    def _view_events(self) -> list:  # type: ignore[type-arg] # napari's emitters carry no types
        viewer, camera = self._desk.viewer, self._desk.viewer.scene.camera
        dims = viewer.dims.events
        return [camera.events.center, camera.events.zoom, dims.current_step, dims.ndisplay]

    def _on_view(self) -> None:
        self._timer.start()

    def _on_still(self) -> None:
        self.look()
        self.moved.emit()

    def _on_step(self, step: Progress) -> None:
        shown = self._desk.shown
        if tells_failure(step):
            if step.values["failed"] <= TOLD:
                show_warning(f"A tile {step.message}")
        elif shown is None or step.stage == "forecast":
            return
        elif step.box is None and step.result is None:
            shown.show_runs()
            self.runs_changed.emit()
        elif step.box is not None and shown.live is not None:
            shown.live.finished(step.box)

    def _on_end(self, outcome: Outcome) -> None:
        if outcome.error is not None:
            show_error(str(outcome.error))
            self._desk.describe_machine()
        if self._desk.shown is not None:
            self._desk.shown.show_runs()
            self._desk.shown.show_confidence()
        self.runs_changed.emit()
