"""What a training step keeps: counted once, without weights, and told of every training."""

from __future__ import annotations

import torch
from torch import nn

from learning import blocks, net, spec_for
from napari_memseg.training.config import TrainConfig
from napari_memseg.training.loop import train_phase
from napari_memseg.training.memory import BYTES_A_WEIGHT, kept_for_backward


def test_what_is_kept_is_counted_once_and_without_weights():
    x = torch.rand(1000)
    scale = nn.Parameter(torch.ones(1000))
    assert kept_for_backward(lambda: (scale * x).sum()) == 4000
    assert kept_for_backward(lambda: (scale * x * x).sum()) == 4000
    assert kept_for_backward(lambda: (scale * x * torch.rand(1000)).sum()) == 8000
    with torch.no_grad():
        assert kept_for_backward(lambda: (scale * x).sum()) == 0


def test_a_training_tells_the_memory_of_its_step(tmp_path):
    cards = []
    for edge in (8, 16):
        model, out = net(), tmp_path / f"{edge}.safetensors"
        (phase,) = model.training_plan()
        spec = spec_for(model, out)
        config = TrainConfig(steps=2, device="cpu", patch=(edge,) * 3)
        list(train_phase(model, phase, [blocks()], [], spec.card.window, config, spec))
        cards.append(spec.publish(model, [phase.name]).training[phase.name]["memory_gib"] * 2**30)
    weights = BYTES_A_WEIGHT * net().parameter_count
    assert cards[0] > weights
    assert 4 < (cards[1] - weights) / (cards[0] - weights) < 12
