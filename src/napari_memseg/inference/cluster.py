"""Do a run in many processes, on this machine or on others.

Each worker reads, computes and writes by itself; pencils go out and ids come back.
Stages follow one another, each once the one before it is done everywhere::

    blocks of a stage ──> pencils ──> crew.py ──> dask.distributed ──> run_blocks, in each worker
    RunStep <── Tally <── one BlockDone per block ─────────────────────────┘     │
                                         image, labels, ledgers: on one disk <───┘

A worker that dies has its pencil done by another one; a client that dies is replaced by
starting again. Either way what is done stays done.
"""

from __future__ import annotations

from contextlib import ExitStack, closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from napari_memseg.errors import InputError
from napari_memseg.inference.cluster_connection import connected
from napari_memseg.inference.control import Control
from napari_memseg.inference.crew import Crew
from napari_memseg.inference.empty import split_empty
from napari_memseg.inference.executors import RunStep, Tally
from napari_memseg.inference.folder import alone, locked, watched
from napari_memseg.inference.ledger import FAILED
from napari_memseg.inference.pencils import pencil_width, pencils
from napari_memseg.inference.run import open_image
from napari_memseg.inference.run_card import has_run_card
from napari_memseg.inference.schedule import needs
from napari_memseg.inference.store import Store
from napari_memseg.inference.writer import mark_failed, mark_skipped
from napari_memseg.io.arrays import sweep_partial

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from napari_memseg.inference.plan import Block, Plan
    from napari_memseg.inference.writer import BlockDone
    from napari_memseg.io.volume import Volume

PIECES = 8
"""Pencils are cut until there are so many per worker, so that all end at about the same time."""
LONGEST = 256
"""Blocks of a pencil, at most."""


def on_cluster(
    plan: Plan,
    control: Control | None = None,
    *,
    restart: bool = False,
    scheduler: str | None = None,
    workers: int | None = None,
    image: Volume | None = None,
) -> Iterator[RunStep]:
    """Do what a plan asks for, or what is left of it, in the workers of a cluster.

    Parameters
    ----------
    plan, control, restart, image
        As for ``in_process``. Image, model and destination lie where all workers see them, under one path.
    scheduler : str, optional
        Address of a running one: "tcp://node1:8786". Its workers need this package, and one thread each.
    workers : int, optional
        So many processes of this machine instead, for the time of the run; with GPUs, one for each.

    Yields
    ------
    RunStep
        As ``in_process`` does. Workers go on for a while if nobody asks for the next step.

    Raises
    ------
    InputError
        If there is no such cluster, or ``distributed`` is not installed; and as for ``in_process``.
    RunMismatchError, Cancelled
        As for ``in_process``.
    DeviceLostError
        If workers die over one pencil again and again, or the scheduler is gone; start again to go on.
    """
    control, destination = control or Control(), Path(plan.destination)
    with ExitStack() as stack:
        client = stack.enter_context(connected(scheduler, workers))
        with locked(destination) if has_run_card(destination) else nullcontext():
            crew = Crew(client, plan, control)
            crew.pass_on()  # whoever is at work for this run has lost its client
        stack.enter_context(alone(plan, restart=restart))
        stack.callback(crew.leave)
        store = stack.enter_context(closing(Store(plan)))
        tally = Tally(plan, store)
        yield tally.step()
        image = image or open_image(plan)
        with watched(plan, image):
            for told in _work(plan, image, store, crew, tally.left):
                yield tally.step(told)
        sweep_partial(destination)
        store.refresh()
        store.build_coarse(plan.region)
        tally.finish()


def _work(
    plan: Plan, image: Volume, store: Store, crew: Crew, blocks: Sequence[Block]
) -> Iterator[BlockDone]:
    """Have blocks done, a stage after the other."""
    width = pencil_width(plan, [array.chunks for array in image.arrays])
    _, empty = split_empty(plan, image, blocks)
    yield from mark_skipped(store, [block for block in empty if block.stage != plan.stages[-1].name])
    failed: set[Block] = set()
    for stage in plan.stages:
        wanted = [block for block in blocks if block.stage == stage.name and not store.is_done(block)]
        lost = {block for block in wanted if failed and not failed.isdisjoint(needs(plan, block))}
        error = InputError("a block of an earlier stage that it reads from has failed")
        yield from (mark_failed(store, block, error) for block in lost)
        failed |= lost
        able = [block for block in wanted if block not in lost]
        longest = min(max(len(able) // (PIECES * crew.size), 1), LONGEST)
        for told in crew.do(pencils(able, width, longest)):
            failed |= {told.block} if told.status == FAILED else set()
            yield told
