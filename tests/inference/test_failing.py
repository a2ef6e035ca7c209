"""A tile that cannot be read or computed is marked and named, and the others go on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import pytest

import toys
from napari_memseg.geometry import Box
from napari_memseg.inference.executors import in_process
from napari_memseg.inference.ledger import DONE, FAILED, read_ledgers
from napari_memseg.inference.plan import Block, Plan
from napari_memseg.inference.run_card import read_run_card
from napari_memseg.inference.schedule import Schedule, needs
from napari_memseg.inference.stages import plan_stages
from napari_memseg.models.base import Halo, Reads, Writes
from running import UNIT_WINDOW, InMemory, in_memory, labels_of, noise, plan_of, run, stored_bytes
from trouble import in_box, on_calls, watched

pytestmark = pytest.mark.usefixtures("_no_flushes")

SHAPE, TILE = (37, 41, 29), (16, 16, 16)
DATA = noise(SHAPE)
BAD = Box((16, 16, 16), (32, 32, 29))
"""The voxels of one tile."""
ODD = ValueError("the tile is odd")


def plan_in(folder: Path, model=None, **settings) -> Plan:
    return plan_of(model or toys.null(), DATA, folder, tile=TILE, **settings)


def undisturbed(plan: Plan) -> dict[str, bytes]:
    """Return what a run writes to which nothing happens."""
    other = replace(plan, destination=f"{plan.destination}.undisturbed")
    run(other, DATA)
    return stored_bytes(other)


def assert_right_beside(plan: Plan, box: Box, data: np.ndarray = DATA) -> None:
    labels = labels_of(plan)
    assert (labels[box.slices] == plan.classes.not_predicted).all()
    labels[box.slices] = data[box.slices] > 0.5
    assert (labels == (data > 0.5)).all()


@dataclass
class Damaged(InMemory):
    """An array with chunks that cannot be decoded, the first so many times."""

    box: Box = BAD
    times: int = 10**9
    tried: list = field(default_factory=list)

    def __getitem__(self, index):
        if not (Box(*zip(*((s.start, s.stop) for s in index), strict=True)) & self.box).is_empty:
            self.tried.append(index)
            if len(self.tried) <= self.times:
                raise OSError("checksum mismatch")
        return super().__getitem__(index)


def test_a_tile_that_the_network_refuses_is_tried_twice_then_marked_and_named(tmp_path, monkeypatch):
    plan = plan_in(tmp_path)
    calls = watched(monkeypatch, in_box(ODD, BAD))
    steps = run(plan, DATA)
    assert max(Counter(call.cores[0] for call in calls).values()) == 2
    assert len(calls) == steps[-1].total + 1
    assert (steps[-1].done, steps[-1].failed) == (steps[-1].total - 1, 1)
    (told,) = [step for step in steps if step.reason]
    assert (told.block.index, told.box, told.reason) == ((1, 1, 1), BAD, "the tile is odd")
    card = read_run_card(Path(plan.destination))
    assert card["finished"]
    named = {"stage": "network", "block": [1, 1, 1], "box": str(BAD), "reason": "the tile is odd"}
    assert card["result"]["failures"] == [named]
    assert [row.block for row in read_ledgers(plan.folder) if row.status == FAILED] == [(1, 1, 1)]
    assert_right_beside(plan, BAD)


def test_a_chunk_that_cannot_be_decoded_fails_the_tile_that_needs_it(tmp_path):
    data = noise((32, 48, 32))
    plan, image = plan_of(toys.null(), data, tmp_path, tile=TILE), in_memory(data)
    image.arrays[0] = Damaged(data)
    last = list(in_process(plan, image=image))[-1]
    assert (last.done, last.failed) == (last.total - 1, 1)
    assert len(image.arrays[0].tried) == 2
    (failure,) = read_run_card(Path(plan.destination))["result"]["failures"]
    assert failure["box"] == "16:32,16:32,16:32"
    assert "cannot be decoded at 16:32,16:32,16:32" in failure["reason"]
    assert_right_beside(plan, Box.at((16, 16, 16), TILE), data)


def test_what_fails_once_and_then_succeeds_is_no_failure(tmp_path, monkeypatch):
    plan, image = plan_in(tmp_path), in_memory(DATA)
    image.arrays[0] = Damaged(DATA, times=1)
    watched(monkeypatch, on_calls(ODD, 3, 9))
    last = list(in_process(plan, image=image))[-1]
    assert (last.done, last.failed) == (last.total, 0)
    assert read_run_card(Path(plan.destination))["result"]["failures"] == []
    assert stored_bytes(plan) == undisturbed(plan)


def test_in_a_batch_just_the_tile_that_fails_is_marked(tmp_path, monkeypatch):
    plan = replace(plan_in(tmp_path), batch=3)
    watched(monkeypatch, in_box(ODD, BAD))
    last = run(plan, DATA)[-1]
    assert (last.done, last.failed) == (last.total - 1, 1)
    assert_right_beside(plan, BAD)


def test_the_next_attempt_computes_just_what_failed_to_the_bytes_of_an_undisturbed_run(tmp_path, monkeypatch):
    plan = plan_in(tmp_path, confidence=True)
    watched(monkeypatch, in_box(ODD, BAD))
    run(plan, DATA)
    monkeypatch.undo()
    calls = watched(monkeypatch)
    again = run(plan, DATA)
    assert [call.cores for call in calls] == [[Box.at(BAD.start, TILE)]]
    assert (again[0].resumed, again[-1].done, again[-1].failed) == (again[-1].total - 1, again[-1].total, 0)
    assert read_run_card(Path(plan.destination))["result"]["failures"] == []
    assert stored_bytes(plan) == undisturbed(plan)


def test_a_block_of_an_earlier_stage_takes_with_it_those_that_need_it_and_no_other(tmp_path, monkeypatch):
    plan = plan_in(tmp_path, toys.toy())
    bad = Block("first", (2, 2, 1))
    watched(
        monkeypatch,
        lambda call: ODD if call.stage == "first" and call.cores == [plan.core_of(bad)] else None,
    )
    steps = run(plan, DATA)
    lost = {block for block in plan.blocks() if bad in needs(plan, block)}
    assert 0 < len(lost) < 18
    assert {step.block: step.reason for step in steps if step.reason} == {
        bad: "the tile is odd",
        **dict.fromkeys(lost, "A block of an earlier stage that it reads from has failed: the tile is odd"),
    }
    done = {Block(row.stage, row.block) for row in read_ledgers(plan.folder) if row.status == DONE}
    assert set(plan.blocks()) - done == {bad, *lost}
    monkeypatch.undo()
    calls = watched(monkeypatch)
    run(plan, DATA)
    assert {(call.stage, call.cores[0]) for call in calls} == {
        (b.stage, plan.core_of(b)) for b in (bad, *lost)
    }
    assert stored_bytes(plan) == undisturbed(plan)


def test_a_run_in_which_nothing_succeeds_ends_with_what_went_wrong(tmp_path, monkeypatch):
    plan = plan_in(tmp_path)
    calls = watched(monkeypatch, lambda call: ODD)
    with pytest.raises(ValueError, match="the tile is odd"):
        run(plan, DATA)
    assert len(calls) < 18
    assert not read_run_card(Path(plan.destination))["finished"]


def test_so_does_one_whose_first_stage_fails(tmp_path, monkeypatch):
    plan = plan_in(tmp_path, toys.toy(), box="0:16,0:16,0:16")
    watched(monkeypatch, lambda call: ODD)
    with pytest.raises(ValueError, match="the tile is odd"):
        run(plan, DATA)


def test_a_run_of_one_tile_that_fails_ends_with_its_error(tmp_path, monkeypatch):
    plan = plan_in(tmp_path, box="0:16,0:16,0:16")
    watched(monkeypatch, lambda call: ODD)
    with pytest.raises(ValueError, match="the tile is odd"):
        run(plan, DATA)


def test_of_several_errors_it_is_the_first_since_the_others_may_follow_from_it(tmp_path, monkeypatch):
    plan = plan_in(tmp_path)
    calls = watched(monkeypatch, lambda call: ValueError(f"the tile at {call.boxes[0].start} is odd"))
    with pytest.raises(ValueError, match="is odd") as raised:
        run(plan, DATA)
    assert str(calls[0].boxes[0].start) in str(raised.value)


@dataclass(frozen=True, kw_only=True)
class Link:
    """A stage of a chain: it reads what the one before it wrote."""

    name: str
    reads: tuple[Reads, ...]
    writes: tuple[Writes, ...]
    multiple: tuple[int, int, int] = (1, 1, 1)
    whole: bool = False


def chain_of(*names: str) -> Plan:
    """Return a plan of stages that each need the one before, with nothing but geometry in it."""
    around = Halo.even(4, 4, 4)
    made = ["image@0", *names[:-1], "scores"]
    stages = [
        Link(
            name=name,
            reads=(Reads(array=made[n], halo_exact=around, halo_recommended=around),),
            writes=(Writes(array=made[n + 1]),),
        )
        for n, name in enumerate(names)
    ]
    shape = (32, 32, 16)
    grid = {"core": TILE, "halo": "exact", "region": Box.whole(shape)}
    planned = plan_stages(stages, in_memory(np.zeros(shape, np.float32)), 0, shape, **grid)
    facts = dict.fromkeys(f.name for f in fields(Plan))
    facts |= {"shape": shape, "core": TILE, "chunk": TILE, "region": Box.whole(shape)}
    return Plan(**facts | {"stages": planned, "window": UNIT_WINDOW})


def test_a_failure_goes_down_a_chain_of_stages_and_each_block_is_given_up_once():
    plan = chain_of("a", "b", "c")
    schedule = Schedule(plan, plan.blocks(), lambda block: False)
    while (block := schedule.next()) is not None:
        schedule.finished(block, failed=block.stage == "a")
    assert Counter(schedule.lost) == Counter(b for b in plan.blocks() if b.stage != "a")
