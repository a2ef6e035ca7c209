"""The plain 3D U-Net against which every claim of memory is measured.

Five levels, each a double convolution. On the way up a level ends with the width
of the level above it (the finest keeps its own)::

    16 ───────────────────────────> 32 -> 16 -> classes
      32 ────────────────────> 64 -> 16
        64 ─────────────> 128 -> 32
         128 ──────> 256 -> 64
            128 ──────┘

The "U-net" of Wang, Blackie, Miguel-Aliaga and Bai (MIDL 2022, appendix A.3), after
Çiçek et al. (2016), https://doi.org/10.1007/978-3-319-46723-8_49
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from napari_memseg.errors import InputError
from napari_memseg.models.blocks import double_conv, halve, repeat_and_crop, size_of, trace_double_conv
from napari_memseg.models.plain import PlainModel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from napari_memseg.geometry import Zyx
    from napari_memseg.models.classes import ClassTable
    from napari_memseg.models.reach import L

    Block = Callable[[Tensor], Tensor]

MOST_LEVELS = 8
MOST_CHANNELS = 4096


class UNet3d(PlainModel):
    """A 3D U-Net with batch norm.

    Parameters
    ----------
    classes : ClassTable
        What it tells apart.
    widths : sequence of int
        Channels of each level, the finest first: as many levels as widths.

    Raises
    ------
    InputError
        If a width is not a whole number from 1 to 4096, or there are none or more than eight.
    """

    architecture: ClassVar[str] = "unet3d"
    title: ClassVar[str] = "Plain 3D U-Net, five levels"
    paper: ClassVar[str] = "Wang et al., MIDL 2022, arXiv:2205.15941"
    advice: ClassVar[str] = (
        "The reference that every claim is measured against. Take it where a GPU has room for patches of 96."
    )
    patch: ClassVar[Zyx] = (96, 96, 96)

    def __init__(self, classes: ClassTable, *, widths: Sequence[int] = (16, 32, 64, 128, 128)) -> None:
        super().__init__(classes)
        self.widths = _checked(widths)
        self.encoder, self.decoder = encoder_of(self.widths), decoder_of(self.widths)
        self.head = nn.Conv3d(self.widths[0], len(classes), 1)

    @property
    def arguments(self) -> dict[str, Any]:
        """The widths."""
        return {"widths": list(self.widths)}

    @property
    def multiple(self) -> int:
        """Two to the number of poolings, in voxels."""
        return int(2 ** (len(self.widths) - 1))

    def forward(self, image: Tensor) -> Tensor:
        """Map a normalised image (N, 1, z, y, x) of any size to scores (N, C, z, y, x)."""
        scores: Tensor = self.head(decode(self.decoder, encode(self.encoder, image)))
        return scores

    def trace(self, line: L) -> L:
        """Follow ``forward`` along one axis."""
        skips: list[L] = []
        for level in range(len(self.encoder)):
            line = trace_double_conv(line.pool() if level else line)
            skips.append(line)
        for skip in skips[-2::-1]:
            line = trace_double_conv(skip.join(line.repeat(skip)))
        return line


def encoder_of(widths: Sequence[int], channels: int = 1) -> nn.ModuleList:
    """Return the blocks on the way down, for an image of so many channels."""
    return nn.ModuleList(double_conv(i, o) for i, o in pairwise((channels, *widths)))


def decoder_of(widths: Sequence[int], extra: int = 0) -> nn.ModuleList:
    """Return the blocks on the way up, the deepest first; each is given so many channels more."""
    above = (widths[0], *widths)[: len(widths) - 1]
    steps = list(zip(widths[-2::-1], above[::-1], strict=True))  # (skip, out)
    below = (widths[-1], *(out for _, out in steps))
    return nn.ModuleList(
        double_conv(skip + up + extra, out) for (skip, out), up in zip(steps, below, strict=False)
    )


def encode(blocks: Iterable[Block], image: Tensor) -> list[Tensor]:
    """Return what each level makes of an image, the finest first."""
    x, levels = image, []
    for level, block in enumerate(blocks):
        x = block(halve(x) if level else x)
        levels.append(x)
    return levels


def decode(
    blocks: Iterable[Block], levels: Sequence[Tensor], beside: Sequence[Sequence[Tensor]] = ()
) -> Tensor:
    """Go back up as far as there are blocks; ``beside`` are more maps for each level, the finest first."""
    x = levels[-1]
    for level, block in zip(range(len(levels) - 2, -1, -1), blocks, strict=False):
        skip = levels[level]
        more = beside[level] if beside else ()
        x = block(torch.cat([skip, repeat_and_crop(x, size_of(skip)), *more], 1))
    return x


def _checked(widths: Sequence[int]) -> tuple[int, ...]:
    whole = all(isinstance(w, int) and 1 <= w <= MOST_CHANNELS for w in widths)
    if not whole or not 1 <= len(widths) <= MOST_LEVELS:
        raise InputError(
            f"A U-Net needs 1 to {MOST_LEVELS} widths, each 1 to {MOST_CHANNELS} channels, "
            f"got {widths!r:.100}. The published network has 16, 32, 64, 128, 128."
        )
    return tuple(widths)
