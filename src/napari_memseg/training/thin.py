"""Keep gradients true where torch gets them wrong: 3D convolutions of what is thinner than their kernel.

On a CPU with AVX512_BF16, torch 2.13 computes the weight gradient of such a convolution in bfloat16 from
memory that nobody filled, and writes beyond its own: NaN, numbers of 1e30, a crash later on. Seen on an AMD
EPYC for kernels of 3 at a depth of 2, of 5 at 2 to 4, of 7 at 2 to 6, whatever the height, width and
channels; the lowest level of a U-Net is often so thin. The forward pass and the gradient of the input are
right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


class ThinInFloat32(TorchFunctionMode):
    """Within a ``with`` block, compute thin 3D convolutions in float32, also under autocast on a CPU."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch, as it is or in float32."""
        kwargs = kwargs or {}
        if func is not torch.conv3d or not _is_thin(
            {**dict(zip(("input", "weight"), args, strict=False)), **kwargs}
        ):
            return func(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            return func(*map(_wide, args), **{name: _wide(value) for name, value in kwargs.items()})


def _is_thin(given: Mapping[str, Any]) -> bool:
    """Whether an image (n, c, z, y, x) is less deep than a kernel."""
    image, weight = given["input"], given["weight"]
    return image.device.type == "cpu" and bool(image.shape[2] < weight.shape[2])


def _wide(value: Any) -> Any:
    half = isinstance(value, torch.Tensor) and value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if half else value
