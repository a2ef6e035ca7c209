"""A residual 3D U-Net of 4.3 million weights, which the slice-wise networks were measured against.

Five levels of pre-activation residual blocks, two on the way down and one on the way up; strided
convolutions lead down, and linear interpolation up::

    8, 8 ────────────────────────────────────> 16 -> 8 -> classes
      16, 16 ──────────────────────────> 32 ─> 8
        32, 32 ────────────────────> 64 ─> 16
          64, 64 ──────────────> 128 ─> 32
            128, 128 ──> 128 ─> 64

Maheshwari, Goel, Sethuraman, Sheet, "Distill DSM", MIDL 2021 (PMLR 143), table 1, by its published count;
pre-activation blocks after He et al. 2016, https://arxiv.org/abs/1603.05027
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from napari_memseg.errors import InputError
from napari_memseg.models.arguments import whole_number
from napari_memseg.models.base import Recipe
from napari_memseg.models.blocks import double_linear, size_of
from napari_memseg.models.plain import PlainModel

if TYPE_CHECKING:
    from napari_memseg.geometry import Zyx
    from napari_memseg.models.classes import ClassTable
    from napari_memseg.models.reach import L

LEVELS, MOST_WIDTH = 5, 256
DROPOUT = 0.2
NORMS = ("batch", "group")


class ResidualUNet3d(PlainModel):
    """The residual 3D U-Net.

    Parameters
    ----------
    classes : ClassTable
        What it tells apart.
    width : int
        Channels of the finest level; each level has twice those of the one above.
    norm : str
        "batch", or "group" as published: its statistics are of all that a tile holds, so that its answer
        depends on how a volume is cut, whatever the halo.

    Raises
    ------
    InputError
        If a value is impossible.
    """

    architecture: ClassVar[str] = "unet3d_residual"
    title: ClassVar[str] = "Residual 3D U-Net, 4.3 million weights"
    advice: ClassVar[str] = (
        "The baseline of the slice-wise networks' paper: take it to compare with, or where labels are many."
    )
    paper: ClassVar[str] = "Maheshwari et al., MIDL 2021, PMLR 143 (its baseline)"
    patch: ClassVar[Zyx] = (96, 96, 96)
    recipe: ClassVar[Recipe] = Recipe(learning_rate=1e-3)

    def __init__(self, classes: ClassTable, *, width: int = 8, norm: str = "batch") -> None:
        super().__init__(classes)
        if norm not in NORMS:
            raise InputError(f"norm={norm!r:.50} is impossible: give {' or '.join(NORMS)}.")
        self.width, self.norm = whole_number("width", width, 1, MOST_WIDTH), norm
        if norm == "group" and width % min(8, width):
            raise InputError(f"width={width} is impossible with norm=group: give 1 to 8, or multiples of 8.")
        self.network = ResidualNetwork(1, len(classes), width, norm)

    @property
    def arguments(self) -> dict[str, Any]:
        """Width and norm."""
        return {"width": self.width, "norm": self.norm}

    @property
    def multiple(self) -> int:
        """Two to the number of strides, in voxels."""
        return int(2 ** (LEVELS - 1))

    @property
    def depends_on_the_tile(self) -> bool:
        """With group norms it does."""
        return self.norm == "group"

    def forward(self, image: Tensor) -> Tensor:
        """Map a normalised image (N, 1, z, y, x) of any size to scores (N, C, z, y, x)."""
        scores: Tensor = self.network(image)
        return scores

    def trace(self, line: L) -> L:
        """Follow ``forward`` along one axis."""
        skips: list[L] = []
        for level in range(LEVELS):
            line = _trace_block(_trace_block(line.conv(3).every_second() if level else line))
            skips.append(line)
        for skip in skips[-2::-1]:
            line = skip.join(_trace_block(line).interpolate(skip))
        return _trace_block(line)


def _trace_block(line: L) -> L:
    return line.conv(3).conv(3)


class ResidualNetwork(nn.Module):
    """The network itself, for any number of channels.

    Parameters
    ----------
    channels, classes : int
        In and out.
    width : int
        Channels of the finest level.
    norm : str
        "batch" or "group".
    """

    def __init__(self, channels: int, classes: int, width: int, norm: str) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(LEVELS)]
        self.down = nn.ModuleList(nn.Conv3d(w, w, 3, stride=2, padding=1, bias=False) for w in widths[:-1])
        self.encoder = nn.ModuleList(
            nn.Sequential(_Block(i, o, norm), nn.Dropout3d(0 if level else DROPOUT), _Block(o, o, norm))
            for level, (i, o) in enumerate(pairwise([channels, *widths]))
        )
        above = widths[-2::-1]  # of the skips, the deepest first
        below = [widths[-1], *(2 * w for w in above[:-1])]
        self.decoder = nn.ModuleList(_Block(w, w, norm) for w in below)
        self.narrow = nn.ModuleList(nn.Conv3d(i, o, 1, bias=False) for i, o in zip(below, above, strict=True))
        self.last = _Block(2 * width, width, norm)
        self.head = nn.Conv3d(width, classes, 1, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, channels, z, y, x) of any size to (N, classes, z, y, x)."""
        x, skips = image, []
        for level, block in enumerate(self.encoder):
            x = block(self.down[level - 1](x) if level else x)
            skips.append(x)
        for skip, block, narrow in zip(skips[-2::-1], self.decoder, self.narrow, strict=True):
            x = torch.cat([skip, double_linear(narrow(block(x)), size_of(skip))], 1)
        scores: Tensor = self.head(self.last(x))
        return scores


class _Block(nn.Module):
    """Twice norm, ReLU and a convolution, and the input added."""

    def __init__(self, channels_in: int, channels_out: int, norm: str) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _norm(norm, channels_in),
            nn.ReLU(),
            nn.Conv3d(channels_in, channels_out, 3, padding=1, bias=False),
            _norm(norm, channels_out),
            nn.ReLU(),
            nn.Conv3d(channels_out, channels_out, 3, padding=1, bias=False),
        )
        same = channels_in == channels_out
        self.side = nn.Identity() if same else nn.Conv3d(channels_in, channels_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x) + self.side(x)
        return out


def _norm(kind: str, channels: int) -> nn.Module:
    return nn.BatchNorm3d(channels) if kind == "batch" else nn.GroupNorm(min(8, channels), channels)
