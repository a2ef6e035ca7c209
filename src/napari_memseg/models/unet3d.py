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
    from collections.abc import Sequence

    from napari_memseg.geometry import Zyx
    from napari_memseg.models.classes import ClassTable
    from napari_memseg.models.reach import L

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
        above = (self.widths[0], *self.widths)[: len(self.widths) - 1]
        steps = list(zip(self.widths[-2::-1], above[::-1], strict=True))  # (skip, out), the deepest first
        below = (self.widths[-1], *(out for _, out in steps))
        self.encoder = nn.ModuleList(double_conv(i, o) for i, o in pairwise((1, *self.widths)))
        self.decoder = nn.ModuleList(
            double_conv(skip + up, out) for (skip, out), up in zip(steps, below, strict=False)
        )
        self.head = nn.Conv3d(below[-1], len(classes), 1)

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
        x, skips = image, []
        for level, block in enumerate(self.encoder):
            x = block(halve(x) if level else x)
            skips.append(x)
        for skip, block in zip(skips[-2::-1], self.decoder, strict=True):
            x = block(torch.cat([skip, repeat_and_crop(x, size_of(skip))], 1))
        scores: Tensor = self.head(x)
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


def _checked(widths: Sequence[int]) -> tuple[int, ...]:
    whole = all(isinstance(w, int) and 1 <= w <= MOST_CHANNELS for w in widths)
    if not whole or not 1 <= len(widths) <= MOST_LEVELS:
        raise InputError(
            f"A U-Net needs 1 to {MOST_LEVELS} widths, each 1 to {MOST_CHANNELS} channels, "
            f"got {widths!r:.100}. The published network has 16, 32, 64, 128, 128."
        )
    return tuple(widths)
