"""Train: which network, for how long, on which device; watch it learn, stop, continue."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import QCheckBox, QDoubleSpinBox, QSpinBox

from napari_memseg.errors import InputError
from napari_memseg.models.registry import names
from napari_memseg.widgets.curve import LearningCurve
from napari_memseg.widgets.desk import Desk
from napari_memseg.widgets.pages.page import NO_SESSION, Page
from napari_memseg.widgets.parts import Button, Choice, Hint, JobBar, form, group, row
from napari_memseg.widgets.relay import Outcome
from napari_memseg.widgets.settings import setting
from napari_memseg.workflows.previewing import STAGE as PREVIEW
from napari_memseg.workflows.progress import Progress
from napari_memseg.workflows.session import models_in, next_model, set_aside, unfinished_trainings
from napari_memseg.workflows.train_job import DEFAULT_ARCHITECTURE, TrainJob, discard, learning, recall

SCRATCH = "nothing: a new network"
QUICKEST = "pixels"
"""Better than any other network up to a hundred strokes: benchmarks/annotating.py."""


class TrainPage(Page):
    """From strokes to a model."""

    title: ClassVar[str] = "Train"

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self._trained: Path | None = None
        self._build_choices()
        self._build_job()
        self.column.addStretch()
        desk.training.stepped.connect(self._on_step)
        desk.training.ended.connect(self._on_end)
        desk.machine.stepped.connect(self._on_machine)
        desk.machine.ended.connect(self._on_machine_end)
        desk.counted.connect(self.refresh)
        desk.session_changed.connect(self._forget)
        desk.describe_machine()  # once more for a dock that was closed: it did not hear the answer
        self.refresh()

    def _build_choices(self) -> None:
        self.network = Choice()
        for name in names():
            self.network.addItem(name, name)
        self.network.choose(DEFAULT_ARCHITECTURE)
        self.origin = Choice(
            tip="A model that was trained before goes on learning; a new network begins anew"
        )
        self.origin.currentIndexChanged.connect(self._allow)
        self.budget = Choice(("steps", "minutes"))
        self.budget.currentIndexChanged.connect(self._show_budget)
        self.steps = QSpinBox()
        self.steps.setRange(1, 1_000_000)
        self.steps.setValue(int(setting("steps")))
        self.minutes = QDoubleSpinBox()
        self.minutes.setRange(0.1, 10_000)
        self.minutes.setValue(5)
        self.flips = {axis: QCheckBox(axis) for axis in "zyx"}
        for axis, box in self.flips.items():
            box.setToolTip(
                f"Also learn from patches flipped along {axis}. Not where classes are left and right."
            )
        self.device = Hint("Asking what there is to compute on…")
        self.choices = group(
            "Network",
            form(
                Network=self.network,
                Start_from=self.origin,
                Budget=row(self.steps, self.minutes, self.budget),
                Flips=row(*self.flips.values()),
            ),
            self.device,
        )
        self.add(self.choices)
        self._show_budget()

    def _build_job(self) -> None:
        self.train = Button("Train", self._train, "Learn from what is painted and confirmed")
        self.stop = Button("Stop", self._stop, "What was learned is kept, and can be continued")
        self.go_on = Button("Continue", self._continue, "Go on with the training that was stopped")
        self.discard = Button("Discard", self._discard, "Forget the training that was stopped")
        self.roll_back = Button(
            "Roll back", self._roll_back, "Set this model aside, and go on with the one before"
        )
        self.bar = JobBar()
        self.curve = LearningCurve()
        self.live = QCheckBox("live: learn from each stroke")
        self.live.setToolTip(
            "The network goes on learning while you paint, and previews what you look at, until you stop it"
        )
        self.live.clicked.connect(self._on_live)
        self.job = group(
            "Training",
            row(self.train, self.stop, self.go_on, self.discard),
            self.live,
            self.train.reason,
            self.bar,
            self.roll_back,
            self.curve,
        )
        self.add(self.job)

    def _on_live(self, on: bool) -> None:
        """Begin with what learns from the fewest strokes, as long as nothing is trained."""
        session = self.desk.session
        if on and session is not None and not models_in(session.path):
            self.network.choose(QUICKEST)

    def start_from(self, model: Path) -> None:
        """Choose the model that is to go on learning."""
        self.refresh()
        self.origin.choose(model)

    # What is there

    def refresh(self) -> None:
        """List the models, and say what to do next."""
        session, busy = self.desk.session, self.desk.training.busy
        self.choices.setVisible(session is not None)
        self.job.setVisible(session is not None)
        self.choices.setEnabled(not busy)
        self.live.setEnabled(not busy)
        if session is None:
            self.hint.say(NO_SESSION)
            return
        chosen = self.origin.currentData()
        self.origin.blockSignals(True)
        self.origin.clear()
        self.origin.addItem(SCRATCH, None)
        for path in models_in(session.path):
            self.origin.addItem(path.stem, path)
        self.origin.choose(chosen)
        self.origin.blockSignals(False)
        unfinished = None if busy else self._unfinished
        self.train.setVisible(not busy)
        self.stop.setVisible(busy)
        self.go_on.setVisible(unfinished is not None)
        self.discard.setVisible(unfinished is not None)
        self.roll_back.setVisible(self._trained is not None and self._trained.exists() and not busy)
        self.hint.say(self._next(unfinished))
        self._allow()

    def _forget(self) -> None:
        """Clear what was learned on a session that is closed."""
        if self.desk.session is None:
            self._trained = None
            self.curve.clear()
            self.bar.clear()

    def _next(self, unfinished: Path | None) -> str:
        if self.desk.training.busy:
            return (
                "The network learns while you paint; the layer “preview” shows what it makes of what you see."
            )
        if unfinished is not None:
            return f"The training of {unfinished.stem} was stopped. Continue it, or train another."
        session = self.desk.session
        if session is not None and models_in(session.path):
            return "Next: segment, on the page Segment. After corrections, train again from the last model."
        return "The network learns from what is painted; a few strokes are enough for a first look."

    @property
    def _unfinished(self) -> Path | None:
        session = self.desk.session
        found = unfinished_trainings(session.path) if session else []
        return found[0] if found else None

    def _show_budget(self) -> None:
        in_steps = self.budget.currentText() == "steps"
        self.steps.setVisible(in_steps)
        self.minutes.setVisible(not in_steps)

    def _allow(self) -> None:
        self.network.setEnabled(self.origin.currentData() is None)
        self.train.allow(self._why_not_train())

    def _why_not_train(self) -> str:
        session, counting = self.desk.session, self.desk.counting
        if session is None or counting is None:
            return NO_SESSION
        if not counting.known:
            return "Counting what is painted…"
        silent = [c.name for c in session.classes if not counting.voxels.get(c.id)]
        if silent and not session.confirmed():
            return f"Nothing is painted yet of {', '.join(silent)}: a network needs strokes of each class."
        return ""

    def showEvent(self, event: QShowEvent) -> None:
        """Ask for the device again where the Preferences name another."""
        self.desk.describe_again()
        super().showEvent(event)

    def _on_machine_end(self, outcome: Outcome) -> None:
        if outcome.error is not None:
            self.device.say(str(outcome.error))

    def _on_machine(self, step: Progress) -> None:
        if step.result:
            self.device.say(f"Computes on {step.result['device']}.")
            for model in step.result["models"]:
                index = self.network.findData(model["name"])
                about = f"{model['name']}: {model['title']}, {model['parameters']:,} weights"
                self.network.setItemText(index, about)
                self.network.setToolTip(f"Paper: {model['paper']}")

    # The training

    def _train(self) -> None:
        session = self.desk.session
        if session is not None:
            origin = self.origin.currentData()
            name = self.network.currentData() if origin is None else _family(origin)
            out = next_model(session.path, name)
            self._begin(lambda: self._job(session.path, out, origin), live=self.live.isChecked())

    def _continue(self) -> None:
        """Go on as it was asked for: what was painted since is for the next training."""
        session, model = self.desk.session, self._unfinished
        if session is not None and model is not None:
            self._begin(lambda: recall(model, session.path))

    def _begin(self, make: Callable[[], TrainJob], *, live: bool = False) -> None:
        try:
            job = make()
        except InputError as error:
            self.bar.clear(str(error))
            return
        if not job.resume:
            self.curve.clear()
        self.desk.train(job, live=live)
        self.bar.wait("Looking at what is painted…")
        self.refresh()

    def _job(self, session: Path, out: Path, init: Path | None) -> TrainJob:
        in_steps = self.budget.currentText() == "steps"
        mirror = frozenset(axis for axis, box in self.flips.items() if box.isChecked())
        return TrainJob(
            out=out,
            session=session,
            learning=learning(
                self.steps.value() if in_steps else None,
                None if in_steps else self.minutes.value(),
                mirror=mirror,
                device=setting("device"),
            ),
            architecture=None if init is not None else self.network.currentData(),
            init=init,
        )

    def _stop(self) -> None:
        self.desk.training.cancel()
        self.bar.wait("Stopping after this step…")

    def _discard(self) -> None:
        if (model := self._unfinished) is not None:
            discard(model)
            self.refresh()

    def _roll_back(self) -> None:
        if self._trained is not None and self._trained.exists():
            aside = set_aside(self._trained)
            self.bar.clear(f"{aside.stem} was set aside, as {aside.parent.name}/{aside.name} in the session.")
            self.desk.models_changed.emit()

    def _on_step(self, step: Progress) -> None:
        if step.stage == PREVIEW:
            if step.message:
                self.hint.say(step.message)
            return
        self.bar.show_step(step, step.message)
        self.curve.add(step.done, step.values.get("loss"), _mean_dice(step.values))

    def _on_end(self, outcome: Outcome) -> None:
        self.bar.clear(_ending(outcome))
        improved = outcome.result is not None and outcome.result.get("val_dice_before") is not None
        self._trained = Path(outcome.result["checkpoint"]) if improved and outcome.result else None
        self.refresh()


def _ending(outcome: Outcome) -> str:
    if outcome.error is not None:
        return str(outcome.error)
    if outcome.cancelled or outcome.result is None:
        return "Stopped. What was learned is kept: continue when you like."
    dice = outcome.result["best_val_dice"]
    score = "" if dice is None else f" Dice {dice:.3f} on held-back strokes."
    if (before := outcome.result.get("val_dice_before")) is not None:
        score += f" It began with {before:.3f} on the same ones."
    return f"{Path(outcome.result['checkpoint']).stem} is trained: {outcome.result['steps']} steps.{score}"


def _mean_dice(values: Mapping[str, float]) -> float | None:
    found = [value for name, value in values.items() if name.startswith("dice ") and name != "dice 0"]
    return sum(found) / len(found) if found else None


def _family(model: Path) -> str:
    """Return the network's name in a model's: ``small-3`` is a small."""
    return model.stem.rpartition("-")[0] or model.stem
