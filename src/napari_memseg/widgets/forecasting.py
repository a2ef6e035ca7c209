"""What a run would take, asked while somebody still chooses how to run.

A child process measures it. Of several questions only the newest counts; none is asked
while other work goes on, which would be slowed down by it, and would be measured with it::

    ask ──> nobody asks otherwise for a moment ──> nothing is at work ──> child ──> changed
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, QTimer, Signal

from napari_memseg.errors import InputError
from napari_memseg.inference.config import SegmentConfig
from napari_memseg.widgets.relay import JobRelay, Outcome
from napari_memseg.widgets.run_texts import forecast_text

if TYPE_CHECKING:
    from napari_memseg.widgets.desk import Desk

STILL_MS = 300
"""Time that a question stands before it is asked."""


@dataclass(frozen=True, slots=True)
class Question:
    """A run that somebody could begin."""

    session: Path
    model: Path
    config: SegmentConfig


class Forecasting(QObject):
    """The newest question what a run would take, and its answer.

    Attributes
    ----------
    outcome : Outcome or None
        The answer; None while there is none.
    relay : JobRelay
        Who asks the child.

    Signals
    -------
    changed
        There is another question, or an answer.
    """

    changed = Signal()

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self._desk = desk
        self.outcome: Outcome | None = None
        self._question: Question | None = None
        self._asked: Question | None = None
        self._timer = QTimer(self, interval=STILL_MS, singleShot=True)
        self._timer.timeout.connect(self.go_on)
        self.relay = JobRelay(self, after=desk.machine)
        self.relay.ended.connect(self._on_end)

    def ask(self, question: Question | None) -> None:
        """Ask what a run would take, in place of what was asked before; None for nothing."""
        if question != self._question:
            self._question = question
            self._begin()

    def ask_again(self) -> None:
        """Ask once more what had no answer: there may be more memory by now."""
        if self.outcome is not None and self.outcome.result is None:
            self._begin()

    @property
    def said(self) -> str:
        """What a run would take, or why that is not known; nothing where nobody wants to know."""
        if self._question is None or self.why_not:
            return ""
        if self.outcome is None:
            return self._awaited()
        if self.outcome.error is not None:
            return f"What the run takes could not be measured: {self.outcome.error}"
        return forecast_text(self.outcome.result) if self.outcome.result else ""

    @property
    def why_not(self) -> str:
        """Why the run would be refused; nothing where it would not, as far as is known."""
        error = None if self.outcome is None else self.outcome.error
        return str(error) if isinstance(error, InputError) else ""

    def go_on(self) -> None:
        """Ask what is still to be asked, if nothing else is at work."""
        question, waits = self._question, self.outcome is None and not self._timer.isActive()
        hindered = self.relay.busy or self._desk.at_work or self._desk.ended
        if question is not None and waits and not hindered:
            self._start(question)
        self.changed.emit()

    def _start(self, question: Question) -> None:
        self._asked = question
        what = (question.session, question.model, question.config)
        workflow = "napari_memseg.workflows.segment:forecast_session"
        self.relay.start("measuring what a run takes", workflow, *what)

    def _begin(self) -> None:
        self.outcome = None
        self._timer.start()
        self.changed.emit()

    def _awaited(self) -> str:
        work = "" if self.relay.busy else self._desk.at_work
        return (
            f"What the run takes is measured after the {work}." if work else "Measuring what the run takes…"
        )

    def _on_end(self, outcome: Outcome) -> None:
        gave_way = outcome.cancelled and bool(self._desk.at_work)
        if self._asked == self._question and not gave_way:
            self.outcome = outcome
            self.changed.emit()
        else:
            self.go_on()
