"""How the SpatialConfiguration-Net learns: its losses, and its phases.

Each part is taught by a loss of its own and by that of what is fused. The spatial part
looks at what the local one made, but teaches it nothing on that way::

    local logits ---+--> cross-entropy of each label
                    +--> fused --> generalised Dice
    spatial logits -+--> cross-entropy of each label

    foreground of the whole volume, halved --> generalised Dice     mode "crop"

To either comes a penalty on the squared 3 x 3 x 3 kernels, where anything is labelled.

Thaler, Payer, Bischof and Štern (FLARE 2021), arXiv:2111.13630
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from napari_memseg.models.base import Batch, Loss, Overview, Recipe, SampleSpec, Stage, Where
from napari_memseg.models.blocks import pad_to_box, size_of
from napari_memseg.models.classes import IGNORE
from napari_memseg.models.losses import masked_sigmoid_cross_entropy
from napari_memseg.models.scn_crop import MOST_LOCALISED, fit_area
from napari_memseg.models.scn_parts import LEAST, fuse, log_shares, penalty

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from napari_memseg.geometry import Zyx
    from napari_memseg.models.scn import Scn
    from napari_memseg.models.scn_parts import UNet

RARE = 1e-4
"""Added to the squared size of a label, whose inverse is its weight."""
SEGMENTATION = Recipe(
    learning_rate=1e-4, batch=1, weight_decay=0.0, optimizer="adam", schedule="constant", average=0.999
)
"""As published; its penalty is a part of the loss."""
LOCALISATION = replace(SEGMENTATION, learning_rate=1e-5)
BY_2: Zyx = (2, 2, 2)
WHOLE = SampleSpec(patch=(32, 32, 32), overview=1)
"""The volume, halved; what is held back to validate comes as a patch."""


@dataclass(frozen=True, slots=True)
class SegmentationPhase:
    """Local and spatial part together, over patches of the working level as they are.

    In mode "crop" they are as large as the largest crop. Published are crops of the true box, shrunk where
    they do not fit; see ``scn_crop.require_scale``.

    Published is to clip gradients at 5 times the moving average of their norm. That is not built: the loop
    clips them at a norm of 12, as for every network.
    """

    model: Scn
    name: str = "segmentation"
    needs: Sequence[Stage] = ()
    recipe: Recipe = SEGMENTATION

    @property
    def sample(self) -> SampleSpec:
        """A patch; in mode "crop" one of the largest size."""
        return SampleSpec(patch=self.model.patch)

    def parameters(self) -> Sequence[nn.Parameter]:
        """Return the weights of both parts."""
        return list(self.model.network.parameters())

    def step(self, batch: Batch) -> Loss:
        """Compare what is fused, and each part by itself, with the labels."""
        local, spatial = self.model.logits(batch.image)
        shares = fuse(local, spatial)
        terms = {
            "dice": generalised_dice(shares, batch.labels),
            "local": masked_sigmoid_cross_entropy(local, batch.labels),
            "spatial": masked_sigmoid_cross_entropy(spatial, batch.labels),
            "penalty": penalty(self.model.network) * (batch.labels != IGNORE).any(),
        }
        return _sum(terms, log_shares(shares))


@dataclass(frozen=True, slots=True)
class LocalisationPhase:
    """Foreground against background, over the whole of a volume; clipped as ``SegmentationPhase``."""

    model: Scn
    localiser: UNet
    name: str = "localisation"
    needs: Sequence[Stage] = ()
    sample: SampleSpec = WHOLE
    recipe: Recipe = LOCALISATION

    def parameters(self) -> Sequence[nn.Parameter]:
        """Return the weights that look for the foreground."""
        return list(self.localiser.parameters())

    def step(self, batch: Batch) -> Loss:
        """Compare the foreground of whole volumes with all labels that there are."""
        images = [fit_area(overview.image[None], MOST_LOCALISED) for overview in batch.overviews]
        shares = [self.model.localise(image).float().softmax(1) for image in images]
        seen = [_seen(*sample) for sample in zip(batch.overviews, batch.labels, batch.where, strict=True)]
        each = [generalised_dice(s, _target(one, size_of(s))) for s, one in zip(shares, seen, strict=True)]
        known = torch.stack([one.any() for one in seen]).any()
        return _sum({"dice": torch.stack(each).mean(), "penalty": penalty(self.localiser) * known})


def _sum(terms: Mapping[str, Tensor], scores: Tensor | None = None) -> Loss:
    return Loss(
        value=torch.stack(list(terms.values())).sum(),
        scores=scores,
        parts={name: float(term.detach()) for name, term in terms.items()},
    )


def _seen(overview: Overview, labels: Tensor, where: Where) -> Tensor:
    """Return where background and foreground (2, z, y, x) are labelled in a volume or in a patch of it.

    What is held back to validate lies in the patch alone.
    """
    seen = torch.stack([overview.presence[0], overview.presence[1:].any(0)]).float()
    cells = where.box.coarsen(BY_2)
    inside = (slice(None), *cells.slices)
    here = pad_to_box(torch.stack([labels == 0, labels > 0]).float(), where.box, cells.refine(BY_2))
    seen[inside] = torch.maximum(seen[inside], F.max_pool3d(here, 2))
    return seen


def _target(seen: Tensor, size: Zyx) -> Tensor:
    """Return labels (1, z, y, x) of that size: foreground where any is seen."""
    background, foreground = F.adaptive_max_pool3d(seen, size).bool()
    return torch.where(foreground, 1, torch.where(background, 0, IGNORE))[None]


def generalised_dice(shares: Tensor, labels: Tensor) -> Tensor:
    """Return 1 - generalised Dice, each label weighted by the inverse of its squared size.

    After Sudre et al. (2017), https://doi.org/10.1007/978-3-319-67558-9_28, with squared shares below.
    Labels that do not occur are left out, for theirs would be the only weight that counts.

    Parameters
    ----------
    shares : Tensor
        (N, n, z, y, x) in [0, 1].
    labels : Tensor
        (N, z, y, x) int64 indices, or ``IGNORE``.

    Returns
    -------
    Tensor
        A scalar; zero, with zero gradients, if no voxel is labelled.
    """
    truth = _truth(labels, shares.shape[1])
    guess = shares.float().masked_fill((labels == IGNORE)[:, None], 0)
    axes = (0, 2, 3, 4)
    sizes = truth.sum(axes)
    weights = (sizes > 0) / (sizes**2 + RARE)
    both = (weights * (truth * guess).sum(axes)).sum()
    either = (weights * (sizes + guess.square().sum(axes))).sum()
    return (sizes.sum() > 0) * (1 - 2 * both / (either + LEAST))


def _truth(labels: Tensor, count: int) -> Tensor:
    """Return (N, count, z, y, x) of 0 and 1; all 0 where nobody has an opinion."""
    found = F.one_hot(labels.clamp(min=0), count).movedim(-1, 1)
    return (found * (labels != IGNORE)[:, None]).float()
