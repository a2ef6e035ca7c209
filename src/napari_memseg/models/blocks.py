"""Parts that the networks share: the double convolution and the way back up.

Upsampling repeats every voxel twice along each axis and then crops, or replicates
the last plane, to the size of the skip. Resizing to that size would be the same
where it is even; where it is odd it shifts the grid, so that a tile and the whole
volume disagree (17 % of the labels at an axis of 318 voxels)::

    skip   0 1 2 3 4        5 voxels, pooled to 2
    coarse 0 0 1 1 1        repeated to 4, last plane replicated
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_memseg.errors import InputError
from napari_memseg.geometry import Zyx, zyx

if TYPE_CHECKING:
    from napari_memseg.geometry import Box
    from napari_memseg.models.reach import L


def double_conv(channels_in: int, channels_out: int) -> nn.Sequential:
    """Return twice a 3 x 3 x 3 convolution, batch norm and ReLU; the size stays.

    One flat sequence, so that every norm can be folded into the convolution before it.
    """
    return nn.Sequential(
        nn.Conv3d(channels_in, channels_out, 3, padding=1),
        nn.BatchNorm3d(channels_out),
        nn.ReLU(inplace=True),
        nn.Conv3d(channels_out, channels_out, 3, padding=1),
        nn.BatchNorm3d(channels_out),
        nn.ReLU(inplace=True),
    )


def halve(x: Tensor) -> Tensor:
    """Take the maximum of 2 x 2 x 2 voxels, rounding down; an axis of one voxel stays.

    Parameters
    ----------
    x : Tensor
        (N, C, z, y, x).
    """
    return F.max_pool3d(x, [min(2, n) for n in x.shape[2:]])


def repeat_and_crop(x: Tensor, size: Zyx) -> Tensor:
    """Repeat every voxel twice along each axis, then crop or replicate the last plane to ``size``.

    Parameters
    ----------
    x : Tensor
        (N, C, z, y, x).
    size : (z, y, x)
        In voxels; at most one more than twice that of ``x``.
    """
    doubled = F.interpolate(x, scale_factor=2, mode="nearest")
    z, y, x_ = size
    missing = [
        m for n, have in zip(size[::-1], doubled.shape[:1:-1], strict=True) for m in (0, max(n - have, 0))
    ]
    if any(missing):
        doubled = F.pad(doubled, missing, mode="replicate")
    return doubled[:, :, :z, :y, :x_]


def double_linear(x: Tensor, size: Zyx) -> Tensor:
    """Double (N, C, z, y, x) linearly, then crop to ``size``; resizing to an odd one would shift the grid."""
    doubled = F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)
    z, y, x_ = size
    return doubled[:, :, :z, :y, :x_]


def pad_to_box(values: Tensor, have: Box, want: Box) -> Tensor:
    """Put (..., z, y, x) that fills ``have`` into the larger box ``want``, zeros around it."""
    ends = zip(have.start, have.stop, want.start, want.stop, strict=True)
    return F.pad(values, [n for a, b, c, d in reversed(list(ends)) for n in (a - c, d - b)])


def size_of(x: Tensor) -> Zyx:
    """Return the (z, y, x) size of a tensor (N, C, z, y, x)."""
    return zyx(x.shape[2:])


def trace_double_conv(line: L) -> L:
    """Follow a ``double_conv`` along one axis."""
    return line.conv(3).conv(3)


def class_of_largest(scores: Tensor) -> Tensor:
    """Return the index of the largest of (N, C, z, y, x) scores, as uint8 (N, 1, z, y, x).

    Of equal ones the first. In passes over the classes: ``argmax`` over them costs fifty times as much on a
    CPU.
    """
    best = scores[:, 0]
    found = torch.zeros_like(best, dtype=torch.uint8)
    for index in range(1, scores.shape[1]):
        wins = scores[:, index] > best
        best = torch.where(wins, scores[:, index], best)
        found.masked_fill_(wins, index)
    return found[:, None]


def one_hot(index: Tensor, classes: int) -> Tensor:
    """Return (N, C, z, y, x) bool of class indices (N, 1, z, y, x)."""
    return index == torch.arange(classes, device=index.device).view(1, -1, 1, 1, 1)


def require_finite(scores: Tensor, what: str) -> Tensor:
    """Return scores, unless they are NaN or infinite, which must not become a class.

    Raises
    ------
    InputError
        If any is.
    """
    if not bool(scores.isfinite().all()):
        raise InputError(
            f"The scores of {what} are NaN or infinite, so that no class can be told. Try --precision "
            "float32; if it was that, the model is damaged."
        )
    return scores
