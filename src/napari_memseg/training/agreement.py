"""Make sure that what is trained on together means the same: grey values, and lengths.

A network sees no units. Images of two dtypes, or of voxels of two sizes, would look
alike to it and be different; labels with other voxels than their image belong to
another scan.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from napari_memseg.errors import InputError
from napari_memseg.io.units import METRES
from napari_memseg.training.sources import VolumeLabels

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from napari_memseg.io.units import VoxelSize
    from napari_memseg.models.intensity import Window
    from napari_memseg.training.sources import TrainingVolume

TOLERANCE = 1.1
"""Ratio up to which two lengths are taken for the same."""


@dataclass(frozen=True, slots=True)
class _Measured:
    """Something with voxels, whose size may be known."""

    name: str
    size: VoxelSize | None
    unit: str | None

    def __str__(self) -> str:
        edges = " x ".join(f"{edge:.4g}" for edge in self.size or ())
        return f"{self.name} has voxels of {edges} {self.unit} (z, y, x)"

    def is_like(self, other: _Measured) -> bool:
        """Whether the sizes are the same, or that cannot be known."""
        if self.size is None or other.size is None or self.unit is None or other.unit is None:
            return True
        if self.unit != other.unit and not {self.unit, other.unit} <= METRES.keys():
            return True
        scale = METRES.get(self.unit, 1.0) / METRES.get(other.unit, 1.0)
        ratios = [a * scale / b for a, b in zip(self.size, other.size, strict=True)]
        return all(1 / TOLERANCE <= ratio <= TOLERANCE for ratio in ratios)


def check_voxel_sizes(volumes: Sequence[TrainingVolume]) -> None:
    """Make sure that voxel sizes, where they are known, agree up to 10 %.

    Raises
    ------
    InputError
        If two images differ, or an image and its labels; both are named.
    """
    images = [_Measured(v.image.source, v.voxel_size, v.image.unit) for v in volumes]
    for image, labels in zip(images, (volume.labels for volume in volumes), strict=True):
        if isinstance(labels, VolumeLabels):
            own = _Measured(labels.name, labels.voxel_size, labels.volume.unit)
            _require_alike([image, own], "Take the labels made for this image, or mend the size in one file")
    _require_alike(images, "Train on one size, or choose another level")


def _require_alike(measured: Iterable[_Measured], remedy: str) -> None:
    for one, other in combinations(measured, 2):
        if not one.is_like(other):
            raise InputError(
                f"{one}, but {other}: more than 10 % apart. {remedy}; "
                "`napari-memseg convert --voxel-size` writes a copy with the size that you know."
            )


def check_dtypes(volumes: Sequence[TrainingVolume], window: Window | None, origin: object = None) -> None:
    """Make sure that grey values mean the same in all images, and in the model to start from.

    Parameters
    ----------
    volumes : sequence of TrainingVolume
        To learn from, and to score on.
    window : Window, optional
        That of a model to start from.
    origin : path-like, optional
        Where that model lies, for the message.

    Raises
    ------
    InputError
        If the dtypes differ; both are named.
    """
    for volume in volumes:
        if window is not None and volume.image.dtype.name != window.dtype:
            raise InputError(
                f"{origin} was trained on {window.dtype} images, where grey values from {window.low:g} to "
                f"{window.high:g} count, but {volume.image.source} holds {volume.image.dtype.name}. "
                "Convert the image to that dtype first, or start from no model."
            )
    kinds = {volume.image.dtype.name for volume in volumes}
    if len(kinds) > 1:
        raise InputError(
            f"The training images are of different dtypes ({', '.join(sorted(kinds))}), so that one grey "
            "value means different things. Convert them to one dtype first."
        )
