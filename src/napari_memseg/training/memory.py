"""How much a training step keeps: the tensors that wait for the gradient, in bytes.

That is what grows with the patch, and what memory-efficient training saves. It is counted by torch's own
hooks, each storage once, on any device; weights are left out, since they are there anyway.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

if TYPE_CHECKING:
    from collections.abc import Callable


def kept_for_backward(step: Callable[[], Tensor]) -> int:
    """Return the bytes that a step has kept when its loss is there.

    Parameters
    ----------
    step : callable
        Computes a loss, in training mode.
    """
    sizes: dict[int, int] = {}
    alive: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        base = tensor if tensor._base is None else tensor._base
        if not isinstance(base, nn.Parameter):
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # or its memory is given to the next, which would be counted as the same
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = step()
    del loss
    return sum(sizes.values())
