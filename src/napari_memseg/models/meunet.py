"""meU-net: a U-Net whose deep levels learn from more context than its finest level has memory for.

In training a standard patch (P voxels an edge) passes the whole network, and an expanded one (k P) about
the same centre passes all but its finest level: the first block runs without a gradient, and a head of its
own makes scores at half the resolution. So a step has the context of k P, and little more than the
activations of P::

    expanded  enc1 (no gradient) ─> enc2 ... enc5 ─> dec4 dec3 dec2 ─> half head ─> loss at 1/2
    standard  enc1 ──────────────────────────── ... ────────── dec2 ─> dec1 ─> head ─> loss at 1

When it segments it is the plain U-Net of ``unet3d.py``, and the half head rests.

Wang, Blackie, Miguel-Aliaga, Bai, "Memory-efficient segmentation of (high-resolution) volumetric microCT
images", MIDL 2022, https://arxiv.org/abs/2205.15941, sections 3.1 and A.5.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from napari_memseg.errors import InputError
from napari_memseg.geometry import Zyx, zyx
from napari_memseg.models.arguments import switch, whole_number
from napari_memseg.models.base import Batch, Loss, Recipe, SampleSpec, Stage, TrainingPhase
from napari_memseg.models.blocks import halve
from napari_memseg.models.losses import masked_dice_ce
from napari_memseg.models.unet3d import UNet3d, decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from napari_memseg.models.classes import ClassTable

RECIPE = Recipe(optimizer="adam", learning_rate=9e-4, schedule="constant", weight_decay=0.0, batch=4)
"""Of the paper: Adam, 9e-4 throughout, four patches a step."""
LONGEST_PATCH = 1024
RAREST = 1e-6
"""Share of a class below which it gets no more weight."""


class MeUNet(UNet3d):
    """A meU-net alone: the first stage of the cascade.

    Parameters
    ----------
    classes : ClassTable
        What it tells apart.
    widths : sequence of int
        Channels of each level, the finest first; two levels or more.
    expansion : float
        k: edge of the expanded patch over that of the standard one.
    standard : int
        P: edge of the standard patch, in voxels. The published 160 needs 13 GB of a GPU.
    checkpointing : bool
        Whether a training computes activations twice in place of keeping them: slower, in less memory.

    Raises
    ------
    InputError
        If there is only one level, or k is not from 1 to 4.
    """

    architecture: ClassVar[str] = "meunet"
    title: ClassVar[str] = "meU-net: a 3D U-Net that learns large context in little memory"
    advice: ClassVar[str] = (
        "For organs that need a wide view at full resolution, on a card of 8 to 16 GB; the plain U-Net's "
        "result at half of its training memory."
    )
    paper: ClassVar[str] = "Wang et al., MIDL 2022, arXiv:2205.15941"

    def __init__(
        self,
        classes: ClassTable,
        *,
        widths: Sequence[int] = (16, 32, 64, 128, 128),
        expansion: float = 1.5,
        standard: int = 112,
        checkpointing: bool = False,
    ) -> None:
        super().__init__(classes, widths=widths)
        if len(self.widths) < 2 or not 1 <= expansion <= 4:
            raise InputError(
                f"A meU-net has two levels or more and an expansion from 1 to 4, got {widths=!r:.100}, "
                f"{expansion=}. Published are five levels, 1.5 and 1.75."
            )
        self.expansion = float(expansion)
        self.standard = whole_number("standard", standard, 1, LONGEST_PATCH)
        self.checkpointing = switch("checkpointing", checkpointing)
        self.half_head = nn.Conv3d(self.widths[0 if len(self.widths) > 2 else 1], len(classes), 1)

    @property
    def arguments(self) -> dict[str, Any]:
        """Widths, expansion, standard patch and checkpointing."""
        return {
            **super().arguments,
            "expansion": self.expansion,
            "standard": self.standard,
            "checkpointing": self.checkpointing,
        }

    def training_plan(self) -> Sequence[TrainingPhase]:
        """Return the one phase: both branches at once."""
        return (ExpandedPhase(self, name="network"),)

    def expanded_scores(self, image: Tensor) -> Tensor:
        """Map an expanded patch (N, 1, z, y, x) to scores at half its resolution.

        The finest level learns nothing of it: its block runs without a gradient, and on the way up the
        network ends below it.
        """
        first, *deep = self._learning(self.encoder)
        with torch.no_grad():
            finest = first(image)
        levels = [finest, *encode(deep, halve(finest))]
        scores: Tensor = self.half_head(decode(self._learning(self.decoder)[:-1], levels))
        return scores

    def standard_scores(self, image: Tensor) -> Tensor:
        """Map a standard patch (N, 1, z, y, x) to scores, as ``forward`` does."""
        levels = encode(self._learning(self.encoder), image)
        scores: Tensor = self.head(decode(self._learning(self.decoder), levels))
        return scores

    def _learning(self, blocks: nn.ModuleList) -> list[Callable[[Tensor], Tensor]]:
        """Return blocks as a training runs them."""
        return [partial(checkpointed, block) if self.checkpointing else block for block in blocks]


@dataclass(frozen=True, slots=True)
class ExpandedPhase:
    """Both branches of a meU-net at once; scored as a plain network on the whole expanded patch."""

    network: MeUNet
    name: str
    needs: Sequence[Stage] = ()

    @property
    def sample(self) -> SampleSpec:
        """The standard patch, and what is around it."""
        return SampleSpec(patch=zyx([self.network.standard] * 3), expansion=self.network.expansion)

    @property
    def recipe(self) -> Recipe:
        """Of the paper."""
        return RECIPE

    def parameters(self) -> Sequence[nn.Parameter]:
        """Return all weights."""
        return list(self.network.parameters())

    def step(self, batch: Batch) -> Loss:
        """Add up the losses of both branches, each soft Dice plus weighted cross-entropy."""
        weights = class_weights(batch.frequencies)
        if not self.network.training:
            scores = self.network(batch.image)
            return Loss(value=masked_dice_ce(scores, batch.labels, weights), scores=scores)
        z, y, x = (slice(m, n - m) for n, m in zip(batch.labels.shape[1:], batch.margin, strict=True))
        expanded = self.network.expanded_scores(batch.image)
        coarse = halve_labels(batch.labels, zyx(expanded.shape[2:]))
        wide = masked_dice_ce(expanded, coarse, weights)
        fine = masked_dice_ce(
            self.network.standard_scores(batch.image[..., z, y, x]), batch.labels[..., z, y, x], weights
        )
        parts = {"standard": float(fine.detach()), "expanded": float(wide.detach())}
        return Loss(value=fine + wide, parts=parts)


def halve_labels(labels: Tensor, size: Zyx) -> Tensor:
    """Pick every second label along each axis: (N, z, y, x) to (N, *size), as poolings drop an odd end."""
    z, y, x = size
    step = [2 if n > 1 else 1 for n in labels.shape[1:]]
    return labels[:, :: step[0], :: step[1], :: step[2]][:, :z, :y, :x]


def class_weights(frequencies: Tensor | None) -> Tensor | None:
    """Return the weight of each class in the cross-entropy: softmax of inverse frequencies that sum to 1.

    The authors' code divides by the sum; equation (1) of the paper does not, and would give the rarest
    class all the weight.

    Parameters
    ----------
    frequencies : Tensor, optional
        (C,) shares of the classes; None gives None, even weights.
    """
    if frequencies is None:
        return None
    inverse = 1 / frequencies.clamp(min=RAREST)
    return (inverse / inverse.sum()).softmax(0)


def checkpointed(block: nn.Module, x: Tensor) -> Tensor:
    """Run a block without keeping what its gradient needs: that is computed again when it is asked for.

    Batch norms take note of a batch once, not twice.
    """
    if not torch.is_grad_enabled():
        return cast("Tensor", block(x))
    contexts = partial(_contexts, block)
    return cast("Tensor", checkpoint(block, x, use_reentrant=False, context_fn=contexts))


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _statistics_kept(block)


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Leave the statistics of batch norms alone while a block runs."""
    norms = [module for module in block.modules() if isinstance(module, nn.BatchNorm3d)]
    before = [norm.num_batches_tracked.clone() for norm in norms if norm.num_batches_tracked is not None]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count in zip(norms, momenta, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked = count
