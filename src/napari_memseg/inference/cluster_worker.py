"""What a worker process of a cluster keeps of a run, and what it is asked from afar.

Image, network and ledger are opened once, and kept from one pencil to the next, as is
what was learnt of the memory there is. Only the plan as text, ids of blocks and what
became of them travel::

    cluster.py  ── steer ──────> Control: pause, cancel, look here first
    (client)    ── do_pencil ──> run_blocks ── one event per block ──> client
                ── leave ──────> end after the block at hand; let go of everything

An attempt is one client's go at a run. Whoever comes with a later one ends what an earlier
client, perhaps killed, has left at work here: no two attempts at a run go on in one process.
A word of the earlier one that arrives late is refused.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import torch

from napari_memseg.errors import Cancelled, DeviceLostError, InputError, MemsegError, RunMismatchError
from napari_memseg.geometry import zyx
from napari_memseg.inference.control import Control
from napari_memseg.inference.heap import keep_heap
from napari_memseg.inference.ladder import Footing, load_network
from napari_memseg.inference.ledger import DONE, SKIPPED
from napari_memseg.inference.plan import Block, Plan
from napari_memseg.inference.resources import Peaks, begin_peaks
from napari_memseg.inference.run import open_image, run_blocks
from napari_memseg.inference.run_card import has_run_card, read_run_card
from napari_memseg.inference.store import Store
from napari_memseg.inference.writer import BlockDone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from napari_memseg.geometry import Box

TOPIC = "napari-memseg"
"""Under which workers tell of blocks."""

_TRAVELS = ("seconds", "status", "memory", "worker")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, order=True)
class Attempt:
    """One client's go at the run of one folder; of two at one run the later is the greater."""

    destination: str
    generation: int
    number: str
    """No other attempt has it, not even one of the same generation."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a client's ``Control`` asks for."""

    paused: bool = False
    cancelled: bool = False
    box: Box | None = None


def taken_over(destination: str) -> InputError:
    """Return what an attempt is refused with once a later one has begun."""
    return InputError(f"Another client has taken over the run at {destination}.")


def _to_row(told: BlockDone) -> dict[str, Any]:
    """Return plain values, which any process can read."""
    reason = None if told.error is None else str(told.error) or type(told.error).__name__
    facts = {name: getattr(told, name) for name in _TRAVELS}
    facts["peaks"] = None if told.peaks is None else asdict(told.peaks)
    return {"stage": told.block.stage, "index": list(told.block.index), "reason": reason, **facts}


def from_row(plan: Plan, row: dict[str, Any]) -> BlockDone:
    """Return what a worker told."""
    block, reason = Block(row["stage"], zyx(row["index"])), row["reason"]
    facts = {name: row[name] for name in _TRAVELS}
    peaks = None if row["peaks"] is None else Peaks(**row["peaks"])
    error = None if reason is None else InputError(reason)
    return BlockDone(block=block, box=plan.box_of(block), error=error, peaks=peaks, **facts)


async def steer(attempt: Attempt, wish: Wish) -> None:
    """Take over a run for an attempt, if that is not so yet, and do as its client wishes.

    Raises
    ------
    InputError
        If a later attempt has taken over.
    """
    job = await asyncio.to_thread(_job_of, attempt)
    job.steer(wish)


async def leave(attempt: Attempt) -> None:
    """End an attempt after the block at hand, and wait for that; later calls of it do nothing."""
    job = await asyncio.to_thread(_job_of, attempt)
    await asyncio.to_thread(job.end)


def do_pencil(plan: str, attempt: Attempt, blocks: Sequence[Block]) -> list[dict[str, Any]]:
    """Do the blocks that are not done, telling each at once; return what became of all, as rows.

    Parameters
    ----------
    plan : str
        As JSON, its paths absolute.
    attempt : Attempt
        Of the client that asks.
    blocks : sequence of Block
        Of one stage; all that they need is done.

    Raises
    ------
    MemsegError
        If the image, the model or the run are not to be found here, or are others; or if a later
        attempt has taken over.
    """
    from distributed import get_worker

    worker, told = get_worker(), []
    try:
        for block in _job_of(attempt).do(partial(_read, plan, worker.name), blocks):
            told.append(_to_row(replace(block, worker=worker.id)))
            worker.log_event(TOPIC, {"attempt": attempt.number, "row": told[-1]})
    except DeviceLostError:
        _log.exception("This process can no longer use its GPU and ends, so that another one does its pencil")
        os._exit(1)
    except MemsegError as error:
        raise type(error)(f"On the worker {worker.address}: {error}") from None
    return told


