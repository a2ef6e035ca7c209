"""Run blocks: read ahead, compute, write behind.

One function for every executor. Threads read and write; the caller's own thread
computes, so that a generator that is not asked for more computes nothing::

    readers  ──2 blocks ahead──>  compute (caller)  ──>  writer, ledger  ──>  BlockDone
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

import torch

from napari_memseg.errors import InputError, RunMismatchError
from napari_memseg.inference.classify import classify, to_ids
from napari_memseg.inference.control import Control
from napari_memseg.inference.run_card import CONFIDENCE
from napari_memseg.inference.schedule import Schedule
from napari_memseg.inference.store import Store
from napari_memseg.inference.tensors import Reader, crop, to_device
from napari_memseg.io.formats import open_volume
from napari_memseg.models.base import SCORES
from napari_memseg.models.checkpoint import load_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from napari_memseg.geometry import Box
    from napari_memseg.inference.plan import Block, Plan
    from napari_memseg.inference.stages import ReadPlan, StagePlan
    from napari_memseg.io.volume import Volume
    from napari_memseg.models.base import Model, Where

READ_AHEAD = 2
"""Blocks that are read before they are needed."""
WRITE_BEHIND = 2
"""Blocks that may wait to be written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockDone:
    """A block that is on the disk and in the ledger."""

    block: Block
    box: Box
    """Its voxels, at the working level."""
    seconds: float
    """That computing took."""


def run_blocks(
    plan: Plan,
    blocks: Iterable[Block],
    control: Control | None = None,
    *,
    image: Volume | None = None,
    store: Store | None = None,
) -> Iterator[BlockDone]:
    """Compute blocks and put them where the plan says.

    Parameters
    ----------
    plan : Plan
        Its folders are there: ``folder.prepare`` made them.
    blocks : iterable of Block
        What to do, whether or not it was done before; what these need is among them or done.
    control : Control, optional
        Pause, cancel, look here first.
    image : Volume, optional
        If it is open already; by default it is opened by its source.
    store : Store, optional
        If it is open already; closed by its owner.

    Yields
    ------
    BlockDone
        As they reach the disk, in no order to rely on.

    Raises
    ------
    Cancelled
        If somebody asked for it; what was computed by then is on the disk.
    InputError
        If the image holds NaN or infinity, or the network makes them.
    RunMismatchError
        If image or model are no longer those of the plan.
    """
    control = control or Control()
    with ExitStack() as stack:
        stack.enter_context(_cpu_threads(plan.threads))
        if store is None:
            store = Store(plan)
            stack.callback(store.close)
        line = _Line(plan, image or _open(plan), store, stack)
        yield from line.run(Schedule(plan, blocks, store.is_done), control)
    control.raise_if_cancelled()


class _Line:
    """Readers, the network and a writer, one behind the other."""

    def __init__(self, plan: Plan, image: Volume, store: Store, stack: ExitStack) -> None:
        self._plan, self._store = plan, store
        self._reader = Reader(plan, image)
        self._network = Network(plan)
        self._readers = stack.enter_context(_threads(READ_AHEAD, "read"))
        self._writer = stack.enter_context(_threads(1, "write"))
        self._reading: deque[tuple[Block, Where, Future[dict[str, NDArray[Any]]]]] = deque()
        self._writing: deque[Future[BlockDone]] = deque()

    def run(self, schedule: Schedule, control: Control) -> Iterator[BlockDone]:
        """Do all blocks of a schedule, or as many as control lets."""
        try:
            while len(schedule) and not control.cancelled:
                self._read_ahead(schedule, control)
                if self._reading:
                    self._compute(*self._reading.popleft())
                waits = WRITE_BEHIND if self._reading else max(len(self._writing) - 1, 0)
                yield from self._written(schedule, at_most=0 if control.paused else waits)
                control.wait_if_paused()
            yield from self._written(schedule, at_most=0)
        finally:
            for _, _, future in self._reading:
                future.cancel()

    def _read_ahead(self, schedule: Schedule, control: Control) -> None:
        while len(self._reading) < READ_AHEAD and (block := schedule.next(control.box)) is not None:
            where = self._reader.where(block)
            self._reading.append((block, where, self._readers.submit(self._reader.read, block, where)))

    def _compute(self, block: Block, where: Where, arrays: Future[dict[str, NDArray[Any]]]) -> None:
        try:
            inputs = arrays.result()
            began = monotonic()
            made = self._network(block, where, inputs)
        except InputError:
            self._writer.submit(self._store.fail, block)
            raise
        self._writing.append(self._writer.submit(self._write, block, made, monotonic() - began))

    def _write(self, block: Block, made: Mapping[str, NDArray[Any]], seconds: float) -> BlockDone:
        self._store.write(block, made, seconds)
        return BlockDone(block=block, box=self._plan.box_of(block), seconds=seconds)

    def _written(self, schedule: Schedule, at_most: int) -> Iterator[BlockDone]:
        """Tell of blocks that were written, waiting until at most so many are not."""
        while self._writing and (len(self._writing) > at_most or self._writing[0].done()):
            told = self._writing.popleft().result()
            schedule.finished(told.block)
            yield told


