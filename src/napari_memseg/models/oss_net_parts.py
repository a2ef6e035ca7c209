"""The two halves of an occupancy network: what sees the whole, and what answers for points.

The encoder makes a few short vectors of the coarse volume, and a very coarse map of
where objects may be. The decoder is asked point by point, so that its memory goes by
the points asked at once and never by the volume::

    coarse volume ─> block ─> block ─> block ──────> map
                       └────────┴────────┴─pool──> latent vectors 0, 1 ... 5
                                                        │     └─ scale and shift ──┐
    7 x 7 x 7 voxels around a point ─> 343 numbers ─┐   │                          v
    coordinates of the point ───────────────────────┴───┴──> block ─> ... ─> block 5 ─> a logit a class

Encoder, decoder and conditional norm are those of OSS-Net C (Reich et al., BMVC 2021, figures 1 and 2,
https://arxiv.org/abs/2110.10640), those of the O-Net its baseline, after Mescheder et al. (2019),
https://arxiv.org/abs/1812.03828.
"""

from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_memseg.geometry import Zyx, zyx
from napari_memseg.models.pade import Pade

if TYPE_CHECKING:
    from collections.abc import Sequence

EDGE = 7
"""Of the patch around a point, in voxels."""
RADIUS = EDGE // 2
FEATURES = EDGE**3
"""Numbers that a patch becomes."""


class EncoderBlock(nn.Module):
    """A residual block that halves each axis, rounding down."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv3d(channels_in, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm3d(channels_out),
            Pade(),
            nn.AvgPool3d(2),
            nn.Conv3d(channels_out, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm3d(channels_out),
        )
        same = channels_in == channels_out
        match = nn.Identity() if same else nn.Conv3d(channels_in, channels_out, 1, bias=False)
        self.side = nn.Sequential(match, nn.AvgPool3d(2))
        self.activation = Pade()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, z, y, x) to half the size."""
        out: Tensor = self.activation(self.main(x) + self.side(x))
        return out


