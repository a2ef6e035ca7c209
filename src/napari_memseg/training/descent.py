"""Optimisers as recipes name them, with slow weights and a moving average of the weights where asked for.

What is remembered of each weight (slow, averaged) goes into the state with the optimiser's own, so that
a training that was interrupted goes on as if it had not been::

    inner step ──> every 5 steps: slow += 0.8 (weight - slow); weight = slow        lookahead
               └─> average = decay x average + (1 - decay) x weight                 what is scored
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor, nn

    from napari_memseg.models.base import Recipe

SLOW_EVERY, SLOW_SHARE = 5, 0.8
"""k and alpha of Lookahead, as OSS-Net was trained (Reich et al., BMVC 2021)."""
OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "radam": torch.optim.RAdam}


class Descent:
    """Moves the weights of one phase.

    Parameters
    ----------
    weights : mapping of str to Parameter
        By name.
    recipe : Recipe
        Optimiser, weight decay, rates, lookahead and average.
    """

    def __init__(self, weights: Mapping[str, nn.Parameter], recipe: Recipe) -> None:
        self.rate = recipe.learning_rate
        self._recipe = recipe
        self._weights = list(weights.values())
        self._steps = 0
        self._slow = self._copies() if recipe.lookahead else []
        self._average = self._copies() if recipe.average else []
        groups = _groups(weights, recipe)
        self.inner = OPTIMIZERS[recipe.optimizer](groups, lr=self.rate, weight_decay=recipe.weight_decay)

    @property
    def state(self) -> Any:
        """Of the optimiser, by weight."""
        return self.inner.state

    @property
    def weights(self) -> int:
        """How many numbers it moves."""
        return sum(weight.numel() for weight in self._weights)

    def set_rate(self, rate: float) -> None:
        """Take the next step at this learning rate; those of their own keep the ratio."""
        self.rate = rate
        for group in self.inner.param_groups:
            group["lr"] = rate * group["times"]

    def zero_grad(self) -> None:
        """Forget gradients."""
        self.inner.zero_grad(set_to_none=True)

    @torch.no_grad()
    def stepped(self) -> None:
        """Let slow and averaged weights follow, after the optimiser's step."""
        self._steps += 1
        if self._slow and self._steps % SLOW_EVERY == 0:
            for slow, weight in zip(self._slow, self._weights, strict=True):
                slow.lerp_(weight, SLOW_SHARE)
                weight.copy_(slow)
        decay = min(self._recipe.average, (1 + self._steps) / (10 + self._steps))
        for average, weight in zip(self._average, self._weights, strict=False):
            average.lerp_(weight, 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the averaged weights in the place of the last, for the time of the block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state_dict(self) -> dict[str, Any]:
        """Return all it takes to go on."""
        return {
            "inner": self.inner.state_dict(),
            "steps": self._steps,
            "slow": [slow.cpu() for slow in self._slow],
            "average": [average.cpu() for average in self._average],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` gave."""
        self.inner.load_state_dict(state["inner"])
        self._steps = int(state["steps"])
        for mine, theirs in ((self._slow, state["slow"]), (self._average, state["average"])):
            for here, there in zip(mine, theirs, strict=True):
                here.copy_(there)

    def _copies(self) -> list[Tensor]:
        return [weight.detach().clone() for weight in self._weights]

    @torch.no_grad()
    def _swap(self) -> None:
        for average, weight in zip(self._average, self._weights, strict=False):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)


def _groups(weights: Mapping[str, nn.Parameter], recipe: Recipe) -> list[dict[str, Any]]:
    """Return groups of weights by how many times the common rate they learn."""
    times = {ending: rate / recipe.learning_rate for ending, rate in recipe.rates.items()}
    groups: dict[float, list[nn.Parameter]] = {}
    for name, weight in weights.items():
        own = next((factor for ending, factor in times.items() if name.endswith(ending)), 1.0)
        groups.setdefault(own, []).append(weight)
    return [{"params": params, "times": factor} for factor, params in groups.items()]
