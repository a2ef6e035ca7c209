"""The SpatialConfiguration-Net: what it looks like here, and how organs lie to each other.

A *local* U-Net tells organs by their looks. A *spatial* U-Net a label, at a quarter of
the resolution, tells where that organ must be from where the other ones are. Both
are fused by how sure the spatial one is (``models/scn_parts.py``)::

    tiled   image@0 --> local --> local_maps (by 4) --+
            image@2 -------------------------------> spatial --> spatial_logits (by 4)
            image@0 --> local again ---------------> fusion <----------+
                                                        +--> SCORES

    crop    image@1 --> localisation --> box of all that is foreground
            image@0 --> box, made to fit --> both at once --> overview (vector) --> SCORES

"crop" is the published way: one pass over what fits 160 x 128 x 160 voxels, at a level
where the specimen does. "tiled" is our extension to volumes of any size. It is exact, since
the two parts meet in arrays that are small enough to keep; the local part is computed twice
rather than stored.

Thaler, Payer, Bischof and Štern (FLARE 2021), arXiv:2111.13630
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from napari_memseg.errors import InputError
from napari_memseg.geometry import Box, Zyx, zyx
from napari_memseg.models.base import (
    SCORES,
    Grid,
    Halo,
    Model,
    Reads,
    Stage,
    TrainingPhase,
    Where,
    Writes,
)
from napari_memseg.models.blocks import pad_to_box, size_of
from napari_memseg.models.plain import IMAGE
from napari_memseg.models.reach import effective_reach, exact_reach, round_up
from napari_memseg.models.scn_crop import (
    MOST_LOCALISED,
    MOST_SEGMENTED,
    enlarge,
    fit_area,
    pack,
    require_scale,
    unpack,
    vector_length,
)
from napari_memseg.models.scn_parts import (
    CUBIC_REACH,
    Configuration,
    UNet,
    centred,
    fuse,
    log_shares,
    pad_to,
    quadruple_cubic,
    quarter,
)
from napari_memseg.models.scn_training import BY_2, LocalisationPhase, SegmentationPhase

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from napari_memseg.models.classes import ClassTable
    from napari_memseg.models.reach import Trace

TILED, CROP = "tiled", "crop"
HALF, QUARTER = "image@1", "image@2"
MAPS, LOGITS, OVERVIEW = "local_maps", "spatial_logits", "overview"
BY_4: Zyx = (4, 4, 4)
MARGIN = 3
"""Voxels of ``image@1`` around the foreground: 5 of the working level, as 10 mm are at 2 mm, rounded up."""
PATCHES: dict[str, Zyx] = {TILED: (96, 96, 96), CROP: MOST_SEGMENTED}
"""To learn segmentation from, by mode."""
MOST_LEVELS = 8
MOST_CHANNELS = 4096


class Scn(Model):
    """The SpatialConfiguration-Net, tile by tile (our extension) or as one crop (as published).

    Parameters
    ----------
    classes : ClassTable
        What it tells apart. With two, background included, the spatial part has no other organ to go by.
    mode : str
        "tiled", for volumes of any size, or "crop": the foreground is found first, and segmented in one
        pass of at most 160 x 128 x 160 voxels. It learns from patches of that size as they are, so train and
        segment at a level where the specimen fits: what is longer is shrunk by up to 1.5, then refused.
    widths : (local, spatial)
        Channels of the U-Nets' maps.
    levels : (local, spatial)
        Resolutions of the U-Nets.
    dropout : float
        After every 3 x 3 x 3 convolution, in [0, 1).

    Raises
    ------
    InputError
        If an argument is impossible.
    """

    architecture: ClassVar[str] = "scn"
    title: ClassVar[str] = "SpatialConfiguration-Net, tile by tile (our extension) or as one crop (published)"
    paper: ClassVar[str] = "Thaler et al., FLARE 2021, arXiv:2111.13630"
    advice: ClassVar[str] = (
        "Take it for several organs that always lie alike: the smallest 3D network, and one that needs other "
        'organs to go by. mode="crop" is a quick overview, to learn and to use at a level where the specimen '
        "fits 160 x 128 x 160 voxels."
    )

    def __init__(
        self,
        classes: ClassTable,
        *,
        mode: str = TILED,
        widths: Sequence[int] = (32, 16),
        levels: Sequence[int] = (5, 4),
        dropout: float = 0.1,
    ) -> None:
        super().__init__(classes)
        if mode not in (TILED, CROP):
            raise InputError(f'mode must be "{TILED}" or "{CROP}", got {mode!r:.100}.')
        if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
            raise InputError(f"dropout must be at least 0 and below 1, got {dropout!r:.100}.")
        self.mode, self.dropout = mode, float(dropout)
        self.widths = _two("widths", widths, MOST_CHANNELS)
        self.levels = _two("levels", levels, MOST_LEVELS)
        self.network = Configuration(len(classes), self.widths, self.levels, self.dropout)
        self.localiser = UNet(1, 2, self.widths[0], self.levels[0], self.dropout) if mode == CROP else None

    @property
    def patch(self) -> Zyx:
        """Size of a patch to learn segmentation from, in voxels; with "crop", of the largest crop."""
        return PATCHES[self.mode]

    @property
    def arguments(self) -> dict[str, Any]:
        """Mode, widths, levels and dropout."""
        return {
            "mode": self.mode,
            "widths": list(self.widths),
            "levels": list(self.levels),
            "dropout": self.dropout,
        }

    @cached_property
    def stages(self) -> Sequence[Stage]:
        """Local, spatial, fusion; or overview, labels."""
        return self._tiled_stages() if self.mode == TILED else self._crop_stages()

    def training_plan(self) -> Sequence[TrainingPhase]:
        """Return segmentation; where the foreground is looked for, localisation before it."""
        if self.localiser is None:
            return (SegmentationPhase(self),)
        return (LocalisationPhase(self, self.localiser), SegmentationPhase(self))

    def logits(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Map an image (N, 1, z, y, x) to local and to spatial logits (N, n, z, y, x).

        In mode "crop" with the middle of the window around it, up to a multiple of 32; published is air.
        """
        if self.mode == TILED:
            local, spatial = self.network(centred(image))
            return local, spatial
        padded, inside = pad_to(centred(image), max(_local_grid(self), _spatial_grid(self)))
        local, spatial = self.network(padded)
        return local[(..., *inside)], spatial[(..., *inside)]

    def _tiled_stages(self) -> Sequence[Stage]:
        local, spatial = _local_grid(self), _spatial_grid(self)
        image, n = _reads(IMAGE, self.network.local.trace, local), len(self.classes)
        coarse = [_reads(array, self.network.spatial.trace, spatial // 4) for array in (QUARTER, MAPS)]
        cubic = Halo.even(CUBIC_REACH, CUBIC_REACH, CUBIC_REACH)
        return (
            ScnStage(
                name="local",
                reads=(image,),
                writes=(Writes(array=MAPS, dtype="float16", channels=n, grid=Grid(factor=BY_4)),),
                multiple=zyx([local] * 3),
                run=self._local_maps,
            ),
            ScnStage(
                name="spatial",
                reads=tuple(coarse),
                writes=(Writes(array=LOGITS, dtype="float16", channels=n, grid=Grid(factor=BY_4)),),
                multiple=zyx([spatial] * 3),
                run=self._spatial_logits,
            ),
            ScnStage(
                name="fusion",
                reads=(image, Reads(array=LOGITS, halo_exact=cubic, halo_recommended=cubic)),
                writes=(Writes(array=SCORES, channels=n),),
                multiple=zyx([local] * 3),
                run=self._fused,
            ),
        )

    def _crop_stages(self) -> Sequence[Stage]:
        n = len(self.classes)
        return (
            ScnStage(
                name="overview",
                reads=(Reads(array=IMAGE, whole=True), Reads(array=HALF, whole=True)),
                writes=(Writes(array=OVERVIEW, channels=vector_length(n), vector=True),),
                whole=True,
                run=self._overview,
            ),
            ScnStage(
                name="labels",
                reads=(Reads(array=QUARTER), Reads(array=OVERVIEW, whole=True)),  # the image says where
                writes=(Writes(array=SCORES, channels=n),),
                run=self._enlarged,
            ),
        )

    def _local_maps(self, inputs: dict[str, Tensor], where: Sequence[Where]) -> Tensor:
        return quarter(self.network.local(centred(inputs[IMAGE])).float().sigmoid())

    def _spatial_logits(self, inputs: dict[str, Tensor], where: Sequence[Where]) -> Tensor:
        logits: Tensor = self.network.spatial(centred(inputs[QUARTER]), inputs[MAPS].float())
        return logits

    def _fused(self, inputs: dict[str, Tensor], where: Sequence[Where]) -> Tensor:
        local, cells = self.network.local(centred(inputs[IMAGE])), inputs[LOGITS]
        tiles = zip(_each(local), _each(cells), where, strict=True)
        return torch.cat([_fuse_tile(*tile) for tile in tiles])

    def _overview(self, inputs: dict[str, Tensor], where: Sequence[Where]) -> Tensor:
        """Return vectors (N, length): the foreground's box and what lies where in it."""
        volumes = zip(_each(inputs[IMAGE]), _each(inputs[HALF]), strict=True)
        return torch.stack([self._crop(*volume) for volume in volumes])

    def _crop(self, image: Tensor, half: Tensor) -> Tensor:
        box = self.find_foreground(half, size_of(image))
        require_scale(box)
        shares = fuse(*self.logits(fit_area(image[(..., *box.slices)], MOST_SEGMENTED)))
        return pack(shares[0], box, size_of(image))

    def _enlarged(self, inputs: dict[str, Tensor], where: Sequence[Where]) -> Tensor:
        crops = [unpack(v, len(self.classes), w.shape) for v, w in zip(inputs[OVERVIEW], where, strict=True)]
        return log_shares(torch.stack([enlarge(*crop, w.box) for crop, w in zip(crops, where, strict=True)]))

    def find_foreground(self, half: Tensor, shape: Zyx) -> Box:
        """Return the box of all that is foreground, with a margin; all of the volume if nothing is.

        Parameters
        ----------
        half : Tensor
            (1, 1, z, y, x), the volume halved.
        shape : (z, y, x)
            Of the volume, in voxels; so is the box.
        """
        small = fit_area(half, MOST_LOCALISED)
        logits = self.localise(small)[0]
        places = (logits[1] > logits[0]).nonzero()
        if not len(places):
            return Box.whole(shape)
        size, halved = zyx(small.shape[2:]), zyx(half.shape[2:])
        box = Box(zyx(places.amin(0).tolist()), zyx((places.amax(0) + 1).tolist()))
        low = zyx(a * h // s - MARGIN for a, h, s in zip(box.start, halved, size, strict=True))
        high = zyx(-(-b * h // s) + MARGIN for b, h, s in zip(box.stop, halved, size, strict=True))
        return Box(low, high).refine(BY_2).clip(shape)

    def localise(self, image: Tensor) -> Tensor:
        """Map a small image (N, 1, z, y, x) to logits (N, 2, z, y, x) of background and foreground."""
        if self.localiser is None:
            raise InputError(
                f'Only mode="{CROP}" looks for the foreground, and this network is "{self.mode}".'
            )
        padded, inside = pad_to(centred(image), _local_grid(self))
        logits: Tensor = self.localiser(padded)[(..., *inside)]
        return logits


@dataclass(frozen=True, kw_only=True)
class ScnStage:
    """One array out of those that are read."""

    name: str
    reads: tuple[Reads, ...]
    writes: tuple[Writes, ...]
    run: Callable[[dict[str, Tensor], Sequence[Where]], Tensor]
    multiple: Zyx = (1, 1, 1)
    whole: bool = False

    def __call__(self, inputs: dict[str, Tensor], where: Sequence[Where]) -> dict[str, Tensor]:
        """Run it."""
        return {self.writes[0].array: self.run(inputs, where)}


def _fuse_tile(local: Tensor, cells: Tensor, where: Where) -> Tensor:
    """Return the scores of one tile: local logits of its box, spatial ones of the cells around its core."""
    voxels = where.boxes[LOGITS].refine(BY_4)
    shared = voxels & where.box
    spatial = quadruple_cubic(cells)[(..., *shared.relative_to(voxels.start).slices)]
    shares = fuse(local[(..., *shared.relative_to(where.box.start).slices)], spatial)
    return pad_to_box(log_shares(shares), shared, where.box)


def _each(batch: Tensor) -> tuple[Tensor, ...]:
    """Return the samples of a batch, each a batch of one."""
    samples: tuple[Tensor, ...] = batch.chunk(len(batch))
    return samples


def _local_grid(model: Scn) -> int:
    """Return the voxels on which the local U-Net's poolings, and the coarse cells, fall alike."""
    return int(max(2 ** (model.levels[0] - 1), 4))


def _spatial_grid(model: Scn) -> int:
    """Return the voxels on which the spatial U-Nets' poolings fall alike."""
    return int(4 * 2 ** (model.levels[1] - 1))


def _reads(array: str, trace: Trace, grid: int) -> Reads:
    exact, recommended = (
        Halo(*[zyx([round_up(side, grid)] * 3) for side in reach(trace, grid)])
        for reach in (exact_reach, effective_reach)
    )
    return Reads(array=array, halo_exact=exact, halo_recommended=recommended)


def _two(name: str, values: Sequence[int], most: int) -> tuple[int, int]:
    whole = len(values) == 2 and all(isinstance(v, int) and 1 <= v <= most for v in values)
    if not whole:
        raise InputError(
            f"{name} are two whole numbers from 1 to {most}, of the local and of the spatial U-Nets, "
            f"got {values!r:.100}. The published network has widths 32, 16 and levels 5, 4."
        )
    local, spatial = values
    return local, spatial
