"""The search of OSS-Net: an encoder once, then points, from coarse to fine, stage after stage.

Every stage asks on a grid twice as fine as the one before, around what that has found::

    quarter  - . . . - . . . + . . . - . . . -     every 4th voxel that the map allows: + is an object
    half     - . . . - . + . + . - . - . . . -     every 2nd, up to 4 voxels from a +
    full     - . . . - + + + + + - . - . . . -     every one, up to 1 voxel from a +

An answer once given stays, and what was never asked is background. A structure is lost if
the map denies it, or if no 4th voxel hits it. As all tiles pass a stage before the next begins,
the result is that of the search over the whole volume at once.

Reich et al. (BMVC 2021), figure 4, https://arxiv.org/abs/2110.10640
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_memseg.geometry import Box, zyx
from napari_memseg.models.base import SCORES, Grid, Halo, Reads, Where, Writes
from napari_memseg.models.blocks import require_finite
from napari_memseg.models.oss_net_parts import RADIUS
from napari_memseg.models.plain import IMAGE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from napari_memseg.geometry import Zyx
    from napari_memseg.models.oss_net import OccupancyNetwork

NOT_ASKED = -32.0
"""Logit of a point that was never asked: certainly not there."""
COARSEST = 4
"""The search begins with every 4th voxel along each axis."""
LATENTS, MAP = "latents", "map"
_CLAMP = 1e-6
"""Probabilities of the map keep this distance from 0 and 1, as in the published training."""


@dataclass(frozen=True)
class EncodeStage:
    """The coarse volume in, latent vectors and the coarse map out."""

    model: OccupancyNetwork
    name: str = "encode"
    multiple: Zyx = (1, 1, 1)
    whole: bool = True

    @property
    def reads(self) -> tuple[Reads, ...]:
        """The whole image, halved."""
        return (Reads(array=f"image@{self.model.settings.halvings}", whole=True),)

    @property
    def writes(self) -> tuple[Writes, ...]:
        """All latent vectors one after the other, and the map's logits on the grid of the image read."""
        length = self.model.encoder.vectors * self.model.latent_length
        factor = zyx([2**self.model.settings.halvings] * 3)
        return (
            Writes(array=LATENTS, channels=length, vector=True),
            Writes(array=MAP, dtype="float16", channels=self.model.outputs, grid=Grid(factor=factor)),
        )

    def __call__(self, inputs: dict[str, Tensor], where: Sequence[Where]) -> dict[str, Tensor]:
        """Run the encoder."""
        image = inputs[self.reads[0].array]
        latents, coarse = self.model.encode([one[None] for one in image])
        return {LATENTS: latents.flatten(1), MAP: self._spread(coarse, image)}

    def _spread(self, coarse: Tensor | None, image: Tensor) -> Tensor:
        """Bring the map to the grid of the image, corners to corners; without one, all is possible."""
        if coarse is None:
            return image.new_zeros(len(image), self.model.outputs, *image.shape[2:])
        probability = coarse.float().sigmoid()
        fine = F.interpolate(probability, image.shape[2:], mode="trilinear", align_corners=True)
        return torch.logit(fine, eps=_CLAMP)


