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
    wide, narrow = _COUNTED[classes.dtype.itemsize]
    best = scores[:, 0].float()
    second = torch.full_like(best, -torch.inf) if confidence else None
    ids = torch.zeros_like(best, dtype=wide)
    for class_id, channel in zip(classes.ids[1:], scores[:, 1:].unbind(1), strict=True):
        score = channel.float()
        ids = torch.maximum(
            ids, (score > best).to(wide).mul_(class_id)
        )  # ids rise, so the last to win is largest
        if second is not None:
            second = torch.maximum(second, torch.minimum(best, score))
        best = torch.maximum(best, score)  # NaN stays NaN
    finite = torch.isfinite(best.amax((1, 2, 3))) & torch.isfinite(best.amin((1, 2, 3)))
    margin = None if second is None else _margin(scores, best, second)
    return Classified(ids.to(narrow), margin, finite)


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
