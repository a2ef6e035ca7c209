"""The tile that is chosen is the one that costs least, within the memory and time there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import toys
from napari_memseg.errors import DeviceMemoryError, InputError
from napari_memseg.inference import draft, fit
from napari_memseg.inference.arithmetic import CHANNELS_LAST, REFERENCE, Arithmetic
from napari_memseg.inference.choices import core_unit
from napari_memseg.inference.config import SegmentConfig
from napari_memseg.inference.draft import make_plan
from napari_memseg.inference.folder import prepare
from napari_memseg.inference.plan import Plan
from napari_memseg.inference.probe import Probe, middle
from napari_memseg.inference.tensors import Reader
from running import checkpoint_of, in_memory

pytestmark = pytest.mark.usefixtures("_no_flushes")

MIB, GIB = 2**20, 2**30
BIG = (300, 290, 310)
"""A volume that is worth a measurement."""
BFLOAT = Arithmetic("bfloat16", CHANNELS_LAST, folded=True)
LAST = Arithmetic("float32", CHANNELS_LAST, folded=True)


@dataclass
class Costs:
    """Stands in for a prober: every voxel takes so many bytes and seconds, in one stage and one tile."""

    bytes: float | None = 1000.0
    seconds: Callable[[Plan], float] = lambda plan: 1e-7
    """Per voxel."""
    differ: dict[Arithmetic, float] = field(default_factory=dict)
    """The share of labels that an arithmetic changes."""
    labelled: bool = True
    image: Any = None
    cache: Any = None
    too_large: Callable[[Plan], bool] = lambda plan: False
    """Whether a probe has no memory for it."""
    asked: list[Plan] = field(default_factory=list)

    def tried(self, plan: Plan, *, labels: bool = False) -> Probe | None:
        return None if self.too_large(plan) else self(plan, labels=labels)

    def __call__(self, plan: Plan, *, labels: bool = False) -> Probe:
        self.asked.append(plan)
        if self.too_large(plan):
            raise DeviceMemoryError("It does not fit.")
        boxes = boxes_of(plan, self.image)
        return Probe(
            seconds=self.seconds(plan) * sum(boxes) * plan.batch,
            read_seconds=0.0,
            bytes=None if self.bytes is None else int(self.bytes * max(boxes, default=0) * plan.batch),
            voxels=sum(boxes) * plan.batch,
            stored=0.1,
            labels=self._labels(plan) if labels and self.labelled else None,
        )

    def _labels(self, plan: Plan) -> np.ndarray:
        return np.arange(10_000) < 10_000 * self.differ.get(plan.arithmetic, 0)


def boxes_of(plan: Plan, image: Any) -> list[int]:
    """Return the voxels of a tile's box, for each tiled stage."""
    tiled, reader = [stage for stage in plan.stages if not stage.whole], Reader(plan, image)
    return [reader.where(stage, middle(plan)).box.size for stage in tiled]


