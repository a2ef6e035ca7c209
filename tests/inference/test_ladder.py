"""Where memory does not suffice, a run goes on with less of it, to the same labels."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import toys
from napari_memseg.errors import DeviceLostError, DeviceMemoryError
from napari_memseg.geometry import Box
from napari_memseg.inference import ladder
from napari_memseg.inference.executors import Tally, merged_notes
from napari_memseg.inference.folder import prepare
from napari_memseg.inference.ladder import Footing, halves
from napari_memseg.inference.network import Made, Network
from napari_memseg.inference.plan import Plan
from napari_memseg.inference.run import run_blocks
from napari_memseg.inference.run_card import read_run_card
from napari_memseg.inference.store import Store
from napari_memseg.inference.tensors import Reader
from napari_memseg.inference.writer import BlockDone
from running import expected, in_memory, labels_of, noise, plan_of, run, stored_bytes
from trouble import LOST, NO_MEMORY, Call, in_box, larger_than, on_calls, watched

pytestmark = pytest.mark.usefixtures("_no_flushes")

SHAPE, TILE = (37, 41, 29), (32, 32, 16)
TILES = 8
DATA = noise(SHAPE)


@cache
def net():
    return toys.random_unet(0, widths=[2, 2])


@cache
def labels_at_once() -> np.ndarray:
    return expected(net(), DATA)


def exact_plan(folder: Path, model=None, **settings) -> Plan:
    return plan_of(model or net(), DATA, folder, **{"tile": TILE, "halo": "exact", **settings})


def memory_of(plan: Plan) -> dict:
    return read_run_card(Path(plan.destination))["result"]["out_of_memory"]


def assert_as_whole(plan: Plan, model=None) -> None:
    wanted = labels_at_once() if model is None else expected(model, DATA)
    different = float(np.mean(labels_of(plan) != wanted))
    assert different <= 1e-6


def several_at_once(call: Call) -> Exception | None:
    return NO_MEMORY["GPU"] if call.batch > 1 else None


@pytest.mark.parametrize(
    ("error", "number"), [("GPU", 1), ("torch on a CPU", 1), ("numpy", 1), ("GPU", 3), ("GPU", TILES)]
)
def test_a_tile_without_memory_is_computed_in_halves_and_so_are_all_after_it(
    tmp_path, monkeypatch, error, number
):
    plan = exact_plan(tmp_path)
    calls = watched(monkeypatch, on_calls(NO_MEMORY[error], number))
    steps = run(plan, DATA)
    assert_as_whole(plan)
    assert (steps[-1].done, steps[-1].failed) == (TILES, 0)
    assert {call.cores[0].shape for call in calls[:number]} == {TILE}
    assert {call.cores[0].shape for call in calls[number:]} == {(16, 32, 16)}
    assert memory_of(plan) == {"retries": 1, "batch": 1, "tile": [16, 32, 16], "cpu": False}
    assert steps[-1].memory == memory_of(plan)


def test_a_run_that_had_memory_says_so(tmp_path):
    plan = exact_plan(tmp_path)
    assert run(plan, DATA)[-1].memory == {"retries": 0}
    assert memory_of(plan) == {"retries": 0}


@pytest.mark.slow
def test_every_retry_may_fail_as_well_and_nothing_is_tried_twice(tmp_path, monkeypatch):
    plan = exact_plan(tmp_path)
    calls = watched(monkeypatch, larger_than((8, 8, 8), NO_MEMORY["GPU"]))
    run(plan, DATA)
    assert_as_whole(plan)
    asked = Counter(call.cores[0].shape for call in calls)
    too_large = {shape: times for shape, times in asked.items() if max(shape) > 8}
    assert too_large == dict.fromkeys([TILE, (16, 32, 16), (16, 16, 16), (8, 16, 16), (8, 8, 16)], 1)
    assert memory_of(plan) == {"retries": 5, "batch": 1, "tile": [8, 8, 8], "cpu": False}


@pytest.mark.slow
def test_arrays_between_stages_are_put_together_from_pieces_as_well(tmp_path, monkeypatch):
    model = toys.toy()
    plan = exact_plan(tmp_path, model, confidence=True)
    whole = replace(plan, destination=str(tmp_path / "whole.ome.zarr"))
    run(whole, DATA)
    watched(monkeypatch, larger_than((16, 8, 8), MemoryError()))
    run(plan, DATA)
    assert_as_whole(plan, model)
    assert memory_of(plan)["retries"] == 5
    assert stored_bytes(plan).keys() == stored_bytes(whole).keys()
    assert np.allclose(plan.open_array("hint")[0][...], whole.open_array("hint")[0][...], atol=1e-5)


def test_what_did_not_fit_one_call_is_not_tried_by_the_next_that_has_its_footing(tmp_path, monkeypatch):
    plan = exact_plan(tmp_path)
    prepare(plan)
    calls, footing = watched(monkeypatch, larger_than((16, 32, 16), MemoryError())), Footing.of(plan)
    for block in plan.blocks():
        told = list(run_blocks(plan, [block], image=in_memory(DATA), footing=footing))
    assert [call.cores[0].shape for call in calls].count(TILE) == 1
    assert told[-1].memory == {"retries": 1, "batch": 1, "tile": [16, 32, 16], "cpu": False}


def test_the_cpu_that_helped_out_in_one_call_does_so_at_once_in_the_next(tmp_path):
    plan = replace(exact_plan(tmp_path), device="mps")
    prepare(plan)
    gpu, footing = Gpu(plan), Footing.of(plan)
    first, second, *_ = plan.blocks()
    list(run_blocks(plan, [first], image=in_memory(DATA), network=gpu, footing=footing))
    tried, cpu = len(gpu.asked), footing.on_cpu
    list(run_blocks(plan, [second], image=in_memory(DATA), network=gpu, footing=footing))
    assert len(gpu.asked) == tried
    assert footing.on_cpu is cpu is not None


def test_notes_of_several_processes_are_counted_together():
    lean = {"retries": 3, "batch": 2, "tile": [32, 16, 8], "cpu": False}
    helped = {"retries": 2, "batch": 4, "tile": [64, 64, 64], "cpu": True}
    together = {"retries": 5, "batch": 2, "tile": [32, 16, 8], "cpu": True}
    assert merged_notes([lean, {"retries": 0}, {}, helped]) == together
    assert merged_notes([]) == merged_notes([{"retries": 0}] * 2) == {"retries": 0}


def test_late_notes_of_a_process_do_not_undo_its_later_ones(tmp_path):
    plan = exact_plan(tmp_path)
    prepare(plan)
    with closing(Store(plan)) as store:
        tally, tile = Tally(plan, store), list(TILE)
        for worker, retries in (("one", 1), ("two", 4), ("one", 2), ("one", 1)):
            notes = {"retries": retries, "batch": 1, "tile": tile, "cpu": False}
            block = BlockDone(block=tally.left[0], box=plan.region, memory=notes, worker=worker)
            last = tally.step(block)
    assert last.memory["retries"] == 6


def test_a_batch_becomes_single_tiles_before_a_tile_becomes_smaller(tmp_path, monkeypatch):
    plan = replace(exact_plan(tmp_path), batch=2)
    calls = watched(monkeypatch, several_at_once)
    run(plan, DATA)
    assert_as_whole(plan)
    assert [call.batch for call in calls] == [2] + [1] * TILES
    assert {core.shape for call in calls for core in call.cores} == {TILE}
    assert memory_of(plan) == {"retries": 1, "batch": 1, "tile": list(TILE), "cpu": False}


def test_so_does_a_batch_that_had_but_one_tile_left_in_it(tmp_path, monkeypatch):
    plan = replace(exact_plan(tmp_path), batch=2)
    prepare(plan)
    calls = watched(monkeypatch, several_at_once)
    list(run_blocks(plan, list(plan.blocks())[:1], image=in_memory(DATA)))
    assert [(call.batch, call.cores[0].shape) for call in calls] == [(2, TILE), (1, TILE)]


@given(
    start=st.tuples(*[st.integers(0, 5)] * 3),
    counts=st.tuples(*[st.integers(1, 6)] * 3),
    step=st.tuples(*[st.integers(1, 3)] * 3),
)
def test_halves_of_halves_cover_a_core_once_and_keep_to_the_step(start, counts, step):
    core = Box.at(*(tuple(n * s for n, s in zip(numbers, step, strict=True)) for numbers in (start, counts)))
    times, left = np.zeros(core.stop, int), [core]
    while left:
        box = left.pop()
        pieces = halves(box, step)
        assert all(a % s == 0 for a, s in zip(box.start + box.stop, step * 2, strict=True))
        assert len(pieces) == (0 if box.shape == step else 2)
        left += pieces
        if not pieces:
            times[box.slices] += 1
    assert (times[core.slices] == 1).all()
    assert times.sum() == core.size


class Gpu:
    """A device that is none, and has too little memory for what ``trouble`` says."""

    device = torch.device("mps")

    def __init__(self, plan: Plan, trouble=lambda stage: True) -> None:
        self._network, self._trouble = Network(replace(plan, device="cpu")), trouble
        self.asked: list[tuple[str, tuple[int, int, int]]] = []

    def __call__(self, samples, batch=1):
        stage = samples[0].stage.name
        self.asked.append((stage, samples[0].core.shape))
        if self._trouble(stage):
            raise torch.OutOfMemoryError("MPS backend out of memory")
        return self._network(samples, batch)


@pytest.mark.slow
def test_where_a_gpu_never_suffices_the_cpu_computes_whole_tiles_again(tmp_path, monkeypatch):
    model = toys.random_unet(0, widths=[2] * 4)
    plan = replace(exact_plan(tmp_path, model, tile=(32, 32, 32)), device="mps", batch=2)
    prepare(plan)
    gpu, calls = Gpu(plan), watched(monkeypatch)
    told = list(run_blocks(plan, plan.blocks(), image=in_memory(DATA), network=gpu))
    assert_as_whole(plan, model)
    assert told[-1].memory == {"retries": len(gpu.asked), "batch": 1, "tile": [32, 32, 32], "cpu": True}
    assert max(Counter(gpu.asked[1:]).values()) == 1, "what did not fit once is not tried again"
    assert gpu.asked[-1][1] == plan.step
    assert [call.cores[0].shape for call in calls[-2:]] == [(32, 32, 32)] * 2
    assert {call.batch for call in calls} == {1}


@pytest.mark.slow
def test_a_whole_stage_that_does_not_fit_leaves_the_tiles_on_the_gpu(tmp_path):
    model = toys.toy()
    plan = replace(exact_plan(tmp_path, model), device="mps")
    prepare(plan)
    gpu = Gpu(plan, lambda stage: stage == "coarse")
    told = list(run_blocks(plan, plan.blocks(), image=in_memory(DATA), network=gpu))
    assert_as_whole(plan, model)
    assert told[-1].memory == {"retries": 1, "batch": 1, "tile": list(TILE), "cpu": True}
    assert Counter(stage for stage, _ in gpu.asked) == Counter(block.stage for block in plan.blocks())


def test_where_not_even_the_cpu_has_memory_the_block_fails_and_the_others_are_right(tmp_path, monkeypatch):
    model, data = toys.random_unet(0, widths=[2] * 4), noise((16, 32, 32))
    plan = plan_of(model, data, tmp_path, tile=(16, 16, 16), halo="exact")
    last = Box((0, 16, 16), (16, 32, 32))
    watched(monkeypatch, in_box(MemoryError(), last))
    steps = run(plan, data)
    assert (steps[-1].done, steps[-1].failed) == (3, 1)
    assert "host's memory does not suffice for a tile of (8, 8, 8) voxels" in steps[-1].reason
    labels = labels_of(plan)
    assert (labels[last.slices] == plan.classes.not_predicted).all()
    labels[last.slices] = expected(model, data)[last.slices]
    assert (labels == expected(model, data)).all()


def test_after_a_block_for_which_nothing_sufficed_whole_tiles_are_tried_again(tmp_path, monkeypatch):
    plan = exact_plan(tmp_path)
    first = Box((0, 0, 0), TILE)
    calls = watched(monkeypatch, in_box(MemoryError(), first))
    run(plan, DATA)
    others = [call for call in calls if (call.cores[0] & first).is_empty]
    assert {call.cores[0].shape for call in others} == {TILE}
    assert len(others) == TILES - 1


def test_how_small_a_tile_became_is_told_though_larger_ones_were_tried_again(tmp_path, monkeypatch):
    plan = exact_plan(tmp_path)
    watched(monkeypatch, in_box(MemoryError(), Box((0, 0, 0), TILE)))
    run(plan, DATA)
    assert memory_of(plan)["tile"] == list(plan.step)


class NoRoom(Network):
    """A network for which only the CPU has memory."""

    def __init__(self, plan, *, device=None, control=None):
        if device is None:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        super().__init__(plan, device=device, control=control)


def test_where_the_device_has_no_room_for_the_network_the_cpu_computes_all(tmp_path, monkeypatch):
    plan = replace(exact_plan(tmp_path), device="mps")
    prepare(plan)
    monkeypatch.setattr(ladder, "Network", NoRoom)
    told = list(run_blocks(plan, plan.blocks(), image=in_memory(DATA)))
    assert_as_whole(plan)
    assert told[-1].memory == {"retries": 1, "batch": 1, "tile": list(TILE), "cpu": True}


def test_and_where_the_host_has_none_the_run_is_refused_in_words(tmp_path, monkeypatch):
    monkeypatch.setattr(ladder, "Network", NoRoom)
    with pytest.raises(DeviceMemoryError, match="does not suffice for the weights"):
        run(exact_plan(tmp_path), DATA)


def test_a_whole_stage_without_memory_takes_with_it_what_needs_it(tmp_path, monkeypatch):
    plan = exact_plan(tmp_path, toys.toy())
    watched(monkeypatch, lambda call: MemoryError() if call.stage == "coarse" else None)
    steps = run(plan, DATA)
    stages = Counter((step.block.stage, bool(step.reason)) for step in steps if step.block)
    assert stages == {("coarse", True): 1, ("first", False): TILES, ("second", True): TILES}
    assert all("host's memory does not suffice" in step.reason for step in steps if step.reason)


def test_an_error_that_is_not_about_memory_is_no_reason_for_less_of_it(tmp_path, monkeypatch):
    plan = exact_plan(tmp_path)
    calls = watched(monkeypatch, on_calls(RuntimeError("mat1 and mat2 shapes cannot be multiplied"), 2))
    assert run(plan, DATA)[-1].memory == {"retries": 0}
    assert len(calls) == TILES + 1


def assert_lost_and_found(plan: Plan, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run until the device is lost, then go on, to the bytes of an undisturbed run."""
    undisturbed = replace(plan, destination=f"{plan.destination}.undisturbed")
    with pytest.raises(DeviceLostError, match="start the same again"):
        run(plan, DATA)
    monkeypatch.undo()
    again = run(plan, DATA)
    assert again[0].resumed >= kept
    assert again[-1].done == again[-1].total
    assert again[-1].failed == 0
    run(undisturbed, DATA)
    assert stored_bytes(plan) == stored_bytes(undisturbed)


def test_a_lost_device_ends_the_run_and_the_next_one_goes_on_from_there(tmp_path, monkeypatch):
    plan = exact_plan(tmp_path)
    watched(monkeypatch, lambda call: LOST if call.number >= 4 else None)
    assert_lost_and_found(plan, 3, monkeypatch)


def test_so_does_one_that_is_found_lost_while_a_box_is_uploaded(tmp_path, monkeypatch):
    plan, read = exact_plan(tmp_path), Reader.sample

    def sample(reader, stage, core):
        if core.start >= (32, 0, 0):
            raise LOST
        return read(reader, stage, core)

    monkeypatch.setattr(Reader, "sample", sample)
    assert_lost_and_found(plan, 3, monkeypatch)


def test_or_while_labels_come_back(tmp_path, monkeypatch):
    plan, arrays = exact_plan(tmp_path), Made.arrays

    def lost(made):
        if made._box.start >= (32, 0, 0):
            raise LOST
        return arrays(made)

    monkeypatch.setattr(Made, "arrays", lost)
    assert_lost_and_found(plan, 4, monkeypatch)
