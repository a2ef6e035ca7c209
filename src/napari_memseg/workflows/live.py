"""Learn while somebody paints: round after round, each from the weights of the one before.

A round is short, and begins when there are strokes that the last one did not see.
Between two rounds, what is looked at is shown as the last one left the network::

    strokes ──> round ──> model ──> preview of the view ──> wait: view moved? preview it
       ^                                                          new strokes? next round
       └──────────────────────────────────────────────────────────────┘

The model is a file after each round, so that it can be used at any time, and stopping
loses a round at most.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from napari_memseg.annotation.record import SessionRecord
from napari_memseg.annotation.session import Session
from napari_memseg.errors import Cancelled, InputError, TrainingError
from napari_memseg.inference.control import Control
from napari_memseg.inference.preview import Preview
from napari_memseg.io.intensity import sample_window
from napari_memseg.models.checkpoint import load_checkpoint, read_card
from napari_memseg.models.device import choose_device
from napari_memseg.models.intensity import Window
from napari_memseg.workflows.previewing import Previews
from napari_memseg.workflows.progress import Progress
from napari_memseg.workflows.train import train
from napari_memseg.workflows.train_job import discard

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_memseg.models.classes import ClassTable
    from napari_memseg.workflows.train_job import TrainJob

FIRST_STEPS, STEPS = 60, 30
"""Of the first round, and of those after it."""
VALIDATION_PATCHES = 4
"""That a round scores at its end."""
WATCH_SECONDS = 0.1
"""Time between two looks for new strokes or another view."""
STAGE = "live"


def live(job: TrainJob, *, control: Control | None = None) -> Iterator[Progress]:
    """Train in rounds on a session, until somebody stops it.

    Parameters
    ----------
    job : TrainJob
        On a session; how long is not asked. ``init`` or the network is where the first round begins.
    control : Control, optional
        Cancelling ends it: the model of the last whole round stays. What is looked at is previewed.

    Yields
    ------
    Progress
        Steps, numbered on from round to round; previews; a message where a round could not begin. The last
        carries the result of the last round, but ``val_dice_before`` is of the model that it all began with.

    Raises
    ------
    InputError
        If the job is not on a session, or something but painting is needed before it can begin.
    Cancelled
        If it was stopped in the first round.
    """
    if job.session is None:
        raise InputError("Live training follows the strokes of a session: name one.")
    control = control or Control()
    with Session.open(job.session, read_only=True) as session:
        yield from _Live(job, session, control).run()


class _Live:
    """The rounds of one live training."""

    def __init__(self, job: TrainJob, session: Session, control: Control) -> None:
        self._job, self._session, self._control = job, session, control
        self._seen: tuple[int, ClassTable] | None = None
        self._steps = self._rounds = 0
        self._result: dict[str, Any] | None = None
        self._previews: Previews | None = None

    def run(self) -> Iterator[Progress]:
        while not self._control.cancelled:
            now = self._now()
            if now != self._seen:
                self._seen = now
                yield from self._round()
                self._previews = self._new_previews()
                yield from self._show()
            elif self._previews is not None and self._previews.moved:
                yield from self._show()
            else:
                self._control.wait(WATCH_SECONDS)
        if self._result is None:
            self._control.raise_if_cancelled()
        yield Progress(stage=STAGE, done=self._steps, total=self._steps, result=self._result)

    def _now(self) -> tuple[int, ClassTable]:
        """Return what a round depends on: the last stroke on disk, and what the numbers mean."""
        return self._session.corrections.seq, SessionRecord.load(self._session.path).classes

    def _show(self) -> Iterator[Progress]:
        if self._previews is not None:
            for step in self._previews.all_of():
                yield step
                if self._now() != self._seen:  # learn from it first
                    return

    def _round(self) -> Iterator[Progress]:
        """Learn from all strokes so far; a round that cannot begin says why."""
        began = self._steps
        try:
            with closing(train(self._next_job(), control=self._control)) as steps:
                for step in steps:
                    yield self._told(step, began)
        except TrainingError as error:
            yield Progress(stage=STAGE, done=self._steps, total=max(self._steps, 1), message=str(error))
        except Cancelled:
            if self._result is None:
                raise
            discard(self._job.out)
        else:
            self._rounds += 1

    def _told(self, step: Progress, began: int) -> Progress:
        """Return a step numbered on from round to round; results are kept for the end."""
        if step.result is not None:
            before = (self._result or step.result).get("val_dice_before")
            rounds = {"rounds": self._rounds + 1, "steps": self._steps, "val_dice_before": before}
            self._result = {**step.result, **rounds}
            return Progress(stage=STAGE, done=self._steps, total=max(self._steps, 1))
        if step.voxels is not None or not step.values:
            return step
        self._steps = began + step.done
        return replace(step, stage=STAGE, done=self._steps, total=began + step.total, seconds_left=None)

    def _next_job(self) -> TrainJob:
        """Return the job of the next round: from where the last one ended, and of few steps."""
        before = self._job.out if self._result is not None else self._job.init
        how: dict[str, Any] = {}
        if before is not None:
            card = read_card(before)  # classes are added and merged meanwhile
            how = {"init": before, "architecture": None, "arguments": {}}
            if card.classes.ids != SessionRecord.load(self._session.path).classes.ids:
                how = {"init": None, "architecture": card.architecture, "arguments": card.arguments}
        job = replace(self._job, seq=None, resume=False, restart=True, **how)
        steps = FIRST_STEPS if job.init is None else STEPS
        short = replace(
            job.learning,
            steps=steps,
            minutes=None,
            validate_every=steps,
            validation_patches=VALIDATION_PATCHES,
            seed=job.learning.seed + self._rounds,
        )
        return replace(job, learning=short)

    def _new_previews(self) -> Previews | None:
        """Return what shows the model of the last whole round; None if there is none yet."""
        if self._result is None:
            return None
        model, card = load_checkpoint(self._job.out)
        model.to(choose_device(self._job.learning.device))
        image, level = self._session.image, self._session.level
        window = card.window
        if card.own_window:
            window = Window(*sample_window(image, level), image.dtype.name)
        preview = Preview(model, image, level, window)
        return Previews(preview, self._session.shape, self._control)