def lengths(plan: Plan, axis: int) -> list[int]:
    """Return the lengths of all boxes of the last stage along an axis."""
    stage, core = plan.stages[-1], plan.core
    a, b = plan.region.start[axis], plan.region.stop[axis]
    starts = [
        tuple(start * (n == axis) for n in range(3))
        for start in range(a // core[axis] * core[axis], b, core[axis])
    ]
    return [stage.box(stage.reads[0], start, core, plan.shape).shape[axis] for start in starts]


def largest_box(plan: Plan) -> int:
    return prod(max(lengths(plan, axis)) for axis in range(3))


def redundancy(plan: Plan) -> float:
    """Return R, the voxels that are run per voxel of the region."""
    return prod(sum(lengths(plan, axis)) for axis in range(3)) / plan.region.size


class Remembered(dict):
    """A cache of probes that lies in memory."""

    put = dict.__setitem__


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """Return a function that plans a large volume on a machine of known costs."""

    def plan(costs: Costs | None = None, *, free: float = 64 * GIB, shape=BIG, model=None, **how) -> Plan:
        return plan_of(
            tmp_path, monkeypatch, costs or Costs(), free, shape, model or toys.random_unet(0, 3), **how
        )

    return plan


def plan_of(
    folder: Path, patch, costs: Costs, free: float, shape, model, until=None, sharers=1, **how
) -> Plan:
    image = costs.image = in_memory(np.broadcast_to(np.float32(0), shape))
    costs.cache = Remembered() if costs.cache is None else costs.cache
    patch.setattr(fit, "Prober", lambda image, control: costs)
    patch.setattr(fit, "free_bytes", lambda: free)
    patch.setattr(fit, "settled_bytes", lambda: 0)
    config = SegmentConfig(**{"chunk": 16, "device": "cpu", **how})
    labels, others = folder / "labels.ome.zarr", {"until": until, "sharers": sharers}
    return make_plan(checkpoint_of(model, folder), image, labels, config, **others)


memory = st.integers(24, 38).map(lambda n: 2**n)
shapes = st.tuples(*[st.integers(130, 400)] * 3)
models = st.sampled_from([toys.random_unet(0, 1), toys.random_unet(0, 4), toys.toy()])


@pytest.mark.slow
@settings(max_examples=15)
@given(free=memory, shape=shapes, model=models, chunk=st.sampled_from([16, 24, 64]))
def test_a_tile_is_made_of_whole_chunks_and_fits(tmp_path_factory, free, shape, model, chunk):
    folder, unit = tmp_path_factory.mktemp("fit"), core_unit(model, (chunk,) * 3)
    with pytest.MonkeyPatch.context() as patch:
        try:
            plan = plan_of(folder, patch, Costs(), free, shape, model, chunk=chunk)
        except DeviceMemoryError:
            smallest = plan_of(folder, patch, Costs(), 2**60, shape, model, chunk=chunk, tile=unit)
            assert largest_box(smallest) * 1000 * fit.MARGIN > free * fit.SHARE["cpu"]
            return
    assert all(n % u == 0 and n % chunk == 0 for n, u in zip(plan.core, unit, strict=True))
    assert largest_box(plan) * 1000 <= free * fit.SHARE["cpu"]


@pytest.mark.slow
@settings(max_examples=15)
@given(frees=st.tuples(memory, memory).map(sorted), shape=shapes, model=models)
def test_more_memory_never_makes_more_work(tmp_path_factory, frees, shape, model):
    plans = []
    for free in frees:
        with pytest.MonkeyPatch.context() as patch:
            try:
                plans.append(plan_of(tmp_path_factory.mktemp("fit"), patch, Costs(), free, shape, model))
            except DeviceMemoryError:
                assert not plans, "less memory was enough"
    assert len(plans) < 2 or redundancy(plans[1]) <= redundancy(plans[0])


@pytest.mark.parametrize("stages", ["one", "two"])
def test_max_memory_is_kept_whatever_is_free(planned, stages):
    model = toys.random_unet(0, 3) if stages == "one" else toys.toy()
    limits = [1.0, 1.5, 3.0]
    plans = [planned(model=model, max_memory_gib=limit, halo=(24, 24, 24)) for limit in limits]
    for limit, plan in zip(limits, plans, strict=True):
        assert largest_box(plan) * 1000 <= limit * GIB - fit.CACHE_BYTES
    assert redundancy(plans[2]) < redundancy(plans[0])


def test_no_more_than_is_free_is_taken_whatever_is_allowed(planned):
    assert largest_box(planned(free=GIB, max_memory_gib=100.0)) * 1000 <= GIB


def test_processes_that_share_a_machine_share_what_is_free_after_their_caches(planned):
    alone, four = planned(free=GIB), planned(free=4 * (GIB + fit.CACHE_HOLES * fit.CACHE_BYTES), sharers=4)
    assert four.core == alone.core
    assert largest_box(four) < largest_box(planned(free=4 * (GIB + fit.CACHE_BYTES)))


def test_a_tile_that_fits_one_process_is_refused_where_it_does_not_fit_each_of_several(planned):
    asked = {"free": 8 * GIB, "tile": (128, 128, 128)}
    for sharers in (1, 2):
        assert planned(**asked, sharers=sharers).core == (128, 128, 128)
    with pytest.raises(DeviceMemoryError, match=r" 0\.0 GiB may be taken on cpu.* fewer --workers"):
        planned(**asked, sharers=30)


def test_a_batch_that_is_asked_for_fits_as_a_whole(planned):
    plan = planned(free=2 * GIB, batch=4)
    assert plan.batch == 4
    assert 4 * largest_box(plan) * 1000 <= GIB


def test_a_slow_network_gets_tiles_that_are_seen_soon(planned):
    plan = planned(Costs(seconds=lambda plan: 1e-5))
    assert largest_box(plan) * 1e-5 <= 2 * fit.PATIENCE["cpu"]
    assert largest_box(plan) < largest_box(planned(Costs(seconds=lambda plan: 1e-7)))


def test_limits_grow_where_small_tiles_would_take_half_as_long_again():
    ways = {"small": (5.0, 300.0), "middle": (20.0, 140.0), "large": (90.0, 100.0)}
    of_a_tile, of_all = ({way: pair[n] for way, pair in ways.items()} for n in (0, 1))
    assert fit._within(8.0, list(ways), of_a_tile, of_all) == ["small", "middle"]
    assert fit._within(100.0, list(ways), of_a_tile, of_all) == list(ways)
    assert fit._within(1.0, ["small"], of_a_tile, of_all) == ["small"]


def test_a_tile_that_is_asked_for_and_does_not_fit_is_refused_with_figures(planned):
    with pytest.raises(
        DeviceMemoryError, match=r"\(256, 256, 256\).* needs about \d+\.\d GiB.* 1\.0 GiB may be"
    ):
        planned(free=GIB, tile=(256, 256, 256))
    assert planned(tile=(256, 256, 256)).core == (256, 256, 256)


def test_where_no_tile_fits_the_smallest_is_named(planned):
    with pytest.raises(DeviceMemoryError, match=r"A tile of \(16, 16, 16\) voxels"):
        planned(free=16 * MIB)


def test_a_device_that_does_not_tell_its_memory_gets_the_usual_tile(planned):
    assert planned(Costs(bytes=None)).core == draft.choose_tile(
        toys.random_unet(0, 3), SegmentConfig(chunk=16), BIG, (16,) * 3, draft.Box.whole(BIG)
    )


def test_a_network_that_takes_next_to_nothing_gets_a_tile_as_well(planned):
    assert min(planned(Costs(bytes=0)).core) >= 16


def test_stages_that_run_once_need_no_tile(planned):
    costs = Costs()
    plan = planned(costs, model=toys.toy(), until=["coarse"])
    assert [stage.name for stage in plan.stages] == ["coarse"]
    assert costs.asked == []


def in_arithmetics(**seconds: float) -> Callable[[Plan], float]:
    """Return what a voxel takes, by the name of an arithmetic."""
    names = {REFERENCE: "reference", LAST: "last", BFLOAT: "bfloat"}
    return lambda plan: seconds.get(names[plan.arithmetic], 1.0) * 1e-9


@pytest.fixture
def _has_bfloat16(monkeypatch):
    monkeypatch.setattr("napari_memseg.inference.arithmetic.cpu_has_bfloat16", lambda: True)


@pytest.mark.usefixtures("_has_bfloat16")
@pytest.mark.parametrize(
    ("seconds", "differ", "chosen"),
    [
        ({"bfloat": 0.5}, {}, BFLOAT),
        ({"bfloat": 0.5, "last": 0.6}, {}, BFLOAT),
        ({"bfloat": 0.6, "last": 0.5}, {}, LAST),
        ({"bfloat": 0.5}, {BFLOAT: 0.01}, REFERENCE),
        ({"bfloat": 0.5}, {BFLOAT: 0.0005}, BFLOAT),
        ({"bfloat": 0.5, "last": 0.7}, {BFLOAT: 0.01}, LAST),
        ({"bfloat": 0.95, "last": 0.95}, {}, REFERENCE),
        ({"bfloat": 2.0, "last": 2.0}, {}, REFERENCE),
    ],
)
def test_an_arithmetic_is_taken_that_is_faster_and_leaves_the_labels(planned, seconds, differ, chosen):
    assert planned(Costs(seconds=in_arithmetics(**seconds), differ=differ)).arithmetic == chosen


@pytest.mark.usefixtures("_has_bfloat16")
def test_who_wants_float32_is_asked_no_more(planned):
    costs = Costs(seconds=in_arithmetics(bfloat=0.1, last=0.1))
    assert planned(costs, precision="float32").arithmetic == REFERENCE
    assert {plan.arithmetic for plan in costs.asked} == {REFERENCE}


@pytest.mark.usefixtures("_has_bfloat16")
def test_a_short_run_is_not_worth_a_comparison(planned):
    costs = Costs(seconds=in_arithmetics(bfloat=0.1))
    assert planned(costs, shape=(132, 130, 125)).arithmetic == REFERENCE
    assert {plan.arithmetic for plan in costs.asked} == {REFERENCE}


@pytest.mark.usefixtures("_has_bfloat16")
def test_a_comparison_is_remembered(planned):
    costs = Costs(seconds=in_arithmetics(bfloat=0.5))
    assert planned(costs).arithmetic == BFLOAT
    again = Costs(seconds=in_arithmetics(last=0.1), cache=costs.cache)
    assert planned(again).arithmetic == BFLOAT
    assert LAST not in {plan.arithmetic for plan in again.asked}


@pytest.mark.usefixtures("_has_bfloat16")
@pytest.mark.parametrize("row", [{"speed": 3}, {"precision": "int2"}, {"precision": ["float32"]}])
def test_what_another_version_remembered_of_it_is_compared_anew(planned, row):
    costs = Costs(seconds=in_arithmetics(bfloat=0.5))
    planned(costs)
    (key,) = costs.cache
    again = Costs(seconds=in_arithmetics(bfloat=0.5), cache=Remembered({key: row}))
    assert planned(again).arithmetic == BFLOAT


@pytest.mark.usefixtures("_has_bfloat16")
def test_where_there_are_no_labels_to_compare_the_reference_computes(planned):
    costs = Costs(seconds=in_arithmetics(bfloat=0.5), labelled=False)
    assert planned(costs, model=toys.toy(), until=["coarse", "first"]).arithmetic == REFERENCE
    costs = Costs(seconds=in_arithmetics(bfloat=0.5), cache=costs.cache)
    assert planned(costs, model=toys.toy()).arithmetic == BFLOAT, "of all stages there are"


@pytest.mark.usefixtures("_has_bfloat16")
def test_a_run_that_was_begun_goes_on_as_it_began_whatever_a_probe_says_now(planned):
    begun = planned(Costs(seconds=in_arithmetics(bfloat=0.5)), threads=3, batch=2, max_memory_gib=1.0)
    prepare(begun)
    costs = Costs(bytes=10.0, seconds=in_arithmetics(last=0.1))
    again = planned(costs)
    assert again == begun
    assert costs.asked == []


def test_what_is_asked_for_counts_more_than_what_was_begun(planned):
    begun = planned(tile=(64, 64, 64), threads=1, precision="float32")
    prepare(begun)
    asked = {"tile": (32, 64, 64), "batch": 3, "threads": 2, "precision": "bfloat16"}
    other = planned(**asked)
    assert (other.core, other.batch, other.threads, other.precision) == tuple(asked.values())


def test_a_run_that_is_to_be_discarded_tells_nothing(planned, tmp_path, monkeypatch):
    begun = planned(tile=(64, 64, 64))
    prepare(begun)
    assert planned().core == begun.core
    image, config = in_memory(np.broadcast_to(np.float32(0), BIG)), SegmentConfig(chunk=16, device="cpu")
    fresh = make_plan(begun.model, image, begun.destination, config, fresh=True)
    assert fresh.core != begun.core


def test_a_run_of_another_model_tells_nothing_either(planned):
    prepare(planned(tile=(64, 64, 64)))
    assert planned(model=toys.random_unet(1, 3)).core != (64, 64, 64)


@pytest.fixture
def gpu(planned, monkeypatch):
    """Return a function that plans for a GPU which is not here."""
    monkeypatch.setattr(draft, "choose_device", lambda name: "cuda")
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "H100")

    def plan(costs: Costs, free: float, **how) -> Plan:
        monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (free, free))
        return planned(costs, **how)

    return plan


