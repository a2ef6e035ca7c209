"""An activation that learns its own shape: a ratio of two polynomials.

It begins as a leaky ReLU and has ten coefficients, shared by all channels::

               a0 + a1 x + a2 x^2 + ... + a5 x^5
    f(x) = ─────────────────────────────────────────
            1 + |b1 x| + |b2 x^2| + ... + |b4 x^4|        at least 1: no pole

The safe Padé activation unit of Molina, Schramowski and Kersting (ICLR 2020),
https://arxiv.org/abs/1907.06732, with the start values that OSS-Net was trained from.
Powers of large numbers leave the range of float16, so it computes in float32 always.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence

NUMERATOR = (0.0335583603, 0.505000375, 1.65343934, 2.01001052, 0.931901999, 0.152424124)
"""a0 to a5, near a leaky ReLU of slope 0.01."""
DENOMINATOR = (3.30847488e-06, 3.98021568, 5.12471206e-07, 0.301830109)
"""b1 to b4."""
RATES = {"numerator": 1e-2, "denominator": 1e-2}
"""Learning rates of the coefficients, by the endings of their names."""


class Pade(nn.Module):
    """One activation, whatever the shape of what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.numerator = nn.Parameter(torch.tensor(NUMERATOR))
        self.denominator = nn.Parameter(torch.tensor(DENOMINATOR))

    def forward(self, x: Tensor) -> Tensor:
        """Map every number of a tensor of any float dtype; the dtype stays."""
        mapped: Tensor = _Ratio.apply(x, self.numerator, self.denominator)  # type: ignore[no-untyped-call]
        return mapped


class _Ratio(torch.autograd.Function):
    """The ratio, which keeps its argument and nothing else: a polynomial would keep every step of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, above: Tensor, below: Tensor) -> Tensor:
        ctx.save_for_backward(x, above, below)
        ratio = _polynomial(x.float(), above.unbind())
        return ratio.div_(_polynomial(x.float().abs(), _positive(below))).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, above, below = ctx.saved_tensors
        wide = x.float()
        size = wide.abs()
        divisor = _polynomial(size, _positive(below))
        ratio = _polynomial(wide, above.unbind()).div_(divisor)
        share = gradients[0].float() / divisor
        slope = _polynomial(wide, _derivative(above.unbind()))
        slope -= _polynomial(size, _derivative(_positive(below))).mul_(wide.sign()).mul_(ratio)
        to_above = _moments(share, wide, len(above))
        to_below = -_moments(share * ratio, size, len(below) + 1)[1:] * below.sign()
        return slope.mul_(share).to(x.dtype), to_above, to_below


def _positive(below: Tensor) -> list[Tensor]:
    return [torch.ones_like(below[0]), *below.abs().unbind()]


def _derivative(coefficients: Sequence[Tensor]) -> list[Tensor]:
    return [power * c for power, c in enumerate(coefficients)][1:]


def _polynomial(x: Tensor, coefficients: Sequence[Tensor]) -> Tensor:
    """Evaluate by Horner's rule, lowest power first."""
    *lower, second, highest = coefficients
    total = (x * highest).add_(second)
    for coefficient in reversed(lower):
        total.mul_(x).add_(coefficient)
    return total


def _moments(weights: Tensor, x: Tensor, count: int) -> Tensor:
    """Return the sums of ``weights`` times each power of ``x``, from 0 on."""
    power, sums = weights.clone(), []
    for n in range(count):
        sums.append(power.sum())
        if n < count - 1:
            power.mul_(x)
    return torch.stack(sums)
