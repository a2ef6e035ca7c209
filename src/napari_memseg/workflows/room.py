"""How many patches a step of a training may have in the memory there is.

What a step keeps is measured with two small patches, on a copy of the network, and forecast for its own::

    recipe's batch ──> fits? ──> as it is
                          └────> as many as fit, or a clear end where not even one does

A training that goes on keeps the batch it began with.
"""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from math import prod
from typing import TYPE_CHECKING

import torch

from napari_memseg.errors import DeviceMemoryError
from napari_memseg.geometry import Zyx, zyx
from napari_memseg.inference.heap import GIB
from napari_memseg.memory import free_bytes
from napari_memseg.models.device import choose_device
from napari_memseg.training.memory import BYTES_A_WEIGHT, kept_for_backward, line_through
from napari_memseg.training.optimisation import Stepper, only_training, set_training_mode
from napari_memseg.training.rehearsal import rehearse

if TYPE_CHECKING:
    from torch import Tensor

    from napari_memseg.models.base import Batch, Model, TrainingPhase
    from napari_memseg.training.config import TrainConfig

SHARE = 0.7
"""Of the free memory that a step may take."""
SMALL = 2**20
"""Voxels of a step that are let pass without a measurement."""
EDGE = 48
"""Longest edge of the patch that is measured, in voxels."""


def batch_that_fits(model: Model, phase: TrainingPhase, config: TrainConfig, longest: Zyx) -> int:
    """Return the patches of a step: those asked for, those of the recipe, or as many as fit.

    Parameters
    ----------
    model : Model
        Is left as it is.
    phase : TrainingPhase
        One of its training plan.
    config : TrainConfig
        Whose batch and patch count where they are said.
    longest : (z, y, x)
        Of the volumes: no patch is larger.

    Raises
    ------
    DeviceMemoryError
        If the batch that is asked for does not fit, or no patch at all.
    """
    recipe = config.over(phase.recipe)
    patch = zyx(map(min, config.patch or phase.sample.patch, longest))
    voxels = prod(patch) * phase.sample.expansion**3
    if voxels * recipe.batch <= SMALL:
        return recipe.batch
    device = torch.device(choose_device(config.device))
    need = _bytes_of_a_patch(model, phase, patch, config, device)
    fixed = BYTES_A_WEIGHT * model.parameter_count
    room = SHARE * _free(device) - fixed
    if recipe.batch * need <= room:
        return recipe.batch
    fitting = int(max(room, 0) // need)
    if config.batch is None and fitting:
        return fitting
    advice = f"--batch {fitting}, or " if fitting else ""
    raise DeviceMemoryError(
        f"A training step of {recipe.batch} patches of {patch} voxels keeps about "
        f"{(recipe.batch * need + fixed) / GIB:.1f} GiB, and {max(room + fixed, 0) / GIB:.1f} GiB may be "
        f"taken on {device}. Choose {advice}a smaller --patch; or another network, see napari-memseg models."
    )


def _bytes_of_a_patch(
    model: Model, phase: TrainingPhase, patch: Zyx, config: TrainConfig, device: torch.device
) -> float:
    """Forecast what one patch keeps for its gradient, by the line through two smaller ones."""
    copy = deepcopy(model).to(device)
    mine = next(one for one in copy.training_plan() if one.name == phase.name)
    sizes = [zyx(min(n, edge) for n in patch) for edge in (EDGE * 2 // 3, EDGE)]
    with torch.random.fork_rng(), only_training(copy, mine.parameters()):
        stepper = Stepper.build(copy, mine, mine.recipe, device=device, amp=config.amp)
        set_training_mode(copy)
        kept = []
        for size in sizes:  # two of each, since a batch norm wants more than one value
            batch = rehearse(mine, size, len(model.classes), samples=2, device=device)
            kept.append(kept_for_backward(partial(_loss_of, stepper, batch)) / 2)
    few, some = map(prod, sizes)
    return max(line_through((few, kept[0]), (some, kept[1]), prod(patch)), 1.0)


def _loss_of(stepper: Stepper, batch: Batch) -> Tensor:
    return stepper.loss(batch).value


def _free(device: torch.device) -> float:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_bytes()
