"""SAU-Net: a dense 2D U-Net, whose scores of a slice are weighed by both neighbours.

Every slice is segmented for itself; then inter-slice attention makes masks of the
neighbours' maps, by a 1 x 1 convolution and a sigmoid, and adds what passes them::

    F_{i-1} ──conv──> mask ──┐
    F_i ─────────────────────┴> F_i + F_i mask_{i-1} + F_i mask_{i+1} ──> refined
    F_{i+1} ──conv──> mask ──┘

A slice at the end of the volume has one term less. F are the scores, before the softmax:
on probabilities the result could never fall below one half. Neighbours then scale what
a slice found by one to three, class by class. Or F are the features beneath the scores,
fused before they become such. The paper gives no widths; these are ours.

Zhang, Yuan, Wang and Zhang (MIDL 2020), sections 3.1 and 3.2, Figures 1 to 3,
https://proceedings.mlr.press/v121/zhang20c.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from napari_memseg.errors import InputError
from napari_memseg.models.losses import masked_cross_entropy
from napari_memseg.models.slicewise import (
    Slicewise,
    conv_norm_relu,
    crop_or_replicate,
    from_next,
    from_previous,
    halve_slices,
)

if TYPE_CHECKING:
    from napari_memseg.models.classes import ClassTable
    from napari_memseg.models.reach import L

ATTENTIONS = ("logits", "features", "none")
LEVELS = 4
"""Of poolings."""
MOST_WIDTH = 256
ROUGH = 0.5
"""Weight of the rough scores in the loss, so that they are of use by themselves."""


class SAUNet(Slicewise):
    """A dense 2D U-Net with inter-slice attention.

    Learns by the cross-entropy of the refined scores and half that of the rough ones;
    Adam at 1e-4 is the paper's, deep supervision and stacks of 16 slices are ours.

    Parameters
    ----------
    classes : ClassTable
        What it tells apart.
    width : int
        Channels of the finest level, from 1 to 256; each further level has twice as many.
    attention : str
        What neighbours weigh: "logits" as published, "features", or "none".
    axes : str
        Along which axes the volume is sliced; see ``Slicewise``.

    Raises
    ------
    InputError
        If an argument is none of these.
    """

    architecture: ClassVar[str] = "sau_net"
    title: ClassVar[str] = "SAU-Net, a dense 2D U-Net with attention between slices"
    paper: ClassVar[str] = "Zhang et al., MIDL 2020, PMLR 121:903-913 (zhang20c)"
    advice: ClassVar[str] = (
        "For stacks whose slices lie much further apart than their pixels, and for the smallest graphics "
        "cards: one slice of context on both sides."
    )

    def __init__(
        self, classes: ClassTable, *, width: int = 16, attention: str = "logits", axes: str = "z"
    ) -> None:
        super().__init__(classes, axes=axes)
        self.network = AttentiveUNet(1, len(classes), width=width, attention=attention)

    @property
    def arguments(self) -> dict[str, Any]:
        """What ``__init__`` takes."""
        return {"width": self.network.width, "attention": self.network.attention, "axes": self.axes}

    @property
    def multiple(self) -> int:
        """Two to the number of poolings, in pixels of a slice."""
        return int(2**LEVELS)

    @property
    def depth(self) -> int:
        """One slice, if there is attention."""
        return int(self.network.fuse is not None)

    def heads(self, slices: Tensor, count: int) -> tuple[Tensor, ...]:
        """Return refined and rough scores (N T, C, h, w) of stacks of ``count`` slices or only the latter."""
        heads: tuple[Tensor, ...] = self.network(slices, count)
        return heads

    def compare(self, heads: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        """Return the cross-entropy of the answer, and half that of the rough scores beneath it."""
        answer, *rough = (masked_cross_entropy(scores, labels) for scores in heads)
        return answer + ROUGH * sum(rough, torch.zeros_like(answer))

    def trace(self, line: L) -> L:
        """Follow one axis of a slice."""
        skips: list[L] = []
        for level in range(LEVELS + 1):
            line = (line.pool() if level else line).conv(3).conv(3)
            skips.append(line)
        for skip in skips[-2::-1]:
            line = skip.join(line.repeat(skip)).conv(3).conv(3)
        return line


class AttentiveUNet(nn.Module):
    """The 2D network over (N T, channels, h, w): dense U-Net, head, attention.

    Parameters
    ----------
    channels_in, channels_out : int
        Of the image, and of the scores.
    width, attention
        As in ``SAUNet``.
    """

    def __init__(
        self, channels_in: int, channels_out: int, *, width: int = 16, attention: str = "logits"
    ) -> None:
        super().__init__()
        self.width, self.attention = _checked(width, attention)
        self.dense = DenseUNet(channels_in, width)
        self.head = nn.Conv2d(self.dense.channels_out, channels_out, 1)
        fused = {"logits": channels_out, "features": self.dense.channels_out}
        self.fuse = InterSliceAttention(fused[attention]) if attention in fused else None

    def forward(self, slices: Tensor, count: int) -> tuple[Tensor, ...]:
        """Return refined and rough scores of stacks of ``count`` slices; without attention the latter."""
        features = self.dense(slices)
        rough: Tensor = self.head(features)
        if self.fuse is None:
            return (rough,)
        if self.attention == "logits":
            return self.fuse(rough, count), rough
        return self.head(self.fuse(features, count)), rough


class InterSliceAttention(nn.Module):
    """Add to each slice what its neighbours' masks let pass of it (section 3.2).

    Parameters
    ----------
    channels : int
        Of the maps, and of their masks.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.previous = nn.Conv2d(channels, channels, 1)
        self.next = nn.Conv2d(channels, channels, 1)

    def forward(self, slices: Tensor, count: int) -> Tensor:
        """Refine maps (N T, channels, h, w) of stacks of ``count`` slices.

        The mask of a slice that does not exist is zero, which drops its term.
        """
        before = from_previous(self.previous(slices).sigmoid(), count)
        behind = from_next(self.next(slices).sigmoid(), count)
        return slices + slices * before + slices * behind


