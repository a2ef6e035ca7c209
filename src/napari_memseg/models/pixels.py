"""A pixel classifier: filters of known kinds, and a small network that weighs them, voxel by voxel.

It is what people reach for first, as in ilastik (Berg et al. 2019, https://doi.org/10.1038/s41592-019-0582-9):
what is learned is so little that ten strokes and a few seconds are enough. The filters are derivatives of
Gaussians at several widths; nothing of them is learned::

    image ──┬─ smoothed ──┬─ gradient's length, Laplacian, 3 eigenvalues of the Hessian ──┐
    (for each width)      └─ 3 eigenvalues of the structure tensor ───────────────────────┤
                                                                norm ─> 32 ─> 32 ─> classes
"""

from __future__ import annotations

from itertools import combinations_with_replacement
from math import ceil, exp
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_memseg.errors import InputError
from napari_memseg.models.arguments import whole_number
from napari_memseg.models.base import Recipe
from napari_memseg.models.plain import PlainModel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_memseg.geometry import Zyx
    from napari_memseg.models.classes import ClassTable
    from napari_memseg.models.reach import L

FILTERS = 9
"""Features at each width."""
TRUNCATE = 3.0
"""A Gaussian ends at so many standard deviations."""
PAIRS = tuple(combinations_with_replacement(range(3), 2))
"""zz, zy, zx, yy, yx, xx."""
WIDEST, MOST_HIDDEN = 16.0, 4096


class PixelClassifier(PlainModel):
    """Filters at several widths, and two hidden layers on each voxel's.

    Parameters
    ----------
    classes : ClassTable
        What it tells apart.
    sigmas : sequence of float
        Standard deviations of the Gaussians, in voxels.
    hidden : int
        Channels of the hidden layers.

    Raises
    ------
    InputError
        If a width is not above 0 and at most 16, or there are no hidden channels.
    """

    architecture: ClassVar[str] = "pixels"
    title: ClassVar[str] = "Pixel classifier: known filters, learned in seconds from strokes"
    advice: ClassVar[str] = (
        "The first thing to try: a few strokes and some seconds tell materials and textures apart, no shapes."
    )
    paper: ClassVar[str] = "Berg et al., Nature Methods 2019, doi:10.1038/s41592-019-0582-9 (its filters)"
    patch: ClassVar[Zyx] = (32, 32, 32)
    recipe: ClassVar[Recipe] = Recipe(learning_rate=1e-2, batch=4)

    def __init__(
        self, classes: ClassTable, *, sigmas: Sequence[float] = (0.7, 1.6, 3.5), hidden: int = 32
    ) -> None:
        super().__init__(classes)
        if not sigmas or not all(0 < sigma <= WIDEST for sigma in sigmas):
            raise InputError(
                f"sigmas={sigmas!r:.100} is impossible: give widths above 0 and up to {WIDEST:g} voxels, "
                "such as [0.7, 1.6, 3.5]."
            )
        self.sigmas, self.hidden = tuple(map(float, sigmas)), whole_number("hidden", hidden, 1, MOST_HIDDEN)
        self.norm = SeenNorm(FILTERS * len(self.sigmas))
        self.layers = nn.Sequential(
            nn.Conv3d(FILTERS * len(self.sigmas), hidden, 1),
            nn.ReLU(inplace=True),
            nn.Conv3d(hidden, hidden, 1),
            nn.ReLU(inplace=True),
            nn.Conv3d(hidden, len(classes), 1),
        )

    @property
    def arguments(self) -> dict[str, Any]:
        """Widths of filters and layers."""
        return {"sigmas": list(self.sigmas), "hidden": self.hidden}

    @property
    def multiple(self) -> int:
        """It has no grid."""
        return 1

    def forward(self, image: Tensor) -> Tensor:
        """Map a normalised image (N, 1, z, y, x) of any size to scores (N, C, z, y, x)."""
        with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            found = torch.cat([features(image.float(), sigma) for sigma in self.sigmas], 1)
        scores: Tensor = self.layers(self.norm(found))
        return scores

    def trace(self, line: L) -> L:
        """Follow ``forward`` along one axis."""
        found = [line.conv(_length(sigma)).conv(3).conv(3).conv(_length(sigma / 2)) for sigma in self.sigmas]
        joined = found[0]
        for other in found[1:]:
            joined = joined.join(other)
        return joined