def in_batches(seconds_of_two: float) -> Callable[[Plan], float]:
    """Return what a voxel takes: in a batch of two, so many times what it takes alone."""
    return lambda plan: (seconds_of_two / 2 if plan.batch == 2 else 1.0) * 1e-9


def test_on_a_gpu_two_tiles_are_computed_at_once_where_this_is_faster_and_fits(gpu):
    assert gpu(Costs(seconds=in_batches(1.5)), 500 * GIB).batch == 2
    assert gpu(Costs(seconds=in_batches(1.9)), 500 * GIB).batch == 1


def test_a_gpu_is_filled_with_no_more_than_it_has(gpu):
    for free in (4 * GIB, 12 * GIB):
        plan = gpu(Costs(seconds=in_batches(1.5)), free)
        assert plan.batch * largest_box(plan) * 1000 <= fit.SHARE["cuda"] * free
    plan = gpu(Costs(), 80 * GIB, max_memory_gib=2.0)
    assert plan.batch * largest_box(plan) * 1000 <= 2 * GIB


HALF = Arithmetic("float16", folded=True)


def in_half(plan: Plan) -> float:
    return 1e-10 if plan.arithmetic == HALF else 1e-9


def test_a_gpu_computes_in_half_precision_where_that_leaves_the_labels(gpu):
    assert gpu(Costs(seconds=in_half), 80 * GIB).arithmetic == HALF
    assert gpu(Costs(seconds=in_half, differ={HALF: 0.01}), 80 * GIB).arithmetic == REFERENCE
    assert gpu(Costs(seconds=in_half), 80 * GIB, precision="float32").arithmetic == REFERENCE