class Network:
    """The model of a plan, on its device, ready to be asked for blocks."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._device = torch.device(plan.device)
        self._model = _load(plan).to(self._device)
        self._stages = {stage.name: stage for stage in self._model.stages}
        self._kept: dict[str, Tensor] = {}

    @torch.inference_mode()
    def __call__(
        self, block: Block, where: Where, arrays: Mapping[str, NDArray[Any]]
    ) -> dict[str, NDArray[Any]]:
        """Return what a block's stage writes, cut to its core and back from the device.

        Class scores become ids (z, y, x) under ``SCORES``, and a byte of confidence if the plan wants it.

        Raises
        ------
        InputError
            If the network makes scores that are NaN or infinite.
        """
        stage = self._plan.stage(block.stage)
        inputs = {read.name: self._tensor(read, stage, arrays[read.name]) for read in stage.reads}
        with self._arithmetic():
            outputs = self._stages[block.stage](inputs, [where])
        return self._arrays(block, where, outputs) | self._labels(block, where, outputs)

    def _tensor(self, read: ReadPlan, stage: StagePlan, array: NDArray[Any]) -> Tensor:
        """Return what is read, on the device; arrays that all tiles need whole stay there."""
        if stage.whole or not read.whole:
            return to_device(read.name, array, self._plan.window, self._device)
        if read.name not in self._kept:
            self._kept[read.name] = to_device(read.name, array, self._plan.window, self._device)
        return self._kept[read.name]

    def _arrays(self, block: Block, where: Where, outputs: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
        made: dict[str, NDArray[Any]] = {}
        for array in self._plan.stage(block.stage).writes:
            output = outputs[array.name]
            core = output if array.vector else crop(output, where.box, self._plan.box_of(block), array.factor)
            made[array.name] = core[0].to(getattr(torch, array.dtype)).cpu().numpy()
        return made

    def _labels(self, block: Block, where: Where, outputs: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
        if SCORES not in outputs:
            return {}
        box = self._plan.box_of(block)
        scores = crop(outputs[SCORES], where.box, box, (1, 1, 1))
        found = classify(scores, self._plan.classes, confidence=self._plan.confidence)
        if not bool(found.finite.all()):
            raise InputError(
                f"The network's scores are NaN or infinite in the box {box}, so that no class can be told. "
                f"Try --precision float32; if it was that, the model {self._plan.model} is damaged."
            )
        made: dict[str, NDArray[Any]] = {SCORES: to_ids(found.ids, self._plan.classes)[0]}
        if found.confidence is not None:
            made[CONFIDENCE] = found.confidence[0].cpu().numpy()
        return made

    def _arithmetic(self) -> Any:
        if self._plan.precision == "float32":
            return nullcontext()
        return torch.autocast(self._device.type, dtype=getattr(torch, self._plan.precision))


def _open(plan: Plan) -> Volume:
    """Open the plan's image, and make sure that it is the one."""
    image = open_volume(plan.image)
    if image.fingerprint != plan.fingerprint:
        raise RunMismatchError(
            f"{plan.image} has changed since the run began: its shape, voxel size or voxels are others. "
            "Restore the file, or begin another run."
        )
    return image


def _load(plan: Plan) -> Model:
    """Load the plan's model, and make sure that it is the one."""
    model, card = load_checkpoint(plan.model)
    if card.sha256 != plan.sha256:
        raise RunMismatchError(
            f"{plan.model} has changed since the run began: its weights are another training's. "
            "Restore the file, or begin another run."
        )
    return model.eval()


@contextmanager
def _cpu_threads(count: int | None) -> Iterator[None]:
    """Compute with so many threads: another number adds up in another order, to another last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _threads(count: int, name: str) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix=f"memseg-{name}")
