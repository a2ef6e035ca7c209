"""Patches to learn from, drawn around labelled voxels.

A class is drawn first, then a cell of the label index that holds it, then one of
its voxels there, and last a box around that voxel which stays inside the volume::

    class ──> cell ──> voxel ──> patch        two draws of three: every class alike
                                              the third: in proportion to its voxels

Batch ``i`` of seed ``s`` is a pure function of (s, i): whoever goes on with an
interrupted training meets the same patches, in whatever thread they are made. Only
patches are read, so volumes may be larger than memory.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from napari_memseg.geometry import Box, Zyx, zyx
from napari_memseg.training.augmentation import change_greys, draw_flips, flip
from napari_memseg.training.overviews import Overviews
from napari_memseg.training.samples import (
    Sample,
    alignment,
    check_arrays,
    collate,
    cut,
    expanded,
    flippable,
    mask_out,
    mirrored,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from napari_memseg.models.base import Batch, Overview, SampleSpec
    from napari_memseg.models.classes import ClassTable
    from napari_memseg.models.intensity import Window
    from napari_memseg.training.label_index import LabelIndex
    from napari_memseg.training.sources import TrainingVolume

BALANCED = 2 / 3
"""Share of the patches for which every class has the same chance."""


def place_patch(voxel: Zyx, patch: Zyx, shape: Zyx, align: Zyx, rng: np.random.Generator) -> Box:
    """Put a patch around a voxel, at random.

    Parameters
    ----------
    voxel : (z, y, x)
        Inside the volume.
    patch, shape : (z, y, x)
        Sizes of the patch and the volume. On an axis shorter than the patch, the whole axis.
    align : (z, y, x)
        The patch starts on multiples of it. With 1 it always contains the voxel; else up
        to ``align - 1`` planes at the far faces stay out of reach.
    rng : Generator
        Draws the offset.
    """
    size = np.minimum(patch, shape)
    before = rng.integers(0, size)
    start = np.clip(np.array(voxel) - before, 0, np.array(shape) - size)
    return Box.at(zyx(start - start % align), zyx(size))


@dataclass(frozen=True, eq=False, kw_only=True)
class PatchSampler:
    """Draws batches of patches.

    Attributes
    ----------
    volumes : sequence of TrainingVolume
        Where patches come from.
    index : LabelIndex
        The cells to draw from, of these volumes.
    held : LabelIndex
        Cells of which training must see no label.
    spec : SampleSpec
        What a sample of the phase is.
    classes, window
        How ids and grey values become what the network sees.
    seed : int
        Makes the draws repeatable.
    mirror : set of "z", "y", "x"
        Axes that may be flipped.
    augment : bool
        Whether grey values are changed.

    Raises
    ------
    InputError
        If a volume lacks an array that the phase needs.
    """

    volumes: Sequence[TrainingVolume]
    index: LabelIndex
    held: LabelIndex
    spec: SampleSpec
    classes: ClassTable
    window: Window
    seed: int = 0
    mirror: frozenset[str] = frozenset()
    augment: bool = True

    def __post_init__(self) -> None:
        check_arrays(self.volumes, self.spec)

    @cached_property
    def _pools(self) -> list[_Pool]:
        """Cells by the size of the patches that can be cut around them."""
        sizes = [zyx(np.minimum(self.spec.patch, volume.shape)) for volume in self.volumes]
        alike = [[n for n, own in enumerate(sizes) if own == size] for size in sorted(set(sizes))]
        pools = [_Pool(self.index, np.flatnonzero(np.isin(self.index.volume, numbers))) for numbers in alike]
        return [pool for pool in pools if pool.total]

    @cached_property
    def _frequencies(self) -> Tensor:
        """The share of each class among the labelled voxels."""
        totals = self.index.totals
        return torch.from_numpy(totals / max(int(totals.sum()), 1)).float()

    @cached_property
    def _overviews(self) -> Overviews:
        """The coarse wholes of the volumes."""
        return Overviews(
            volumes=self.volumes,
            halvings=self.spec.overview,
            classes=self.classes,
            window=self.window,
            held=self.held.boxes,
        )

    def batch(self, number: int, size: int) -> Batch:
        """Return batch ``number`` (from 0) of ``size`` patches.

        All of them have one size in voxels: where volumes are thinner than a patch,
        those that are equally thin share a batch.
        """
        rng = np.random.default_rng((self.seed, number))
        weights = np.array([pool.total for pool in self._pools])
        pool = self._pools[_pick(weights, rng)]
        patches = [self._patch(pool, np.random.default_rng((self.seed, number, i))) for i in range(size)]
        return collate(patches, self._frequencies)

    def _patch(self, pool: _Pool, rng: np.random.Generator) -> Sample:
        """Draw one patch, and change it."""
        row, klass = pool.draw(rng)
        number = int(self.index.volume[row])
        volume = self.volumes[number]
        voxel = draw_voxel(volume, self.index.box(row), klass, self.classes, rng)
        align = alignment(volume, self.spec.arrays)
        box = place_patch(voxel, self.spec.patch, volume.shape, align, rng)
        box, margin = expanded(box, self.spec.expansion)
        sample = cut(volume, box, self.spec.arrays, self.classes, self.window)
        sample = mask_out(sample, self.held.boxes(number))
        return self._change(replace(sample, margin=margin, overview=self._overviews.of(number)), volume, rng)

    def _change(self, sample: Sample, volume: TrainingVolume, rng: np.random.Generator) -> Sample:
        """Augment a patch, and all that belongs to it alike.

        With an overview the volume as a whole is flipped, and grey values stay: they would differ from its.
        """
        axes = draw_flips(self.mirror & flippable(volume, self.spec.arrays, sample.where.box), rng)
        change = self.augment and sample.overview is None
        return replace(
            sample,
            image=flip(change_greys(sample.image, rng) if change else sample.image, axes),
            labels=flip(sample.labels, axes),
            arrays={name: flip(array, axes) for name, array in sample.arrays.items()},
            where=mirrored(sample.where, axes) if sample.overview is not None else sample.where,
            overview=None if sample.overview is None else _flipped(sample.overview, axes),
        )


def _flipped(overview: Overview, axes: tuple[int, ...]) -> Overview:
    return replace(overview, image=flip(overview.image, axes), presence=flip(overview.presence, axes))


def draw_voxel(
    volume: TrainingVolume, cell: Box, klass: int, classes: ClassTable, rng: np.random.Generator
) -> Zyx:
    """Return a voxel of class index ``klass`` in a cell that holds some, each with the same chance."""
    found = classes.indices(volume.labels.read(cell), volume.labels.unlabelled) == klass
    inside = np.unravel_index(rng.choice(np.flatnonzero(found)), found.shape)
    return zyx(a + i for a, i in zip(cell.start, inside, strict=True))


class _Pool:
    """Cells whose patches have one size, and the chance of each."""

    def __init__(self, index: LabelIndex, rows: NDArray[np.int64]) -> None:
        self._rows = rows
        self._sums = index.counts[rows].cumsum(0)  # (n, C)
        self._voxels = self._sums[-1] if len(rows) else np.zeros(index.counts.shape[1], np.int64)
        self.total = int(self._voxels.sum())

    def draw(self, rng: np.random.Generator) -> tuple[int, int]:
        """Return a cell and a class index that it holds."""
        weights = self._voxels > 0 if rng.random() < BALANCED else self._voxels
        klass = _pick(weights.astype(np.int64), rng)
        place = np.searchsorted(self._sums[:, klass], rng.integers(self._voxels[klass]), side="right")
        return int(self._rows[place]), klass


def _pick(weights: NDArray[np.int64], rng: np.random.Generator) -> int:
    """Return an index, drawn in proportion to whole weights."""
    return int(np.searchsorted(weights.cumsum(), rng.integers(weights.sum()), side="right"))
