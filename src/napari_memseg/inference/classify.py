"""From class scores to one id and one byte of confidence per voxel, on the device.

Scores are large (four bytes a class and voxel) and never leave the device; two
bytes a voxel do. The largest score is found in vectorised passes over the classes,
since ``argmax`` over the class axis costs fifty times as much on a CPU::

    scores (N, C, z, y, x) ──> best, second ──> ids         of the class table
                                           └──> confidence  255 x (p_best - p_second), at most 254
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_memseg.models.classes import ClassTable

HIGHEST_CONFIDENCE = 254
"""255 means "not predicted" in a confidence array."""

CACHED_VOXELS = 2**16
"""Voxels that are looked at together on a CPU: their arrays stay in its cache."""

_COUNTED = {1: (torch.uint8, torch.uint8), 2: (torch.int32, torch.int16), 4: (torch.int64, torch.int32)}
"""By bytes of an id: what it is computed in, and what has its bits: torch counts with one unsigned type."""


@dataclass(frozen=True, slots=True)
class Classified:
    """What becomes of the scores of a batch, still on the device."""

    ids: Tensor
    """(N, z, y, x): bits of the class ids, in a dtype of the size of the class table's."""
    confidence: Tensor | None
    """(N, z, y, x) uint8."""
    finite: Tensor
    """(N,) bool: whether every voxel has a best class, so that NaN never passes for background."""


def classify(scores: Tensor, classes: ClassTable, *, confidence: bool) -> Classified:
    """Take the class of the largest score; of equal ones, the first in the table.

    Parameters
    ----------
    scores : Tensor
        (N, C, z, y, x) floating point logits, one channel a class in the table's order.
    classes : ClassTable
        Gives the ids and their dtype.
    confidence : bool
        Whether to compute the byte: 255 times the difference between the two largest
        softmax probabilities.
    """
    _, narrow = _COUNTED[classes.dtype.itemsize]
    ids = torch.empty(_voxels(scores), dtype=narrow, device=scores.device)
    margin = torch.empty(_voxels(scores), dtype=torch.uint8, device=scores.device) if confidence else None
    finite = torch.ones(len(scores), dtype=torch.bool, device=scores.device)
    for part in _slabs(scores):
        best, second, ids[:, part] = _largest(scores[:, :, part], classes, runner_up=confidence)
        finite &= _are_finite(best)
        if margin is not None and second is not None:
            margin[:, part] = _margin(scores[:, :, part], best, second)
    return Classified(ids, margin, finite)


def _slabs(scores: Tensor) -> list[slice]:
    """Cut planes into slabs whose few arrays stay in a CPU's cache; a GPU takes all at once."""
    planes, plane = scores.shape[2], max(scores[0, 0, 0].numel() * len(scores), 1)
    step = max(CACHED_VOXELS // plane, 1) if scores.device.type == "cpu" else max(planes, 1)
    return [slice(z, z + step) for z in range(0, planes, step)]


def _largest(scores: Tensor, classes: ClassTable, *, runner_up: bool) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return the largest score of every voxel, perhaps the second largest, and the id of the largest."""
    wide, narrow = _COUNTED[classes.dtype.itemsize]
    best = scores[:, 0].float()
    second = torch.full_like(best, -torch.inf) if runner_up else None
    ids = torch.full_like(best, classes.ids[0], dtype=wide)
    for class_id, channel in zip(classes.ids[1:], scores[:, 1:].unbind(1), strict=True):
        score = channel.float()
        wins = (score > best).view(wide) if wide == torch.uint8 else (score > best).to(wide)
        ids = torch.maximum(ids, wins.mul_(class_id))  # ids rise, so the last to win is largest
        if second is not None:
            second = torch.maximum(second, torch.minimum(best, score))
        best = torch.maximum(best, score)  # NaN stays NaN
    return best, second, ids.to(narrow)


def _are_finite(best: Tensor) -> Tensor:
    """Say of each sample whether all its numbers are some; over all axes at once, which is the fast way."""
    ends = torch.stack([torch.stack(one.aminmax()) for one in best])
    return torch.isfinite(ends).all(1)


def _voxels(scores: Tensor) -> tuple[int, ...]:
    return (len(scores), *scores.shape[2:])


def to_ids(ids: Tensor, classes: ClassTable) -> NDArray[np.unsignedinteger]:
    """Copy ids from the device, in the class table's dtype."""
    found: NDArray[np.unsignedinteger] = ids.contiguous().cpu().numpy().view(classes.dtype)
    return found


def _margin(scores: Tensor, best: Tensor, second: Tensor) -> Tensor:
    """Return 255 x (largest - second largest softmax probability) as bytes."""
    total = torch.zeros_like(best)
    for channel in scores.unbind(1):
        total += torch.exp(channel.float() - best)
    margin = (1 - torch.exp(second - best)) / total
    return (255 * margin).round_().clamp_(0, HIGHEST_CONFIDENCE).nan_to_num_().to(torch.uint8)
