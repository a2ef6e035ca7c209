"""Volumes as stacks of slices, for 2D networks whose slices tell each other what they see.

The axis along which a volume is sliced goes beside the batch, so that 2D layers see
single slices; what passes between neighbours passes inside one stack::

    (N, 1, z, y, x)                                             (N, C, z, y, x)
          └──> (N T, 1, h, w) ──2D layers──> (N T, C, h, w) ──────────┘
                    slice i - 1 ──┐
                    slice i     <─┼─ exchange: a slice in depth for each
                    slice i + 1 ──┘

A stack ends where its box ends: at a face of the volume, where no neighbour exists,
or inside the halo. Beyond its ends there are zeros. Sliced along several axes, the
network is asked once for each, and the probabilities are averaged; in training one of
them is drawn for each step. Planes are taken in the order z (y, x), y (x, z), x (z, y),
so that a volume turned about its diagonal has its scores turned with it.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from math import log, prod
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_memseg.errors import InputError
from napari_memseg.geometry import Zyx, zyx
from napari_memseg.models.base import (
    EVERYTHING,
    Batch,
    Halo,
    Loss,
    Reads,
    Recipe,
    SampleSpec,
    Stage,
    TrainingPhase,
)
from napari_memseg.models.plain import IMAGE, PlainModel, PlainPhase, PlainStage
from napari_memseg.models.reach import effective_reach, exact_reach, round_up

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_memseg.models.classes import ClassTable

AXES = "zyx"


class Slicewise(PlainModel):
    """A 2D network over the slices of a volume, along one axis or several.

    Parameters
    ----------
    classes : ClassTable
        What it tells apart.
    axes : str
        Along which axes the volume is sliced: "z", "y" or "x", or several of them. Of
        several, the scores are the logarithm of the mean probability.

    Raises
    ------
    InputError
        If ``axes`` names none of them, or one twice.
    """

    ndim: ClassVar[int] = 2
    patch: ClassVar[Zyx] = (16, 128, 128)
    """Slices, rows and columns of a training patch; sliced along several axes, a cube as large."""
    recipe: ClassVar[Recipe] = Recipe(learning_rate=1e-4, batch=2, weight_decay=0.0, optimizer="adam")

    def __init__(self, classes: ClassTable, *, axes: str) -> None:
        super().__init__(classes)
        self.axes = _checked(axes)

    @property
    @abstractmethod
    def depth(self) -> int:
        """How many slices it looks to either side."""

    @abstractmethod
    def heads(self, slices: Tensor, count: int) -> tuple[Tensor, ...]:
        """Map slices to class scores.

        Parameters
        ----------
        slices : Tensor
            (N T, 1, h, w), stack after stack.
        count : int
            T, the slices of a stack.

        Returns
        -------
        tuple of Tensor
            (N T, C, h, w) each: the answer, then others that only the loss sees.
        """

    @abstractmethod
    def compare(self, heads: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        """Return the loss of what ``heads`` made, as (N, C, z, y, x), against labels (N, z, y, x)."""

    def forward(self, image: Tensor) -> Tensor:
        """Map a normalised image (N, 1, z, y, x) of any size to scores (N, C, z, y, x)."""
        return self.all_heads(image)[0]

    def all_heads(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the scores (N, C, z, y, x) of each head, over all orientations; in training over one."""
        first, *others = list(self._drawn() if self.training else self.axes)
        heads = self._along(first, image)
        if not others:
            return heads
        total = [_log_probability(head) for head in heads]
        for axis in others:
            found = map(_log_probability, self._along(axis, image))
            total = [torch.logaddexp(*pair) for pair in zip(total, found, strict=True)]
        return tuple(scores - log(len(self.axes)) for scores in total)

    @cached_property
    def stages(self) -> Sequence[Stage]:
        """The network itself; its grid and its halo are those of the widest orientation on each axis."""
        return (PlainStage(self, self._reads(), self._widest(1, self.multiple)),)

    def training_plan(self) -> Sequence[TrainingPhase]:
        """Return the one phase: scores against labels."""
        return (SlicewisePhase(self, SampleSpec(patch=self._patch())),)

    def _drawn(self) -> str:
        """Draw an orientation with torch's generator, which the training loop seeds for each step."""
        return self.axes[int(torch.randint(len(self.axes), ()))] if len(self.axes) > 1 else self.axes

    def _along(self, axis: str, image: Tensor) -> tuple[Tensor, ...]:
        stacks = to_slices(image, axis)  # (N, T, 1, h, w)
        count = stacks.shape[1]
        heads = self.heads(stacks.flatten(0, 1), count)
        return tuple(from_slices(_stacks(scores, count), axis) for scores in heads)

    def _widest(self, along: int, across: int) -> Zyx:
        """Return, of a length along the stack and one in the plane, the larger that an axis serves as."""
        return zyx(max(along if axis == sliced else across for sliced in self.axes) for axis in AXES)

    def _reads(self) -> Reads:
        plane = exact_reach(self.trace, self.multiple)
        if self.depends_on_the_tile:
            plane = EVERYTHING.low[0], EVERYTHING.high[0]
        exact, recommended = (
            Halo(*(self._widest(self.depth, round_up(side, self.multiple)) for side in sides))
            for sides in (plane, effective_reach(self.trace, self.multiple))
        )
        return Reads(array=IMAGE, halo_exact=exact, halo_recommended=recommended)

    def _patch(self) -> Zyx:
        slices, rows, columns = self.patch
        if len(self.axes) > 1:
            return zyx([round(prod(self.patch) ** (1 / 3))] * 3)
        first = AXES.index(self.axes)
        return zyx((slices, rows, columns)[(axis - first) % 3] for axis in range(3))


