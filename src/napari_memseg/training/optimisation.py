"""One step of descent, on the weights of one phase and no others.

Whatever a phase does not train keeps its weights, and its batch norms keep their
statistics: those parts run in eval mode while the phase's own parts learn. All
chance inside a step (dropout) comes from (seed, step), so that a training that was
interrupted goes on as if it had not been.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from math import cos, isfinite, pi
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from napari_memseg.errors import TrainingError
from napari_memseg.models.device import cpu_has_bfloat16
from napari_memseg.training.descent import Descent
from napari_memseg.training.thin import ThinInFloat32

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from napari_memseg.models.base import Batch, Loss, Model, Recipe, TrainingPhase

WARM_UP = 0.05
"""Share of a training in which the learning rate rises."""
STEPS_DOWN = (0.4, 0.6)
MAX_NORM = 12.0
"""Longest gradient; longer ones are shortened, as in nnU-Net."""


def mixed_precision(device: torch.device) -> torch.dtype:
    """Return the dtype in which a device convolves fastest; float32 where none is faster.

    A CPU with bfloat16 instructions takes a third of the time (measured, ``benchmarks/RESULTS.md``).
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device.type == "cpu" and cpu_has_bfloat16():
        return torch.bfloat16
    return torch.float32


def learning_rate(fraction: float, peak: float, schedule: str = "cosine") -> float:
    """Return the rate when ``fraction`` of a training is done.

    "cosine" is a short rise, then half a cosine to 0 (SGDR without restarts,
    https://arxiv.org/abs/1608.03983); "steps" a tenth from 40 %, a hundredth from 60 %.
    """
    if schedule == "constant":
        return peak
    if schedule == "steps":
        return peak * 0.1 ** sum(fraction >= part for part in STEPS_DOWN)
    if fraction < WARM_UP:
        return peak * (0.1 + 0.9 * fraction / WARM_UP)
    return peak * (1 + cos(pi * min((fraction - WARM_UP) / (1 - WARM_UP), 1))) / 2