def test_a_batch_for_which_a_probe_has_no_memory_is_not_taken(gpu):
    costs = Costs(seconds=in_batches(1.5), too_large=lambda plan: plan.batch == 2)
    assert gpu(costs, 500 * GIB).batch == 1


@pytest.mark.usefixtures("_has_bfloat16")
def test_an_arithmetic_for_which_a_probe_has_no_memory_is_not_taken(planned):
    costs = Costs(
        seconds=in_arithmetics(bfloat=0.5, last=0.7), too_large=lambda plan: plan.arithmetic == BFLOAT
    )
    assert planned(costs).arithmetic == LAST


def test_where_a_probe_has_no_memory_a_smaller_one_tells(planned):
    costs = Costs(too_large=lambda plan: max(plan.core) > 32)
    assert planned(costs, tile=(64, 64, 64)).core == (64, 64, 64)
    assert {plan.core[0] for plan in costs.asked} == {32}
    with pytest.raises(DeviceMemoryError, match="It does not fit"):
        planned(Costs(too_large=lambda plan: True))


@pytest.mark.usefixtures("_has_bfloat16")
def test_a_remembered_arithmetic_without_memory_gives_way_to_the_usual_one(planned):
    costs = Costs(seconds=in_arithmetics(bfloat=0.5))
    assert planned(costs).arithmetic == BFLOAT
    again = Costs(
        seconds=in_arithmetics(bfloat=0.5), cache=costs.cache, too_large=lambda p: p.arithmetic == BFLOAT
    )
    assert planned(again).arithmetic == REFERENCE