@dataclass(frozen=True)
class SearchStage:
    """Ask every ``step``-th voxel that the map allows, or that lies near what was found before.

    All its grids begin at the volume's origin. The map is read without context: its box is what a
    tile is for, and no point beyond is asked.
    """

    model: OccupancyNetwork
    name: str
    step: int
    needed: tuple[Reads, ...]
    multiple: Zyx = (COARSEST,) * 3
    whole: bool = False

    @property
    def reads(self) -> tuple[Reads, ...]:
        """The image, the latent vectors, the answers of the step before, and the map."""
        return (*self.needed, Reads(array=MAP))

    @property
    def writes(self) -> tuple[Writes, ...]:
        """Logits: of the classes besides background, and in the end of all of them."""
        if self.step == 1:
            return (Writes(array=SCORES, channels=self.model.outputs + 1),)
        grid = Grid(factor=(self.step,) * 3)
        return (Writes(array=self.name, dtype="float16", channels=self.model.outputs, grid=grid),)

    def __call__(self, inputs: dict[str, Tensor], where: Sequence[Where]) -> dict[str, Tensor]:
        """Ask for one sample after the other."""
        tiles = ({name: x[n] for name, x in inputs.items()} for n in range(len(where)))
        answers = torch.stack([self._search(tile, place) for tile, place in zip(tiles, where, strict=True)])
        if self.step == 1:
            return {SCORES: F.pad(answers, [0, 0] * 3 + [1, 0])}  # background's logit is 0
        return {self.name: answers}

    def _search(self, tile: dict[str, Tensor], where: Where) -> Tensor:
        """Return logits (outputs, z, y, x) on the grid of this step, over all of the box."""
        core, cells = self._core(where), where.box.coarsen((self.step,) * 3)
        known, near = self._found_before(tile, where, core)
        asked = near & (known[0] == NOT_ASKED)
        voxels = (asked.nonzero() + torch.tensor(core.start, device=asked.device)) * self.step
        latents = tile[LATENTS].view(1, self.model.encoder.vectors, -1)
        found = self.model.answer(tile[IMAGE], where, voxels, latents)
        known[:, asked] = require_finite(found, f"the points asked in {where.box}")
        answers = known.new_full((len(known), *cells.shape), NOT_ASKED)
        answers[(slice(None), *core.relative_to(cells.start).slices)] = known
        return answers

    def _core(self, where: Where) -> Box:
        """Return the cells of this step that a tile is for, as far as all that is read covers them."""
        inner = where.box & where.boxes[MAP].refine((2**self.model.settings.halvings,) * 3)
        if self.step < COARSEST:
            inner &= where.boxes[self.needed[-1].array].refine((2 * self.step,) * 3)
        return inner.coarsen((self.step,) * 3)

    def _found_before(self, tile: dict[str, Tensor], where: Where, core: Box) -> tuple[Tensor, Tensor]:
        """Return what is known of the cells of ``core``, and which of them are worth a question."""
        if self.step < COARSEST:
            coarser = self.needed[-1].array
            return refine(tile[coarser].float(), where.boxes[coarser], core, self.step)
        known = tile[IMAGE].new_full((self.model.outputs, *core.shape), NOT_ASKED)
        if self.model.settings.search == "all":
            return known, torch.ones_like(known[0], dtype=torch.bool)
        return known, self._allowed(tile[MAP], where.boxes[MAP], core)

    def _allowed(self, coarse: Tensor, have: Box, core: Box) -> Tensor:
        """Say of each cell whether the map finds any class at least as likely as not at its voxel.

        Where it is NaN all is possible: the answers then say what went wrong.
        """
        factor = 2**self.model.settings.halvings
        z, y, x = (
            torch.arange(a, b, device=coarse.device) * self.step // factor - origin
            for a, b, origin in zip(core.start, core.stop, have.start, strict=True)
        )
        return ~(coarse < 0).all(0)[z[:, None, None], y[:, None], x]


def refine(coarse: Tensor, have: Box, want: Box, step: int) -> tuple[Tensor, Tensor]:
    """Bring answers to a grid twice as fine, and tell what lies near to those that found something.

    The published maximum filter is 3^step voxels wide.

    Parameters
    ----------
    coarse : Tensor
        (outputs, z, y, x) logits, every ``2 * step`` voxels.
    have : Box
        What they cover, on their own grid.
    want : Box
        What is wanted, on the finer grid; inside of ``have``.
    step : int
        Of the finer grid, in voxels.

    Returns
    -------
    known : Tensor
        (outputs, *want) the same logits, ``NOT_ASKED`` between them.
    near : Tensor
        (*want) bool: whether a cell is within half the filter's width of one that was found.
    """
    radius = 3**step // 2 // step
    fine = coarse.new_full((len(coarse), *(2 * n for n in have.shape)), NOT_ASKED)
    fine[:, ::2, ::2, ::2] = coarse
    found = (fine > 0).any(0)[None].float()
    near = F.max_pool3d(found, 2 * radius + 1, stride=1, padding=radius)[0] > 0
    inside = want.relative_to(have.refine((2, 2, 2)).start).slices
    return fine[(slice(None), *inside)].clone(), near[inside]


def search_stages(model: OccupancyNetwork) -> Iterator[SearchStage]:
    """Yield the three stages, the coarsest first."""
    around = RADIUS if model.decoder.patch else 0
    image, latents = _read(IMAGE, around, around), Reads(array=LATENTS, whole=True)
    yield SearchStage(model, "quarter", COARSEST, (image, latents))
    yield SearchStage(model, "half", 2, (image, latents, _read("quarter", 1, 1)))
    yield SearchStage(model, "full", 1, (image, latents, _read("half", 0, 1)))


def _read(array: str, low: int, high: int) -> Reads:
    halo = Halo((low,) * 3, (high,) * 3)
    return Reads(array=array, halo_exact=halo, halo_recommended=halo)