class _Job:
    """An attempt, as far as this process takes part in it."""

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt
        self._control = Control()
        self._at_work = Lock()
        self._tools: _Tools | None = None

    def steer(self, wish: Wish) -> None:
        """Do as the client wishes, from the next block on."""
        (self._control.pause if wish.paused else self._control.resume)()
        self._control.look_at(wish.box)
        if wish.cancelled:
            self._control.cancel()

    def do(self, read_plan: Callable[[], Plan], blocks: Sequence[Block]) -> Iterator[BlockDone]:
        """Do those blocks that are not done, one pencil at a time in this process."""
        with self._at_work:
            if not self._control.cancelled:
                self._tools = self._tools or _Tools(read_plan(), self._control)
                yield from self._tools.do(blocks)

    def end(self) -> None:
        """Wait for the block at hand, then close the ledger and let go of the memory."""
        self._control.cancel()
        with self._at_work:
            if self._tools is not None:
                self._tools.store.close()
                self._tools = None
                torch.cuda.empty_cache()


class _Tools:
    """All that is opened once for an attempt."""

    def __init__(self, plan: Plan, control: Control) -> None:
        keep_heap()
        begin_peaks(plan.device)
        self._plan, self._control = plan, control
        self._check_folder()
        self._image = open_image(plan)
        self._footing = Footing.of(plan)
        self._network = load_network(plan, control, self._footing)
        self.store = Store(plan)

    def do(self, blocks: Sequence[Block]) -> Iterator[BlockDone]:
        """Tell which blocks are there, then do the others, and what that takes; until somebody cancels."""
        for told in self._do(blocks):
            yield replace(told, peaks=Peaks.here(self._plan.device))

    def _do(self, blocks: Sequence[Block]) -> Iterator[BlockDone]:
        self._check_folder()
        self.store.refresh(blocks)
        for block in (block for block in blocks if self.store.is_done(block)):
            status = SKIPPED if block in self.store.skipped else DONE
            yield BlockDone(block=block, box=self._plan.box_of(block), status=status)
        left = [block for block in blocks if not self.store.is_done(block)]
        with suppress(Cancelled):
            yield from run_blocks(
                self._plan,
                left,
                self._control,
                image=self._image,
                store=self.store,
                network=self._network,
                footing=self._footing,
            )

    def _check_folder(self) -> None:
        """Refuse to write where the client does not, and into what is by now another run."""
        destination = Path(self._plan.destination)
        if not has_run_card(destination):
            raise InputError(
                f"The run at {destination} is not to be seen from here. Workers read the image and write the "
                "labels themselves: both must lie on a disk that all see under one path."
            )
        if read_run_card(destination)["id"] != self._plan.id:
            raise RunMismatchError(
                f"Another run has been begun at {destination} by now. Start this one elsewhere."
            )


_jobs: dict[str, _Job] = {}
"""The latest attempt at the run of each folder."""
_choosing = Lock()


def _job_of(attempt: Attempt) -> _Job:
    """Return the job of an attempt; a later one ends that of the attempt before it, and never the reverse."""
    with _choosing:
        job = _jobs.get(attempt.destination)
        if job is not None and attempt < job.attempt:
            raise taken_over(attempt.destination)
        if job is None or job.attempt != attempt:
            if job is not None:
                job.end()
            job = _jobs[attempt.destination] = _Job(attempt)
        return job


def _read(plan: str, name: object) -> Plan:
    """Read a plan, for the device of the worker of that name: GPUs are dealt out by number."""
    read = Plan.from_json(json.loads(plan))
    if not read.device.startswith("cuda"):
        return read
    count = torch.cuda.device_count()
    if not count:
        raise InputError("The run computes on a GPU, and there is none. Start workers where there are GPUs.")
    number = str(name)
    return replace(read, device=f"cuda:{int(number) % count}" if number.isdecimal() else "cuda")
