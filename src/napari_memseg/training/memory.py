"""How much memory a training step takes: on a GPU its peak, elsewhere the tensors that wait for the gradient.

The latter grow with the patch, and are what memory-efficient training saves. They are counted by torch's
own hooks, each storage once, without weights, on any device.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BYTES_A_WEIGHT = 16
"""Of a weight, its gradient and Adam's two moments, in float32."""


class Kept:
    """The tensors that were kept so far."""

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}
        self._alive: list[Tensor] = []

    @property
    def bytes(self) -> int:
        """Of all of them, each storage once."""
        return sum(self._sizes.values())

    def note(self, tensor: Tensor) -> Tensor:
        """Take note of one tensor, unless it is a weight."""
        base = tensor if tensor._base is None else tensor._base
        if not isinstance(base, nn.Parameter):
            storage = tensor.untyped_storage()
            self._sizes[storage.data_ptr()] = storage.nbytes()
            self._alive.append(tensor)  # or its memory goes to another, and both count as one
        return tensor

    def forget(self) -> None:
        """Let go of the tensors; the count stays."""
        self._alive.clear()


@contextmanager
def counted() -> Iterator[Kept]:
    """Count what is kept for the gradient inside the block."""
    kept = Kept()
    with saved_tensors_hooks(kept.note, lambda tensor: tensor):
        yield kept
    kept.forget()


def kept_for_backward(step: Callable[[], Tensor]) -> int:
    """Return the bytes that a step has kept when its loss is there.

    Parameters
    ----------
    step : callable
        Computes a loss, in training mode.
    """
    with counted() as kept:
        loss = step()
    del loss
    return kept.bytes


@contextmanager
def measured(device: torch.device, weights: int) -> Iterator[Callable[[], int]]:
    """Measure a step; inside and after the block the function that is given tells its bytes.

    Parameters
    ----------
    device : torch.device
        On CUDA: the peak of what is allocated. Else: what is kept, and ``BYTES_A_WEIGHT`` a weight.
    weights : int
        Number of weights that are trained.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: int(torch.cuda.max_memory_allocated(device))
        return
    with counted() as kept:
        yield lambda: kept.bytes + BYTES_A_WEIGHT * weights


def line_through(first: tuple[int, float], second: tuple[int, float], voxels: int) -> float:
    """Forecast what patches of so many voxels keep, from (voxels, bytes) of two smaller ones.

    By the line through both, unless it falls: some of what is kept does not grow with the patch.
    """
    (few, little), (some, more) = first, second
    slope = (more - little) / (some - few) if some > few else 0.0
    return more + max(slope, 0.0) * (voxels - some)
