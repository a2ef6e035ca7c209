"""How to train: what a person chooses, with our defaults."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from napari_memseg.errors import InputError
from napari_memseg.geometry import zyx

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_memseg.geometry import Zyx
    from napari_memseg.models.base import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """How to train. Stored with the model, so that a training can be repeated.

    Raises
    ------
    InputError
        If a value is impossible.
    """

    steps: int | None = None
    """How long, in steps. Either this or ``minutes``."""
    minutes: float | None = None
    """How long, in minutes of computing; interruptions do not count."""
    batch: int | None = None
    """Patches a step; None takes those of the phase."""
    patch: Zyx | None = None
    """Size of a patch in voxels; None takes that of the phase."""
    learning_rate: float | None = None
    """At its highest; None takes that of the phase."""
    weight_decay: float | None = None
    """None takes that of the phase."""
    mirror: frozenset[str] = frozenset()
    """Axes that augmentation may flip, of "z", "y" and "x". None where classes are left and right."""
    augment: bool = True
    """Whether grey values are changed."""
    seed: int = 0
    device: str = "auto"
    """"auto", "cpu", "cuda", "cuda:1" or "mps"."""
    amp: bool = True
    """Mixed precision, where the device is faster so: CUDA, or a CPU with bfloat16 instructions."""
    validate_every: int | None = None
    """Steps between validations; None makes up to ten of them."""
    validation_patches: int = 16
    """About how many patches a validation scores."""
    threads: int = max(1, min(4, (os.cpu_count() or 2) // 2))
    """That make patches."""
    save_seconds: float = 30.0
    """Time between two saved states, at most about."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "mirror", frozenset(self.mirror))
        if (self.steps is None) == (self.minutes is None):
            raise InputError(
                f"Say how long to train, with either steps or minutes; got {self.steps=}, {self.minutes=}."
            )
        positive = (
            "steps",
            "minutes",
            "batch",
            "learning_rate",
            "validate_every",
            "validation_patches",
            "threads",
        )
        for name in positive:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"{name} must be above 0, got {value}.")
        if self.patch is not None and min(self.patch) < 1:
            raise InputError(f"A patch needs at least one voxel on each axis (z, y, x), got {self.patch}.")
        for name in ("weight_decay", "save_seconds", "seed"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise InputError(f"{name} must be 0 or more, got {value}.")
        if strange := self.mirror - set("zyx"):
            raise InputError(f"mirror takes the axes z, y and x, got {sorted(strange)}.")

    def over(self, recipe: Recipe) -> Recipe:
        """Return a phase's recipe with what is said otherwise here."""
        said = {name: getattr(self, name) for name in ("batch", "learning_rate", "weight_decay")}
        return replace(recipe, **{name: value for name, value in said.items() if value is not None})

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            **asdict(self),
            "mirror": "".join(a for a in "zyx" if a in self.mirror),
            "patch": _listed(self.patch),
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> TrainConfig:
        """Read what ``to_json`` wrote."""
        patch = None if row["patch"] is None else zyx(row["patch"])
        return cls(**{**row, "mirror": frozenset(row["mirror"]), "patch": patch})

    def fraction(self, step: int, seconds: float) -> float:
        """Return how much of a training is done, from 0; above 1 is overtime."""
        return step / self.steps if self.steps is not None else seconds / (60 * (self.minutes or 1))


def _listed(patch: Zyx | None) -> list[int] | None:
    return None if patch is None else list(patch)
