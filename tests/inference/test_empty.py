"""Tiles in which there is nothing are background at once, where somebody asks for it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import zarr

import toys
from napari_memseg.errors import Cancelled, InputError
from napari_memseg.geometry import Box
from napari_memseg.inference.config import SegmentConfig
from napari_memseg.inference.control import Control
from napari_memseg.inference.draft import make_plan
from napari_memseg.inference.empty import split_empty
from napari_memseg.inference.executors import in_process
from napari_memseg.inference.ledger import DONE, SKIPPED, read_ledgers
from napari_memseg.inference.plan import Block, Plan
from napari_memseg.inference.run_card import read_run_card
from napari_memseg.inference.schedule import needs
from napari_memseg.io.volume import Volume
from running import InMemory, checkpoint_of, labels_of, noise, stored_bytes
from trouble import NO_MEMORY, on_calls, watched

pytestmark = pytest.mark.usefixtures("_no_flushes")

SHAPE, TILE = (48, 64, 56), (16, 16, 16)


@dataclass
class Counted(InMemory):
    """An array that notes which boxes of it were decoded."""

    decoded: list[Box] = field(default_factory=list)

    def __getitem__(self, index):
        self.decoded.append(Box(*zip(*((s.start, s.stop) for s in index), strict=True)))
        return super().__getitem__(index)


def specimen() -> np.ndarray:
    """Return air, and in it a cube of noise that lies in two tiles."""
    data = np.zeros(SHAPE, np.float32)
    data[20:28, 12:20, 21:27] = 0.3 + 0.7 * noise((8, 8, 6))
    return data


DATA = specimen()


def coarser(data: np.ndarray, factor: int) -> np.ndarray:
    """Return the means of cubes; those at the far faces are of what is there."""
    ends = [(0, -n % factor) for n in data.shape]
    z, y, x = (n // factor for n in np.pad(data, ends).shape)
    blocks = np.pad(data, ends, mode="edge").reshape(z, factor, y, factor, x, factor)
    return blocks.mean((1, 3, 5), dtype=np.float32)


def volume(*factors: int, data: np.ndarray = DATA) -> Volume:
    """Return an image with coarse levels by those factors."""
    levels = [data, *(coarser(data, f) for f in factors)]
    facts = {"voxel_size": None, "unit": None, "name": "specimen", "source": "memory", "format": "memory"}
    return Volume(
        arrays=[Counted(level) for level in levels], **facts, factors=[(f,) * 3 for f in (1, *factors)]
    )


def plan_for(image: Volume, folder: Path, model=None, name: str = "labels.ome.zarr", **settings) -> Plan:
    usual = {"chunk": 16, "tile": TILE, "device": "cpu", "precision": "float32", "batch": 1}
    config = SegmentConfig(**{**usual, "skip_below": 0.01, **settings})
    return make_plan(checkpoint_of(model or toys.null(), folder), image, folder / name, config)


def empty_cores(plan: Plan, factor: int) -> set[Box]:
    """Return the cores with nothing above the threshold in them, nor within one coarse voxel around."""
    coarse = coarser(DATA, factor)
    for axis in range(3):
        coarse = coarse.repeat(factor, axis)
    cores = [plan.box_of(block) for block in plan.blocks() if block.stage == plan.stages[-1].name]
    return {c for c in cores if coarse[c.grow((factor,) * 3).clip(SHAPE).slices].max() < plan.skip_below}


def run(plan: Plan, *factors: int, control: Control | None = None) -> tuple[list, Volume]:
    image = volume(*factors)
    return list(in_process(plan, control, image=image)), image


@pytest.mark.parametrize("factors", [(2,), (4,), (16,), (2, 4), (4, 16), (2, 32)])
def test_a_tile_that_is_empty_on_a_coarse_level_is_background_without_a_look(tmp_path, monkeypatch, factors):
    plan = plan_for(volume(*factors), tmp_path, confidence=True)
    factor = max(f for f in factors if f <= 16)
    empty = empty_cores(plan, factor)
    looked_at = {plan.box_of(block) for block in plan.blocks()} - empty
    assert empty
    assert looked_at
    calls = watched(monkeypatch)
    steps, _ = run(plan, *factors)
    assert {core.clip(SHAPE) for call in calls for core in call.cores} == looked_at
    assert (labels_of(plan) == (DATA > 0.5)).all()
    confidence = zarr.open_array(Path(plan.destination) / "confidence" / "0", mode="r")[...]
    assert all((confidence[core.slices] == 255).all() for core in empty)
    assert all((confidence[core.slices] < 255).all() for core in looked_at)
    assert (steps[-1].done, steps[-1].skipped, steps[-1].failed) == (steps[-1].total, len(empty), 0)
    status = {row.block: row.status for row in read_ledgers(plan.folder) if row.stage == "network"}
    assert {b.index: SKIPPED if plan.box_of(b) in empty else DONE for b in plan.blocks()} == status
    result = read_run_card(Path(plan.destination))["result"]
    assert (result["blocks"], result["done"], result["skipped"]) == (len(status), len(status), len(empty))
    assert (labels_of(plan, 1) == labels_of(plan)[::2, ::2, ::2]).all()


def test_nothing_of_the_finest_level_is_decoded_for_empty_tiles(tmp_path):
    shape = (48, 64, 48)  # whole chunks, so that the box of a tile is its core
    data = np.zeros(shape, np.float32)
    data[20:28, 20:28, 20:28] = 1
    plan = plan_for(volume(4, data=data), tmp_path)
    image = volume(4, data=data)
    last = list(in_process(plan, image=image))[-1]
    assert image.arrays[0].decoded == [Box.at((16, 16, 16), TILE)]
    assert last.skipped == last.total - 1


def test_what_was_skipped_is_not_looked_at_again_when_the_run_goes_on(tmp_path, monkeypatch):
    plan = plan_for(volume(4), tmp_path, confidence=True)
    other = replace(plan, destination=str(tmp_path / "other" / "labels.ome.zarr"))
    run(other, 4)
    control, told = Control(), []

    def cancel_among_the_empty():
        for step in in_process(plan, control, image=volume(4)):
            told.append(step)
            if step.skipped == 16:
                control.cancel()

    with pytest.raises(Cancelled):
        cancel_among_the_empty()
    assert 16 <= told[-1].skipped < len(empty_cores(plan, 4))
    calls = watched(monkeypatch)
    again, image = run(plan, 4)
    assert calls == []
    assert image.arrays[0].decoded == []
    assert again[0].skipped == told[-1].skipped
    assert (again[-1].done, again[-1].skipped) == (again[-1].total, len(empty_cores(plan, 4)))
    assert stored_bytes(plan) == stored_bytes(other)
    rows = len(list(read_ledgers(plan.folder)))
    assert [step.done for step in run(plan, 4)[0]] == [again[-1].total]
    assert len(list(read_ledgers(plan.folder))) == rows


def test_nothing_is_skipped_unless_somebody_asks_for_it(tmp_path, monkeypatch):
    plan = plan_for(volume(4), tmp_path, skip_below=None)
    calls = watched(monkeypatch)
    steps, _ = run(plan, 4)
    assert len(calls) == steps[-1].total
    assert steps[-1].skipped == 0


@pytest.mark.slow
def test_blocks_of_earlier_stages_that_nobody_needs_are_skipped_as_well(tmp_path, monkeypatch):
    plan = plan_for(volume(4), tmp_path, toys.toy())
    full = plan_for(volume(4), tmp_path, toys.toy(), "full.ome.zarr", skip_below=None)
    run(full, 4)
    empty = empty_cores(plan, 4)
    computed = {b for b in plan.blocks() if b.stage == "second" and plan.box_of(b) not in empty}
    computed |= {needed for block in computed for needed in needs(plan, block)}
    calls = watched(monkeypatch)
    steps, _ = run(plan, 4)
    assert {(call.stage, call.cores[0]) for call in calls} == {(b.stage, plan.core_of(b)) for b in computed}
    assert Block("first", (0, 3, 0)) not in computed
    assert steps[-1].skipped == steps[-1].total - len(computed)
    labels = labels_of(full)
    for core in empty:
        labels[core.slices] = 0
    assert (labels_of(plan) == labels).all()
    assert [step.done for step in run(plan, 4)[0]] == [steps[-1].total]


def test_a_whole_stage_that_no_tile_needs_is_skipped_too(tmp_path, monkeypatch):
    plan = plan_for(volume(4), tmp_path, toys.toy(), skip_below=2.0)
    calls = watched(monkeypatch)
    steps, _ = run(plan, 4)
    assert calls == []
    assert steps[-1].skipped == steps[-1].total
    assert (labels_of(plan) == 0).all()


def test_a_region_is_skipped_where_it_is_empty_and_the_rest_stays_not_predicted(tmp_path):
    plan = plan_for(volume(4), tmp_path, box="16:32,16:64,0:56")
    run(plan, 4)
    labels, inside = labels_of(plan), plan.region.slices
    assert (labels[inside] == (DATA > 0.5)[inside]).all()
    labels[inside] = plan.classes.not_predicted
    assert (labels == plan.classes.not_predicted).all()


@pytest.mark.parametrize("factors", [(), (32,)])
def test_an_image_without_a_coarse_level_is_refused_with_what_to_do(tmp_path, factors):
    with pytest.raises(InputError, match=r"no coarser level.*convert SRC DST.*leave --skip-below out"):
        plan_for(volume(*factors), tmp_path)


def test_a_tile_that_the_coarse_level_does_not_reach_is_computed(tmp_path):
    image = volume(4)
    image.arrays[1] = Counted(image.arrays[1].data[:4])
    plan = plan_for(volume(4), tmp_path)
    to_do, _ = split_empty(plan, image, list(plan.blocks()))
    beyond = {block for block in plan.blocks() if block.index[0] == 2}
    assert beyond <= set(to_do)


def test_a_voxel_that_is_no_number_is_not_nothing(tmp_path):
    image = volume(4)
    image.arrays[1].data[0, 15, 13] = np.nan
    plan = plan_for(volume(4), tmp_path)
    to_do, _ = split_empty(plan, image, list(plan.blocks()))
    assert Block("network", (0, 3, 3)) in to_do


def test_what_was_said_of_memory_is_still_said_when_tiles_were_skipped(tmp_path, monkeypatch):
    plan = plan_for(volume(4), tmp_path)
    watched(monkeypatch, on_calls(NO_MEMORY["GPU"], 1))
    steps, _ = run(plan, 4)
    assert steps[-1].block is not None
    assert steps[-1].skipped
    assert steps[-1].memory["retries"] == 1
    assert read_run_card(Path(plan.destination))["result"]["out_of_memory"]["retries"] == 1
