"""The cascade: meU-nets make label maps, and a U-Net that sees those beside the image makes the labels.

Each branch of stage 1 is a meU-net with an expansion factor of its own. What it finds is kept as one class
index a voxel. Stage 2 is the same U-Net on the image alone, and the one-hot maps of all branches enter it on
its way up, beside the skip of each level but the lowest ("post-concatenation", Figure 3 of the paper)::

    image ──┬─> meU-net k = 1.5  ──> branch1 (class indices) ──┐ one-hot, at 1, 1/2, 1/4, 1/8
            ├─> meU-net k = 1.75 ──> branch2 ──────────────────┤
            └─> encoder ────────────────────────────> decoder <┘ ──> scores

All run at full resolution, and nothing global is needed. By default a tile keeps its core and drops its
halo; ``votes`` gives the published way instead: half-overlapping windows, each voting, its middle twice.

Wang, Blackie, Miguel-Aliaga, Bai, "Memory-efficient segmentation of (high-resolution) volumetric microCT
images", MIDL 2022, https://arxiv.org/abs/2205.15941, sections 3.2 and A.5, A.6.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from napari_memseg.errors import InputError
from napari_memseg.geometry import Zyx, zyx
from napari_memseg.models.arguments import switch
from napari_memseg.models.base import (
    SCORES,
    Batch,
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
from napari_memseg.models.blocks import class_of_largest, one_hot, require_finite
from napari_memseg.models.losses import masked_dice_ce
from napari_memseg.models.meunet import RECIPE, ExpandedPhase, MeUNet, class_weights
from napari_memseg.models.plain import IMAGE
from napari_memseg.models.unet3d import decode, decoder_of, encode, encoder_of
from napari_memseg.models.votes import Voting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_memseg.models.classes import ClassTable

CONCATENATIONS = ("post", "pre")
MOST_CLASSES = 256


class Cascade(Model):
    """Two stages: one or more meU-nets, and a U-Net that is shown what they found.

    Parameters
    ----------
    classes : ClassTable
        What it tells apart.
    widths : sequence of int
        Channels of each level, the finest first; of all networks.
    expansions : sequence of float
        k of each branch of stage 1; published are 1.5 and 1.75.
    standard : int
        P: edge of the standard patch, in voxels; published is 160.
    concatenation : str
        "post": the maps enter the decoder at every level; "pre": they stand beside the image.
    votes : bool
        Whether to segment by the published votes in place of halos.
    checkpointing : bool
        Whether a training computes activations twice in place of keeping them.

    Raises
    ------
    InputError
        If a value is impossible, or there are more than 256 classes.
    """

    architecture: ClassVar[str] = "cascade"
    title: ClassVar[str] = "Cascade of meU-nets, for thin and thick organs of whole animals"
    advice: ClassVar[str] = (
        "Made for microCT of whole insects at full resolution: best on thin, winding organs, at three passes "
        "and three trainings; begin with meunet, which is its first stage."
    )
    paper: ClassVar[str] = "Wang et al., MIDL 2022, arXiv:2205.15941"

    def __init__(
        self,
        classes: ClassTable,
        *,
        widths: Sequence[int] = (16, 32, 64, 128, 128),
        expansions: Sequence[float] = (1.5, 1.75),
        standard: int = 112,
        concatenation: str = "post",
        votes: bool = False,
        checkpointing: bool = False,
    ) -> None:
        super().__init__(classes)
        if not expansions or concatenation not in CONCATENATIONS:
            raise InputError(
                f"A cascade has one branch or more and concatenates {' or '.join(CONCATENATIONS)}, got "
                f"{expansions=}, {concatenation=}. Published are 1.5 and 1.75, and post."
            )
        if len(classes) > MOST_CLASSES:
            raise InputError(
                f"A cascade keeps class indices in bytes: it tells apart {MOST_CLASSES} classes at most, "
                f"got {len(classes)}. Merge some, or take meunet."
            )
        common: dict[str, Any] = {"widths": widths, "standard": standard, "checkpointing": checkpointing}
        self.branches = nn.ModuleList(MeUNet(classes, expansion=k, **common) for k in expansions)
        self.second = GuidedUNet(
            self._branches[0].widths, len(classes), maps=len(expansions), post=concatenation == "post"
        )
        self.concatenation, self.votes = concatenation, switch("votes", votes)

    @property
    def arguments(self) -> dict[str, Any]:
        """All that it was built with."""
        first = self._branches[0]
        return {
            "widths": list(first.widths),
            "expansions": [branch.expansion for branch in self._branches],
            "standard": self.standard,
            "concatenation": self.concatenation,
            "votes": self.votes,
            "checkpointing": first.checkpointing,
        }

    @cached_property
    def stages(self) -> Sequence[Stage]:
        """Every branch, then the second stage."""
        (plain,) = self._branches[0].stages
        (image,) = plain.reads
        branches: list[Stage] = [
            BranchStage(branch, image, plain.multiple, name)
            for branch, name in zip(self._branches, self.maps, strict=True)
        ]
        last = SecondStage(self.second, len(self.classes), image, plain.multiple, self.maps)
        if not self.votes:
            return (*branches, last)
        windows = [round(branch.expansion * branch.standard) for branch in self._branches]
        windows.append(self.standard)
        voters = zip((*branches, last), windows, strict=True)
        return tuple(Voting(stage, window, len(self.classes)) for stage, window in voters)

    def training_plan(self) -> Sequence[TrainingPhase]:
        """Return a phase for each branch, then one for the second stage, which needs what they found."""
        branches = [ExpandedPhase(*pair) for pair in zip(self._branches, self.maps, strict=True)]
        return (*branches, SecondPhase(self))

    @property
    def maps(self) -> tuple[str, ...]:
        """Names of the branches, and of the label maps that they make."""
        return tuple(f"branch{n}" for n in range(1, len(self.branches) + 1))

    @property
    def standard(self) -> int:
        """Edge of the standard patch, in voxels."""
        return self._branches[0].standard

    @property
    def _branches(self) -> list[MeUNet]:
        return [branch for branch in self.branches if isinstance(branch, MeUNet)]


class GuidedUNet(nn.Module):
    """A U-Net that is given class maps beside the image: on its way up, or at its entrance.

    Parameters
    ----------
    widths : sequence of int
        Channels of each level.
    classes : int
        Channels of the scores.
    maps : int
        How many maps it is given.
    post : bool
        Where they enter: at each level of the decoder, or beside the image.
    """

    def __init__(self, widths: Sequence[int], classes: int, *, maps: int, post: bool) -> None:
        super().__init__()
        extra = maps * classes
        self.classes, self.post = classes, post
        self.encoder = encoder_of(widths, 1 if post else 1 + extra)
        self.decoder = decoder_of(widths, extra if post else 0)
        self.head = nn.Conv3d(widths[0], classes, 1)

    def forward(self, image: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """Map an image (N, 1, z, y, x) and class indices (N, 1, z, y, x) to scores (N, C, z, y, x)."""
        hot = torch.cat([one_hot(found, self.classes).to(image) for found in maps], 1)
        if not self.post:
            levels = encode(self.encoder, torch.cat([image, hot], 1))
            return self._scores(decode(self.decoder, levels))
        levels = encode(self.encoder, image)
        return self._scores(
            decode(self.decoder, levels, [[_picked(hot, n, x)] for n, x in enumerate(levels)])
        )

    def _scores(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(x)
        return scores


def _picked(maps: Tensor, level: int, like: Tensor) -> Tensor:
    """Pick every 2^level-th voxel along each axis: nearest interpolation that keeps the poolings' grid."""
    steps = [2**level if n > 1 or m > 1 else 1 for m, n in zip(maps.shape[2:], like.shape[2:], strict=True)]
    z, y, x = like.shape[2:]
    return maps[:, :, :: steps[0], :: steps[1], :: steps[2]][:, :, :z, :y, :x]