class PlainEncoder(nn.Module):
    """The encoder of the O-Net: one latent vector, of the deepest map alone.

    Parameters
    ----------
    channels : int
        Of the image.
    widths : sequence of int
        Channels of each block.
    shape : (z, y, x)
        Of the image; each block halves it, and the deepest map is the latent vector.
    """

    vectors = 1

    def __init__(self, channels: int, widths: Sequence[int], shape: Zyx) -> None:
        super().__init__()
        self.grid = latent_grid(shape, len(widths))
        self.blocks = nn.ModuleList(EncoderBlock(i, o) for i, o in pairwise((channels, *widths)))
        self.latents = _to_latents(widths[-1], 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map (N, C, z, y, x) to a latent vector (N, 1, length), and no map."""
        for block in self.blocks:
            image = block(image)
        return self.latents(image).flatten(2), None


class SkipEncoder(nn.Module):
    """The encoder of OSS-Net C: several latent vectors, of all blocks' maps, and a map of the deepest.

    Parameters
    ----------
    channels, widths, shape
        As of ``PlainEncoder``.
    vectors : int
        How many latent vectors there are.
    outputs : int
        Channels of the coarse map.
    """

    def __init__(
        self, channels: int, widths: Sequence[int], shape: Zyx, *, vectors: int, outputs: int
    ) -> None:
        super().__init__()
        self.vectors = vectors
        self.grid = latent_grid(shape, len(widths))
        self.blocks = nn.ModuleList(EncoderBlock(i, o) for i, o in pairwise((channels, *widths)))
        halves = [max(width // 2, 1) for width in widths]
        self.skips = nn.ModuleList(
            nn.Sequential(
                nn.AdaptiveMaxPool3d(self.grid),
                nn.Conv3d(width, half, 5, padding=2, bias=False),
                nn.BatchNorm3d(half),
                Pade(),
            )
            for width, half in zip(widths, halves, strict=True)
        )
        self.latents = _to_latents(sum(halves), vectors)
        self.map = nn.Conv3d(widths[-1], outputs, 5, padding=2, bias=False)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map (N, C, z, y, x) to latent vectors (N, K, length) and map logits (N, outputs, *grid)."""
        skipped = []
        for block, skip in zip(self.blocks, self.skips, strict=True):
            image = block(image)
            skipped.append(skip(image))
        return self.latents(torch.cat(skipped, 1)).flatten(2), self.map(image)


class ConditionalNorm(nn.Module):
    """A batch norm over points and features together, scaled and shifted by what a latent vector says.

    One mean and one variance for all: in eval mode two numbers, so that no point depends on another.
    """

    def __init__(self, features: int, latent: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(1, affine=False)
        self.scale, self.shift = nn.Linear(latent, features), nn.Linear(latent, features)
        for linear, start in ((self.scale, 1.0), (self.shift, 0.0)):
            nn.init.zeros_(linear.weight)
            nn.init.constant_(linear.bias, start)

    def forward(self, x: Tensor, latent: Tensor) -> Tensor:
        """Norm (N, points, features), given (N, latent) in float32; the dtype stays."""
        even = self.norm(x.flatten(0, 1)[:, None]).view_as(x)
        with torch.autocast(x.device.type, enabled=False):
            scale, shift = self.scale(latent)[:, None], self.shift(latent)[:, None]
        out: Tensor = (scale * even + shift).to(x.dtype)
        return out


class DecoderBlock(nn.Module):
    """A residual block of two layers, each with a norm that the latent vector conditions."""

    def __init__(self, features_in: int, features: int, latent: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(features_in, features), nn.Linear(features, features)
        self.norms = nn.ModuleList(ConditionalNorm(features, latent) for _ in range(2))
        self.side = nn.Identity() if features_in == features else nn.Linear(features_in, features)
        self.activations = nn.ModuleList(Pade() for _ in range(2))

    def forward(self, x: Tensor, latent: Tensor) -> Tensor:
        """Map (N, points, features_in) to (N, points, features), given (N, latent)."""
        main = self.activations[0](self.norms[0](self.first(x), latent))
        main = self.norms[1](self.second(main), latent)
        out: Tensor = self.activations[1](main + self.side(x))
        return out


class PatchMapping(nn.Module):
    """Two convolutions over the patch of a point, each applied as the matrix that it is.

    On so small a patch a convolution is ten times slower than its matrix, which it makes itself:
    each row is what it makes of a single voxel.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = max(channels // 2, 1)
        self.first = nn.Conv3d(channels, half, EDGE, padding=RADIUS)
        self.second = nn.Conv3d(half, 1, EDGE, padding=RADIUS)
        self.activations = nn.ModuleList(Pade() for _ in range(2))

    def forward(self, patches: Tensor) -> Tensor:
        """Map patches (..., channels * 343) to (..., 343)."""
        for conv, activation in zip((self.first, self.second), self.activations, strict=True):
            patches = activation(_convolve(patches, conv))
        return patches


class Decoder(nn.Module):
    """Answers for points, from their places, the patches around them, and the latent vectors.

    Its first block computes in float32 always: of 1072 places along an axis bfloat16 tells 782 apart.

    Parameters
    ----------
    latent : int
        Length of a latent vector.
    patch_channels : int
        Of the image that patches are cut from; 0 for none (O-Net).
    width, blocks : int
        Features, and residual blocks.
    outputs : int
        Logits a point.
    """

    def __init__(self, latent: int, *, patch_channels: int, width: int, blocks: int, outputs: int) -> None:
        super().__init__()
        self.patch = PatchMapping(patch_channels) if patch_channels else None
        first = 3 + latent + (FEATURES if patch_channels else 0)
        widths = [first, *[width] * blocks]
        self.blocks = nn.ModuleList(DecoderBlock(i, o, latent) for i, o in pairwise(widths))
        self.head = nn.Linear(width, outputs, bias=False)

    def forward(self, coordinates: Tensor, patches: Tensor | None, latents: Tensor) -> Tensor:
        """Answer for some points of each sample.

        Parameters
        ----------
        coordinates : Tensor
            (N, points, 3).
        patches : Tensor, optional
            (N, points, channels * 343), where there is a patch mapping.
        latents : Tensor
            (N, K, latent): the first joins the input, the next condition one block each; a single
            one serves all.

        Returns
        -------
        Tensor
            (N, points, outputs) logits.
        """
        first, *others = latents.float().unbind(1)
        conditions = others or [first] * len(self.blocks)
        features = [] if self.patch is None else [self.patch(patches).float()]
        with torch.autocast(coordinates.device.type, enabled=False):
            own = first[:, None].expand(-1, coordinates.shape[1], -1)
            x = self.blocks[0](torch.cat([coordinates.float(), *features, own], -1), conditions[0])
        for block, condition in zip(self.blocks[1:], conditions[1:], strict=True):
            x = block(x, condition)
        logits: Tensor = self.head(x)
        return logits


class PatchSource:
    """One image, of which the patches of some voxels are gathered, and no others.

    Parameters
    ----------
    image : Tensor
        (C, z, y, x); beyond its faces there are zeros.
    """

    def __init__(self, image: Tensor) -> None:
        self._padded = F.pad(image, [RADIUS] * 6)
        _, plane, row = (prod(self._padded.shape[n:]) for n in (1, 2, 3))
        self._strides = torch.tensor([plane, row, 1], device=image.device)
        inside = torch.cartesian_prod(*[torch.arange(EDGE, device=image.device)] * 3)
        self._offsets = (inside * self._strides).sum(-1)  # (343,)

    def patches(self, voxels: Tensor) -> Tensor:
        """Return the patches (P, C * 343) around voxels (P, 3) of the image."""
        places = (voxels * self._strides).sum(-1, keepdim=True) + self._offsets  # (P, 343)
        return self._padded.flatten(1)[:, places].movedim(0, 1).flatten(1)


def latent_grid(shape: Zyx, halvings: int) -> Zyx:
    """Return the size of the deepest map, whose voxels are the numbers of a latent vector."""
    return zyx(n >> halvings for n in shape)


def shrink_to(image: Tensor, shape: Zyx) -> Tensor:
    """Resample (N, C, z, y, x) trilinearly to the encoder's shape.

    Where it is at least twice as large, means of whole voxels are taken first: alone, the
    trilinear interpolation would look at two of them and leave the rest out.
    """
    steps = [max(have // want, 1) for have, want in zip(image.shape[2:], shape, strict=True)]
    small = F.avg_pool3d(image, steps, ceil_mode=True)
    return F.interpolate(small, shape, mode="trilinear", align_corners=False)


def _convolve(patches: Tensor, conv: nn.Conv3d) -> Tensor:
    """Apply a convolution to flat patches (..., channels * 343)."""
    voxels = conv.in_channels * FEATURES
    single = torch.eye(voxels, device=patches.device).view(voxels, conv.in_channels, EDGE, EDGE, EDGE)
    out = patches @ F.conv3d(single, conv.weight, padding=RADIUS).flatten(1)
    return out if conv.bias is None else out + conv.bias.repeat_interleave(FEATURES)


def _to_latents(channels: int, vectors: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv3d(channels, vectors, 5, padding=2), nn.BatchNorm3d(vectors), Pade())
