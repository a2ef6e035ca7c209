from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from learning import net, same, weights_of
from napari_memseg.errors import TrainingError
from napari_memseg.models.base import Batch, Loss, Recipe
from napari_memseg.training.optimisation import MAX_NORM, Stepper

BATCH = Batch(image=torch.zeros(1, 1, 4, 4, 4), labels=torch.zeros(1, 4, 4, 4, dtype=torch.int64))


STILL = Recipe(weight_decay=0.0)


@dataclass
class Slope:
    """A phase whose loss is a function of the last layer's weights alone."""

    model: Any
    value: Any
    recipe: Any = STILL

    def parameters(self):
        return [self.model.head.weight]

    def step(self, batch):
        return Loss(value=self.value(self.model.head.weight))


def stepper_of(model, value):
    cpu = torch.device("cpu")
    phase = Slope(model, value)
    return Stepper.build(model, phase, phase.recipe, device=cpu, amp=False)


def test_a_huge_gradient_is_shortened_and_moves_weights_boundedly():
    model, before = net(), weights_of(net())["head.weight"]
    stepper = stepper_of(model, lambda weight: 1e12 * weight.sum())
    stepper.step(BATCH, rate=0.01, seed=0)
    weight = model.head.weight
    assert float(weight.grad.norm()) == pytest.approx(MAX_NORM, rel=1e-4)
    assert float((weight.detach() - before).abs().max()) <= 0.01 * 1.001
    assert float(stepper.optimizer.state[weight]["exp_avg"].norm()) <= MAX_NORM


def test_an_ordinary_gradient_is_left_as_it_is():
    model = net()
    stepper_of(model, lambda weight: 0.5 * weight.sum()).step(BATCH, rate=0.01, seed=0)
    assert (model.head.weight.grad == 0.5).all()


def test_an_infinite_gradient_of_a_finite_loss_is_a_clear_end_and_moves_nothing():
    model, before = net(), weights_of(net())
    stepper = stepper_of(
        model, lambda weight: (weight - weight.detach()).sqrt().sum()
    )  # 0, as steep as can be
    with pytest.raises(TrainingError, match=r"gradient became (inf|nan).*lower rate"):
        stepper.step(BATCH, rate=0.01, seed=0)
    assert same(weights_of(model), before)