@dataclass(frozen=True, slots=True)
class SlicewisePhase(PlainPhase):
    """All heads against labels, over all weights."""

    model: Slicewise

    def step(self, batch: Batch) -> Loss:
        """Compare what the heads make of a batch with its labels."""
        heads = self.model.all_heads(batch.image)
        return Loss(value=self.model.compare(heads, batch.labels), scores=heads[0])


class SliceNorm(nn.BatchNorm2d):
    """Batch norm that, where a training batch has one value a channel, takes the running statistics."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise slices (N T, C, h, w)."""
        if self.training and x.numel() == x.shape[1]:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


def conv_norm_relu(channels_in: int, channels_out: int) -> nn.Sequential:
    """Return a 3 x 3 convolution, batch norm and ReLU; the size stays."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1), SliceNorm(channels_out), nn.ReLU(inplace=True)
    )


def halve_slices(slices: Tensor) -> Tensor:
    """Take the maximum of 2 x 2 pixels, rounding down; an axis of one pixel stays."""
    return F.max_pool2d(slices, [min(2, n) for n in slices.shape[2:]])


def crop_or_replicate(slices: Tensor, like: Tensor) -> Tensor:
    """Crop slices (N, C, h, w), or replicate their last row and column, to the size of others."""
    rows, columns = like.shape[2:]
    missing = (0, max(columns - slices.shape[3], 0), 0, max(rows - slices.shape[2], 0))
    if any(missing):
        slices = F.pad(slices, missing, mode="replicate")
    return slices[:, :, :rows, :columns]


def from_previous(slices: Tensor, count: int) -> Tensor:
    """Give each slice of stacks of ``count`` what the one before it has, the first zeros: (N T, C, h, w)."""
    return F.pad(_stacks(slices, count)[:, :-1], (0, 0, 0, 0, 0, 0, 1, 0)).flatten(0, 1)


def from_next(slices: Tensor, count: int) -> Tensor:
    """Give each slice of stacks of ``count`` what the one behind it has, the last zeros: (N T, C, h, w)."""
    return F.pad(_stacks(slices, count)[:, 1:], (0, 0, 0, 0, 0, 0, 0, 1)).flatten(0, 1)


def to_slices(volume: Tensor, axis: str) -> Tensor:
    """Return (N, C, z, y, x) as stacks (N, T, C, h, w) of slices across an axis."""
    z, y, x = ((AXES.index(axis) + n) % 3 + 2 for n in range(3))
    return volume.permute(0, z, 1, y, x)


def from_slices(stacks: Tensor, axis: str) -> Tensor:
    """Return stacks (N, T, C, h, w) of slices across an axis as (N, C, z, y, x)."""
    z, y, x = ((1, 3, 4)[(n - AXES.index(axis)) % 3] for n in range(3))
    return stacks.permute(0, 2, z, y, x)


def _stacks(slices: Tensor, count: int) -> Tensor:
    """Return slices (N T, C, h, w) as stacks (N, T, C, h, w)."""
    return slices.reshape(-1, count, *slices.shape[1:])


def _log_probability(scores: Tensor) -> Tensor:
    return scores.float().log_softmax(1)


def _checked(axes: str) -> str:
    if not isinstance(axes, str) or not axes or not set(axes) <= set(AXES) or len(set(axes)) < len(axes):
        raise InputError(
            f"A volume is sliced along z, y or x, or several of them, each once; got axes={axes!r:.100}. "
            'Take the axis along which labels were painted, such as "z", or "zyx" for all three.'
        )
    return axes