@contextmanager
def only_training(model: Model, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Ask for gradients of these parameters alone, until the end of the block; then leave eval mode."""
    chosen = {id(parameter) for parameter in parameters}
    asked = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    for parameter, before in asked:
        parameter.requires_grad_(before and id(parameter) in chosen)
    try:
        yield
    finally:
        for parameter, before in asked:
            parameter.requires_grad_(before)
        model.eval()


def set_training_mode(module: nn.Module) -> None:
    """Put parts that learn as a whole into training mode, and all others into eval mode."""
    asked = [parameter.requires_grad for parameter in module.parameters()]
    module.train(bool(asked) and all(asked))
    if any(asked) and not all(asked):
        for child in module.children():
            set_training_mode(child)


@dataclass(frozen=True, eq=False)
class Stepper:
    """Takes steps, and evaluates without taking any."""

    model: Model
    phase: TrainingPhase
    device: torch.device
    optimizer: Descent
    scaler: torch.amp.GradScaler
    precision: torch.dtype
    """Of the forward pass; float32 switches mixed precision off."""

    @classmethod
    def build(
        cls, model: Model, phase: TrainingPhase, recipe: Recipe, *, device: torch.device, amp: bool
    ) -> Stepper:
        """Move the model to the device, and make an optimiser for the phase."""
        model.to(device)
        if device.type == "cpu":
            _put_channels_last(model)
        precision = mixed_precision(device) if amp else torch.float32
        optimizer = Descent(_named(model, phase), recipe)
        scaler = torch.amp.GradScaler(device.type, enabled=precision == torch.float16)
        return cls(model, phase, device, optimizer, scaler, precision)

    def step(self, batch: Batch, *, rate: float, seed: int) -> Loss:
        """Learn from one batch.

        Raises
        ------
        TrainingError
            If the loss or its gradient is NaN or infinite; the weights are then as before.
        """
        self.optimizer.set_rate(rate)
        set_training_mode(self.model)
        self.optimizer.zero_grad()
        with self._repeatable(seed):
            loss = self.loss(batch)
            _require_finite(float(loss.value.detach()), "loss", batch, rate)
            self.scaler.scale(loss.value).backward()  # type: ignore[no-untyped-call]
        self._descend(batch, rate)
        return loss

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> Loss:
        """Return the loss and the scores of a batch, with the weights as they are."""
        self.model.eval()
        loss = self.loss(batch)
        _require_finite(float(loss.value), "validation loss", batch, self.optimizer.rate)
        return loss

    def load(self, optimizer: Mapping[str, Any], scaler: Mapping[str, Any]) -> None:
        """Go on with the state of an interrupted training."""
        self.optimizer.load_state_dict(dict(optimizer))
        self.scaler.load_state_dict(dict(scaler))

    def loss(self, batch: Batch) -> Loss:
        """Return the loss of a batch in the arithmetic of the training, in whatever mode the network is."""
        layout = torch.channels_last_3d if self.device.type == "cpu" else torch.contiguous_format
        moved = {
            id(one): replace(one, image=one.image.to(self.device), presence=one.presence.to(self.device))
            for one in batch.overviews
        }
        here = replace(
            batch,
            image=batch.image.to(self.device, memory_format=layout),
            labels=batch.labels.to(self.device),
            arrays={name: array.to(self.device) for name, array in batch.arrays.items()},
            overviews=[moved[id(one)] for one in batch.overviews],
            frequencies=None if batch.frequencies is None else batch.frequencies.to(self.device),
        )
        mixed = self.precision != torch.float32
        with torch.autocast(self.device.type, self.precision if mixed else None, enabled=mixed):
            return self.phase.step(here)

    def _descend(self, batch: Batch, rate: float) -> None:
        self.scaler.unscale_(self.optimizer.inner)
        norm = nn.utils.clip_grad_norm_(list(self.phase.parameters()), MAX_NORM)
        if not self.scaler.is_enabled():  # a scaler skips such a step by itself, and scales less
            _require_finite(float(norm), "gradient", batch, rate)
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer.inner)
        self.scaler.update()
        if self.scaler.get_scale() >= scale:  # else the step was skipped
            self.optimizer.stepped()

    @contextmanager
    def _repeatable(self, seed: int) -> Iterator[None]:
        """Draw from a generator of this step alone, and leave the process's own as they were."""
        cuda = self.device.type == "cuda"
        with (
            ThinInFloat32() if self.precision == torch.bfloat16 and not cuda else nullcontext(),
            torch.random.fork_rng([self.device] if cuda else []),
            torch.backends.cudnn.flags(
                enabled=True, deterministic=True, allow_tf32=torch.backends.cudnn.allow_tf32
            ),
        ):
            torch.manual_seed(seed)
            yield


def _named(model: Model, phase: TrainingPhase) -> dict[str, nn.Parameter]:
    """Return the weights of a phase by their names in the model."""
    wanted = {id(parameter) for parameter in phase.parameters()}
    return {name: p for name, p in model.named_parameters() if id(p) in wanted}


def _put_channels_last(model: Model) -> None:
    """Lay the weights of 3D convolutions out as oneDNN likes them: a CPU takes a third less time."""
    for parameter in model.parameters():
        if parameter.dim() == 5:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)


def _require_finite(value: float, name: str, batch: Batch, rate: float) -> None:
    if isfinite(value):
        return
    if not bool(batch.image.isfinite().all()):
        places = ", ".join(str(where.box) for where in batch.where)
        raise TrainingError(
            f"The {name} became {value}, since the image holds NaN or infinite voxels near {places}. "
            "Replace them by a grey value, for example when converting the image, and train again."
        )
    raise TrainingError(
        f"The {name} became {value} at a learning rate of {rate:.1g}: the training diverged. "
        f"No model was replaced. Train again with a lower rate, for example {rate / 10:.1g}."
    )
