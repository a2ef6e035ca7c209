"""How the SpatialConfiguration-Net learns: its losses, and its phases.

Each part is taught by a loss of its own and by that of what is fused. The spatial part
looks at what the local one made, but teaches it nothing on that way::

    local logits ---+--> cross-entropy of each label
                    +--> fused --> generalised Dice
    spatial logits -+--> cross-entropy of each label

    foreground of the whole volume, halved --> generalised Dice     mode "crop"

Thaler, Payer, Bischof and Štern (FLARE 2021), arXiv:2111.13630
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from napari_memseg.geometry import Zyx, zyx
from napari_memseg.models.base import Batch, Loss, Overview, Recipe, SampleSpec, Stage, Where
from napari_memseg.models.blocks import pad_to_box
from napari_memseg.models.classes import IGNORE
from napari_memseg.models.losses import masked_sigmoid_cross_entropy
from napari_memseg.models.scn_parts import LEAST, MOST_LOCALISED, fit_area, fuse, log_shares

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from napari_memseg.models.scn import Scn
    from napari_memseg.models.scn_parts import UNet

RARE = 1e-4
"""Added to the squared size of a label, whose inverse is its weight."""
SEGMENTATION = Recipe(
    learning_rate=1e-4, batch=1, weight_decay=1e-6, optimizer="adam", schedule="constant", average=0.999
)
LOCALISATION = replace(SEGMENTATION, learning_rate=1e-5)
BY_2: Zyx = (2, 2, 2)
WHOLE = SampleSpec(patch=(32, 32, 32), overview=1)
"""The volume, halved; what is held back to validate comes as a patch."""


@dataclass(frozen=True, slots=True)
class SegmentationPhase:
    """Local and spatial part together, over patches."""

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
        }
        return Loss(
            value=torch.stack(list(terms.values())).sum(),
            scores=log_shares(shares),
            parts={name: float(term.detach()) for name, term in terms.items()},
        )


@dataclass(frozen=True, slots=True)
class LocalisationPhase:
    """Foreground against background, over the whole of a volume."""

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
        samples = zip(batch.overviews, batch.labels, batch.where, strict=True)
        return Loss(value=torch.stack([self.compare(*sample) for sample in samples]).mean())

    def compare(self, overview: Overview, labels: Tensor, where: Where) -> Tensor:
        """Return the loss of one volume, from its overview and a patch of its labels (z, y, x)."""
        image = fit_area(overview.image[None], MOST_LOCALISED)
        seen = F.adaptive_max_pool3d(_seen(overview, labels, where), zyx(image.shape[2:])).bool()
        target = torch.where(seen[1], 1, torch.where(seen[0], 0, IGNORE))
        return generalised_dice(self.model.localise(image).float().softmax(1), target[None])


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
