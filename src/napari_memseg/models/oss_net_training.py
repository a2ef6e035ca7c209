"""How an occupancy network learns: from points drawn in a patch, half of them near borders.

A patch gives the labels and the fine voxels, the overview of its volume what the encoder sees::

    labels ──> known voxels ───────────── half of the points ─┐
        └────> changes of label, dilated ─ the other half ────┴──> cross-entropy
    presence, pooled to the map ────────────────────────── 0.1 x cross-entropy

Reich et al. (BMVC 2021), https://arxiv.org/abs/2110.10640, with the sampling that they took for LiTS. Theirs
is over the whole volume, which they hold in memory; here a sample's points all come from one patch, and a
step says nothing of the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_memseg.models.base import Batch, Loss, Recipe, SampleSpec, Stage
from napari_memseg.models.blocks import size_of
from napari_memseg.models.classes import IGNORE
from napari_memseg.models.losses import masked_sigmoid_cross_entropy
from napari_memseg.models.oss_net_parts import PatchSource
from napari_memseg.models.pade import RATES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from napari_memseg.geometry import Zyx
    from napari_memseg.models.base import Overview
    from napari_memseg.models.oss_net import OccupancyNetwork

PATCH: Zyx = (64, 64, 64)
"""Size of a training patch, in voxels."""
EXPANSION = 1.2
"""Of what is read: all that the decoder sees around a patch, 3 voxels, if that is 26 voxels long or more."""
MAP_SHARE = 0.1
"""Weight of the map in the loss."""
BORDER = 13
"""Width of the filter that dilates changes of label, in voxels."""
RECIPE = Recipe(
    learning_rate=3e-4,
    batch=2,
    weight_decay=0.0,
    optimizer="radam",
    schedule="steps",
    lookahead=True,
    rates=RATES,
)
"""As published, but for the batch: 8 or 4 volumes there."""


@dataclass(frozen=True, slots=True)
class PointsPhase:
    """Answers for points against their labels, over all weights."""

    model: OccupancyNetwork
    name: str = "network"
    needs: Sequence[Stage] = ()
    recipe: Recipe = RECIPE

    @property
    def sample(self) -> SampleSpec:
        """A patch with what lies around it, and the whole volume as the encoder sees it."""
        expansion = EXPANSION if self.model.decoder.patch else 1.0
        return SampleSpec(patch=PATCH, expansion=expansion, overview=self.model.settings.halvings)

    def parameters(self) -> Sequence[nn.Parameter]:
        """Return all weights."""
        return list(self.model.parameters())

    def step(self, batch: Batch) -> Loss:
        """Compare points drawn at random with their labels; in eval mode, all that are labelled."""
        latents, coarse = self.model.encode([overview.image[None] for overview in batch.overviews])
        z, y, x = (slice(m, n - m) for m, n in zip(batch.margin, batch.labels.shape[1:], strict=True))
        labels = batch.labels[:, z, y, x]
        scores = None
        if self.model.training:
            answers, labels = self._ask_some(batch, labels, latents)
        else:
            everywhere = self._ask_all(batch, latents)
            answers = everywhere[..., z, y, x]
            scores = F.pad(everywhere, [0, 0] * 3 + [1, 0])  # background's logit is 0
        parts = {"points": masked_sigmoid_cross_entropy(answers, labels, first=1)}
        if coarse is not None:
            parts["map"] = map_loss(coarse, batch.overviews)
        value = parts["points"] + MAP_SHARE * parts.get("map", 0.0)
        return Loss(value=value, scores=scores, parts={name: float(v.detach()) for name, v in parts.items()})

    def _ask_some(self, batch: Batch, labels: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, outputs, points) and labels (N, points) of points drawn in the patches."""
        known = []
        for image, truth, where in zip(batch.image, labels, batch.where, strict=True):
            voxels = draw_points(truth, self.model.settings.training_points)
            start = [a + m for a, m in zip(where.box.start, batch.margin, strict=True)]
            origin = torch.tensor(start, device=voxels.device)
            told = self.model.known_of(PatchSource(image), where, voxels + origin)
            known.append((*told, truth[tuple(voxels.T)]))
        coordinates, patches, drawn = zip(*known, strict=True)
        seen = torch.stack(patches) if patches[0] is not None else None
        answers = self.model.decoder(torch.stack(coordinates), seen, latents)
        return answers.movedim(-1, 1), torch.stack(drawn)

    def _ask_all(self, batch: Batch, latents: Tensor) -> Tensor:
        """Return logits (N, outputs, z, y, x) of all voxels with a label, and 0 of the others."""
        answers = batch.image.new_zeros(len(batch.labels), self.model.outputs, *batch.labels.shape[1:])
        for n, where in enumerate(batch.where):
            asked = batch.labels[n] != IGNORE
            voxels = asked.nonzero()
            origin = torch.tensor(where.box.start, device=voxels.device)
            found = self.model.answer(batch.image[n], where, voxels + origin, latents[n : n + 1])
            answers[n][:, asked] = found
        return answers


