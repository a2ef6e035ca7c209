"""The model of a plan on its device: samples in, class ids and whatever stages keep out.

Grey values are normalised, scores are cropped, arg-maxed and quantised where the
network is, so that two bytes a voxel go in and one or two come back. A batch is always
as large as the plan says, the last sample repeated where too few are left: kernels, and
with them the last bit of a sum, must not depend on who shares a batch::

    raw voxels ──normalise──> stage ──crop──> scores ──classify──> ids, confidence ──> Made
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_memseg.errors import InputError, RunMismatchError
from napari_memseg.inference.arithmetic import REFERENCE, arrange, computing, prepare
from napari_memseg.inference.classify import classify, to_ids
from napari_memseg.inference.device_image import Uploaded
from napari_memseg.inference.run_card import CONFIDENCE
from napari_memseg.inference.stages import IMAGE
from napari_memseg.inference.tensors import crop
from napari_memseg.models.base import SCORES
from napari_memseg.models.checkpoint import load_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from napari_memseg.inference.arithmetic import Arithmetic
    from napari_memseg.inference.control import Control
    from napari_memseg.inference.plan import Plan
    from napari_memseg.inference.tensors import Sample
    from napari_memseg.models.base import Model


class Network:
    """A model on a device, ready to be asked.

    Parameters
    ----------
    plan : Plan
        Names the checkpoint, and says how to compute.
    device : str, optional
        Another one than the plan's: then the arithmetic is the reference.
    control : Control, optional
        Asked between any two layers, so that a person need not wait for the end of a tile.

    Raises
    ------
    RunMismatchError
        If the checkpoint is no longer that of the plan.
    """

    def __init__(self, plan: Plan, *, device: str | None = None, control: Control | None = None) -> None:
        self._plan = plan
        self.device = torch.device(device or plan.device)
        self.arithmetic: Arithmetic = plan.arithmetic if device in (None, plan.device) else REFERENCE
        self._model = _load(plan).to(self.device)
        prepare(self._model, self.arithmetic)
        self._stages = {stage.name: stage for stage in self._model.stages}
        self._kept: dict[str, Tensor] = {}
        self._copies = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        if control is not None:
            _stop_between_layers(self._model, control)

    @torch.inference_mode()
    def __call__(self, samples: Sequence[Sample], batch: int = 1) -> list[Made]:
        """Run samples of one stage, whose boxes have one shape, through it.

        Parameters
        ----------
        samples : sequence of Sample
            As many as the batch, or fewer.
        batch : int
            So many are computed, whatever is given.

        Raises
        ------
        torch.OutOfMemoryError, RuntimeError, MemoryError
            If memory does not suffice.
        Cancelled, Interrupted
            If somebody asked for it.
        """
        stage = samples[0].stage
        full = [*samples, *[samples[-1]] * (batch - len(samples))]
        inputs = {read.name: self._tensor(read.name, read.whole, full) for read in stage.reads}
        with computing(self.arithmetic, self.device):
            outputs = self._stages[stage.name](inputs, [sample.where for sample in full])
        return [self._made(sample, outputs, n) for n, sample in enumerate(samples)]

    def _tensor(self, name: str, whole: bool, samples: Sequence[Sample]) -> Tensor:
        """Return what is read as a batch; an array that all tiles need whole stays on the device."""
        if whole and not samples[0].stage.whole:
            if name not in self._kept:
                self._kept[name] = self._one(name, samples[0].arrays[name])[None]
            return self._kept[name].expand(len(samples), *self._kept[name].shape[1:])
        tensors = [self._one(name, sample.arrays[name]) for sample in samples]
        return arrange(tensors[0][None] if len(tensors) == 1 else torch.stack(tensors), self.arithmetic)

    def _one(self, name: str, array: NDArray[Any] | Uploaded) -> Tensor:
        """Return one sample's array on the device, the image normalised and with a channel."""
        if isinstance(array, Uploaded):
            tensor = array.wait()
        else:
            tensor = torch.from_numpy(np.ascontiguousarray(array)).to(self.device, non_blocking=True)
        if name.startswith(IMAGE):
            tensor = self._plan.window.normalise(tensor)[None]
        return tensor

    def _made(self, sample: Sample, outputs: Mapping[str, Tensor], number: int) -> Made:
        """Cut what one sample is for out of a batch's outputs, and send it on its way to the host."""
        have, want = sample.where.box, sample.written
        made: dict[str, Tensor] = {}
        for array in sample.stage.writes:
            output = outputs[array.name][number : number + 1]
            core = output if array.vector else crop(output, have, want, array.factor)
            made[array.name] = core[0].to(getattr(torch, array.dtype), copy=True)
        if SCORES in outputs:
            scores = crop(outputs[SCORES][number : number + 1], have, want, (1, 1, 1))
            found = classify(scores, self._plan.classes, confidence=self._plan.confidence)
            made |= {SCORES: found.ids[0], _FINITE: found.finite}
            if found.confidence is not None:
                made[CONFIDENCE] = found.confidence[0]
        return Made(self._plan, sample, *self._to_host(made))

    def _to_host(self, made: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Any]:
        """Copy to the host; from a GPU by a stream of its own, into pinned memory, without waiting."""
        if self._copies is None:
            return {name: tensor.cpu() for name, tensor in made.items()}, None
        self._copies.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._copies):
            copied = {}
            for name, tensor in made.items():
                copied[name] = torch.empty_like(tensor, device="cpu", pin_memory=True)
                copied[name].copy_(tensor, non_blocking=True)
                tensor.record_stream(self._copies)
            return copied, self._copies.record_event()


class Made:
    """What a stage made of one sample, perhaps still on its way from the device."""

    def __init__(self, plan: Plan, sample: Sample, copied: dict[str, Tensor], event: Any = None) -> None:
        self._plan, self._box, self._copied, self._event = plan, sample.written, copied, event

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Wait for the copies, and return arrays by name: scores are class ids (z, y, x) by now.

        Raises
        ------
        InputError
            If the network made scores that are NaN or infinite.
        """
        if self._event is not None:
            self._event.synchronize()
        arrays = dict(self._copied)
        if not bool(arrays.pop(_FINITE, torch.ones(1)).all()):
            raise InputError(
                f"The network's scores are NaN or infinite in the box {self._box}, so that no class can be "
                f"told. Try --precision float32; if it was that, the model {self._plan.model} is damaged."
            )
        return {
            name: to_ids(tensor, self._plan.classes) if name == SCORES else tensor.numpy()
            for name, tensor in arrays.items()
        }


_FINITE = "finite"


def _stop_between_layers(model: nn.Module, control: Control) -> None:
    for module in model.modules():
        if not any(module.children()):
            module.register_forward_pre_hook(lambda *_: control.ask())


def _load(plan: Plan) -> Model:
    """Load the plan's model, and make sure that it is the one."""
    model, card = load_checkpoint(plan.model)
    if (card.sha256, card.network) != (plan.sha256, plan.network):
        raise RunMismatchError(
            f"{plan.model} has changed since the run began: its weights are another training's. "
            "Restore the file, or begin another run."
        )
    return model.eval()


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Compute with so many threads: another number adds up in another order, to another last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
