"""A network's work on made-up voxels: what it costs does not depend on what they show.

A batch is random, with all that its phase asks for; stages run one after the other on one box, each on what
those before it made::

    phase ──> rehearse ──> Batch(image, labels, arrays of earlier stages, overviews)
    model ──> run_stages ──> seconds of each stage
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

import torch

from napari_memseg.geometry import Box, Zyx, ceil_div, zyx
from napari_memseg.models.base import Batch, Overview, Where
from napari_memseg.training.samples import expanded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from napari_memseg.models.base import Model, TrainingPhase, Writes

IMAGE = "image@"
CPU = torch.device("cpu")


def rehearse(
    phase: TrainingPhase, shape: Zyx, classes: int, *, samples: int = 1, device: torch.device = CPU
) -> Batch:
    """Make up a batch for a phase: each sample is a whole volume of one patch, expanded where it asks for it.

    Parameters
    ----------
    phase : TrainingPhase
        Says what comes with a patch.
    shape : (z, y, x)
        Of the patches, in voxels.
    classes : int
        How many there are labels of.
    samples : int
        Patches of the batch.
    device : torch.device
        Where it lies.
    """
    box, margin = expanded(Box.whole(shape), phase.sample.expansion)
    shape = box.shape
    made = {write.array: write for stage in phase.needs for write in stage.writes}
    arrays = {name: _blank(made[name], shape, samples, device) for name in phase.sample.arrays}
    boxes = {IMAGE + "0": Box.whole(shape)} | _boxes(arrays)
    halvings = phase.sample.overview
    return Batch(
        image=torch.rand(samples, 1, *shape, device=device),
        labels=torch.randint(0, classes, (samples, *shape), device=device),
        arrays=arrays,
        where=[Where(box=Box.whole(shape), shape=shape, boxes=boxes)] * samples,
        margin=margin,
        overviews=() if halvings is None else [_overview(shape, halvings, classes, device)] * samples,
    )


@torch.inference_mode()
def run_stages(model: Model, shape: Zyx) -> dict[str, float]:
    """Run all stages once over a volume of one box, where the model is.

    Parameters
    ----------
    model : Model
        In eval mode.
    shape : (z, y, x)
        Of the volume, in voxels.

    Returns
    -------
    dict of str to float
        Seconds, by the name of the stage.
    """
    arrays: dict[str, Tensor] = {}
    seconds: dict[str, float] = {}
    for stage in model.stages:
        inputs = {read.array: _input(read.array, arrays, shape, model.device) for read in stage.reads}
        where = Where(box=Box.whole(shape), shape=shape, boxes=_boxes(inputs))
        began = perf_counter()
        arrays |= stage(inputs, [where])
        wait_for(model.device)
        seconds[stage.name] = perf_counter() - began
    return seconds


def wait_for(device: torch.device) -> None:
    """Wait until a device has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _overview(shape: Zyx, halvings: int, classes: int, device: torch.device) -> Overview:
    coarse = _coarse(shape, halvings)
    presence = torch.rand(classes, *coarse, device=device) > 0.5
    return Overview(image=torch.rand(1, *coarse, device=device), presence=presence)


def _blank(write: Writes, shape: Zyx, samples: int, device: torch.device) -> Tensor:
    """Return zeros in place of what a stage would have written for each patch."""
    size = () if write.vector else ceil_div(shape, write.grid.factor)
    return torch.zeros(samples, write.channels, *size, dtype=getattr(torch, write.dtype), device=device)


def _input(name: str, arrays: Mapping[str, Tensor], shape: Zyx, device: torch.device) -> Tensor:
    if name.startswith(IMAGE):
        return torch.rand(1, 1, *_coarse(shape, int(name.removeprefix(IMAGE))), device=device)
    return arrays[name].float() if arrays[name].is_floating_point() else arrays[name]


def _boxes(arrays: Mapping[str, Tensor]) -> dict[str, Box]:
    """Return the box of each array that is no vector, in its own voxels."""
    return {name: Box.whole(zyx(array.shape[2:])) for name, array in arrays.items() if array.ndim == 5}


def _coarse(shape: Zyx, halvings: int) -> Zyx:
    return ceil_div(shape, zyx([2**halvings] * 3))
