"""Optimisers as recipes name them: slow and averaged weights, and going on as if nothing had been."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import nn

from learning import blocks, net, same, spec_for, weights_of
from napari_memseg.models.base import Recipe, SampleSpec
from napari_memseg.training.config import TrainConfig
from napari_memseg.training.descent import SLOW_EVERY, SLOW_SHARE, Descent
from napari_memseg.training.loop import train_phase
from napari_memseg.training.optimisation import learning_rate

ALL = Recipe(optimizer="radam", lookahead=True, average=0.9, schedule="steps", rates={"bias": 0.02})


@dataclass(frozen=True)
class Other:
    """The phase of a network, with another recipe."""

    phase: Any
    recipe: Recipe
    sample: Any = SampleSpec(patch=(16, 16, 16))  # noqa: RUF009 - frozen

    def __getattr__(self, name):
        return getattr(self.phase, name)


def learned(out, *, steps, pause=None, recipe=ALL):
    """Train a little network; once anew after ``pause`` steps, as after a kill."""
    for until in (pause, None) if pause else (None,):
        model = net()
        phase = Other(model.training_plan()[0], recipe)
        config = TrainConfig(steps=steps, device="cpu", validate_every=2)
        one = [blocks()]
        told = train_phase(
            model, phase, one, [], spec_for(model, out).card.window, config, spec_for(model, out), resume=True
        )
        for step in told:
            if step.step == until:
                told.close()
                break
    return weights_of(model)


def descent(**how):
    weight = nn.Parameter(torch.zeros(3))
    return weight, Descent({"weight": weight}, Recipe(optimizer="adam", learning_rate=0.1, **how))


def step(weight, mover):
    weight.grad = torch.ones(3)
    mover.inner.step()
    mover.stepped()


@pytest.mark.parametrize(
    "recipe", [ALL, Recipe(optimizer="adam", schedule="constant"), replace(ALL, average=0.0)], ids=str
)
def test_a_training_that_was_interrupted_goes_on_as_if_it_had_not_been(tmp_path, recipe):
    at_once = learned(tmp_path / "one.safetensors", steps=7, recipe=recipe)
    twice = learned(tmp_path / "two.safetensors", steps=7, pause=3, recipe=recipe)
    assert same(at_once, twice)


def test_slow_weights_draw_the_fast_ones_back_every_few_steps():
    weight, mover = descent(lookahead=True)
    for _ in range(SLOW_EVERY - 1):
        step(weight, mover)
    before = weight.detach().clone()
    step(weight, mover)
    assert weight[0].item() == pytest.approx(SLOW_SHARE * (before[0].item() - 0.1), rel=1e-3)


def test_what_is_scored_is_the_average_and_the_weights_come_back():
    weight, mover = descent(average=0.5)
    seen = []
    for _ in range(20):
        step(weight, mover)
        seen.append(weight[0].item())
    with mover.averaged():
        assert seen[-1] < weight[0].item() < seen[-4]
    assert weight[0].item() == seen[-1]


def test_weights_of_a_rate_of_their_own_keep_it_relative_to_the_others():
    one, other = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    mover = Descent({"a.weight": one, "b.numerator": other}, Recipe(rates={"numerator": 0.5}))
    mover.set_rate(1e-3)
    rates = {id(group["params"][0]): group["lr"] for group in mover.inner.param_groups}
    assert rates[id(one)] == pytest.approx(1e-3)
    assert rates[id(other)] == pytest.approx(0.1)


def test_schedules_are_what_their_names_say():
    assert [learning_rate(part, 1.0, "constant") for part in (0, 0.5, 1)] == [1, 1, 1]
    steps = [learning_rate(part, 1.0, "steps") for part in (0, 0.39, 0.41, 0.59, 0.61, 1)]
    assert steps == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
