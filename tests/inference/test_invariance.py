"""The answer does not depend on how a volume was cut, in which order, by whom, or with what pauses."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import toys
from napari_memseg.errors import Cancelled
from napari_memseg.geometry import Box
from napari_memseg.inference.control import Control
from napari_memseg.inference.executors import in_process
from napari_memseg.inference.folder import prepare
from napari_memseg.inference.ledger import done_blocks
from napari_memseg.inference.plan import Block, Plan
from napari_memseg.inference.run import run_blocks
from napari_memseg.models import unet3d
from napari_memseg.models.base import Model
from running import expected, in_memory, labels_of, noise, plan_of, run, stored_bytes
from trouble import watched

pytestmark = pytest.mark.usefixtures("_no_flushes")

MODELS: dict[str, Callable[[int], Model]] = {
    "one level": lambda seed: toys.random_unet(seed, widths=[4]),
    "two levels": lambda seed: toys.random_unet(seed, widths=[3, 4]),
    "three levels": lambda seed: toys.random_unet(seed, widths=[2, 3, 4]),
    "four levels": lambda seed: toys.random_unet(seed, widths=[2, 2, 2, 2]),
    "many stages": toys.toy,
}
lengths = st.sampled_from([17, 23, 31, 34, 37, 48])
cores = st.sampled_from([16, 32])


def by_workers(plan: Plan, data: np.ndarray, chance: random.Random) -> None:
    """Do a run stage by stage, each in parts, as workers of a cluster do, each looking somewhere else."""
    prepare(plan)
    for stage in plan.stages:
        blocks = [block for block in plan.blocks() if block.stage == stage.name]
        chance.shuffle(blocks)
        workers = chance.randint(1, 3)
        for n in range(workers):
            control = Control()
            control.look_at(tuple(chance.randrange(n) for n in plan.shape))
            list(run_blocks(plan, blocks[n::workers], control, image=in_memory(data)))


@pytest.mark.slow
@settings(max_examples=20)
@given(
    kind=st.sampled_from(list(MODELS)),
    seed=st.integers(0, 99),
    shape=st.tuples(lengths, lengths, lengths),
    tile=st.tuples(cores, cores, cores),
    batch=st.integers(1, 3),
    chance=st.randoms(use_true_random=False),
)
def test_any_tiling_order_batch_and_number_of_workers_agrees_with_one_pass(
    tmp_path_factory, kind, seed, shape, tile, batch, chance
):
    model, data, folder = MODELS[kind](seed), noise(shape, seed), tmp_path_factory.mktemp("run")
    plan = replace(plan_of(model, data, folder, tile=tile, halo="exact", confidence=True), batch=batch)
    assert plan.exact
    run(plan, data)
    different = labels_of(plan) != expected(model, data)
    second, best = np.sort(toys.whole_volume(model, data), 0)[-2:] if len(model.classes) > 1 else (0, 1)
    assert not (different & (best - second > 1e-5 * np.abs(best).max())).any(), "only ties may differ"
    assert different.sum() <= max(1e-6 * different.size, 1)
    other = replace(plan, destination=str(folder / "other" / "labels.ome.zarr"))
    by_workers(other, data, chance)
    assert len(run(other, data)) == 1, "nothing is left to do"
    assert stored_bytes(other) == stored_bytes(plan)


@pytest.mark.slow
def test_a_region_is_what_the_whole_volume_is_there(tmp_path):
    model, data = toys.random_unet(0, widths=[2, 3, 4]), noise((61, 43, 37))
    plan = plan_of(model, data, tmp_path, tile=(16, 32, 16), halo="exact", box="20:50,3:31,16:17")
    run(plan, data)
    inside = plan.region.slices
    assert (labels_of(plan)[inside] == expected(model, data)[inside]).all()


SHAPE, TILE = (37, 41, 29), (16, 16, 16)
TILES = 18
DATA = noise(SHAPE)


@pytest.fixture(params=[1, 2], ids=["single tiles", "batches"])
def plan(request, tmp_path) -> Plan:
    return replace(
        plan_of(toys.random_unet(0, widths=[2, 2]), DATA, tmp_path, tile=TILE), batch=request.param
    )


@pytest.fixture
def in_pass(monkeypatch):
    """Return a function that lets something happen between two layers, in the passes of those numbers."""

    def let(act: Callable[[], None], *numbers: int) -> None:
        passes, halve = count(1), unet3d.halve

        def halved(x):
            if next(passes) in numbers:
                act()
            return halve(x)

        monkeypatch.setattr(unet3d, "halve", halved)

    return let


def on_disk(plan: Plan) -> set[Block]:
    """Return the blocks whose chunk is there."""
    root = Path(plan.destination) / "0" / "c"
    chunks = [path.relative_to(root).parts for path in root.rglob("*") if path.is_file()]
    return {Block("network", tuple(map(int, parts))) for parts in chunks}


def in_ledger(plan: Plan) -> set[Block]:
    return {Block("network", index) for index in done_blocks(plan.folder).get("network", ())}


class Hand(Control):
    """Lets a paused run go on as soon as it waits, and notes what is finished by then."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self._plan = plan
        self.told: list[Block] = []
        self.waits: list[tuple[set[Block], ...]] = []

    def wait_if_paused(self) -> None:
        if self.paused:
            self.waits.append((set(self.told), in_ledger(self._plan), on_disk(self._plan)))
            self.resume()
        super().wait_if_paused()

    def run(self) -> None:
        for step in in_process(self._plan, self, image=in_memory(DATA)):
            assert not step.reason
            self.told += [step.block] if step.block else []


