"""Train one phase of a network, step by step.

Patches are made ahead in a thread while the network learns from the last ones. Now
and then the held-back cells are scored and the best weights kept, and the state is
saved, from which a killed training goes on to the very same weights; on Ctrl-C, or
where the caller goes away, it is saved at once::

    patches (thread) ──> step ──> [validate ──> keep if best] ──> [save] ──> yield

That holds for trainings measured in steps, on one machine; one measured in minutes
does as many steps as fit.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xxhash

from napari_memseg.models.device import choose_device
from napari_memseg.training.checkpoints import CheckpointSpec, TrainingState
from napari_memseg.training.config import TrainConfig as TrainConfig  # noqa: TC001 - callers find it here too
from napari_memseg.training.interrupts import interrupted_afterwards
from napari_memseg.training.label_index import LabelIndex, check_labels, index_labels
from napari_memseg.training.memory import measured
from napari_memseg.training.optimisation import Stepper, learning_rate, only_training
from napari_memseg.training.patches import PatchSampler
from napari_memseg.training.prefetch import made_ahead
from napari_memseg.training.validation import Scores, Validation, split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from napari_memseg.models.base import Batch, Model, Recipe, SampleSpec, TrainingPhase
    from napari_memseg.models.intensity import Window
    from napari_memseg.training.sources import TrainingVolume

VALIDATIONS = 10
"""How often a training validates at most, unless ``validate_every`` says otherwise."""
STEPS_BETWEEN = 20
"""At least, between those validations, so that most of the time goes into learning."""
HELD_BACK = 0
"""Seed of what is held back: one for all trainings, so that none is scored on what the model that it
begins with has learned from another seed."""
WITHOUT_EFFECT = {"device", "amp", "threads", "save_seconds"}
"""Settings that may differ between an interrupted training and its continuation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainStep:
    """What one step came to."""

    step: int
    """Steps done, from 1."""
    steps: int
    """In all; an estimate where the length is in minutes."""
    loss: float
    val_dice: Mapping[int, float] | None = None
    """Per class id, on steps that validate."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """Named terms of the loss, the learning rate, and on steps that validate the validation's loss."""
    seconds: float = 0.0
    """Time spent so far, over all interruptions."""


