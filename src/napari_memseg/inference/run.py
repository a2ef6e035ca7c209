"""Run blocks: read ahead, compute, write behind.

One function for every executor. Threads read and write; the caller's own thread
computes, so that a generator that is not asked for more computes nothing::

    readers  ──blocks ahead──>  ladder, network (caller)  ──>  writer, ledger  ──>  BlockDone

A block that cannot be read or computed is tried once more, then marked as failed; the
others go on.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING

from napari_memseg.errors import Cancelled, DeviceLostError, InputError, RunMismatchError
from napari_memseg.inference.control import Control, Interrupted
from napari_memseg.inference.device_image import BRICK_BYTES, DeviceImage
from napari_memseg.inference.empty import split_empty
from napari_memseg.inference.ladder import Footing, Ladder, load_network
from napari_memseg.inference.ledger import FAILED
from napari_memseg.inference.network import Network, cpu_threads
from napari_memseg.inference.schedule import Schedule, needs
from napari_memseg.inference.shortage import raise_if_lost
from napari_memseg.inference.store import Store
from napari_memseg.inference.tensors import Reader
from napari_memseg.inference.writer import BlockDone, Writer
from napari_memseg.io.formats import open_volume

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from napari_memseg.geometry import Zyx
    from napari_memseg.inference.plan import Block, Plan
    from napari_memseg.inference.tensors import Sample
    from napari_memseg.io.volume import Volume

READERS = 2
"""Threads that read, and blocks that are read before they are needed; more where a GPU is fed."""
MOST_READERS = 8
WRITE_BEHIND = 2
"""Blocks that may wait to be written, beside those of one batch."""
SKIPPED_AT_ONCE = 16


def readers(device: str) -> int:
    """Return how many threads read for a device, each a block ahead."""
    return min(os.cpu_count() or 1, MOST_READERS) if device.startswith("cuda") else READERS


def run_blocks(
    plan: Plan,
    blocks: Iterable[Block],
    control: Control | None = None,
    *,
    image: Volume | None = None,
    store: Store | None = None,
    network: Network | None = None,
    footing: Footing | None = None,
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
    network : Network, optional
        If it is loaded already.
    footing : Footing, optional
        What earlier calls have learnt of the memory there is, and where this one adds to it.

    Yields
    ------
    BlockDone
        As they reach the disk, in no order to rely on; or as failed, if they cannot be computed.

    Raises
    ------
    Cancelled
        If somebody asked for it; what was computed by then is on the disk.
    DeviceLostError
        If the device is gone; what was computed by then is on the disk.
    RunMismatchError
        If image or model are no longer those of the plan.
    """
    control = control or Control()
    with ExitStack() as stack:
        stack.enter_context(cpu_threads(plan.threads))
        image = image or open_image(plan)
        if store is None:
            store = Store(plan)
            stack.callback(store.close)
        to_do, empty = split_empty(plan, image, list(blocks))
        footing = footing or Footing.of(plan)
        network = network or load_network(plan, control, footing)
        ladder = _ladder(plan, image, network, control, footing)
        line = _Line(plan, ladder, store, control, stack)
        chunks = [array.chunks for array in image.arrays]
        yield from line.run(Schedule(plan, to_do, store.is_done, chunks, control.need))
        yield from line.skip(empty)
    control.raise_if_cancelled()


def open_image(plan: Plan) -> Volume:
    """Open the plan's image, with the voxel size that a person told for it, and make sure that it is the one.

    Raises
    ------
    RunMismatchError
        If it is not.
    """
    image = open_volume(plan.image)
    if plan.voxel_size is not None:
        z, y, x = (n / m for n, m in zip(plan.voxel_size, image.scale(plan.level), strict=True))
        image = image.completed((z, y, x), plan.unit)
    if image.fingerprint != plan.fingerprint:
        raise RunMismatchError(
            f"{plan.image} has changed since the run began: its shape, voxel size or voxels are others. "
            "Restore the file, or begin another run."
        )
    return image


def _ladder(plan: Plan, image: Volume, network: Network, control: Control, footing: Footing) -> Ladder:
    """Return what computes: the network, and what reads for its device."""
    on_gpu = network.device.type == "cuda"
    on_device = DeviceImage(image, network.device, BRICK_BYTES) if on_gpu else None
    return Ladder(plan, Reader(plan, image, on_device), network, control, footing)