def test_where_memory_is_capped_the_first_measurement_is_small(planned):
    costs = Costs()
    planned(costs, max_memory_gib=1.0)
    assert {max(plan.core) for plan in costs.asked} == {64}, "a larger one would not fit"
    costs = Costs()
    planned(costs, max_memory_gib=8.0)
    assert max(costs.asked[-1].core) == 96


@pytest.mark.parametrize("how", [{"tile": (48, 48, 48), "precision": "float32", "batch": 1}, {}])
def test_max_memory_is_kept_by_small_volumes_and_chosen_tiles_as_well(planned, how):
    with pytest.raises(DeviceMemoryError):
        planned(shape=(60, 50, 40), max_memory_gib=0.0001, **how)


def test_a_limit_that_cannot_be_kept_since_nothing_is_measured_is_refused(planned):
    with pytest.raises(InputError, match="cannot be measured"):
        planned(Costs(bytes=None), max_memory_gib=2.0)


def test_of_a_gpu_each_of_several_processes_takes_its_share_and_of_several_gpus_a_whole_one(gpu, monkeypatch):
    costs, free = Costs(), 8 * GIB
    assert largest_box(gpu(costs, free, sharers=4)) * 1000 <= fit.SHARE["cuda"] * free / 4
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert gpu(costs, free, sharers=4).core == gpu(costs, free).core


def test_a_small_volume_is_planned_without_a_measurement(planned):
    costs = Costs()
    planned(costs, shape=(60, 50, 40))
    assert costs.asked == []


def test_a_batch_that_is_asked_for_is_taken_without_a_measurement_as_well(planned):
    assert planned(shape=(60, 50, 40), batch=3).batch == 3
    assert planned(tile=(64, 64, 64), precision="float32", batch=3).batch == 3
