"""How good a network is on voxels that it does not learn from.

A few cells, always the same, are predicted and compared with their labels. Counts
are summed over them, voxel by voxel, and Dice is taken once from the sums; voxels
without a label count nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from napari_memseg.errors import TrainingError
from napari_memseg.geometry import Box, Zyx, zyx
from napari_memseg.models.classes import IGNORE, ClassTable
from napari_memseg.training.label_index import LabelIndex, hold_back, index_labels
from napari_memseg.training.overviews import Overviews
from napari_memseg.training.patches import draw_voxel
from napari_memseg.training.samples import Sample, alignment, check_arrays, collate, cut, expanded, keep_only
from napari_memseg.training.sources import count_ids

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from napari_memseg.models.base import Batch, Loss, SampleSpec
    from napari_memseg.models.intensity import Window
    from napari_memseg.training.sources import TrainingVolume

SHARE = 0.15
"""Of the voxels of each class, held back where there are no validation volumes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What a validation found."""

    dice: dict[int, float]
    """Per class id, for the classes that the labels of the held-back cells hold."""
    loss: float
    """Mean over the cells."""

    @property
    def value(self) -> float:
        """The number that decides which weights are kept: higher is better.

        The mean Dice without background; where a phase makes no class scores, minus the loss.
        """
        found = [dice for class_id, dice in self.dice.items() if class_id] or list(self.dice.values())
        return sum(found) / len(found) if found else -self.loss


@dataclass(frozen=True, eq=False, kw_only=True)
class Validation:
    """The patches that are scored, one around each cell that training never sees.

    Attributes
    ----------
    volumes : sequence of TrainingVolume
        In which the cells lie.
    cells : LabelIndex
        What is scored: each cell once, or as much of it as a patch covers.
    spec, classes, window
        As for training.
    """

    volumes: Sequence[TrainingVolume]
    cells: LabelIndex
    spec: SampleSpec
    classes: ClassTable
    window: Window

    def __post_init__(self) -> None:
        check_arrays(self.volumes, self.spec)

    def run(self, step: Callable[[Batch], Loss]) -> Scores:
        """Score ``step``, which gets batches of one patch; the caller switches gradients off."""
        counts, losses = np.zeros((len(self.classes),) * 2, np.int64), []
        for sample in self.samples():
            loss = step(collate([sample]))
            losses.append(float(loss.value))
            if loss.scores is not None:
                counts += confusion(loss.scores[0].argmax(0).cpu(), sample.labels, len(self.classes))
        return Scores(dice=dice_of(counts, self.classes), loss=float(np.mean(losses)))

    def samples(self) -> Iterator[Sample]:
        """Yield the patches, labels outside the cell left out."""
        for row, number in enumerate(self.cells.volume.tolist()):
            volume, cell = self.volumes[number], self.cells.box(row)
            align = alignment(volume, self.spec.arrays)
            box = centre_patch(self._middle(row), self.spec.patch, volume.shape, align)
            around, margin = expanded(box, self.spec.expansion)
            sample = keep_only(cut(volume, around, self.spec.arrays, self.classes, self.window), cell & box)
            yield replace(sample, margin=margin, overview=self._overviews.of(number))

    @cached_property
    def _overviews(self) -> Overviews:
        """The coarse wholes of the volumes, with no label: scores are what is asked for."""
        return Overviews(
            volumes=self.volumes, halvings=self.spec.overview, classes=self.classes, window=self.window
        )

    def _middle(self, row: int) -> Zyx:
        """Return the middle of a cell; if a patch cannot cover it, a voxel of its rarest class."""
        cell, volume = self.cells.box(row), self.volumes[int(self.cells.volume[row])]
        if (np.array(self.spec.patch) >= cell.shape).all():
            return zyx((a + b) // 2 for a, b in zip(cell.start, cell.stop, strict=True))
        here = self.cells.counts[row] > 0
        rarest = int(np.where(here, self.cells.totals, np.iinfo(np.int64).max).argmin())
        return draw_voxel(volume, cell, rarest, self.classes, np.random.default_rng(row))


def centre_patch(middle: Zyx, patch: Zyx, shape: Zyx, align: Zyx) -> Box:
    """Return the patch around a voxel, inside a volume of ``shape``."""
    size = np.minimum(patch, shape)
    start = np.clip(np.array(middle) - size // 2, 0, np.array(shape) - size)
    return Box.at(zyx(start - start % align), zyx(size))


def confusion(guess: Tensor, truth: Tensor, classes: int) -> NDArray[np.int64]:
    """Count labelled voxels by class index: (C, C), rows are the truth."""
    known = truth != IGNORE
    pairs = truth[known] * classes + guess[known]
    return torch.bincount(pairs, minlength=classes * classes).reshape(classes, classes).numpy()


def dice_of(counts: NDArray[np.int64], classes: ClassTable) -> dict[int, float]:
    """Return Dice per class id, of the classes that the truth holds."""
    both, truth, guess = np.diag(counts), counts.sum(1), counts.sum(0)
    return {c.id: float(2 * both[i] / (truth[i] + guess[i])) for i, c in enumerate(classes) if truth[i]}


def split(
    index: LabelIndex, validation: Sequence[TrainingVolume], classes: ClassTable, *, most: int, seed: int
) -> tuple[NDArray[np.bool_], LabelIndex]:
    """Choose what is scored: cells of the validation volumes, or cells held back from training.

    Returns
    -------
    held : (n,) bool
        Cells of ``index`` that training must not see.
    cells : LabelIndex
        What is scored; its volumes are the validation volumes, or those of ``index``.

    Raises
    ------
    TrainingError
        If a validation volume holds none of the classes.
    """
    choose = partial(hold_back, most=most, seed=seed)
    if not validation:
        held = choose(index, SHARE)
        return held, index.take(held)
    given = index_labels(validation, classes)
    for number, volume in enumerate(validation):
        if not (given.volume == number).any():
            raise TrainingError(
                f"The labels {getattr(volume.labels, 'name', '')} to validate with hold the ids "
                f"{sorted(count_ids(volume.labels))}, and none of the classes that are learned, "
                f"{list(classes.ids)}. Choose labels with the same ids, or leave out this validation pair."
            )
    return np.zeros(len(index), bool), given.take(choose(given, 1.0, limit=1.0))
