"""Parts of the SpatialConfiguration-Net: its U-Nets, its ways up and down, its fusion.

Two networks look at one place. Where the spatial one is sure of itself it is
believed, where it is undecided the local one is::

    local logit l     --sigmoid-->  p ------------- x u ---------+
    spatial logit s   --sigmoid-->  q ------------- x (1 - u) ---+--> y --> y / sum of y
                                    +-- entropy --> u

Everything is anchored on the coarse grid, and what is missing at a far face of odd
size is left out of a mean, so that a tile and the whole volume agree to the voxel.

Thaler, Payer, Bischof and Štern (FLARE 2021), arXiv:2111.13630
"""

from __future__ import annotations

from math import ceil, log
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_memseg.models.blocks import double_linear, size_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_memseg.models.reach import L

SLOPE = 0.1
"""Of the leaky ReLU."""
CUBIC_REACH = 2
"""Coarse cells that cubic upsampling looks at, to either side."""
LEAST = 1e-8
"""Added to sums that are divided by, and the least share of which a logarithm is taken."""
MAP_DROPOUT = 1 - 0.75**2
"""Chance that the spatial part does not see a label's map while it learns."""
IMAGE_DROPOUT = 0.5
"""The same of the image."""
NOISE_RATE = 0.01
"""Of salt-and-pepper noise on these maps."""
NOISE_SCALES = (1, 2, 4, 8)
"""Edges of the blocks, in cells, that salt-and-pepper noise comes in."""
PENALTY = 1e-6
"""Weight of the squared kernels in the loss."""
_TRUNCATED = 0.87962566103423978
"""Standard deviation of a standard normal that is cut off at 2."""


