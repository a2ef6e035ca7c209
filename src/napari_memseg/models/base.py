"""What the engine and the training loop know of a network.

A model is an ordered list of stages. A stage maps named arrays, cut to a box, to
named arrays of that box; it reads no file and knows no viewer. The engine runs
the stages tile by tile, keeps what they write, and takes the class scores of the
last one::

    image@0 ─┬─> stage "coarse" (whole) ──> latent (vector), map (on a coarser grid)
             ├─> stage "first"  (tiles) ──> first (labels)          │
             └─> stage "second" (tiles) <──────┴────────────────────┘
                        └──> SCORES

A plain network is one stage and one training phase: ``models/unet3d.py``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from napari_memseg.geometry import Box, Zyx
    from napari_memseg.models.classes import ClassTable

SCORES = "scores"
"""Name of what the last stage writes: class scores (logits), one channel a class."""


@dataclass(frozen=True, slots=True)
class Halo:
    """Context in voxels before (``low``) and behind (``high``) a box, per axis (z, y, x)."""

    low: Zyx = (0, 0, 0)
    high: Zyx = (0, 0, 0)

    @classmethod
    def even(cls, z: int, y: int, x: int) -> Halo:
        """Return the same context on both sides."""
        return cls((z, y, x), (z, y, x))


EVERYTHING = Halo.even(*[2**20] * 3)
"""The exact halo of what depends on all of a volume: of a norm over a tile, or of its ends."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Where the voxels of an array lie on the grid of the run's working level.

    Voxel ``i`` covers the working voxels ``offset + i * factor`` up to
    ``offset + (i + 1) * factor``. ``shape`` is that of the array itself; None means
    that it reaches to the end of the volume. A coarser grid has a factor above
    one, a crop an offset and a shape.
    """

    factor: Zyx = (1, 1, 1)
    offset: Zyx = (0, 0, 0)
    shape: Zyx | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reads:
    """One array that a stage needs.

    ``image@L`` is the image, ``L`` times halved (mean of 2 x 2 x 2) from the working
    level, in float32 normalised by the run's window; any other name is what an
    earlier stage wrote. Halos are in voxels of the array itself.
    """

    array: str
    halo_exact: Halo = Halo()
    """With this much context a tile equals the whole-volume pass."""
    halo_recommended: Halo = Halo()
    """What a run takes by default: cheaper, nearly as good."""
    whole: bool = False
    """The entire array, whatever the tile; coarse by construction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Writes:
    """One array that a stage makes: volume-like on ``grid``, or one plain vector."""

    array: str
    dtype: str = "float32"
    channels: int = 1
    """Channels of an array, or the length of a vector."""
    grid: Grid = Grid()
    vector: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Where one sample of a batch lies.

    ``box`` is the box of the first array that the stage reads, in working-level
    voxels: what the stage returns must cover it. ``boxes`` holds the box of every
    array that was read, each in voxels of its own grid.
    """

    box: Box
    shape: Zyx
    """Of the volume at the working level, in voxels."""
    voxel_size: tuple[float, float, float] | None = None
    boxes: Mapping[str, Box] = field(default_factory=dict)


@runtime_checkable
class Stage(Protocol):
    """One pass over the volume: tensors in, tensors out."""

    @property
    def name(self) -> str:
        """Unique in its model; part of the ledger's keys."""

    @property
    def reads(self) -> tuple[Reads, ...]:
        """What it needs. The first one carries the stage's own grid of tiles."""

    @property
    def writes(self) -> tuple[Writes, ...]:
        """What it makes. The last stage of a model writes ``SCORES``."""

    @property
    def multiple(self) -> Zyx:
        """Tile origins and lengths keep to it, counted from the volume's origin."""

    @property
    def whole(self) -> bool:
        """Runs once, over all of what it reads (coarse), instead of per tile."""

    def __call__(self, inputs: dict[str, Tensor], where: Sequence[Where]) -> dict[str, Tensor]:
        """Run one batch.

        Parameters
        ----------
        inputs : dict of Tensor
            One tensor (N, C, z, y, x) per name in ``reads``; (N, length) for a vector.
        where : sequence of Where
            One per sample.

        Returns
        -------
        dict of Tensor
            One tensor per name in ``writes``: (N, C, z, y, x) covering ``where.box`` on
            the array's grid, or (N, length) for a vector.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSpec:
    """What one training sample of a phase is."""

    patch: Zyx
    """Size of a patch in voxels; on an axis shorter than that, the whole axis."""
    arrays: tuple[str, ...] = ()
    """Outputs of earlier stages that are cut at the same place, or given whole if vectors."""
    expansion: float = 1.0
    """What comes is so many times as long as the patch, about the same centre; beyond the volume's faces
    there are zeros and no opinions."""
    overview: int | None = None
    """So often halved, the whole volume comes with every sample as well; None: it does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a phase learns, unless a person says otherwise; as published where that is known."""

    learning_rate: float = 5e-3
    """At its highest."""
    batch: int = 2
    """Patches a step."""
    weight_decay: float = 1e-4
    optimizer: str = "adamw"
    """"adamw", "adam" (weight decay is then a penalty, as Adam has it) or "radam"."""
    schedule: str = "cosine"
    """"cosine" (a short rise, then half a cosine to 0), "constant", "steps" (a tenth at 40 and at 60 %)."""
    lookahead: bool = False
    """Whether weights are drawn towards slow ones every 5 steps (Zhang et al. 2019, arXiv:1907.08610)."""
    average: float = 0.0
    """Decay of the moving average of the weights, which is what is scored and kept; 0 keeps the weights."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """Other learning rates, for the weights whose names end so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The whole volume that a sample comes from, halved; what is held back to validate is not in it."""

    image: Tensor
    """(1, z, y, x) float32, normalised."""
    presence: Tensor
    """(C, z, y, x) bool: whether a labelled voxel of a class lies in each coarse one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Patches to learn from, on the device."""

    image: Tensor
    """(N, 1, z, y, x) float32, normalised."""
    labels: Tensor
    """(N, z, y, x) int64 class indices, ``IGNORE`` where nobody has an opinion."""
    arrays: Mapping[str, Tensor] = field(default_factory=dict)
    """(N, C, z, y, x) on their own grids, or (N, length)."""
    where: Sequence[Where] = ()
    margin: Zyx = (0, 0, 0)
    """Voxels (z, y, x) on either side that came beyond the patch itself, where the phase expands it."""
    overviews: Sequence[Overview] = ()
    """One for each sample, where the phase asks for it."""
    frequencies: Tensor | None = None
    """(C,) share of each class among all voxels that are learned from; None: not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What one step says: the number to descend, and scores for its patches."""

    value: Tensor
    """A scalar with a gradient."""
    scores: Tensor | None = None
    """(N, C, z, y, x) logits of the full patch, where the phase makes class scores: for validation."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """Named terms, for the curve."""


class TrainingPhase(Protocol):
    """One training of one part of a model; phases follow each other."""

    @property
    def name(self) -> str:
        """Unique in its model."""

    @property
    def needs(self) -> Sequence[Stage]:
        """Stages that must have run over the training volumes before this phase starts."""

    @property
    def sample(self) -> SampleSpec:
        """What a sample is."""

    @property
    def recipe(self) -> Recipe:
        """How it learns by default."""

    def parameters(self) -> Sequence[nn.Parameter]:
        """Return what this phase trains; everything else stays as it is."""

    def step(self, batch: Batch) -> Loss:
        """Compute the loss of a batch, with gradients where they are enabled."""


class Model(nn.Module, ABC):
    """A network: stages to run, phases to train, classes to tell apart.

    A subclass is built from keyword arguments alone, which ``arguments`` gives
    back: a checkpoint stores them with the weights.
    """

    architecture: ClassVar[str]
    """The name under which the registry knows it."""
    title: ClassVar[str]
    """One line for people."""
    paper: ClassVar[str]
    """Citation with DOI or arXiv number."""
    advice: ClassVar[str] = ""
    """When to choose it, in a sentence or two."""
    ndim: ClassVar[int] = 3
    """3, or 2 where slices are mapped one by one."""

    def __init__(self, classes: ClassTable) -> None:
        super().__init__()
        self.classes = classes

    @property
    @abstractmethod
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments (plain JSON values) that build this model again; without classes."""

    @property
    @abstractmethod
    def stages(self) -> Sequence[Stage]:
        """What the engine runs, in order; the last writes ``SCORES``."""

    @abstractmethod
    def training_plan(self) -> Sequence[TrainingPhase]:
        """Return the phases in which this model learns."""

    @property
    def parameter_count(self) -> int:
        """Number of trainable weights."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device