@dataclass(frozen=True, slots=True)
class BranchStage:
    """One meU-net over the volume: image in, class indices out."""

    network: MeUNet
    image: Reads
    multiple: Zyx
    name: str
    whole: bool = False

    @property
    def reads(self) -> tuple[Reads, ...]:
        """The image."""
        return (self.image,)

    @property
    def writes(self) -> tuple[Writes, ...]:
        """The index of the class of each voxel."""
        return (Writes(array=self.name, dtype="uint8"),)

    def __call__(self, inputs: dict[str, Tensor], where: Sequence[Where]) -> dict[str, Tensor]:
        """Run the network."""
        return {self.name: class_of_largest(require_finite(self.network(inputs[IMAGE]), self.name))}


@dataclass(frozen=True, slots=True)
class SecondStage:
    """The second stage: image and maps in, scores out."""

    network: GuidedUNet
    classes: int
    image: Reads
    multiple: Zyx
    maps: tuple[str, ...]
    name: str = "second"
    whole: bool = False

    @property
    def reads(self) -> tuple[Reads, ...]:
        """The image, and the same box of each map."""
        return (self.image, *(replace(self.image, array=name) for name in self.maps))

    @property
    def writes(self) -> tuple[Writes, ...]:
        """The scores."""
        return (Writes(array=SCORES, channels=self.classes),)

    def __call__(self, inputs: dict[str, Tensor], where: Sequence[Where]) -> dict[str, Tensor]:
        """Run the network."""
        return {SCORES: self.network(inputs[IMAGE], [inputs[name] for name in self.maps])}


@dataclass(frozen=True, slots=True)
class SecondPhase:
    """The second stage, on what the branches found in the training volumes."""

    model: Cascade
    name: str = "second"

    @property
    def needs(self) -> Sequence[Stage]:
        """The branches."""
        return self.model.stages[:-1]

    @property
    def sample(self) -> SampleSpec:
        """A standard patch, with what the branches found in it."""
        return SampleSpec(patch=zyx([self.model.standard] * 3), arrays=self.model.maps)

    @property
    def recipe(self) -> Recipe:
        """That of the branches."""
        return RECIPE

    def parameters(self) -> Sequence[nn.Parameter]:
        """Return the weights of the second stage."""
        return list(self.model.second.parameters())

    def step(self, batch: Batch) -> Loss:
        """Compare the scores with the labels, in soft Dice plus weighted cross-entropy."""
        scores = self.model.second(batch.image, [batch.arrays[name] for name in self.model.maps])
        return Loss(
            value=masked_dice_ce(scores, batch.labels, class_weights(batch.frequencies)), scores=scores
        )
