"""OSS-Net: the whole volume seen coarsely once, then only those points asked that matter.

An encoder reads a coarse copy of the volume, once. A decoder answers for single voxels,
and is asked from coarse to fine, around what it has found::

    image@2 ──> encode (whole) ──> latents (vector), map (by 4)
    image@0 ──> quarter (tiles): every 4th voxel where the map allows it          ──> quarter (by 4)
    image@0 ──> half (tiles): every 2nd voxel, up to 4 from what quarter found    ──> half (by 2)
    image@0 ──> full (tiles): every voxel, up to 1 from what half found           ──> SCORES

    x . . . x . . . x      x o x o x . o . x      x x x x x o x . x       x: asked before, o: asked now

An answer once given stays; what was never asked is background. A structure is lost if
the map denies it, or if no 4th voxel hits it.

Reich, Prangemeier, Cetin and Koeppl (BMVC 2021), https://arxiv.org/abs/2110.10640: variant C, the
search of figure 4 and the O-Net that they compare with. Theirs tells one object from
background; here each class has a sigmoid of its own, and a point is asked for all of them.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import asdict, dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_memseg.errors import InputError
from napari_memseg.geometry import Box, Zyx, zyx
from napari_memseg.models.base import SCORES, Grid, Halo, Model, Reads, Stage, TrainingPhase, Where, Writes
from napari_memseg.models.oss_net_parts import (
    RADIUS,
    Decoder,
    PatchSource,
    PlainEncoder,
    SkipEncoder,
    latent_grid,
    shrink_to,
)
from napari_memseg.models.oss_net_training import PointsPhase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_memseg.models.classes import ClassTable

NOT_ASKED = -32.0
"""Logit of a point that was never asked: certainly not there."""
COARSEST = 4
"""The search begins with every 4th voxel along each axis."""
IMAGE, LATENTS, MAP = "image@0", "latents", "map"
_CLAMP = 1e-6
"""Probabilities of the map keep this distance from 0 and 1, as in the published training."""
_MOST = {"halvings": (0, 6), "width": (1, 4096), "blocks": (1, 64), "points": (1, 2**24)}
_MOST["training_points"] = _MOST["points"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How an occupancy network is built and asked.

    Raises
    ------
    InputError
        If a number is out of range, or a word is not known.
    """

    halvings: int = 2
    """How often the volume is halved before the encoder reads it whole."""
    encoder_shape: Sequence[int] = (64, 64, 64)
    """To which that is resampled; published are 128 x 128 x 80 and 256 x 256 x 256."""
    encoder_widths: Sequence[int] = (32, 64, 128)
    """Channels of the encoder's blocks; published are 16 to 128 in four and 8 to 128 in five."""
    width: int = 512
    """Features in the decoder."""
    blocks: int = 5
    """Residual blocks in the decoder."""
    coordinates: str = "scaled"
    """"scaled" to [-1, 1] over the volume, or "raw" voxel indices, as published."""
    points: int = 2**14
    """Asked at once: memory goes by this."""
    training_points: int = 2**14
    """Drawn of each sample in a step."""
    search: str = "optimised"
    """"optimised" begins where the coarse map allows it, "all" everywhere (slower, misses less)."""

    def __post_init__(self) -> None:
        for name, (least, most) in _MOST.items():
            if not _whole(getattr(self, name), least, most):
                raise InputError(
                    f"{name} must be a whole number from {least} to {most}, got {getattr(self, name)!r:.100}."
                )
        for name, words in (("coordinates", ("scaled", "raw")), ("search", ("optimised", "all"))):
            if getattr(self, name) not in words:
                raise InputError(f"{name} must be one of {words}, got {getattr(self, name)!r:.100}.")
        if not self.encoder_widths or not all(_whole(w, 1, 4096) for w in self.encoder_widths):
            raise InputError(
                f"encoder_widths must be channels from 1 to 4096, one a block, got "
                f"{self.encoder_widths!r:.100}. The default is 32, 64, 128."
            )
        least = 2 << len(self.encoder_widths)  # two voxels are left: a batch norm needs two of them
        if len(self.encoder_shape) != 3 or not all(_whole(n, least, 512) for n in self.encoder_shape):
            raise InputError(
                f"encoder_shape must be three lengths from {least} to 512 voxels, since "
                f"{len(self.encoder_widths)} blocks halve it, got {self.encoder_shape!r:.100}."
            )


