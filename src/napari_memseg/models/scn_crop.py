"""The one crop of the SpatialConfiguration-Net, kept as a vector from which every tile takes its part.

Six numbers say how far the foreground's box lies from the volume's faces. The shares of the labels
follow, on the grid of the crop that was segmented; what is left of the vector is zero::

    vector    | 6 margins | shares (n, z, y, x) of the crop | 0 0 0 ... |

    crop      |-----+-----+-----+-----|            4 voxels, over a box of 6
    tile                  |--- linear --|--- certain background ---|

Places between the crop's voxels are counted from the box's origin, so tiles agree with the whole volume.
"""

from __future__ import annotations

from math import ceil, log2, prod
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from napari_memseg.errors import InputError
from napari_memseg.geometry import Box, Zyx, zyx
from napari_memseg.models.blocks import size_of

if TYPE_CHECKING:
    from torch import Tensor

MOST_SEGMENTED: Zyx = (160, 128, 160)
"""The largest crop that is segmented in one pass, in voxels."""
MOST_LOCALISED: Zyx = (256, 80, 80)
"""The largest overview in which the foreground is looked for, in voxels."""
MOST_SHRUNK = 1.5
"""How much smaller what is segmented may be than what was learned from, which is not resampled."""
_MARGINS = 6


def fit_area(image: Tensor, most: Zyx) -> Tensor:
    """Resample (N, C, z, y, x) by area so that it fits ``most`` voxels (z, y, x); what fits stays."""
    size = size_of(image)
    smaller = fitted(size, most)
    return image if smaller == size else F.adaptive_avg_pool3d(image, smaller)


def fitted(size: Zyx, most: Zyx) -> Zyx:
    """Return ``size`` made smaller, all axes alike, so that it fits ``most``; an axis keeps one voxel."""
    times = _times(size, most)
    return zyx(max(round(n / times), 1) for n in size)


def _times(size: Zyx, most: Zyx) -> float:
    return max(1.0, *(n / m for n, m in zip(size, most, strict=True)))


def require_scale(box: Box) -> None:
    """Refuse a box that would have to be shrunk far below the scale at which the network learned.

    Raises
    ------
    InputError
        If it is more than ``MOST_SHRUNK`` times as long as the largest crop along an axis.
    """
    times = _times(box.shape, MOST_SEGMENTED)
    if times > MOST_SHRUNK:
        coarser = ceil(log2(times / MOST_SHRUNK))
        raise InputError(
            f"The foreground (where none is found, the volume) takes {_by(box.shape)} voxels. One crop has "
            f"at most {_by(MOST_SEGMENTED)}, and is shrunk by {MOST_SHRUNK} or less to fit, as the network "
            f"learned without that. Train and segment with a --level that is coarser by {coarser}."
        )


def _by(size: Zyx) -> str:
    return " x ".join(map(str, size))


def vector_length(labels: int) -> int:
    """Return the length of a vector that holds the largest crop."""
    return _MARGINS + labels * prod(MOST_SEGMENTED)


def pack(shares: Tensor, box: Box, shape: Zyx) -> Tensor:
    """Return as one vector a crop and where it lies.

    Parameters
    ----------
    shares : Tensor
        (n, z, y, x) float32, of the size ``fitted(box.shape, MOST_SEGMENTED)``.
    box : Box
        That it covers, in voxels of the volume.
    shape : (z, y, x)
        Of the volume.
    """
    vector = shares.new_zeros(vector_length(len(shares)))
    vector[:3] = vector.new_tensor(box.start)
    vector[3:_MARGINS] = vector.new_tensor(shape) - vector.new_tensor(box.stop)
    vector[_MARGINS : _MARGINS + shares.numel()] = shares.flatten()
    return vector


def unpack(vector: Tensor, labels: int, shape: Zyx) -> tuple[Tensor, Box]:
    """Return the shares (n, z, y, x) and the box that ``pack`` was given.

    A vector of zeros, as costs are measured with, is a box that fills the volume.
    """
    margins = [int(margin) for margin in vector[:_MARGINS].tolist()]
    box = Box(zyx(margins[:3]), zyx(n - m for n, m in zip(shape, margins[3:], strict=True)))
    size = (labels, *fitted(box.shape, MOST_SEGMENTED))
    return vector[_MARGINS : _MARGINS + prod(size)].view(size), box


def enlarge(shares: Tensor, box: Box, want: Box) -> Tensor:
    """Interpolate a crop linearly, where a tile needs it.

    Parameters
    ----------
    shares : Tensor
        (n, z, y, x), background first.
    box : Box
        That they cover, in voxels of the volume.
    want : Box
        The tile's.

    Returns
    -------
    Tensor
        (n, z, y, x) of ``want``; certain background outside of ``box``.
    """
    found = shares.new_zeros(len(shares), *want.shape)
    found[0] = 1
    shared = box & want
    if not shared.is_empty:
        inside, wanted = shared.relative_to(want.start).slices, shared.relative_to(box.start)
        for label, share in enumerate(shares):  # one by one, for tiles are large
            found[(label, *inside)] = _interpolate(share, box.shape, wanted)
    return found


def _interpolate(share: Tensor, size: Zyx, wanted: Box) -> Tensor:
    """Return the voxels ``wanted`` of (z, y, x) resized to ``size``, with half-pixel centres; ends repeat."""
    for axis, length in enumerate(size):
        have = share.shape[axis]
        voxels = torch.arange(wanted.start[axis], wanted.stop[axis], dtype=torch.float64)
        places = ((voxels + 0.5) * have / length - 0.5).clamp(0, have - 1)
        low = places.long()
        shares = (places - low).float().view([-1 if other == axis else 1 for other in range(3)])
        before, behind = (
            share.index_select(axis, n.to(share.device)) for n in (low, (low + 1).clamp(max=have - 1))
        )
        share = torch.lerp(before, behind, shares.to(share.device))
    return share
