"""What a training leaves on disk, so that it can be looked at, killed and continued.

Beside the model that will be, each phase keeps two files under names of its own::

    bone.safetensors                        the model; written last, when all phases are done
    bone.<phase>.best.safetensors           the best weights so far, with their scores
    bone.<phase>.training                   weights, optimiser and step: all it takes to go on

Each is replaced at once or not at all. A state that is ``finished`` holds the best
weights of its phase, so that a training of several phases goes on where it was.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from math import inf
from typing import TYPE_CHECKING, Any

from napari_memseg.errors import CheckpointError, RunMismatchError
from napari_memseg.models.checkpoint import (
    Card,
    load_training_state,
    save_checkpoint,
    save_training_state,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from napari_memseg.models.base import Model


@dataclass(slots=True, kw_only=True)
class TrainingState:
    """How far one phase is."""

    phase: str
    identity: dict[str, Any]
    """Everything that changes the result, by name: what must agree to go on."""
    finished: bool = False
    step: int = 0
    """Steps done."""
    seconds: float = 0.0
    """Time spent, over all interruptions."""
    memory: int = 0
    """Bytes that its first step took; see ``training/memory.py``."""
    value: float = -inf
    """Of the best weights so far; ``Scores.value``."""
    scores: dict[str, Any] = field(default_factory=dict)
    """Of the best weights so far, as they stand in the card."""
    before: float | None = None
    """Mean Dice on the same held-back voxels of the weights that it began with; None of a new network."""
    model: dict[str, Tensor] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)

    @property
    def weights(self) -> dict[str, Tensor]:
        """What a model goes on from: the last weights, or the best once finished."""
        return self.best if self.finished else self.model

    def save(self, path: Path) -> None:
        """Write the state, all at once."""
        save_training_state(path, {f.name: getattr(self, f.name) for f in fields(self)})

    @classmethod
    def load(cls, path: Path) -> TrainingState:
        """Read what ``save`` wrote.

        Raises
        ------
        CheckpointError
            If the file is no training state.
        """
        row = load_training_state(path)
        try:
            return cls(**row)
        except TypeError as error:
            raise CheckpointError(
                f"{path} is no training state of this version. Discard it: --restart in place of --resume."
            ) from error

    def require(self, identity: Mapping[str, Any], path: Path) -> None:
        """Make sure that this is the training that is asked for.

        Raises
        ------
        RunMismatchError
            With every difference named.
        """
        names = sorted(self.identity.keys() | identity.keys())
        pairs = [(name, self.identity.get(name), identity.get(name)) for name in names]
        if differing := [f"{name} was {was!r} and is {now!r}" for name, was, now in pairs if was != now]:
            raise RunMismatchError(
                f"The unfinished training {path} is not the one asked for: {'; '.join(differing)}. "
                "Ask for the same again, or discard it: --restart in place of --resume."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSpec:
    """Where a training keeps its files, and what the card of its model says."""

    out: Path
    """The model, once it is finished."""
    card: Card
    """Architecture, classes, window, voxel size; training and scores are filled in."""
    init: str = ""
    """sha256 of the tensors that the training began with; empty for those of a new network."""

    def best(self, phase: str) -> Path:
        """Return the file of the best weights of a phase, which can be tried meanwhile."""
        return self.out.with_name(f"{self.out.stem}.{phase}.best.safetensors")

    def state(self, phase: str) -> Path:
        """Return the file with which a phase goes on."""
        return self.out.with_name(f"{self.out.stem}.{phase}.training")

    def is_finished(self, phase: str) -> bool:
        """Whether a phase is done; its state then holds its best weights."""
        path = self.state(phase)
        return path.exists() and TrainingState.load(path).finished

    def save_best(self, model: Model, state: TrainingState) -> Card:
        """Write the weights of ``model`` as the best so far of a phase."""
        return save_checkpoint(self.best(state.phase), model, self.card_of(state))

    def publish(self, model: Model, phases: Sequence[str]) -> Card:
        """Put the finished model in its place; what was there stays until this moment.

        Parameters
        ----------
        model : Model
            As the last phase left it.
        phases : sequence of str
            All that it was trained in; the card tells of each, and carries the scores of the last.

        Raises
        ------
        CheckpointError
            If a phase has no readable state.
        """
        card = self.card
        for phase in phases:
            card = replace(self, card=card).card_of(TrainingState.load(self.state(phase)))
        return save_checkpoint(self.out, model, card)

    def card_of(self, state: TrainingState) -> Card:
        """Return the card, with what a phase was trained on and what it reached."""
        training = {
            **state.identity,
            "steps_done": state.step,
            "seconds": round(state.seconds, 1),
            "memory_gib": round(state.memory / 2**30, 6),
        }
        if state.before is not None:
            training["mean_dice_before"] = state.before
        return replace(
            self.card,
            training={**self.card.training, state.phase: training},
            scores=state.scores or self.card.scores,
        )