def train_phase(
    model: Model,
    phase: TrainingPhase,
    volumes: Sequence[TrainingVolume],
    validation: Sequence[TrainingVolume],
    window: Window,
    config: TrainConfig,
    checkpoint: CheckpointSpec,
    *,
    resume: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[TrainStep]:
    """Train one phase of a model, in place.

    At the end the model has the best weights and is in eval mode, and the state on
    disk is marked as finished; ``checkpoint.publish`` makes it a model file.

    Parameters
    ----------
    model : Model
        With the weights to begin from.
    phase : TrainingPhase
        One of its training plan.
    volumes : sequence of TrainingVolume
        To learn from, with the arrays that the phase needs.
    validation : sequence of TrainingVolume
        To score; if empty, about 15 % of the labelled voxels are held back for it.
    window : Window
        Grey values that become 0 and 1.
    config : TrainConfig
        How long, and how.
    checkpoint : CheckpointSpec
        Where states and best weights are kept.
    resume : bool
        Go on with a saved state, if there is one; yields nothing if it is finished.
    stop : callable
        Asked after each step: True saves the state and ends, to be resumed.

    Yields
    ------
    TrainStep
        After each step. Whoever asks for no more of them leaves a state to resume from.

    Raises
    ------
    TrainingError
        If a class has no labelled voxel, or learning diverges. Nothing on disk is replaced.
    RunMismatchError
        If the saved state is of another training.
    InputError
        If a volume, the device or an array does not fit.
    """
    trainer = _Trainer.build(model, phase, volumes, validation, window, config, checkpoint)
    if resume and checkpoint.state(phase.name).exists():
        trainer.restore()
    with only_training(model, phase.parameters()):
        yield from trainer.run(stop)


@dataclass(eq=False, kw_only=True)
class _Trainer:
    """One phase while it is trained."""

    model: Model
    config: TrainConfig
    checkpoint: CheckpointSpec
    sampler: PatchSampler
    validation: Validation | None
    stepper: Stepper
    recipe: Recipe
    state: TrainingState
    _next_validation: float = 1 / VALIDATIONS
    _unsaved: bool = False
    """Whether there are steps, all of them whole, that no file holds."""

    @classmethod
    def build(
        cls,
        model: Model,
        phase: TrainingPhase,
        volumes: Sequence[TrainingVolume],
        validation: Sequence[TrainingVolume],
        window: Window,
        config: TrainConfig,
        checkpoint: CheckpointSpec,
    ) -> _Trainer:
        """Look at the labels, and make everything ready; nothing is written."""
        device = torch.device(choose_device(config.device))
        recipe = config.over(phase.recipe)
        spec = replace(phase.sample, patch=config.patch or phase.sample.patch)
        index = index_labels(volumes, model.classes)
        check_labels(index, volumes, model.classes)
        held, scored = split(index, validation, model.classes, most=config.validation_patches, seed=HELD_BACK)
        common: dict[str, Any] = {"spec": spec, "classes": model.classes, "window": window}
        sampler = PatchSampler(
            volumes=volumes,
            index=index.take(~held),
            held=index.take(held),
            seed=config.seed,
            mirror=config.mirror,
            augment=config.augment,
            **common,
        )
        scoring = Validation(volumes=validation or volumes, cells=scored, **common) if len(scored) else None
        how = _how(config, recipe, spec, checkpoint, window)
        identity = how | _on_what(volumes, index, validation, scored)
        return cls(
            model=model,
            config=config,
            checkpoint=checkpoint,
            sampler=sampler,
            validation=scoring,
            stepper=Stepper.build(model, phase, recipe, device=device, amp=config.amp),
            recipe=recipe,
            state=TrainingState(phase=phase.name, identity=identity),
        )

    def restore(self) -> None:
        """Go on with the state on disk."""
        path = self.checkpoint.state(self.state.phase)
        found = TrainingState.load(path)
        found.require(self.state.identity, path)
        self.model.load_state_dict(found.weights)
        self.stepper.load(found.optimizer, found.scaler)
        self.state = found

    def run(self, stop: Callable[[], bool]) -> Iterator[TrainStep]:
        """Step until the end, or until somebody asks to stop."""
        if self.state.finished:
            return
        if self.checkpoint.init and self.state.step == 0:
            self._score_before()
        saved = self.state.seconds
        numbers = range(self.state.step, self.config.steps) if self.config.steps else count(self.state.step)
        ahead = made_ahead(self._batch, iter(numbers), self.config.threads)
        with ahead as batches, self._saved_when_interrupted():
            while self._fraction() < 1:
                with interrupted_afterwards():
                    told = self._advance(batches)
                asked = stop()
                if self._fraction() >= 1:
                    self._finish()
                elif asked or told.val_dice is not None or self._is_old(saved):
                    self._save()
                    saved = self.state.seconds
                yield told
                if asked:
                    return
            if not self.state.finished:  # interrupted between the last step and the end
                self._finish()

    @contextmanager
    def _saved_when_interrupted(self) -> Iterator[None]:
        try:
            yield
        except (KeyboardInterrupt, GeneratorExit):
            if self._unsaved:
                self._save()
            raise

    def _advance(self, batches: Iterator[Batch]) -> TrainStep:
        """Take one step, and validate where it is time; what the caller does in between takes none."""
        self._unsaved = False
        began, before = monotonic() - self.state.seconds, self._fraction()
        loss, parts = self._learn(next(batches), before)
        self.state.seconds = monotonic() - began
        scores = None
        if self._is_due():
            learned, scores = self._fraction(), self._validate()
            self.state.seconds = monotonic() - began
            self._put_off(learned)
        self._unsaved = True
        return self._told(loss, parts, scores)

    def _batch(self, number: int) -> Batch:
        return self.sampler.batch(number, self.recipe.batch)

    def _fraction(self) -> float:
        return self.config.fraction(self.state.step, self.state.seconds)

    def _is_old(self, saved: float) -> bool:
        """Whether a kill would now cost more than it should."""
        return self.state.seconds - saved >= self.config.save_seconds

    def _learn(self, batch: Batch, done: float) -> tuple[float, dict[str, float]]:
        """Take one step; return the loss and its terms."""
        rate = learning_rate(done, self.recipe.learning_rate, self.recipe.schedule)
        how: dict[str, Any] = {"rate": rate, "seed": (self.config.seed << 32) + self.state.step}
        if self.state.memory:
            loss = self.stepper.step(batch, **how)
        else:
            with measured(self.stepper.device, self.stepper.optimizer.weights) as memory:
                loss = self.stepper.step(batch, **how)
            self.state.memory = memory()
        self.state.step += 1
        return float(loss.value.detach()), {**loss.parts, "learning_rate": rate}

    def _is_due(self) -> bool:
        """Whether the step just done is followed by a validation; the last one always is."""
        now, every = self._fraction(), self.config.validate_every
        if every is None and self.config.steps is not None:
            every = max(-(-self.config.steps // VALIDATIONS), STEPS_BETWEEN)
        if every is not None:
            return now >= 1 or self.state.step % every == 0
        return now >= self._next_validation or now >= 1

    def _put_off(self, began: float) -> None:
        """Where the length is in minutes, let a slow validation be followed by ten times as much learning."""
        now = self._fraction()
        self._next_validation = now + max(1 / VALIDATIONS, 10 * (now - began))

    def _validate(self) -> Scores | None:
        """Score the held-back cells, and keep the weights if they are the best so far."""
        if self.validation is None:
            return None
        with self.stepper.optimizer.averaged():
            scores = self.validation.run(self.stepper.evaluate)
            if scores.value > self.state.value:
                self.state.value = scores.value
                self.state.scores = _for_card(scores, self.state.step)
                self._keep_best()
        return scores

    def _score_before(self) -> None:
        """Score the model that the training starts from, on what is held back now."""
        if self.validation is not None:
            scores = self.validation.run(self.stepper.evaluate)
            self.state.before = scores.value if scores.dice else None

    def _keep_best(self) -> None:
        self.state.best = {name: t.detach().cpu().clone() for name, t in self.model.state_dict().items()}
        self.checkpoint.save_best(self.model, self.state)

    def _save(self) -> None:
        """Write all it takes to go on."""
        self.state.model = {name: t.detach().cpu() for name, t in self.model.state_dict().items()}
        self.state.optimizer = self.stepper.optimizer.state_dict()
        self.state.scaler = self.stepper.scaler.state_dict()
        self.state.save(self.checkpoint.state(self.state.phase))
        self._unsaved = False

    def _finish(self) -> None:
        """Say on disk that the phase is done, and go back to the best weights."""
        if not self.state.best:
            with self.stepper.optimizer.averaged():
                self._keep_best()
        self.state.finished = True
        self._save()
        self.model.load_state_dict(self.state.best)

    def _told(self, loss: float, parts: dict[str, float], scores: Scores | None) -> TrainStep:
        step, steps = self.state.step, self.config.steps
        return TrainStep(
            step=step,
            steps=steps or max(step, round(step / self._fraction())),
            loss=loss,
            val_dice=scores.dice if scores else None,
            parts={**parts, "validation_loss": scores.loss} if scores else parts,
            seconds=self.state.seconds,
        )


def _for_card(scores: Scores, step: int) -> dict[str, Any]:
    """Return what a card says of a validation: Dice, or the loss where the phase makes no class scores."""
    if scores.dice:
        return {"dice": scores.dice, "mean_dice": scores.value, "step": step}
    return {"validation_loss": scores.loss, "step": step}


def _how(
    config: TrainConfig, recipe: Recipe, spec: SampleSpec, checkpoint: CheckpointSpec, window: Window
) -> dict[str, Any]:
    """Name every choice that changes what a phase becomes, in plain values."""
    card = checkpoint.card
    return {
        **{name: value for name, value in config.to_json().items() if name not in WITHOUT_EFFECT},
        **asdict(recipe),
        "patch": list(spec.patch),
        "architecture": card.architecture,
        "arguments": dict(card.arguments),
        "classes": list(card.classes.ids),
        "window": [window.low, window.high],
        "init": checkpoint.init,
    }


def _on_what(
    volumes: Sequence[TrainingVolume],
    index: LabelIndex,
    validation: Sequence[TrainingVolume],
    scored: LabelIndex,
) -> dict[str, Any]:
    """Name all that is learned from and scored on, in plain values."""
    return {
        "volumes": [_told_apart(volume) for volume in volumes],
        "labels": _digest(index),
        "validation_volumes": [_told_apart(volume) for volume in validation],
        "validation": _digest(scored),
    }


def _told_apart(volume: TrainingVolume) -> str:
    """Tell whether an image is still the same and seen alike, wherever it lies now."""
    seen = "" if volume.window is None else f" from {volume.window.low:g} to {volume.window.high:g}"
    return f"level {volume.level} fingerprint {volume.image.fingerprint}{seen}"


def _digest(index: LabelIndex) -> str:
    """Return a fingerprint of the labels, and of the cells that were chosen of them."""
    cells = (np.ascontiguousarray(a).tobytes() for a in (index.volume, index.bounds))
    return str(xxhash.xxh3_128_hexdigest(b"".join([index.digest.encode(), *cells])))
