"""In which arithmetic a network runs: the reference, or one that is faster here.

The reference is float32, as the network was trained. What can be faster, depending
on network and machine, is measured on a tile (``probe.py``) and then frozen in the plan::

    precision   float32 ── bfloat16 or float16 (autocast)
    layout      (C, z, y, x) ── channels last
    folded      batch norm as it is ── folded into the convolution before it
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from napari_memseg.models.device import cpu_has_bfloat16

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

CONTIGUOUS, CHANNELS_LAST = "contiguous", "channels_last"
_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """How a network computes; other values mean other last bits."""

    precision: str = "float32"
    """"float32", "bfloat16" or "float16"."""
    layout: str = CONTIGUOUS
    """Of activations and weights: "contiguous" or "channels_last"."""
    folded: bool = False
    """Whether batch norms are folded into convolutions."""

    def __str__(self) -> str:
        parts = [self.precision, self.layout.replace("_", " "), "folded norms" if self.folded else ""]
        return ", ".join(part for part in parts if part)


REFERENCE = Arithmetic()
"""What every other one is compared with."""


def usual(wanted: str) -> Arithmetic:
    """Return the arithmetic of a precision, where nothing was measured; that of "auto" is the reference."""
    return REFERENCE if wanted in ("auto", "float32") else Arithmetic(wanted, folded=True)


def candidates(wanted: str, device: str) -> list[Arithmetic]:
    """Return what is worth a measurement, for a wanted precision or "auto"; the first is the usual.

    Who asks for float32 gets the reference and nothing else.
    """
    if wanted == "float32":
        return [REFERENCE]
    if wanted != "auto":
        return [Arithmetic(wanted, layout, folded=True) for layout in (CONTIGUOUS, CHANNELS_LAST)]
    if device.startswith("cuda"):
        return [REFERENCE, *candidates("float16", device), Arithmetic("bfloat16", CHANNELS_LAST, folded=True)]
    fast = ["float32", "bfloat16"] if device == "cpu" and cpu_has_bfloat16() else ["float32"]
    return [REFERENCE, *(Arithmetic(precision, CHANNELS_LAST, folded=True) for precision in fast)]


def prepare(model: nn.Module, arithmetic: Arithmetic) -> None:
    """Change a network in eval mode, in place, so that it computes so."""
    if arithmetic.folded:
        for module in model.modules():
            if isinstance(module, nn.Sequential):
                _fold(module)
    if arithmetic.layout == CHANNELS_LAST:
        for parameter in model.parameters():
            parameter.data = arrange(parameter.data, arithmetic)


def arrange(x: Tensor, arithmetic: Arithmetic) -> Tensor:
    """Return a tensor in the layout of an arithmetic; unchanged if it has no channels to be last."""
    if arithmetic.layout == CONTIGUOUS or x.ndim not in (4, 5):
        return x
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return x.contiguous(memory_format=formats[x.ndim])


@contextmanager
def computing(arithmetic: Arithmetic, device: torch.device) -> Iterator[None]:
    """Compute in an arithmetic, alike on every call: no TF32 for float32, no kernels chosen by a race."""
    exact = arithmetic.precision == "float32"
    with ExitStack() as stack:
        stack.enter_context(
            torch.backends.cudnn.flags(
                enabled=True, benchmark=False, deterministic=True, allow_tf32=not exact
            )
        )
        if not exact:
            stack.enter_context(torch.autocast(device.type, dtype=getattr(torch, arithmetic.precision)))
        yield


def _fold(sequence: nn.Sequential) -> None:
    """Fold every batch norm that follows a convolution into it."""
    for n in range(len(sequence) - 1):
        convolution, norm = sequence[n], sequence[n + 1]
        if isinstance(convolution, _CONVOLUTIONS) and isinstance(norm, _NORMS):
            sequence[n] = fuse_conv_bn_eval(convolution, norm)
            sequence[n + 1] = nn.Identity()
