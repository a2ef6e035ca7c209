"""OSS-Net: the whole volume seen coarsely once, then only those points asked that matter.

An encoder reads a coarse copy of the volume, once. A decoder answers for single voxels,
and is asked from coarse to fine, around what it has found::

    image@2 ──> encode (whole) ──┬─> latents (vector) ──┬─────────────┬────────────┐
                                 └─> map (by 4) ────────┤             │            │
    image@0 ────────────────────────────────────────> quarter ────> half ───────> full ──> SCORES
                                                       (by 4)      (by 2)

The search is in ``oss_net_search.py``, the halves of the network in ``oss_net_parts.py``, and
how it learns in ``oss_net_training.py``.

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
from torch import Tensor

from napari_memseg.errors import InputError
from napari_memseg.geometry import zyx
from napari_memseg.models.arguments import whole_number
from napari_memseg.models.base import Model, Stage, TrainingPhase, Where
from napari_memseg.models.oss_net_parts import (
    Decoder,
    PatchSource,
    PlainEncoder,
    SkipEncoder,
    latent_grid,
    shrink_to,
)
from napari_memseg.models.oss_net_search import EncodeStage, search_stages
from napari_memseg.models.oss_net_training import PointsPhase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_memseg.geometry import Zyx
    from napari_memseg.models.classes import ClassTable

_RANGES = {"halvings": (0, 6), "width": (1, 4096), "blocks": (1, 64), "points": (1, 2**24)}
_RANGES["training_points"] = _RANGES["points"]


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
    training_points: int = 2**12
    """Drawn of each sample in a step. Published are 2^14 of a whole volume; of a patch of 64 x 64 x 64 voxels
    2^12 are one in 64 already, and a step keeps a third of the memory (1.1 instead of 3.1 GiB)."""
    search: str = "optimised"
    """"optimised" begins where the coarse map allows it, "all" everywhere (slower, misses less)."""

    def __post_init__(self) -> None:
        for name, (least, most) in _RANGES.items():
            whole_number(name, getattr(self, name), least, most)
        for name, words in (("coordinates", ("scaled", "raw")), ("search", ("optimised", "all"))):
            if getattr(self, name) not in words:
                raise InputError(f"{name} must be one of {words}, got {getattr(self, name)!r:.100}.")
        self._check_encoder()

    def _check_encoder(self) -> None:
        if not isinstance(self.encoder_widths, (list, tuple)) or not 1 <= len(self.encoder_widths) <= 8:
            raise InputError(
                f"encoder_widths={self.encoder_widths!r:.100} is impossible: give the channels of one to "
                "eight blocks, such as [32, 64, 128]."
            )
        if not isinstance(self.encoder_shape, (list, tuple)) or len(self.encoder_shape) != 3:
            raise InputError(
                f"encoder_shape={self.encoder_shape!r:.100} is impossible: give three lengths in voxels "
                "(z, y, x), such as [64, 64, 64]."
            )
        for width in self.encoder_widths:
            whole_number("encoder_widths", width, 1, 4096)
        least = 2 << len(self.encoder_widths)  # each block halves it, and a batch norm needs two voxels
        for length in self.encoder_shape:
            whole_number("encoder_shape", length, least, 512)


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
        own = self.settings
        self.latent_length = prod(latent_grid(zyx(own.encoder_shape), len(own.encoder_widths)))
        self._build()

    @abstractmethod
    def _build(self) -> None:
        """Make encoder and decoder, for latent vectors of ``latent_length`` numbers."""

    def _decoder(self, patch_channels: int) -> Decoder:
        sizes = {"width": self.settings.width, "blocks": self.settings.blocks, "outputs": self.outputs}
        return Decoder(self.latent_length, patch_channels=patch_channels, **sizes)

    @property
    def arguments(self) -> dict[str, Any]:
        """The settings."""
        plain = asdict(self.settings)
        return {name: list(v) if isinstance(v, (list, tuple)) else v for name, v in plain.items()}

    @cached_property
    def stages(self) -> Sequence[Stage]:
        """The encoder, then the search in three steps."""
        return (EncodeStage(self), *search_stages(self))

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

    def _build(self) -> None:
        own = self.settings
        shape, vectors = zyx(own.encoder_shape), own.blocks + 1
        self.encoder = SkipEncoder(1, own.encoder_widths, shape, vectors=vectors, outputs=self.outputs)
        self.decoder = self._decoder(patch_channels=1)


class ONet(OccupancyNetwork):
    """The O-Net that OSS-Net is compared with: it sees no voxel but through one latent vector."""

    architecture: ClassVar[str] = "o_net"
    title: ClassVar[str] = "O-Net, the baseline of OSS-Net"
    paper: ClassVar[str] = "Mescheder et al., CVPR 2019, arXiv:1812.03828; Reich et al., BMVC 2021"
    advice: ClassVar[str] = (
        "A baseline to compare OSS-Net with: shapes come out smooth and coarse. Take OSS-Net to segment."
    )

    def _build(self) -> None:
        own = self.settings
        self.encoder = PlainEncoder(1, own.encoder_widths, zyx(own.encoder_shape))
        self.decoder = self._decoder(patch_channels=0)