class UNet(nn.Module):
    """A U-Net of one width, without norms: mean pooling, linear upsampling, leaky ReLU.

    The deepest level has four convolutions in a row, the others two on each side.

    Parameters
    ----------
    channels_in, channels_out : int
        Of the image, and of the 1 x 1 x 1 convolution at the end.
    width, levels : int
        Channels of every map, and resolutions.
    dropout : float
        After every 3 x 3 x 3 convolution.
    """

    def __init__(self, channels_in: int, channels_out: int, width: int, levels: int, dropout: float) -> None:
        super().__init__()
        into = [channels_in, *[width] * (levels - 1)]
        out_of = [width, *[2 * width] * (levels - 1)]
        self.contracting = nn.ModuleList(_two_convs(c, width, dropout) for c in into)
        self.expanding = nn.ModuleList(_two_convs(c, width, dropout) for c in out_of)  # the deepest first
        self.head = nn.Conv3d(width, channels_out, 1)
        self.apply(_initialise)

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, channels_in, z, y, x) of any size to logits (N, channels_out, z, y, x)."""
        x, skips = image, []
        for level, block in enumerate(self.contracting):
            x = block(halve_mean(x) if level else x)
            skips.append(x)
        x = self.expanding[0](skips.pop())
        for block in list(self.expanding)[1:]:
            skip = skips.pop()
            x = block(torch.cat([skip, double_linear(x, size_of(skip))], 1))
        logits: Tensor = self.head(x)
        return logits

    def trace(self, line: L) -> L:
        """Follow ``forward`` along one axis; see ``models/reach.py``."""
        return _trace(line, len(self.contracting))


def _trace(line: L, levels: int) -> L:
    """Follow a ``UNet`` of any width along one axis."""
    skips: list[L] = []
    for level in range(levels):
        line = (line.average() if level else line).conv(3).conv(3)
        skips.append(line)
    line = skips.pop().conv(3).conv(3)
    for skip in skips[::-1]:
        line = skip.join(line.interpolate(skip)).conv(3).conv(3)
    return line


def _two_convs(channels_in: int, width: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(channels_in, width, 3, padding=1),
        nn.LeakyReLU(SLOPE, inplace=True),
        nn.Dropout(dropout),
        nn.Conv3d(width, width, 3, padding=1),
        nn.LeakyReLU(SLOPE, inplace=True),
        nn.Dropout(dropout),
    )


def _initialise(module: nn.Module) -> None:
    """Draw weights as He et al. 2015 (arXiv:1502.01852), cut off at two standard deviations; biases 0."""
    if isinstance(module, nn.Conv3d):
        deviation = (2 / module.weight[0].numel()) ** 0.5 / _TRUNCATED
        nn.init.trunc_normal_(module.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class SpatialNets(nn.Module):
    """One small U-Net a label, which sees the image and the maps of the *other* labels.

    Parameters
    ----------
    labels : int
        Background, the first, included; its map is never looked at.
    width, levels, dropout
        Of each ``UNet``.
    """

    def __init__(self, labels: int, width: int, levels: int, dropout: float) -> None:
        super().__init__()
        self.levels = levels
        self.nets = nn.ModuleList(
            UNet(1 + len(_others(label, labels)), 1, width, levels, dropout) for label in range(labels)
        )

    def forward(self, image: Tensor, maps: Tensor) -> Tensor:
        """Map a ``centred`` image (N, 1, z, y, x) and maps (N, n, z, y, x), coarse, to logits like them."""
        labels = maps.shape[1]
        seen = (torch.cat([image, maps[:, _others(label, labels)]], 1) for label in range(labels))
        return torch.cat([net(x) for net, x in zip(self.nets, seen, strict=True)], 1)

    def trace(self, line: L) -> L:
        """Follow ``forward`` along one axis, in coarse cells."""
        return _trace(line, self.levels)


def _others(label: int, labels: int) -> list[int]:
    return [other for other in range(1, labels) if other != label]


class Configuration(nn.Module):
    """The local U-Net and the spatial ones behind it, as they learn together.

    Parameters
    ----------
    labels : int
        Background included.
    widths, levels : (local, spatial)
        Of the U-Nets.
    dropout : float
        Inside of them.
    """

    def __init__(self, labels: int, widths: Sequence[int], levels: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.local = UNet(1, labels, widths[0], levels[0], dropout)
        self.spatial = SpatialNets(labels, widths[1], levels[1], dropout)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Map a ``centred`` image (N, 1, z, y, x) of any size to local and to spatial logits (N, n, z, y, x).

        The spatial part teaches the local one nothing. While it learns, its inputs are disturbed.
        """
        local = self.local(image)
        maps, small = quarter(local.detach().float().sigmoid()), quarter(image)
        if self.training:
            maps = F.dropout3d(salt_and_pepper(maps, NOISE_RATE), MAP_DROPOUT)
            small = F.dropout3d(small, IMAGE_DROPOUT)
        spatial = quadruple_cubic(self.spatial(small, maps))
        return local, spatial[_first(image.shape[2:])]


def _first(size: Sequence[int]) -> tuple[Any, ...]:
    """Return the index of as many voxels from the first."""
    return (..., *(slice(n) for n in size))


def centred(image: Tensor) -> Tensor:
    """Map grey values of the window, from [0, 1] to [-1, 1], as these U-Nets know them.

    Zeros, which convolutions and crops have around them and which dropout leaves of an image, are then the
    middle of the window, not its end.
    """
    return 2 * image - 1


def penalty(network: nn.Module) -> Tensor:
    """Return 1e-6 times the sum of squared 3 x 3 x 3 kernels; biases and the 1 x 1 x 1 heads are free."""
    kernels = [p for p in network.parameters() if p.shape[2:] == (3, 3, 3)]
    return PENALTY * torch.stack([kernel.square().sum() for kernel in kernels]).sum()


def halve_mean(x: Tensor) -> Tensor:
    """Average 2 x 2 x 2 voxels of (N, C, z, y, x), at a far face of odd size those that there are."""
    return F.avg_pool3d(x, [min(2, n) for n in x.shape[2:]], ceil_mode=True)


