"""What a network costs, counted rather than timed: weights, multiply-adds, what a training step keeps."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from napari_memseg.geometry import Box, Zyx, ceil_div, zyx
from napari_memseg.models.base import Batch, Model, Overview, TrainingPhase, Where
from napari_memseg.models.classes import ClassTable
from napari_memseg.models.registry import create_model
from napari_memseg.training.memory import kept_for_backward

EDGE = 64
"""Of the patch and of the box that are looked at, in voxels."""
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
            "kept for the gradient, MiB, patch of 64³": kept / 2**20,
        }


def _kept(model: Model, phase: TrainingPhase) -> int:
    """Return the bytes that one step of a phase keeps, for one patch."""
    shape = zyx([EDGE] * 3)
    where = Where(box=Box.whole(shape), shape=shape)
    overviews: Sequence[Overview] = ()
    if phase.sample.overview is not None:
        coarse = ceil_div(shape, zyx([2**phase.sample.overview] * 3))
        presence = torch.rand(len(CLASSES), *coarse) > 0.5
        overviews = [Overview(image=torch.rand(1, *coarse), presence=presence)]
    batch = Batch(
        image=torch.rand(1, 1, *shape),
        labels=torch.randint(0, len(CLASSES), (1, *shape)),
        arrays={name: torch.zeros(1, 1, *shape, dtype=torch.uint8) for name in phase.sample.arrays},
        where=[where],
        overviews=overviews,
    )
    model.train()
    return kept_for_backward(lambda: phase.step(batch).value)


@torch.inference_mode()
def _multiply_adds(model: Model) -> int:
    """Return the multiply-adds of all stages over one box."""
    shape = zyx([EDGE] * 3)
    with _counted(model) as counts:
        arrays: dict[str, Tensor] = {}
        for stage in model.stages:
            inputs = {read.array: _input(read.array, arrays, shape) for read in stage.reads}
            boxes = {name: Box.whole(zyx(x.shape[2:])) for name, x in inputs.items() if x.ndim == 5}
            arrays |= stage(inputs, [Where(box=Box.whole(shape), shape=shape, boxes=boxes)])
    return sum(counts)


def _input(name: str, arrays: Mapping[str, Tensor], shape: Zyx) -> Tensor:
    if name.startswith("image@"):
        return torch.rand(1, 1, *ceil_div(shape, zyx([2 ** int(name[6:])] * 3)))
    return arrays[name].float() if arrays[name].is_floating_point() else arrays[name]


@contextmanager
def _counted(model: Model) -> Iterator[list[int]]:
    """Collect the multiply-adds of every layer that runs."""
    counts: list[int] = []

    def count(layer: Any, _: Any, out: Tensor) -> None:
        per_value = layer.in_features if isinstance(layer, nn.Linear) else layer.weight[0].numel()
        counts.append(out.numel() * per_value)

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, LAYERS)]
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()
