"""What is chosen for a run, and what makes two runs the same."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import toys
from napari_memseg.errors import GeometryError, InputError, RunMismatchError
from napari_memseg.geometry import Box
from napari_memseg.inference.choices import choose_stages, choose_tile, in_unit
from napari_memseg.inference.config import SegmentConfig
from napari_memseg.inference.differences import differences
from napari_memseg.inference.draft import make_plan
from napari_memseg.inference.network import Network
from napari_memseg.inference.plan import Block, Plan
from napari_memseg.inference.stages import plan_stages
from napari_memseg.io.volume import Volume
from napari_memseg.models.base import Grid, Halo, Reads, Writes
from napari_memseg.models.checkpoint import Card, save_checkpoint
from napari_memseg.models.classes import ClassTable
from napari_memseg.models.distill_dsm import DistillDSM
from running import UNIT_WINDOW, InMemory, checkpoint_of, in_memory, noise, plan_of

SHAPE = (37, 41, 29)


@dataclass(frozen=True, kw_only=True)
class AnyStage:
    """A stage that is never run."""

    name: str = "only"
    reads: tuple[Reads, ...] = (Reads(array="image@0"),)
    writes: tuple[Writes, ...] = (Writes(array="scores"),)
    multiple: tuple[int, int, int] = (1, 1, 1)
    whole: bool = False


def planned(*stages, image=None, shape=SHAPE, core=(16, 16, 16), halo="exact", region=None):
    image = image or in_memory(np.zeros(shape, np.float32))
    return plan_stages(stages, image, 0, shape, core=core, halo=halo, region=region or Box.whole(shape))


def test_plans_survive_json(tmp_path):
    plan = plan_of(toys.toy(), noise(SHAPE), tmp_path, box="0:16,0:16,0:16")
    again = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again == plan
    assert again.id == plan.id


def test_where_things_lie_and_which_gpu_computes_is_no_part_of_a_runs_identity(tmp_path):
    plan = replace(plan_of(toys.null(), noise(SHAPE), tmp_path), device="cuda:0")
    moved = replace(plan, image="b.tif", model="b.safetensors", destination="b", device="cuda:1")
    assert moved.id == plan.id
    assert replace(plan, device="cpu").id != plan.id


def test_a_difference_deep_in_a_plan_is_named_alone(tmp_path):
    data = noise(SHAPE)
    plan = plan_of(toys.random_unet(0), data, tmp_path, halo="exact")
    other = plan_of(toys.random_unet(0), data, tmp_path, halo=(2, 0, 0))
    assert all("stages.network.reads.image@0.halo" in text for text in plan.differences(other)[:2])
    assert len(plan.differences(other)) <= 3


def test_rows_of_a_table_that_one_side_lacks_are_differences():
    mine, theirs = {"stages": [{"name": "a", "x": 1}]}, {"stages": [{"name": "b", "x": 1}]}
    assert differences(mine, theirs) == [
        "stages.a is {'name': 'a', 'x': 1} here and None there",
        "stages.b is None here and {'name': 'b', 'x': 1} there",
    ]


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"chunk": 8}, "16 or more"),
        ({"tile": (64, 64, 32)}, "whole chunks"),
        ({"precision": "int8"}, "precision"),
        ({"halo": "small"}, "halo"),
        ({"halo": (1, -1, 0)}, "negative"),
    ],
)
def test_an_impossible_setting_is_refused_before_anything_starts(wrong, what):
    with pytest.raises(InputError, match=what):
        SegmentConfig(**wrong)


def test_an_image_of_another_dtype_needs_a_window(tmp_path):
    with pytest.raises(InputError, match=r"float32 images.*uint16.*--window"):
        plan_of(toys.null(), noise(SHAPE).astype(np.uint16), tmp_path)


def test_a_device_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    with pytest.raises(InputError, match=r"auto.*cpu"):
        plan_of(toys.null(), noise(SHAPE), tmp_path, device="abacus")


@pytest.mark.parametrize(
    ("unit", "level"), [("micrometer", 1), ("millimeter", 0), ("nanometer", 2), (None, 0)]
)
def test_a_run_works_at_the_level_nearest_to_the_models_voxels_whatever_the_unit(tmp_path, unit, level):
    data = noise((32, 32, 32))
    image = Volume(
        arrays=[InMemory(data), InMemory(data[::2, ::2, ::2].copy()), InMemory(data[::4, ::4, ::4].copy())],
        **{"voxel_size": (5.0, 5.0, 5.0), "name": "noise", "source": "memory", "format": "memory"},
        unit="micrometer",
    )
    size = {"millimeter": 0.005, "nanometer": 20_000.0}.get(unit, 10.0)
    model = toys.null()
    card = Card(
        architecture=model.architecture,
        arguments=model.arguments,
        classes=model.classes,
        window=UNIT_WINDOW,
        voxel_size=(size, size, size),
        unit=unit,
    )
    save_checkpoint(tmp_path / "model.safetensors", model, card)
    config = SegmentConfig(chunk=16, device="cpu")
    plan = make_plan(tmp_path / "model.safetensors", image, tmp_path / "labels.ome.zarr", config)
    assert plan.level == level
    assert plan.voxel_size == pytest.approx((5.0 * 2**level,) * 3)


def test_lengths_in_unknown_units_are_not_compared():
    assert in_unit((1.0, 1.0, 1.0), "furlong", "meter") is None
    assert in_unit((1.0, 2.0, 3.0), "furlong", "furlong") == (1.0, 2.0, 3.0)
    assert in_unit(None, "meter", "meter") is None


def test_a_level_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="no level 3"):
        plan_of(toys.null(), noise(SHAPE), tmp_path, level=3)


def test_a_small_region_gets_small_tiles():
    config, model = SegmentConfig(chunk=16), toys.random_unet(0)
    region = Box((16, 16, 16), (48, 32, 32))
    assert choose_tile(model, config, (1000,) * 3, (16,) * 3, region) == (32, 16, 16)
    assert choose_tile(model, config, (1000,) * 3, (16,) * 3, Box.whole((1000,) * 3)) == (128,) * 3


def test_a_tile_that_the_model_cannot_work_with_is_refused_with_the_next_one_named():
    model = toys.random_unet(0, widths=[2] * 6)
    with pytest.raises(GeometryError, match=r"\(32, 32, 32\).*\(48, 48, 48\).*\(64, 64, 64\)"):
        choose_tile(
            model, SegmentConfig(chunk=16, tile=(48, 48, 48)), (200,) * 3, (16,) * 3, Box.whole((200,) * 3)
        )


def test_other_arguments_make_another_run_though_the_weights_are_the_same(tmp_path):
    folders = [tmp_path / shift for shift in ("plain", "residual")]
    plans = []
    for folder in folders:
        folder.mkdir()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = DistillDSM(ClassTable.from_ids([1]), shift=folder.name, widths=[8, 8])
        plans.append(plan_of(model, noise(SHAPE), folder))
    one, other = plans
    assert one.sha256 == other.sha256
    assert one.id != other.id
    (difference,) = [text for text in one.differences(other) if "plain" in text]
    assert difference.startswith("the network (architecture and arguments)")
    shutil.copy(other.model, one.model)
    with pytest.raises(RunMismatchError, match="has changed since the run began"):
        Network(one)


def test_a_stage_that_is_asked_for_brings_along_those_it_needs_and_no_other():
    model = toys.toy()
    assert [stage.name for stage in choose_stages(model, ["first"])] == ["first"]
    assert [stage.name for stage in choose_stages(model, ["second"])] == ["coarse", "first", "second"]
    with pytest.raises(InputError, match="no stage third, but coarse, first, second"):
        choose_stages(model, ["third"])


def test_a_run_of_first_stages_makes_no_labels(tmp_path):
    model, data = toys.toy(), noise(SHAPE)
    config = SegmentConfig(chunk=16, device="cpu")
    args = checkpoint_of(model, tmp_path), in_memory(data), tmp_path / "stages", config
    plan = make_plan(*args, until=["coarse", "first"])
    assert not plan.segments
    assert {block.stage for block in plan.blocks()} == {"coarse", "first"}


def test_what_no_earlier_stage_writes_cannot_be_read():
    with pytest.raises(GeometryError, match="reads hint, which no stage before it writes"):
        planned(AnyStage(reads=(Reads(array="image@0"), Reads(array="hint"))))


def test_a_crop_is_refused_before_anything_is_written():
    with pytest.raises(GeometryError, match="crop"):
        planned(AnyStage(writes=(Writes(array="map", grid=Grid(offset=(1, 0, 0))),)), AnyStage())


def test_an_array_too_large_to_be_held_whole_is_refused():
    greedy = AnyStage(reads=(Reads(array="image@0"), Reads(array="image@1", whole=True)))
    with pytest.raises(GeometryError, match="coarser level"):
        planned(greedy, image=in_memory(np.zeros((4, 4, 4), np.float32)), shape=(4000, 4000, 4000))


def test_the_images_own_pyramid_is_read_where_it_has_just_the_level():
    fine = noise((32, 32, 32))
    half, third = InMemory(fine[::2, ::2, ::2].copy()), InMemory(fine[:11, :11, :11].copy())
    reads = (Reads(array="image@0"), Reads(array="image@1"))
    facts = {"voxel_size": None, "unit": None, "name": "n", "source": "n", "format": "n"}
    with_level = Volume(arrays=[InMemory(fine), half], **facts)
    without = Volume(arrays=[InMemory(fine), third], **facts)
    for image, expected in ((with_level, (1, 0)), (without, (0, 1))):
        (stage,) = planned(AnyStage(reads=reads), image=image, shape=fine.shape)
        assert (stage.reads[1].level, stage.reads[1].halvings) == expected


zyx = st.tuples(*[st.integers(1, 90)] * 3)


@given(
    shape=zyx,
    k=st.tuples(*[st.integers(1, 3)] * 3),
    multiple=st.sampled_from([1, 2, 3, 4, 6]),
    halo=st.integers(0, 9),
    level=st.integers(0, 2),
    data=st.data(),
)
def test_what_is_read_on_any_grid_holds_core_and_halo_or_ends_at_a_face(
    shape, k, multiple, halo, level, data
):
    core = tuple(12 * n for n in k)
    context = Halo.even(halo, halo, halo)
    read = Reads(array=f"image@{level}", halo_exact=context, halo_recommended=context)
    multiples = (multiple,) * 3
    (stage,) = planned(AnyStage(reads=(read,), multiple=multiples), shape=shape, core=core)
    there = tuple(-(-n // 2**level) for n in shape)
    lengths = [set(), set(), set()]
    for index in np.ndindex(*(-(-n // c) for n, c in zip(shape, core, strict=True))):
        start = tuple(int(i * c) for i, c in zip(index, core, strict=True))
        box = stage.box(stage.reads[0], start, core, shape)
        wanted = Box.at(start, core).coarsen((2**level,) * 3).grow((halo,) * 3).clip(there)
        assert Box.whole(there).contains(box)
        assert box.contains(wanted)
        assert all(a * 2**level % multiple == 0 for a in box.start)
        for axis in range(3):
            lengths[axis].add(box.shape[axis])
    assert max(map(len, lengths)) <= 2


@given(start=st.tuples(*[st.integers(0, 60)] * 3), size=st.tuples(*[st.integers(1, 40)] * 3))
def test_earlier_stages_cover_all_that_a_region_needs_of_them(start, size):
    shape, core = (83, 97, 64), (16, 16, 16)
    region = Box.at(start, size).snap(core).clip(shape)
    stages = planned(*toys.toy().stages, shape=shape, core=core, region=region)
    plan = Plan(
        **dict.fromkeys(Plan.__dataclass_fields__),
    )
    plan = replace(plan, stages=stages, shape=shape, core=core, region=region)
    first, second = stages[1:]
    for block in plan.blocks():
        if block.stage == "second":
            corner = tuple(i * n for i, n in zip(block.index, core, strict=True))
            needed = second.box(second.reads[1], corner, core, shape).refine((2, 2, 2)).clip(shape)
            assert first.region.contains(needed)
    assert Block("coarse", (0, 0, 0)) in set(plan.blocks())
