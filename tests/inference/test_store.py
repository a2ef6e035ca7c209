"""What one process knows of all others, and how little it looks at to know it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import numpy as np
import pytest

import toys
from napari_memseg.inference import cluster_worker, store
from napari_memseg.inference.cluster_worker import _Tools
from napari_memseg.inference.control import Control
from napari_memseg.inference.folder import prepare
from napari_memseg.inference.ledger import DONE
from napari_memseg.inference.plan import Block, Plan
from napari_memseg.inference.run import run_blocks
from napari_memseg.inference.store import Store
from napari_memseg.inference.writer import Writer
from napari_memseg.models.base import SCORES
from running import in_memory, noise, plan_of, run, stored_bytes
from trouble import LOST

pytestmark = pytest.mark.usefixtures("_no_flushes")

DATA = noise((37, 41, 29))


@pytest.fixture
def plan(tmp_path) -> Plan:
    plan = plan_of(toys.null(), DATA, tmp_path, tile=(16, 16, 16))
    prepare(plan)
    return plan


@pytest.fixture
def mine(plan) -> Iterator[Store]:
    """Return the store of a process that does nothing."""
    with closing(Store(plan)) as opened:
        yield opened


def do(plan: Plan, *blocks: Block) -> None:
    """Do blocks, as another process would."""
    list(run_blocks(plan, blocks, image=in_memory(DATA)))


def looks(monkeypatch: pytest.MonkeyPatch) -> list:
    """Note from now on which chunk files are looked for."""
    looked, exist = [], store.chunk_files_exist
    monkeypatch.setattr(
        store, "chunk_files_exist", lambda array, slices: looked.append(slices) or exist(array, slices)
    )
    return looked


def delete_chunk(plan: Plan, level: int, *index: int) -> None:
    Path(plan.destination, str(level), "c", *map(str, index)).unlink()


def test_what_others_finish_is_known_after_a_look_at_a_few_blocks(plan, mine):
    one, two, *_ = plan.blocks()
    do(plan, one, two)
    assert not mine.is_done(two)
    mine.refresh([one])
    assert mine.is_done(one)
    assert mine.is_done(two)


def test_of_the_blocks_that_are_looked_at_those_whose_chunk_was_deleted_are_not_done(plan, mine):
    run(plan, DATA)
    mine.refresh()
    one, *others = plan.blocks()
    delete_chunk(plan, 0, *one.index)
    mine.refresh(others)
    assert mine.is_done(one), "nobody looked"
    mine.refresh([one])
    assert not mine.is_done(one)
    assert all(map(mine.is_done, others))
    do(plan, one)
    mine.refresh([])
    assert mine.is_done(one)


def test_a_coarse_chunk_that_was_deleted_is_built_again_by_who_looks_at_a_block_below_it(plan, mine):
    run(plan, DATA)
    mine.refresh()
    before = stored_bytes(plan)
    delete_chunk(plan, 1, 0, 0, 0)
    block = Block("network", (1, 1, 1))
    mine.refresh([block])
    mine.build_coarse(plan.box_of(block))
    assert stored_bytes(plan) == before


def test_what_a_look_at_a_block_costs_does_not_grow_with_the_run(plan, mine, monkeypatch):
    run(plan, DATA)
    block, looked = next(iter(plan.blocks())), looks(monkeypatch)
    mine.refresh([block])
    assert 0 < len(looked) <= len(mine._pyramids["scores"].levels)


def test_a_worker_looks_for_no_block_but_those_it_is_given(plan, monkeypatch):
    monkeypatch.setattr(cluster_worker, "keep_heap", lambda: None)
    monkeypatch.setattr(cluster_worker, "open_image", lambda plan: in_memory(DATA))
    tools, looked = _Tools(plan, Control()), looks(monkeypatch)
    with closing(tools.store):
        for block in plan.blocks():
            assert [told.block for told in tools.do([block])] == [block]
        assert not looked, "nothing that it was given was there before"
        (told,) = tools.do([block])
    assert told.status == DONE
    assert 0 < len(looked) <= 4


@dataclass
class OnItsWay:
    """A result that comes back from a device when it may, if it does."""

    error: Exception | None = None
    may: Event = field(default_factory=Event)

    def arrays(self) -> dict[str, np.ndarray]:
        assert self.may.wait(60)
        if self.error is not None:
            raise self.error
        return {SCORES: np.ones((16, 16, 13), np.uint8)}


def test_where_a_result_is_lost_on_its_way_those_queued_before_it_are_stored(plan, mine):
    results = [OnItsWay(), OnItsWay(), OnItsWay(LOST), OnItsWay()]
    blocks = [block for block in plan.blocks() if plan.box_of(block).shape == (16, 16, 13)][:4]
    with closing(Writer(mine)) as writer:
        told = [writer.put(block, made, 0.0) for block, made in zip(blocks, results, strict=True)]
        for made in results:  # the first held the writer's thread until all were queued
            made.may.set()
    assert [future.exception() for future in told] == [None, None, LOST, LOST]
    assert [mine.is_done(block) for block in blocks] == [True, True, False, False]
