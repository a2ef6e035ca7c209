"""A network that maps an image to class scores in one pass: one stage, one phase.

Whoever adds such a network writes ``forward`` and follows it along one axis in
``trace``; halos, stage and training come from here.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from napari_memseg.models.base import (
    EVERYTHING,
    SCORES,
    Batch,
    Halo,
    Loss,
    Model,
    Reads,
    Recipe,
    SampleSpec,
    Stage,
    TrainingPhase,
    Where,
    Writes,
)
from napari_memseg.models.losses import masked_dice_ce
from napari_memseg.models.reach import L, effective_reach, exact_reach, round_up

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from napari_memseg.geometry import Zyx

IMAGE = "image@0"


class PlainModel(Model):
    """A network of one stage, that learns in one phase."""

    patch: ClassVar[Zyx]
    """Size of a training patch, in voxels."""
    recipe: ClassVar[Recipe] = Recipe()
    """How it learns by default."""

    @property
    @abstractmethod
    def multiple(self) -> int:
        """Product of its poolings along an axis, in voxels."""

    @abstractmethod
    def forward(self, image: Tensor) -> Tensor:
        """Map a normalised image (N, 1, z, y, x) to class scores (N, C, z, y, x)."""

    @property
    def depends_on_the_tile(self) -> bool:
        """Whether no halo is exact, since something is computed of all that a tile holds."""
        return False

    @abstractmethod
    def trace(self, line: L) -> L:
        """Follow ``forward`` along one axis; see ``models/reach.py``."""

    @cached_property
    def stages(self) -> Sequence[Stage]:
        """The network itself."""
        return (PlainStage(self, self._reads(), (self.multiple,) * 3),)

    def training_plan(self) -> Sequence[TrainingPhase]:
        """Return the one phase: scores against labels."""
        return (PlainPhase(self, SampleSpec(patch=self.patch)),)

    def _reads(self) -> Reads:
        exact, recommended = (
            [round_up(side, self.multiple) for side in reach(self.trace, self.multiple)]
            for reach in (exact_reach, effective_reach)
        )
        halo_exact = EVERYTHING if self.depends_on_the_tile else _halo(*exact)
        return Reads(array=IMAGE, halo_exact=halo_exact, halo_recommended=_halo(*recommended))


def _halo(low: int, high: int) -> Halo:
    return Halo((low,) * 3, (high,) * 3)


@dataclass(frozen=True, slots=True)
class PlainStage:
    """Image in, class scores out."""

    model: PlainModel
    image: Reads
    multiple: Zyx
    name: str = "network"
    whole: bool = False

    @property
    def reads(self) -> tuple[Reads, ...]:
        """The image."""
        return (self.image,)

    @property
    def writes(self) -> tuple[Writes, ...]:
        """The scores."""
        return (Writes(array=SCORES, channels=len(self.model.classes)),)

    def __call__(self, inputs: dict[str, Tensor], where: Sequence[Where]) -> dict[str, Tensor]:
        """Run the network."""
        return {SCORES: self.model(inputs[IMAGE])}


@dataclass(frozen=True, slots=True)
class PlainPhase:
    """Scores against labels, over all weights."""

    model: PlainModel
    sample: SampleSpec
    name: str = "network"
    needs: Sequence[Stage] = ()

    @property
    def recipe(self) -> Recipe:
        """The model's."""
        return self.model.recipe

    def parameters(self) -> Sequence[nn.Parameter]:
        """Return all weights."""
        return list(self.model.parameters())

    def step(self, batch: Batch) -> Loss:
        """Compare the scores of a batch with its labels."""
        scores = self.model(batch.image)
        return Loss(value=masked_dice_ce(scores, batch.labels), scores=scores)
