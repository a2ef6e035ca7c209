"""Store blocks behind the computation, all that wait at a time.

A commit of the ledger costs several flushes of the disk, so blocks that wait together
share one::

    compute ──put──> queue ──> chunks, chunks, chunks ──> one commit ──> BlockDone, BlockDone, BlockDone
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from napari_memseg.errors import InputError
from napari_memseg.inference.ledger import DONE, FAILED, SKIPPED
from napari_memseg.inference.store import Finished

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from napari_memseg.geometry import Box
    from napari_memseg.inference.ladder import Result
    from napari_memseg.inference.plan import Block
    from napari_memseg.inference.resources import Peaks
    from napari_memseg.inference.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockDone:
    """A block that is on the disk and in the ledger, or that cannot be."""

    block: Block
    box: Box
    """Its voxels, at the working level."""
    seconds: float = 0.0
    """That computing took."""
    status: str = DONE
    """"done", "skipped" since it is empty, or "failed"."""
    error: Exception | None = None
    """Why it failed."""
    memory: Mapping[str, Any] = field(default_factory=dict)
    """How often memory did not suffice so far, and what became of it; see ``Footing.notes``."""
    worker: str = ""
    """Which process of a cluster tells it; empty for this one."""
    peaks: Peaks | None = None
    """Of that process's memory so far; None for this one."""


def mark_failed(store: Store, block: Block, error: Exception) -> BlockDone:
    """Note that a block cannot be computed, and why."""
    store.fail(block)
    return BlockDone(block=block, box=store.plan.box_of(block), status=FAILED, error=error)


def mark_skipped(store: Store, blocks: Sequence[Block]) -> list[BlockDone]:
    """Store empty blocks as background, and those of early stages that nobody needs as nothing."""
    store.skip(blocks)
    return [BlockDone(block=block, box=store.plan.box_of(block), status=SKIPPED) for block in blocks]


class Writer:
    """One thread that stores what is queued."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="memseg-write")
        self._queue: deque[tuple[Block, Result, float, Future[BlockDone]]] = deque()

    def put(self, block: Block, result: Result, seconds: float) -> Future[BlockDone]:
        """Queue what was computed; the future tells when it is on the disk, or that it failed."""
        future: Future[BlockDone] = Future()
        self._queue.append((block, result, seconds, future))
        self._thread.submit(self._store_queued)
        return future

    def fail(self, block: Block, error: Exception) -> Future[BlockDone]:
        """Queue the note that a block cannot be computed."""
        return self._thread.submit(mark_failed, self._store, block, error)

    def skip(self, blocks: Sequence[Block]) -> list[BlockDone]:
        """Store empty blocks as background, and wait for it."""
        return self._thread.submit(mark_skipped, self._store, blocks).result()

    def close(self) -> None:
        """Store what is queued, then end."""
        self._thread.shutdown(wait=True)

    def _store_queued(self) -> None:
        """Store all that is queued; where a result does not come back, those before it all the same."""
        taken = [self._queue.popleft() for _ in range(len(self._queue))]
        found: list[Finished | BlockDone] = []
        lost: BaseException | None = None
        try:
            for block, result, seconds, _ in taken:
                found.append(self._fetch(block, result, seconds))
        except BaseException as error:  # noqa: BLE001 - told by the futures of what did not come back
            lost = error
        futures = [future for *_, future in taken]
        try:
            self._store.write([one for one in found if isinstance(one, Finished)])
        except BaseException as error:  # noqa: BLE001 - told by the futures of all
            found, lost = [], error
        for one, future in zip(found, futures, strict=False):
            future.set_result(self._done(one) if isinstance(one, Finished) else one)
        if lost is not None:
            for future in futures[len(found) :]:
                future.set_exception(lost)

    def _fetch(self, block: Block, result: Result, seconds: float) -> Finished | BlockDone:
        """Wait for a result to come from the device; scores that are no numbers make a failed block."""
        try:
            return Finished(block, result.arrays(), seconds)
        except InputError as error:
            return mark_failed(self._store, block, error)

    def _done(self, finished: Finished) -> BlockDone:
        box = self._store.plan.box_of(finished.block)
        return BlockDone(block=finished.block, box=box, seconds=finished.seconds)