class SeenNorm(nn.BatchNorm3d):
    """Norm by the mean and variance of all that was seen so far, also while learning.

    A batch norm would make a patch of bone alone look like one of air alone; nothing before this norm learns,
    so what was seen is as good a measure as the batch.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Take note of (N, C, z, y, x) if it is learned from, and norm it."""
        mean, variance, seen = self.running_mean, self.running_var, self.num_batches_tracked
        assert mean is not None
        assert variance is not None
        assert seen is not None
        if self.training:
            with torch.no_grad():
                seen += 1
                square = variance + mean**2
                square += ((x * x).mean((0, 2, 3, 4)) - square) / seen
                mean += (x.mean((0, 2, 3, 4)) - mean) / seen
                variance.copy_((square - mean**2).clamp(min=0))
        return F.batch_norm(x, mean, variance, self.weight, self.bias, False, 0.0, self.eps)


def features(image: Tensor, sigma: float) -> Tensor:
    """Return the filters of one width: (N, 9, z, y, x), of order 1 for grey values of order 1.

    Smoothed grey value, length of the gradient, Laplacian, eigenvalues of the Hessian and of the structure
    tensor (smoothed by half of ``sigma``); derivatives are differences of neighbours times ``sigma``.
    """
    smooth = gaussian(image, sigma)
    slopes = [sigma * _slope(smooth, axis) for axis in range(3)]
    hessian = [sigma * _slope(slopes[a], b) for a, b in PAIRS]
    tensor = [gaussian(slopes[a] * slopes[b], sigma / 2) for a, b in PAIRS]
    length = torch.sqrt(sum((slope * slope for slope in slopes), torch.zeros_like(smooth)))
    laplacian = hessian[0] + hessian[3] + hessian[5]
    roots = [root.abs().sqrt() for root in eigenvalues(tensor)]
    return torch.cat([smooth, length, laplacian, *eigenvalues(hessian), *roots], 1)


def gaussian(x: Tensor, sigma: float) -> Tensor:
    """Smooth (N, 1, z, y, x), axis by axis; beyond the faces the last plane goes on."""
    radius = ceil(TRUNCATE * sigma)
    weights = torch.tensor([exp(-0.5 * (i / sigma) ** 2) for i in range(-radius, radius + 1)])
    kernel = (weights / weights.sum()).to(x)
    for axis in range(3):
        shape = [1] * 5
        shape[2 + axis] = len(kernel)
        x = F.conv3d(_padded(x, axis, radius), kernel.view(shape))
    return x


def eigenvalues(parts: Sequence[Tensor]) -> list[Tensor]:
    """Return the eigenvalues of symmetric 3 x 3 matrices, the largest first.

    By the trigonometric formula of Smith (1961), https://doi.org/10.1145/355578.366316

    Parameters
    ----------
    parts : sequence of six Tensors
        zz, zy, zx, yy, yx, xx.
    """
    zz, zy, zx, yy, yx, xx = parts
    mean = (zz + yy + xx) / 3
    a, b, c = zz - mean, yy - mean, xx - mean
    off = zy * zy + zx * zx + yx * yx
    size = torch.sqrt(((a * a + b * b + c * c) + 2 * off) / 6).clamp(min=1e-12)
    determinant = a * (b * c - yx * yx) - zy * (zy * c - yx * zx) + zx * (zy * yx - b * zx)
    turn = torch.acos((determinant / (2 * size**3)).clamp(-1, 1)) / 3
    first = mean + 2 * size * torch.cos(turn)
    last = mean + 2 * size * torch.cos(turn + 2 * torch.pi / 3)
    return [first, 3 * mean - first - last, last]


def _slope(x: Tensor, axis: int) -> Tensor:
    """Return half the difference of both neighbours along an axis."""
    wide, length = _padded(x, axis, 1), x.shape[2 + axis]
    return (wide.narrow(2 + axis, 2, length) - wide.narrow(2 + axis, 0, length)) / 2


def _padded(x: Tensor, axis: int, radius: int) -> Tensor:
    """Let the last planes along an axis go on for ``radius`` voxels."""
    ends = [0] * 6
    ends[2 * (2 - axis)] = ends[2 * (2 - axis) + 1] = radius
    return F.pad(x, ends, mode="replicate")


def _length(sigma: float) -> int:
    return 2 * ceil(TRUNCATE * sigma) + 1
