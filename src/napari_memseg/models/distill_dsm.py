"""Distill DSM: a 2D U-Net whose slices hand learnt channels on to their neighbours.

A block is two convolutions; between them, on a share ``alpha`` of the channels, one
more convolution makes what a slice keeps (R), what it gives to the slice behind it
(F) and to the one before it (B)::

    slice i    C - a channels, as they are ──────────────────> C - a
               a channels ──conv──> R_i ─────────────────────> a / 2
                                    B_i ──> slice i - 1
                                    F_i ──> slice i + 1
                                    B of slice i + 1 ────────> a / 4
                                    F of slice i - 1 ────────> a / 4

Eight blocks do so, all but the first and finest, so that a slice knows of eight slices
on both sides at the price of 2D convolutions. There is no teacher network, whatever
the name says.

Maheshwari, Goel, Sethuraman and Sheet (MIDL 2021), section 3.3 and Figure 2,
https://proceedings.mlr.press/v143/maheshwari21a.html
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_memseg.errors import InputError
from napari_memseg.models.arguments import switch
from napari_memseg.models.losses import masked_dice
from napari_memseg.models.slicewise import (
    Slicewise,
    conv_norm_relu,
    crop_or_replicate,
    from_next,
    from_previous,
    halve_slices,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_memseg.models.classes import ClassTable
    from napari_memseg.models.reach import L

WIDTHS = (16, 32, 64, 128, 128)
SHIFTS = ("distill", "residual", "plain", "none")
MOST_LEVELS = 8
MOST_CHANNELS = 4096


class DistillDSM(Slicewise):
    """A 2D U-Net with depth shift modules.

    Learns by soft Dice of every class and Adam at 1e-4 on stacks of 16 slices; the paper
    names the loss and the optimiser, the rest is that of its code or ours.

    Parameters
    ----------
    classes : ClassTable
        What it tells apart.
    shift : str
        What neighbours exchange: "distill" as above; "plain", the channels themselves in
        the place of their own (Temporal Shift Module, https://arxiv.org/abs/1811.08383);
        "residual", the same added to their own; "none". All but the first have no weights.
    alpha : float
        Share of the channels that take part, from 0 to 1; the paper has 1/2.
    widths : sequence of int
        Channels of each level, the finest first.
    axes : str
        Along which axes the volume is sliced; see ``Slicewise``.
    align_corners : bool
        How the way up interpolates. True is as published, but stretches each slice by its
        own size: no halo then makes in-plane tiles equal the whole volume, only tiles of
        whole slices do.

    Raises
    ------
    InputError
        If an argument is none of these, or a share of a width cannot be quartered.
    """

    architecture: ClassVar[str] = "distill_dsm"
    title: ClassVar[str] = "Distill DSM, a 2D U-Net whose slices exchange learnt channels"
    paper: ClassVar[str] = "Maheshwari et al., MIDL 2021, PMLR 143 (maheshwari21a)"
    advice: ClassVar[str] = (
        "For labels painted slice by slice and few volumes to learn from: the memory of a 2D network, "
        "and eight slices of context on both sides."
    )

    def __init__(
        self,
        classes: ClassTable,
        *,
        shift: str = "distill",
        alpha: float = 0.5,
        widths: Sequence[int] = WIDTHS,
        axes: str = "z",
        align_corners: bool = False,
    ) -> None:
        super().__init__(classes, axes=axes)
        self.network = ShiftUNet(
            1, len(classes), shift=shift, alpha=alpha, widths=widths, align_corners=align_corners
        )

    @property
    def arguments(self) -> dict[str, Any]:
        """What ``__init__`` takes."""
        net = self.network
        return {
            "shift": net.shift,
            "alpha": net.alpha,
            "widths": list(net.widths),
            "axes": self.axes,
            "align_corners": net.align_corners,
        }

    @property
    def depends_on_the_tile(self) -> bool:
        """With aligned corners it does: they are a tile's."""
        return self.network.align_corners

    @property
    def multiple(self) -> int:
        """Two to the number of poolings, in pixels of a slice."""
        return int(2 ** (len(self.network.widths) - 1))

    @property
    def depth(self) -> int:
        """One slice for each module."""
        return sum(block.module is not None for block in self.network.blocks)

    def heads(self, slices: Tensor, count: int) -> tuple[Tensor, ...]:
        """Return the scores (N T, C, h, w) of stacks of ``count`` slices."""
        return (self.network(slices, count),)

    def compare(self, heads: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        """Return 1 - soft Dice, averaged over the classes that the labels hold."""
        return masked_dice(heads[0], labels)

    def trace(self, line: L) -> L:
        """Follow one axis of a slice."""
        return self.network.trace(line)


class UNet2d(DistillDSM):
    """The U-Net of Distill DSM without modules: every slice for itself.

    Parameters are those of ``DistillDSM``.
    """

    architecture: ClassVar[str] = "unet2d"
    title: ClassVar[str] = "Plain 2D U-Net, slice by slice"
    paper: ClassVar[str] = (
        "Ronneberger et al., MICCAI 2015, doi:10.1007/978-3-319-24574-4_28; as in Maheshwari et al., 2021"
    )
    advice: ClassVar[str] = (
        "The reference for networks that see slices. Take it where slices lie so far apart that neighbours "
        "tell nothing of each other."
    )

    def __init__(
        self,
        classes: ClassTable,
        *,
        widths: Sequence[int] = WIDTHS,
        axes: str = "z",
        align_corners: bool = False,
    ) -> None:
        super().__init__(classes, shift="none", widths=widths, axes=axes, align_corners=align_corners)

    @property
    def arguments(self) -> dict[str, Any]:
        """What ``__init__`` takes."""
        mine = super().arguments
        return {name: mine[name] for name in ("widths", "axes", "align_corners")}


class ShiftUNet(nn.Module):
    """The 2D network: a U-Net over (N T, channels, h, w), with modules in all blocks but the first.

    Parameters
    ----------
    channels_in, channels_out : int
        Of the image, and of the scores.
    shift, alpha, widths, align_corners
        As in ``DistillDSM``.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        shift: str = "distill",
        alpha: float = 0.5,
        widths: Sequence[int] = WIDTHS,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.shift, self.alpha, self.widths = _checked(shift, alpha, widths)
        self.align_corners = switch("align_corners", align_corners)
        first = self.widths[0]
        above = (first, *self.widths)[: len(self.widths) - 1]
        steps = list(zip(self.widths[-2::-1], above[::-1], strict=True))  # (skip, out), the deepest first
        below = (self.widths[-1], *(out for _, out in steps))
        self.encoder = nn.ModuleList([Block(channels_in, first, first, None)])
        self.encoder.extend(Block(i, o, o, self._module(o)) for i, o in pairwise(self.widths))
        self.decoder = nn.ModuleList(
            Block(skip + up, skip, out, self._module(skip))
            for (skip, out), up in zip(steps, below, strict=False)
        )
        self.head = nn.Conv2d(below[-1], channels_out, 1)

    @property
    def blocks(self) -> list[Block]:
        """All blocks, in order."""
        return [block for block in (*self.encoder, *self.decoder) if isinstance(block, Block)]

    def forward(self, slices: Tensor, count: int) -> Tensor:
        """Return scores (N T, channels, h, w) of stacks of ``count`` slices."""
        x, skips = slices, []
        for level, block in enumerate(self.encoder):
            x = block(halve_slices(x) if level else x, count)
            skips.append(x)
        for skip, block in zip(skips[-2::-1], self.decoder, strict=True):
            x = block(torch.cat([skip, self._double(x, skip)], 1), count)
        scores: Tensor = self.head(x)
        return scores

    def trace(self, line: L) -> L:
        """Follow ``forward`` along one axis; to double is to repeat, then to smooth by (1, 2, 1) / 4."""
        skips: list[L] = []
        for level, block in enumerate(self.blocks[: len(self.widths)]):
            line = block.trace(line.pool() if level else line)
            skips.append(line)
        for skip, block in zip(skips[-2::-1], self.blocks[len(self.widths) :], strict=True):
            line = block.trace(skip.join(line.repeat(skip).conv(3)))
        return line

    def _double(self, x: Tensor, skip: Tensor) -> Tensor:
        """Interpolate to twice the size, and fit that to the skip: never stretch to its size."""
        doubled = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=self.align_corners)
        return crop_or_replicate(doubled, skip)

    def _module(self, channels: int) -> Distill | Shift | None:
        part = round(self.alpha * channels)
        if self.shift == "none" or not part:
            return None
        return Distill(part) if self.shift == "distill" else Shift(part, residual=self.shift == "residual")


class Block(nn.Module):
    """Two convolutions, with or without a module between them."""

    def __init__(
        self, channels_in: int, middle: int, channels_out: int, module: Distill | Shift | None
    ) -> None:
        super().__init__()
        self.first = conv_norm_relu(channels_in, middle)
        self.module = module
        self.second = conv_norm_relu(middle, channels_out)

    def forward(self, slices: Tensor, count: int) -> Tensor:
        """Map slices (N T, channels, h, w); the size stays."""
        x = self.first(slices)
        if self.module is not None:
            x = self.module(x, count)
        mapped: Tensor = self.second(x)
        return mapped

    def trace(self, line: L) -> L:
        """Follow ``forward`` along one axis of a slice."""
        line = line.conv(3)
        return (line.conv(3) if isinstance(self.module, Distill) else line).conv(3)


class Distill(nn.Module):
    """Hand learnt channels on to both neighbours, and distill what stays.

    The three convolutions R, F and B of the paper are one here, on the last channels.

    Parameters
    ----------
    part : int
        How many channels take part: a half stays, a quarter goes to each side.
    """

    def __init__(self, part: int) -> None:
        super().__init__()
        self.part = part
        self.conv = nn.Conv2d(part, part, 3, padding=1)

    def forward(self, slices: Tensor, count: int) -> Tensor:
        """Return as many channels: untouched, retained, from the next slice, from the previous one."""
        untouched, taking_part = slices.tensor_split([slices.shape[1] - self.part], 1)
        half, quarter = self.part // 2, self.part // 4
        retained, back, forth = self.conv(taking_part).tensor_split([half, half + quarter], 1)
        return torch.cat([untouched, retained, from_next(back, count), from_previous(forth, count)], 1)


class Shift(nn.Module):
    """Hand channels on to both neighbours as they are, without weights.

    Parameters
    ----------
    part : int
        How many channels take part, the last ones: a half goes to each side.
    residual : bool
        What arrives is added to the slice's own, instead of replacing it.
    """

    def __init__(self, part: int, *, residual: bool) -> None:
        super().__init__()
        self.part, self.residual = part, residual

    def forward(self, slices: Tensor, count: int) -> Tensor:
        """Return as many channels: untouched, from the next slice, from the previous one."""
        half = self.part // 2
        channels = slices.shape[1]
        untouched, back, forth = slices.tensor_split([channels - 2 * half, channels - half], 1)
        back_there, forth_there = from_next(back, count), from_previous(forth, count)
        if self.residual:
            back_there, forth_there = back + back_there, forth + forth_there
        return torch.cat([untouched, back_there, forth_there], 1)


def _checked(shift: str, alpha: float, widths: Sequence[int]) -> tuple[str, float, tuple[int, ...]]:
    if shift not in SHIFTS:
        raise InputError(f"Slices exchange one of {', '.join(SHIFTS)}; got shift={shift!r:.100}.")
    if not isinstance(alpha, int | float) or not 0 <= alpha <= 1:
        raise InputError(f"alpha is a share of channels, from 0 to 1, got {alpha!r:.100}. Published: 0.5.")
    whole = all(isinstance(w, int) and 1 <= w <= MOST_CHANNELS for w in widths)
    if not whole or not 1 <= len(widths) <= MOST_LEVELS:
        raise InputError(
            f"A U-Net needs 1 to {MOST_LEVELS} widths, each 1 to {MOST_CHANNELS} channels, "
            f"got {widths!r:.100}. The published network has {', '.join(map(str, WIDTHS))}."
        )
    if shift != "none" and any(alpha * width % 4 for width in widths):
        raise InputError(
            f"alpha times each width must be a multiple of 4, for quarters are handed on; got {alpha=} and "
            f"widths={list(widths)}. With widths that are multiples of 16, take an alpha of 0.25, 0.5 or 1."
        )
    return shift, float(alpha), tuple(widths)
