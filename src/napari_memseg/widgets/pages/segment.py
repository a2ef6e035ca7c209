"""Segment: predict the volume or a part of it, watch it fill in; pause, cancel, resume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import QCheckBox, QFileDialog

from napari_memseg.annotation.runs import Run
from napari_memseg.annotation.session import Session
from napari_memseg.errors import InputError
from napari_memseg.inference.config import SegmentConfig
from napari_memseg.inference.run_card import has_run_card
from napari_memseg.widgets.desk import Desk
from napari_memseg.widgets.forecasting import Question
from napari_memseg.widgets.pages.page import NO_SESSION, Page
from napari_memseg.widgets.parts import (
    Button,
    Choice,
    Hint,
    JobBar,
    OptionalNumber,
    form,
    group,
    row,
    size_of,
)
from napari_memseg.widgets.region import RegionChoice
from napari_memseg.widgets.relay import Outcome
from napari_memseg.widgets.run_choice import RunChoice
from napari_memseg.widgets.run_texts import ending_text, failed_text, skipped_text
from napari_memseg.widgets.settings import setting
from napari_memseg.workflows.progress import Progress
from napari_memseg.workflows.run_report import tells_failure
from napari_memseg.workflows.session import models_in

SKIP_BELOW = (
    "A grey value: tiles that are all darker than this at a coarse level of the image become background "
    "without being read or computed. What is smaller than a coarse voxel may be missed, so leave it empty "
    "unless much of the volume is air."
)
MOST_MEMORY = (
    "The run takes no more memory than this: of the GPU, or else of this computer, for the whole process. "
    "Tiles become smaller for it, and the run slower. Empty: what is free."
)


class SegmentPage(Page):
    """From a model to a result that fills in while one looks."""

    title: ClassVar[str] = "Segment"

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self._build_choices()
        self._build_job()
        self.column.addStretch()
        relay = desk.segmenting.relay
        relay.stepped.connect(self._on_step)
        relay.ended.connect(self._on_end)
        desk.forecasting.changed.connect(self._show_forecast)
        desk.training.ended.connect(self.refresh)
        desk.session_changed.connect(self._forget)
        self.refresh()

    def _build_choices(self) -> None:
        self.model = Choice(tip="Models that were trained in this session, the newest first")
        self.model.currentIndexChanged.connect(self._allow)
        self.browse = Button("…", self._browse, "A model from elsewhere")
        self.region = RegionChoice(self.desk)
        self.region.changed.connect(self._allow)
        self.level = Hint()
        self.confidence = QCheckBox("also store how sure the network is")
        self.confidence.setChecked(bool(setting("confidence")))
        self.confidence.toggled.connect(self._allow)
        self.skip_below = OptionalNumber("Skip below", "off", SKIP_BELOW)
        self.most_memory = OptionalNumber("Most memory", "what is free", MOST_MEMORY)
        for field in (self.skip_below, self.most_memory):
            field.textChanged.connect(self._allow)
        more = {"Skip below": self.skip_below, "Most memory (GiB)": self.most_memory}
        self.choices = group(
            "Run",
            form(Model=row(self.model, self.browse), Region=self.region, Level=self.level, **more),
            self.confidence,
        )
        self.add(self.choices)

    def _build_job(self) -> None:
        self.segment = Button("Segment", self._segment, "What is looked at comes first")
        self.pause = Button("Pause", self._pause)
        self.cancel = Button("Cancel", self._cancel, "What is finished is kept; Resume goes on from there")
        self.resume = Button("Resume", self._resume, "Go on with the run that was not finished")
        self.forecast = Hint()
        self.bar = JobBar()
        self.failures = Hint()
        self.runs = Hint()
        self.run_choice = RunChoice(self.desk)
        self.job = group(
            "Progress",
            row(self.segment, self.resume, self.pause, self.cancel),
            self.segment.reason,
            self.forecast,
            self.bar,
            self.failures,
            self.runs,
            self.run_choice,
        )
        self.add(self.job)

    # What is there

    def refresh(self) -> None:
        """List models and runs, and say what to do next."""
        session, busy = self.desk.session, self.desk.segmenting.relay.busy
        self.choices.setVisible(session is not None)
        self.job.setVisible(session is not None)
        self.choices.setEnabled(not busy)
        self.segment.setVisible(not busy)
        self.pause.setVisible(busy)
        self.cancel.setVisible(busy)
        self.pause.setText("Resume" if self.desk.segmenting.relay.paused else "Pause")
        if session is None:
            self.resume.setVisible(False)
            self.hint.say(NO_SESSION)
            self.desk.forecasting.ask(None)
            return
        self._list_models(session)
        unfinished = None if busy else unfinished_run(session)
        self.resume.setVisible(unfinished is not None)
        self.level.say(_level_text(session))
        self.run_choice.refresh()
        self.runs.say(_runs_text(session))
        self.hint.say(self._next(session, unfinished))
        self._allow()

    def _forget(self) -> None:
        """Clear how the last run ended of a session that is closed."""
        if self.desk.session is None:
            self.bar.clear()
            self.failures.say("")

    def _list_models(self, session: Session) -> None:
        chosen = self.model.currentData()
        known = [self.model.itemData(n) for n in range(self.model.count())]
        models = models_in(session.path)
        elsewhere = [path for path in known if path not in models and path.parent != session.path / "models"]
        new = [path for path in models if path not in known]
        self.model.blockSignals(True)
        self.model.clear()
        for path in [*models, *elsewhere]:
            self.model.addItem(path.stem, path)
        self.model.choose(new[0] if new else chosen)
        self.model.blockSignals(False)

    def _next(self, session: Session, unfinished: Path | None) -> str:
        if self.desk.segmenting.relay.busy:
            return "Labels fill in where you look. Go on painting: no prediction overwrites a correction."
        if not self.model.count():
            return "There is no model yet: train one, on the page Train, or choose a file with “…”."
        if unfinished is not None:
            return f"Something of run {unfinished.name} is left to do: resume it, or begin another."
        if session.runs():
            return "Next: correct what is wrong, on the page Correct, and train again."
        return "The network predicts tile by tile; memory does not grow with the volume."

    def showEvent(self, event: QShowEvent) -> None:
        """Ask what a run would take; once more where that was refused, or other Preferences count now."""
        super().showEvent(event)
        self.desk.forecasting.ask_again()
        self._allow()

    def _allow(self) -> None:
        """Ask what the chosen run would take, but for one that goes on; or say what is missing."""
        session, missing = self.desk.session, self._why_not()
        if session is not None and self.isVisible() and not self.desk.segmenting.relay.busy:
            chosen = None if missing else Question(session.path, self.model.currentData(), self._config())
            self.desk.forecasting.ask(chosen)
        self._show_forecast()

    def _why_not(self) -> str:
        """Say what is missing, or wrong, before anything is measured."""
        if not self.model.count():
            return "There is no model yet."
        try:
            self._config()
        except InputError as error:
            return str(error)
        return self.region.why_not()

    def _show_forecast(self) -> None:
        forecasting = self.desk.forecasting
        self.forecast.say(forecasting.said)
        self.segment.allow(self._why_not() or forecasting.why_not)

    def _config(self) -> SegmentConfig:
        box = self.region.box()
        return SegmentConfig(
            box=None if box is None else str(box),
            confidence=self.confidence.isChecked(),
            device=setting("device"),
            skip_below=self.skip_below.number,
            max_memory_gib=self.most_memory.number,
        )

    def _browse(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Choose a model", "", "Models (*.safetensors)")
        if path:
            self.model.addItem(Path(path).stem, Path(path))
            self.model.setCurrentIndex(self.model.count() - 1)
            self.refresh()

    # The run

    def _segment(self) -> None:
        if why := self._why_not():
            self.segment.allow(why)
            return
        self._begin(lambda: self.desk.segmenting.start(self.model.currentData(), self._config()))
        self.bar.wait("Planning the run…")

    def _resume(self) -> None:
        """Go on with the unfinished run, by the very plan that it was begun with."""
        session = self.desk.session
        run = None if session is None else unfinished_run(session)
        if run is not None:
            self._begin(lambda: self.desk.segmenting.resume(run.name))
            self.bar.wait(f"Going on with run {run.name}…")

    def _begin(self, start: Callable[[], None]) -> None:
        self.desk.save()
        self.failures.say("")
        start()
        self.refresh()

    def _pause(self) -> None:
        relay = self.desk.segmenting.relay
        if relay.paused:
            relay.resume()
        else:
            relay.pause()
        self.refresh()

    def _cancel(self) -> None:
        self.desk.segmenting.relay.cancel()
        self.bar.wait("Cancelling after the tiles at hand…")

    def _on_step(self, step: Progress) -> None:
        if tells_failure(step):
            self.failures.say(failed_text(step))
        if step.stage != "forecast" and not self.desk.segmenting.relay.paused:
            self.bar.show_step(step, skipped_text(step.values, step.total))

    def _on_end(self, outcome: Outcome) -> None:
        self.bar.clear(ending_text(outcome))
        self.refresh()


def unfinished_run(session: Session) -> Path | None:
    """Return the newest run if something of it is left to do."""
    newest = next((run for run in reversed(session.runs()) if has_run_card(run.path)), None)
    return newest.path if newest is not None and newest.can_go_on else None


def _level_text(session: Session) -> str:
    return f"{session.level}, {size_of(session.image, session.level)}"


def _runs_text(session: Session) -> str:
    runs = session.runs()
    if not runs:
        return ""
    states = ", ".join(f"{run.id} {_state(run)}" for run in runs[-4:])
    return f"Runs: {states}. The newest is shown, over those before."


def _state(run: Run) -> str:
    if not run.is_finished:
        return "unfinished"
    tiles = f"{run.failures} failed tile{'s' * (run.failures != 1)}"
    return f"finished but for {tiles}" if run.failures else "finished"