class _Line:
    """Readers, the network and a writer, one behind the other."""

    def __init__(self, plan: Plan, ladder: Ladder, store: Store, control: Control, stack: ExitStack) -> None:
        self._plan, self._ladder, self._control = plan, ladder, control
        self._reader, self._device = ladder.reader, ladder.network.device
        self._ahead = readers(self._device.type)
        self._readers = stack.enter_context(ThreadPoolExecutor(self._ahead, thread_name_prefix="memseg-read"))
        self._writer = Writer(store)
        stack.callback(self._writer.close)
        self._reading: deque[tuple[Block, tuple[Zyx, ...], Future[Sample]]] = deque()
        self._writing: deque[Future[BlockDone]] = deque()
        self._reasons: dict[Block, str] = {}

    def run(self, schedule: Schedule) -> Iterator[BlockDone]:
        """Do all blocks of a schedule, or as many as control lets."""
        control = self._control
        try:
            while len(schedule) and not control.cancelled:
                self._read_ahead(schedule)
                if self._reading:
                    yield from self._compute_next(schedule)
                behind = WRITE_BEHIND + self._plan.batch
                waits = behind if self._reading else max(len(self._writing) - 1, 0)
                yield from self._written(schedule, at_most=0 if control.paused else waits)
                control.wait_if_paused()
        except Cancelled:
            pass  # between two layers: what was computed before is still to be told
        finally:
            for _, _, future in self._reading:
                future.cancel()
        yield from self._written(schedule, at_most=0)

    def skip(self, blocks: Sequence[Block]) -> Iterator[BlockDone]:
        """Mark empty blocks, as many as control lets."""
        for n in range(0, len(blocks), SKIPPED_AT_ONCE):
            self._control.wait_if_paused()
            if self._control.cancelled:
                return
            for told in self._writer.skip(blocks[n : n + SKIPPED_AT_ONCE]):
                yield replace(told, memory=self._ladder.footing.notes)

    def _read_ahead(self, schedule: Schedule) -> None:
        wanted = self._ahead + self._plan.batch - 1
        while len(self._reading) < wanted and (block := schedule.next(self._control.box)) is not None:
            boxes = self._reader.where(self._plan.stage(block.stage), self._plan.core_of(block)).boxes
            shapes = tuple(box.shape for box in boxes.values())
            self._reading.append((block, shapes, self._readers.submit(self._read, block)))
        while schedule.lost:
            self._lose(schedule.lost.pop(0))

    def _read(self, block: Block) -> Sample:
        return self._reader.sample(self._plan.stage(block.stage), self._plan.core_of(block))

    def _lose(self, block: Block) -> None:
        """Mark a block that can never begin, for the reason why what it needs has failed."""
        reasons = (self._reasons.get(needed) for needed in needs(self._plan, block))
        reason = self._reasons[block] = next(filter(None, reasons), "nobody knows why")
        error = InputError(f"A block of an earlier stage that it reads from has failed: {reason}")
        self._writing.append(self._writer.fail(block, error))

    def _next_batch(self) -> list[tuple[Block, Future[Sample]]]:
        """Take what was read first, and what can be computed with it."""
        first, shapes, future = self._reading.popleft()
        batch = [(first, future)]
        while self._reading and len(batch) < self._plan.batch:
            block, same, future = self._reading[0]
            if block.stage != first.stage or same != shapes:
                break
            batch.append((block, future))
            self._reading.popleft()
        return batch

    def _compute_next(self, schedule: Schedule) -> Iterator[BlockDone]:
        """Compute a batch; whoever pauses in the middle is told what is finished, and it begins again."""
        batch = self._next_batch()
        while True:
            try:
                return self._compute(batch)
            except Interrupted:
                yield from self._written(schedule, at_most=0)
                self._control.wait_if_paused()

    def _compute(self, batch: list[tuple[Block, Future[Sample]]]) -> None:
        """Compute a batch and queue it to be written; if that fails, one block after the other.

        Those are taken off the batch, so that whoever is interrupted begins none of them again.
        """
        began = monotonic()
        try:
            results = self._ladder([future.result() for _, future in batch])
        except (Cancelled, Interrupted, DeviceLostError, RunMismatchError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it may be about one block alone
            raise_if_lost(error, self._device)
            while batch:
                self._compute_again(batch[0][0])
                del batch[0]
            return
        seconds = (monotonic() - began) / len(batch)
        for (block, _), result in zip(batch, results, strict=True):
            self._writing.append(self._writer.put(block, result, seconds))

    def _compute_again(self, block: Block) -> None:
        began = monotonic()
        try:
            (result,) = self._ladder([self._read(block)])
        except (Cancelled, Interrupted, DeviceLostError, RunMismatchError):
            raise
        except Exception as error:  # noqa: BLE001 - twice now: the block is marked, the others go on
            raise_if_lost(error, self._device)
            self._writing.append(self._writer.fail(block, error))
        else:
            self._writing.append(self._writer.put(block, result, monotonic() - began))

    def _written(self, schedule: Schedule, at_most: int) -> Iterator[BlockDone]:
        """Tell of blocks that were written, waiting until at most so many are not."""
        while self._writing and (len(self._writing) > at_most or self._writing[0].done()):
            try:
                told = self._writing.popleft().result()
            except RuntimeError as error:
                raise_if_lost(error, self._device)
                raise
            if told.error is not None:
                self._reasons.setdefault(told.block, str(told.error))
            schedule.finished(told.block, failed=told.status == FAILED)
            yield replace(told, memory=self._ladder.footing.notes)