class DenseUNet(nn.Module):
    """A U-Net of dense blocks, four levels above two plain convolutions (section 3.1).

    Parameters
    ----------
    channels_in : int
        Of the image.
    width : int
        Channels that a block of the finest level adds to what comes in.
    """

    def __init__(self, channels_in: int, width: int) -> None:
        super().__init__()
        self.down, self.up, self.doubled = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        channels, skips = channels_in, []
        for level in range(LEVELS):
            self.down.append(Dense(channels, width * 2**level))
            channels += width * 2**level
            skips.append(channels)
        bottom = width * 2**LEVELS
        self.bottom = nn.Sequential(*conv_norm_relu(channels, bottom), *conv_norm_relu(bottom, bottom))
        channels = bottom
        for level in reversed(range(LEVELS)):
            added = width * 2**level
            self.doubled.append(nn.ConvTranspose2d(channels, added, 2, stride=2))
            self.up.append(Dense(added + skips[level], added))
            channels = 2 * added + skips[level]
        self.channels_out = channels

    def forward(self, slices: Tensor) -> Tensor:
        """Map (N T, channels, h, w) to the features of the finest level; the size stays."""
        x: Tensor = slices
        skips = []
        for block in self.down:
            skips.append(block(x))
            x = halve_slices(skips[-1])
        x = self.bottom(x)
        for skip, doubled, block in zip(skips[::-1], self.doubled, self.up, strict=True):
            x = block(torch.cat([crop_or_replicate(doubled(x), skip), skip], 1))
        return x


class Dense(nn.Module):
    """Two convolutions, the second of which sees the input as well; it is carried to the output, too.

    Parameters
    ----------
    channels : int
        That come in.
    added : int
        That the output has more.
    """

    def __init__(self, channels: int, added: int) -> None:
        super().__init__()
        self.first = conv_norm_relu(channels, added)
        self.second = conv_norm_relu(channels + added, added)

    def forward(self, x: Tensor) -> Tensor:
        """Return the input and the second convolution's channels."""
        return torch.cat([x, self.second(torch.cat([x, self.first(x)], 1))], 1)


def _checked(width: int, attention: str) -> tuple[int, str]:
    if not isinstance(width, int) or not 1 <= width <= MOST_WIDTH:
        raise InputError(
            f"The width is a number of channels from 1 to {MOST_WIDTH}, got {width!r:.100}. The usual is 16."
        )
    if attention not in ATTENTIONS:
        raise InputError(f"Neighbours weigh one of {', '.join(ATTENTIONS)}, got attention={attention!r:.80}.")
    return width, attention