def draw_points(labels: Tensor, count: int) -> Tensor:
    """Draw labelled voxels, with repetition: half from all of them, half from the border zone.

    Parameters
    ----------
    labels : Tensor
        (z, y, x) class indices, or ``IGNORE``.
    count : int
        Of the voxels that are drawn.

    Returns
    -------
    Tensor
        (count, 3). Where nothing is labelled it is one voxel, which teaches nothing; where
        there is no border, all come from anywhere.
    """
    anywhere = (labels != IGNORE).nonzero()
    if not len(anywhere):
        return anywhere.new_zeros(count, 3)
    border = (border_zone(labels) & (labels != IGNORE)).nonzero()
    pools = (anywhere, border if len(border) else anywhere)
    sizes = (count - count // 2, count // 2)
    drawn = [
        pool[torch.randint(len(pool), (n,), device=labels.device)]
        for pool, n in zip(pools, sizes, strict=True)
    ]
    return torch.cat(drawn)


def border_zone(labels: Tensor) -> Tensor:
    """Say of each voxel of (z, y, x) whether two labels meet within half a ``BORDER`` of it.

    ``IGNORE`` is no label: where an opinion ends there need be no border.
    """
    zone = torch.zeros_like(labels, dtype=torch.bool)
    for axis, length in enumerate(labels.shape):
        before, behind = (labels.narrow(axis, first, length - 1) for first in (0, 1))
        change = (before != behind) & (before != IGNORE) & (behind != IGNORE)
        for first in (0, 1):
            zone.narrow(axis, first, length - 1).logical_or_(change)
    wide = zone[None, None].float()
    for axis in range(3):
        kernel = [BORDER if other == axis else 1 for other in range(3)]
        wide = F.max_pool3d(wide, kernel, stride=1, padding=[n // 2 for n in kernel])
    return wide[0, 0] > 0


def map_loss(logits: Tensor, overviews: Sequence[Overview]) -> Tensor:
    """Return the binary cross-entropy of the coarse map against what lies in its cells.

    That a class is there, one labelled voxel tells. That it is not counts by the share of the
    cell in which anything is labelled: a stroke of background does not speak for all around it.

    Parameters
    ----------
    logits : Tensor
        (N, outputs, z, y, x).
    overviews : sequence of Overview
        One a sample.
    """
    size = size_of(logits)
    there = torch.stack([F.adaptive_max_pool3d(o.presence.float(), size) for o in overviews])
    labelled = [F.adaptive_avg_pool3d(o.presence.any(0, keepdim=True).float(), size) for o in overviews]
    truth = there[:, 1:]
    weight = truth + (1 - truth) * torch.stack(labelled)
    total = F.binary_cross_entropy_with_logits(logits.float(), truth, weight, reduction="sum")
    return total / weight.sum().clamp(min=1)
