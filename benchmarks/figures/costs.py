"""What a network costs, counted rather than timed: weights, multiply-adds, what a training step keeps."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from napari_memseg.geometry import zyx
from napari_memseg.models.base import Model, TrainingPhase
from napari_memseg.models.classes import ClassTable
from napari_memseg.models.registry import create_model
from napari_memseg.training.memory import kept_for_backward
from napari_memseg.training.rehearsal import rehearse, run_stages

EDGE = 64
"""Of the patch and of the box that are looked at, in voxels."""
SHAPE = zyx([EDGE] * 3)
CLASSES = ClassTable.from_ids([1, 2])
LAYERS = (nn.Conv2d, nn.Conv3d, nn.Linear)


def costs_of(architecture: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the costs of a network of three classes, by name."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = create_model(architecture, CLASSES, **arguments)
        kept = max(_kept(model, phase) for phase in model.training_plan())
        return {
            "weights": model.parameter_count,
            "multiply-adds per voxel": round(_multiply_adds(model.eval()) / EDGE**3),
            "kept for the gradient, MiB, patch of 64³ with what is around it": kept / 2**20,
        }


def _kept(model: Model, phase: TrainingPhase) -> int:
    """Return the bytes that one step of a phase keeps, for one patch."""
    batch = rehearse(phase, SHAPE, len(CLASSES))
    model.train()
    return kept_for_backward(lambda: phase.step(batch).value)


def _multiply_adds(model: Model) -> int:
    """Return the multiply-adds of all stages over one box."""
    with _counted(model) as counts:
        run_stages(model, SHAPE)
    return sum(counts)


@contextmanager
def _counted(model: Model) -> Iterator[list[int]]:
    """Collect the multiply-adds of every layer that runs."""
    counts: list[int] = []

    def count(layer: Any, _: Any, out: torch.Tensor) -> None:
        per_value = layer.in_features if isinstance(layer, nn.Linear) else layer.weight[0].numel()
        counts.append(out.numel() * per_value)

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, LAYERS)]
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()
