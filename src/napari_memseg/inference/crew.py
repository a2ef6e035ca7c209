"""Hand out pencils to the workers of a cluster, and hear what becomes of their blocks.

Only a few pencils are out at a time, so that what somebody looks at can still be next::

    waiting ──2 per worker──> out ──finished──> heard of every block of it
       └─ looked at: first, beyond the two           └─ an error, or a worker that dies thrice: raised
"""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress
from dataclasses import replace
from functools import reduce
from operator import or_
from queue import Empty, SimpleQueue
from time import monotonic, time_ns
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import uuid4

from napari_memseg.errors import DeviceLostError
from napari_memseg.inference.cluster_worker import (
    TOPIC,
    Attempt,
    Wish,
    do_pencil,
    from_row,
    leave,
    steer,
    taken_over,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from distributed import Client, Future

    from napari_memseg.geometry import Box
    from napari_memseg.inference.control import Control
    from napari_memseg.inference.plan import Block, Plan
    from napari_memseg.inference.writer import BlockDone

    Row: TypeAlias = dict[str, Any]
    Rows: TypeAlias = list[Row]

OUT = 2
"""Pencils that a worker is given at once, one to do and one to go on with; one more if it is looked at."""
TICK_SECONDS = 0.2
"""How soon a wish is passed on."""
WORKERLESS_SECONDS = 300
"""How long a run goes on without any worker: one that died is replaced sooner, if anybody replaces it."""

_log = logging.getLogger(__name__)
_GO_ON = "What is finished is kept: start the same again to go on."
_GONE = f"The scheduler of the cluster is gone. {_GO_ON}"


def next_generation(client: Client, destination: str) -> int:
    """Return a number above those of all earlier attempts at a run, as far as this scheduler knows them.

    The time, so that a new scheduler goes on from there; or the next number, where clocks differ.

    Raises
    ------
    DeviceLostError
        If the scheduler is gone.
    """
    place = [TOPIC, destination]
    try:
        generation: int = max(client.get_metadata(place, 0) + 1, time_ns())
        client.set_metadata(place, generation)
    except OSError as error:
        raise DeviceLostError(_GONE) from error
    return generation


class _Pencil:
    """Blocks that one task does."""

    def __init__(self, plan: Plan, blocks: list[Block]) -> None:
        self.blocks = blocks
        self._boxes = [plan.box_of(block) for block in blocks]
        self._around = reduce(or_, self._boxes)

    def is_seen(self, looked_at: Box | None) -> bool:
        """Whether a block of it is looked at."""
        if looked_at is None or (self._around & looked_at).is_empty:
            return False
        return any(not (box & looked_at).is_empty for box in self._boxes)


class Crew:
    """All workers of a cluster, as one attempt at a run sees them.

    Parameters
    ----------
    client : distributed.Client
        Of the cluster.
    plan : Plan
        Of the run.
    control : Control
        Whose wishes are passed on.

    Raises
    ------
    DeviceLostError
        If the scheduler is gone.
    """

    def __init__(self, client: Client, plan: Plan, control: Control) -> None:
        self._client, self._plan, self._control = client, plan, control
        model, destination = os.path.abspath(plan.model), os.path.abspath(plan.destination)
        self._text = json.dumps(replace(plan, model=model, destination=destination).to_json())
        self._attempt = Attempt(destination, next_generation(client, destination), uuid4().hex)
        self._news: SimpleQueue[Row | Future[Rows]] = SimpleQueue()
        self._out: set[Future[Rows]] = set()
        self._lost: set[Future[Rows]] = set()
        self._workers: list[str] = []
        self._passed_on: tuple[Wish, list[str]] | None = None
        self._workerless_since: float | None = None
        client.subscribe_topic(TOPIC, self._hear)

    @property
    def size(self) -> int:
        """How many workers there are, and one if there is none yet."""
        return max(len(self._workers), 1)

    def pass_on(self) -> None:
        """Tell all workers what is wished, if they or it have changed; they end earlier attempts at the run.

        Raises
        ------
        DeviceLostError
            If the scheduler is gone.
        """
        control = self._control
        wish = Wish(paused=control.paused, cancelled=control.cancelled, box=control.box)
        try:
            self._workers = sorted(self._client.nthreads())
            if self._passed_on != (wish, self._workers):
                self._client.run(steer, self._attempt, wish, on_error="ignore")
                self._passed_on = (wish, self._workers)
        except OSError as error:
            raise DeviceLostError(_GONE) from error

    def do(self, pencils: Iterable[list[Block]]) -> Iterator[BlockDone]:
        """Have pencils of one stage done.

        Yields
        ------
        BlockDone
            Each block once.

        Raises
        ------
        Cancelled
            If somebody asked for it; what was computed by then is on the disk.
        DeviceLostError
            If a pencil's workers die, all workers stay away, or the scheduler is gone.
        InputError
            If another client takes over; and what a worker raises.
        """
        waiting = [_Pencil(self._plan, blocks) for blocks in pencils]
        awaited = {block for pencil in waiting for block in pencil.blocks}
        while self._goes_on(waiting):
            self.pass_on()
            self._be_patient()
            self._hand_out(waiting)
            for told in self._heard():
                if told.block in awaited:
                    awaited.remove(told.block)
                    yield told
        self._control.raise_if_cancelled()
        if awaited:
            raise taken_over(self._plan.destination)

    def leave(self) -> None:
        """End what is being done, after the blocks at hand, and let the workers forget the run."""
        if self._client.status != "running":
            return  # without a scheduler there is nobody to tell, and workers end by themselves
        with suppress(OSError):
            self._client.cancel(list(self._out))
            self._client.run(leave, self._attempt, on_error="ignore")

    def _goes_on(self, waiting: list[_Pencil]) -> bool:
        if self._control.cancelled:
            return bool(self._out and self._workers)
        return bool(self._out or waiting)

    def _be_patient(self) -> None:
        """Say so if there is no worker, and give up if none comes; a paused run needs none."""
        if self._workers or self._control.paused:
            self._workerless_since = None
            return
        if self._workerless_since is None:
            self._workerless_since = monotonic()
            _log.warning("The cluster has lost all its workers: waiting %s s for others.", WORKERLESS_SECONDS)
        if monotonic() - self._workerless_since >= WORKERLESS_SECONDS:
            raise DeviceLostError(
                f"The cluster has lost all its workers, and none has come for {WORKERLESS_SECONDS} s. See "
                f"what ended them, and start some. {_GO_ON}"
            )

    def _hand_out(self, waiting: list[_Pencil]) -> None:
        """Submit pencils, those that are looked at first, until there are enough."""
        control = self._control
        while waiting and not (control.paused or control.cancelled):
            n = next((n for n, pencil in enumerate(waiting) if pencil.is_seen(control.box)), None)
            if len(self._out) >= len(self._workers) * (OUT if n is None else OUT + 1):
                return
            blocks = waiting.pop(n or 0).blocks
            key = f"memseg-{self._plan.id}-{self._attempt.number}-{blocks[0].stage}-{blocks[0].index}"
            future = self._client.submit(
                do_pencil, self._text, self._attempt, blocks, key=key, priority=int(n is not None), pure=False
            )
            self._out.add(future)
            future.add_done_callback(self._news.put)

    def _hear(self, event: tuple[float, dict[str, Any]]) -> None:
        if event[1]["attempt"] == self._attempt.number:
            self._news.put(event[1]["row"])

    def _heard(self) -> Iterator[BlockDone]:
        """Wait a moment for news, and tell all that there is."""
        for future in [future for future in self._lost if future.done()]:
            self._lost.discard(future)
            self._news.put(future)
        with suppress(Empty):
            news = self._news.get(timeout=TICK_SECONDS)
            while True:
                rows = [news] if isinstance(news, dict) else self._came_back(news)
                yield from (from_row(self._plan, row) for row in rows)
                news = self._news.get_nowait()

    def _came_back(self, future: Future[Rows]) -> Rows:
        """Return what became of all blocks of a pencil, whether or not it was heard before."""
        rows = self._answer(future)
        if rows is None:
            self._lost.add(future)
            return []
        self._out.discard(future)
        return rows

    def _answer(self, future: Future[Rows]) -> Rows | None:
        """Return what a worker tells of its pencil; None if it died with that: another does it again."""
        from distributed import KilledWorker

        if future.cancelled():
            raise DeviceLostError(_GONE)
        if not future.done():
            return None
        try:
            return future.result(timeout=TICK_SECONDS)
        except KilledWorker as error:
            raise DeviceLostError(
                f"Worker after worker died over the same blocks, the last at {error.last_worker.address}. If "
                f"memory ran out, have fewer workers on one machine. {_GO_ON}"
            ) from error
        except TimeoutError:
            if future.status == "error":  # then the worker itself says so, of its disk perhaps
                raise
            return None