def undisturbed(plan: Plan) -> dict[str, bytes]:
    """Return what a run of the plan writes to which nothing happens."""
    other = replace(plan, destination=str(Path(plan.destination).parent / "other" / "labels.ome.zarr"))
    run(other, DATA)
    return stored_bytes(other)


def test_a_pause_in_the_middle_of_a_tile_leaves_whole_tiles_and_all_of_them_told(plan, in_pass, monkeypatch):
    hand = Hand(plan)
    in_pass(hand.pause, 1, 4, 5)
    hand.run()
    assert len(hand.waits) == 3
    for told, noted, stored in hand.waits:
        assert told == noted == stored
    assert [len(told) for told, *_ in hand.waits] == [n * plan.batch for n in (0, 2, 2)]
    assert sorted(hand.told) == sorted(plan.blocks())
    monkeypatch.undo()
    assert stored_bytes(plan) == undisturbed(plan)


def test_a_cancel_in_the_middle_of_a_tile_leaves_whole_tiles_and_the_next_run_goes_on(
    plan, in_pass, monkeypatch
):
    hand = Hand(plan)
    in_pass(hand.cancel, 4)
    with pytest.raises(Cancelled, match="go on from there"):
        hand.run()
    assert set(hand.told) == in_ledger(plan) == on_disk(plan)
    assert len(hand.told) == 3 * plan.batch
    monkeypatch.undo()
    again = run(plan, DATA)
    assert again[0].resumed == 3 * plan.batch
    assert [step.block for step in again[1:]] == [step.block for step in again if step.block]
    assert stored_bytes(plan) == undisturbed(plan)


def test_a_paused_run_can_be_cancelled(plan, in_pass):
    hand = Hand(plan)

    def pause_and_think_better_of_it():
        hand.pause()
        hand.cancel()

    in_pass(pause_and_think_better_of_it, 3)
    with pytest.raises(Cancelled):
        hand.run()
    assert set(hand.told) == in_ledger(plan) == on_disk(plan)


def test_a_pause_while_tiles_of_a_batch_are_tried_one_by_one_repeats_none(tmp_path, in_pass, monkeypatch):
    plan = replace(plan_of(toys.random_unet(0, widths=[2, 2]), DATA, tmp_path, tile=TILE), batch=2)
    hand = Hand(plan)
    watched(monkeypatch, lambda call: ValueError("one at a time") if len(call.cores) > 1 else None)
    in_pass(hand.pause, 2)
    hand.run()
    assert len(hand.waits) == 1
    assert sorted(hand.told) == sorted(plan.blocks())


def test_a_pause_in_a_piece_of_a_tile_that_did_not_fit_begins_the_tile_again(plan, in_pass, monkeypatch):
    hand = Hand(plan)
    calls = watched(monkeypatch, lambda call: MemoryError() if call.cores[0].shape == TILE else None)
    in_pass(hand.pause, 2)
    hand.run()
    assert sorted(hand.told) == sorted(plan.blocks())
    assert Box.at((0, 0, 0), TILE) in {core for call in calls for core in call.cores}
    assert [call.cores[0].shape for call in calls].count(TILE) == plan.batch