def quarter(x: Tensor) -> Tensor:
    """Average 4 x 4 x 4 voxels as the engine makes ``image@2``: halved twice."""
    return halve_mean(halve_mean(x))


def cubic_weights() -> list[list[float]]:
    """Return the weights of the cells j - 2 to j + 2 in each of the four voxels of cell j.

    The kernel of Keys (1981) with a = -1/2, https://doi.org/10.1109/TASSP.1981.1163711,
    at the voxels' centres, (2 i - 3) / 8 cells from that of their own.
    """
    cells = range(-CUBIC_REACH, CUBIC_REACH + 1)
    return [[_keys(abs(cell - (2 * i - 3) / 8)) for cell in cells] for i in range(4)]


def _keys(d: float) -> float:
    if d <= 1:
        return 1.5 * d**3 - 2.5 * d**2 + 1
    return -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2 if d < 2 else 0.0


def quadruple_cubic(x: Tensor) -> Tensor:
    """Make 4 x 4 x 4 voxels of every cell of (N, C, z, y, x), cubically, in float32; ends are repeated."""
    x = x.float()
    for axis in (2, 3, 4):
        length = x.shape[axis]
        cells = torch.arange(-CUBIC_REACH, length + CUBIC_REACH, device=x.device).clamp(0, length - 1)
        repeated = x.index_select(axis, cells)
        taps = [repeated.narrow(axis, k, length) for k in range(2 * CUBIC_REACH + 1)]
        x = torch.stack([_weighted(row, taps) for row in cubic_weights()], axis + 1)
        x = x.flatten(axis, axis + 1)
    return x


def _weighted(weights: Sequence[float], taps: Sequence[Tensor]) -> Tensor:
    total = torch.zeros_like(taps[0])
    for weight, tap in zip(weights, taps, strict=True):
        total = torch.add(total, tap, alpha=weight) if weight else total
    return total


def fuse(local: Tensor, spatial: Tensor) -> Tensor:
    """Weigh the parts by the entropy of the spatial one, and normalise over the labels.

    Parameters
    ----------
    local, spatial : Tensor
        Logits (N, n, z, y, x).

    Returns
    -------
    Tensor
        (N, n, z, y, x) in [0, 1], float32, whose sum over labels is 1.
    """
    u, s = doubt(spatial), spatial.float()
    y = local.float().sigmoid() * u + s.sigmoid() * (1 - u)
    return y / (y.sum(1, keepdim=True) + LEAST)


def log_shares(shares: Tensor) -> Tensor:
    """Return class scores whose softmax the shares are."""
    return shares.clamp(min=LEAST).log()


def doubt(logits: Tensor) -> Tensor:
    """Return the entropy in bits of a coin with these logits: 1 where undecided, 0 where sure; float32."""
    distance = logits.float().abs()
    return (F.softplus(-distance) + distance * torch.sigmoid(-distance)) / log(2)


def salt_and_pepper(maps: Tensor, rate: float) -> Tensor:
    """Set blocks of (N, C, z, y, x) to 0 or 1, each of a scale with chance ``rate``."""
    for scale in NOISE_SCALES:
        blocks = [ceil(n / scale) for n in maps.shape[2:]]
        drawn = torch.rand(*maps.shape[:2], *blocks, device=maps.device)
        drawn = F.interpolate(drawn, scale_factor=scale, mode="nearest")[_first(maps.shape[2:])]
        maps = torch.where(drawn < rate, (drawn < rate / 2).to(maps.dtype), maps)
    return maps


def pad_to(x: Tensor, multiple: int) -> tuple[Tensor, tuple[Any, ...]]:
    """Put zeros around (N, C, z, y, x), evenly, up to a multiple; say where it lies in that."""
    missing = [-n % multiple for n in x.shape[2:]]
    around = [n for m in reversed(missing) for n in (m // 2, m - m // 2)]
    inside = tuple(slice(m // 2, m // 2 + n) for m, n in zip(missing, x.shape[2:], strict=True))
    return F.pad(x, around), inside
