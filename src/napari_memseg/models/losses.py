"""What a network is told about its scores, where somebody has an opinion.

Soft Dice plus cross-entropy (Isensee et al. 2021, https://doi.org/10.1038/s41592-020-01008-z).
A voxel labelled ``IGNORE`` takes no part: neither its scores nor a gradient, not
even a NaN, come through. Sums run over the whole batch, and only classes that the
batch's labels hold have a Dice, since of the others a few strokes say nothing::

    loss = mean of (1 - Dice) over the classes that are there
         + mean of cross-entropy over the voxels that are known
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from napari_memseg.models.classes import IGNORE

SMOOTH = 1e-5
"""Keeps a Dice of nothing finite."""


def masked_dice_ce(scores: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return soft Dice plus cross-entropy over the voxels that are labelled.

    Parameters
    ----------
    scores : Tensor
        (N, C, z, y, x) logits of any float dtype; computed in float32.
    labels : Tensor
        (N, z, y, x) int64 class indices, or ``IGNORE``.
    weights : Tensor, optional
        (C,) of the classes, in the cross-entropy alone; even by default.

    Returns
    -------
    Tensor
        A scalar; zero, with zero gradients, if no voxel is labelled.
    """
    clean, known = _known(scores, labels)
    return _dice(clean, labels, known) + _cross_entropy(clean, labels, weights)


def masked_dice(scores: Tensor, labels: Tensor) -> Tensor:
    """Return soft Dice alone, as in ``masked_dice_ce``."""
    clean, known = _known(scores, labels)
    return _dice(clean, labels, known)


def masked_cross_entropy(scores: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return cross-entropy alone, as in ``masked_dice_ce``."""
    clean, _ = _known(scores, labels)
    return _cross_entropy(clean, labels, weights)


def masked_sigmoid_cross_entropy(logits: Tensor, labels: Tensor, first: int = 0) -> Tensor:
    """Return the cross-entropy of each class's own coin: the mean over channels and labelled voxels.

    Parameters
    ----------
    logits : Tensor
        (N, C, ...) of any float dtype, one channel a class; computed in float32.
    labels : Tensor
        (N, ...) int64 class indices, or ``IGNORE``.
    first : int
        Class of the first channel: 1 where background has none.

    Returns
    -------
    Tensor
        A scalar; zero, with zero gradients, if no voxel is labelled.
    """
    clean, known = _known(logits, labels)
    channels = clean.movedim(1, -1)
    truth = labels[..., None] == torch.arange(first, first + channels.shape[-1], device=labels.device)
    each = F.binary_cross_entropy_with_logits(channels, truth.float(), reduction="none") * known[..., None]
    return each.sum() / (known.sum() * channels.shape[-1]).clamp(min=1)


def _known(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return scores in float32, zero where nobody has an opinion, and where somebody has."""
    known = labels != IGNORE
    return scores.float().masked_fill(~known[:, None], 0), known


def _dice(scores: Tensor, labels: Tensor, known: Tensor) -> Tensor:
    """Return the mean of 1 - Dice over the classes that occur; zero if none does."""
    truth = F.one_hot(labels.clamp(min=0), scores.shape[1]).movedim(-1, 1) * known[:, None]
    guess = scores.softmax(1) * known[:, None]
    axes = (0, 2, 3, 4)
    both, sizes = (guess * truth).sum(axes), guess.sum(axes) + truth.sum(axes)
    there = truth.sum(axes) > 0
    per_class = 1 - (2 * both + SMOOTH) / (sizes + SMOOTH)  # (C,)
    return (per_class * there).sum() / there.sum().clamp(min=1)


def _cross_entropy(scores: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    """Return the weighted mean over known voxels; zero if there is none."""
    even = scores.new_ones(scores.shape[1])
    weights = even if weights is None else weights.to(even)
    total = F.cross_entropy(scores, labels, weights, ignore_index=IGNORE, reduction="sum")
    count = (weights[labels.clamp(min=0)] * (labels != IGNORE)).sum()
    return total / count.clamp(min=SMOOTH)