class OccupancyNetwork(Model):
    """An encoder, a decoder, and the search that asks it.

    Parameters
    ----------
    classes : ClassTable
        What it tells apart: background, and one class at least.
    **arguments
        As ``Settings`` names them.

    Raises
    ------
    InputError
        If there is no class, or a setting is impossible.
    """

    encoder: PlainEncoder | SkipEncoder
    decoder: Decoder

    def __init__(self, classes: ClassTable, **arguments: Any) -> None:
        super().__init__(classes)
        if len(classes) < 2:
            raise InputError(f"{self.title} needs a class besides background, got ids {classes.ids}.")
        self.settings = Settings(**arguments)
        self.outputs = len(classes) - 1
        self._build(latent_length(self.settings))

    @abstractmethod
    def _build(self, length: int) -> None:
        """Make encoder and decoder, for latent vectors of this length."""

    @property
    def arguments(self) -> dict[str, Any]:
        """The settings."""
        plain = asdict(self.settings)
        return {name: list(v) if isinstance(v, (list, tuple)) else v for name, v in plain.items()}

    @cached_property
    def stages(self) -> Sequence[Stage]:
        """The encoder, then the search in three steps."""
        halo = Halo.even(*[RADIUS if self.decoder.patch else 0] * 3)
        image = Reads(array=IMAGE, halo_exact=halo, halo_recommended=halo)
        latents = Reads(array=LATENTS, whole=True)
        steps: list[tuple[str, int, tuple[Reads, ...]]] = [
            ("quarter", COARSEST, ()),
            ("half", 2, (_answers("quarter", 1, 1),)),
            ("full", 1, (_answers("half", 0, 1),)),
        ]
        search = (SearchStage(self, name, step, (image, latents, *coarser)) for name, step, coarser in steps)
        return (EncodeStage(self), *search)

    def training_plan(self) -> Sequence[TrainingPhase]:
        """Return the one phase: points drawn in a patch, and the map against what is where."""
        return (PointsPhase(self),)

    def encode(self, images: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Map whole coarse images, each (1, 1, z, y, x), to latents (N, K, length) and map logits, if any."""
        small = [shrink_to(image, zyx(self.settings.encoder_shape)) for image in images]
        latents, coarse = self.encoder(torch.cat(small))
        return latents, coarse

    def coordinates(self, voxels: Tensor, shape: Zyx) -> Tensor:
        """Return the coordinates of voxels (P, 3) of a volume, as the decoder is told them."""
        if self.settings.coordinates == "raw":
            return voxels.float()
        return (2 * voxels + 1) / torch.tensor(shape, device=voxels.device) - 1

    def answer(self, image: Tensor, where: Where, voxels: Tensor, latents: Tensor) -> Tensor:
        """Answer for some voxels, ``points`` at a time.

        Parameters
        ----------
        image : Tensor
            (1, z, y, x), of ``where.box``.
        where : Where
            Of the image.
        voxels : Tensor
            (P, 3) of the volume, inside the box.
        latents : Tensor
            (1, K, length).

        Returns
        -------
        Tensor
            (outputs, P) float32 logits.
        """
        source = PatchSource(image)
        answers = [image.new_empty(self.outputs, 0)]
        for some in torch.split(voxels, self.settings.points) if len(voxels) else ():
            coordinates, patches = self.known_of(source, where, some)
            patches = None if patches is None else patches[None]
            answers.append(self.decoder(coordinates[None], patches, latents)[0].float().T)
        return torch.cat(answers, 1)

    def known_of(self, source: PatchSource, where: Where, voxels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return coordinates (P, 3), and patches (P, 343) if it looks at them, of voxels of the volume."""
        origin = torch.tensor(where.box.start, device=voxels.device)
        patches = source.patches(voxels - origin) if self.decoder.patch else None
        return self.coordinates(voxels, where.shape), patches


class OSSNet(OccupancyNetwork):
    """OSS-Net, variant C: patches of 7 x 7 x 7 voxels, an encoder with skips and a coarse map."""

    architecture: ClassVar[str] = "oss_net"
    title: ClassVar[str] = "OSS-Net C, asks single points from coarse to fine"
    paper: ClassVar[str] = "Reich et al., BMVC 2021, arXiv:2110.10640"
    advice: ClassVar[str] = (
        "Take it for compact organs in very large volumes, where most of the volume need not be looked at. "
        "Thin, branching structures are better left to a U-Net."
    )

    def _build(self, length: int) -> None:
        own = self.settings
        shape, vectors = zyx(own.encoder_shape), own.blocks + 1
        self.encoder = SkipEncoder(1, own.encoder_widths, shape, vectors=vectors, outputs=self.outputs)
        self.decoder = Decoder(
            length, patch_channels=1, width=own.width, blocks=own.blocks, outputs=self.outputs
        )


class ONet(OccupancyNetwork):
    """The O-Net that OSS-Net is compared with: it sees no voxel but through one latent vector."""

    architecture: ClassVar[str] = "o_net"
    title: ClassVar[str] = "O-Net, the baseline of OSS-Net"
    paper: ClassVar[str] = "Mescheder et al., CVPR 2019, arXiv:1812.03828; Reich et al., BMVC 2021"
    advice: ClassVar[str] = (
        "A baseline to compare OSS-Net with: shapes come out smooth and coarse. Take OSS-Net to segment."
    )

    def _build(self, length: int) -> None:
        own = self.settings
        self.encoder = PlainEncoder(1, own.encoder_widths, zyx(own.encoder_shape))
        self.decoder = Decoder(
            length, patch_channels=0, width=own.width, blocks=own.blocks, outputs=self.outputs
        )


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
        length = self.model.encoder.vectors * latent_length(self.model.settings)
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
        grid, factor = (self.step,) * 3, (2**self.model.settings.halvings,) * 3
        core = (where.boxes[MAP].refine(factor) & where.box).coarsen(grid)
        known, near = self._found_before(tile, where, core)
        asked = near & (known[0] == NOT_ASKED)
        voxels = (asked.nonzero() + torch.tensor(core.start, device=asked.device)) * self.step
        latents = tile[LATENTS].view(1, self.model.encoder.vectors, -1)
        known[:, asked] = self.model.answer(tile[IMAGE], where, voxels, latents)
        cells = where.box.coarsen(grid)
        answers = known.new_full((len(known), *cells.shape), NOT_ASKED)
        answers[(slice(None), *core.relative_to(cells.start).slices)] = known
        return answers

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
        """Say of each cell whether the map finds any class at least as likely as not at its voxel."""
        factor = 2**self.model.settings.halvings
        z, y, x = (
            torch.arange(a, b, device=coarse.device) * self.step // factor - origin
            for a, b, origin in zip(core.start, core.stop, have.start, strict=True)
        )
        return (coarse >= 0).any(0)[z[:, None, None], y[:, None], x]


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


def latent_length(settings: Settings) -> int:
    """Return the length of one latent vector."""
    return prod(latent_grid(zyx(settings.encoder_shape), len(settings.encoder_widths)))


def _answers(array: str, low: int, high: int) -> Reads:
    halo = Halo((low,) * 3, (high,) * 3)
    return Reads(array=array, halo_exact=halo, halo_recommended=halo)


def _whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
