"""What a tile costs is measured once, and remembered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import toys
from napari_memseg.errors import DeviceMemoryError
from napari_memseg.geometry import Box
from napari_memseg.inference import probe
from napari_memseg.inference.arithmetic import CHANNELS_LAST, Arithmetic
from napari_memseg.inference.control import Control
from napari_memseg.inference.network import Network
from napari_memseg.inference.plan import Plan
from napari_memseg.inference.probe import ProbeCache, Prober, middle, scout
from napari_memseg.models.intensity import Window
from running import expected, in_memory, noise, plan_of
from trouble import NO_MEMORY, watched

SHAPE = (37, 41, 29)
DATA = noise(SHAPE)


def plan_in(folder: Path, model=None, **settings) -> Plan:
    return plan_of(model or toys.null(), DATA, folder, tile=(16, 16, 16), **settings)


@pytest.fixture
def cache(tmp_path) -> ProbeCache:
    return ProbeCache(tmp_path / "cache" / "probes.json")


def test_what_was_measured_is_known_to_the_next_process(tmp_path, cache, monkeypatch):
    plan = plan_in(tmp_path)
    measured = Prober(in_memory(DATA), cache)(plan)
    calls = watched(monkeypatch)
    again = Prober(in_memory(DATA), ProbeCache(tmp_path / "cache" / "probes.json"))
    assert again(plan) == again.known(plan) == replace(measured, labels=None)
    assert calls == []
    assert again.rate(plan) == again.known(plan)


def test_a_probe_is_about_one_tile_of_the_image_itself(tmp_path, cache, monkeypatch):
    model = toys.null()
    plan, calls = plan_in(tmp_path, model), watched(monkeypatch)
    found = Prober(in_memory(DATA), cache)(plan, labels=True)
    assert {call.cores[0] for call in calls} == {middle(plan)}
    assert (found.labels == expected(model, DATA)[middle(plan).slices]).all()
    assert found.voxels == middle(plan).size
    assert found.seconds > 0


def test_stages_that_need_earlier_ones_are_probed_without_them(tmp_path, cache, monkeypatch):
    plan, calls = plan_in(tmp_path, toys.toy()), watched(monkeypatch)
    found = Prober(in_memory(DATA), cache)(plan)
    assert {call.stage for call in calls} == {"first", "second"}
    assert found.voxels == sum({call.stage: call.boxes[0].size for call in calls}.values())
    assert not list(tmp_path.glob("*.ome.zarr")), "nothing is written"


def test_labels_are_made_anew_by_whoever_wants_them(tmp_path, cache, monkeypatch):
    plan, prober = plan_in(tmp_path), Prober(in_memory(DATA), cache)
    prober(plan)
    calls = watched(monkeypatch)
    assert prober(plan, labels=True).labels is not None
    assert calls


def test_another_tile_batch_arithmetic_or_number_of_threads_is_not_known(tmp_path, cache):
    plan, prober = plan_in(tmp_path), Prober(in_memory(DATA), cache)
    prober(plan)
    last = Arithmetic(layout=CHANNELS_LAST)
    others = {"core": (32, 16, 16)}, {"batch": 2}, {"threads": 7}, {"sha256": "0" * 64}
    assert prober.known(plan) is not None
    assert [prober.known(replace(plan, **other)) for other in others] == [None] * 4
    assert prober.known(plan.computing(last)) is None
    assert prober.rate(plan.computing(last)) is None
    assert prober.rate(replace(plan, core=(32, 16, 16))) is not None


def test_what_some_stages_cost_is_not_taken_for_what_all_cost(tmp_path, cache):
    plan, prober = plan_in(tmp_path, toys.toy()), Prober(in_memory(DATA), cache)
    prober(replace(plan, stages=plan.stages[:2]))
    assert prober.rate(plan) is None


@pytest.mark.parametrize("content", [b"", b"\0\0\0", b"[1, 2]", b'{"key": 3}', b'{"key": {"speed": 3}}'])
def test_a_damaged_cache_counts_as_empty(tmp_path, monkeypatch, content):
    path, plan = tmp_path / "probes.json", plan_in(tmp_path)
    prober = Prober(in_memory(DATA), ProbeCache(path))
    path.write_bytes(content.replace(b"key", prober._key(plan).encode()))
    assert prober.known(plan) is None
    assert prober(plan).seconds > 0
    assert prober.known(plan) is not None


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("a file, where a folder should be")
    cache = ProbeCache(tmp_path / "file" / "probes.json")
    cache.put("key", {"seconds": 1})
    assert cache.get("key") is None
    assert Prober(in_memory(DATA), cache)(plan_in(tmp_path)).seconds > 0


def test_the_oldest_rows_are_forgotten(cache, monkeypatch):
    monkeypatch.setattr(probe, "MOST_ROWS", 3)
    for n in (0, 1, 2, 0, 3):
        cache.put(str(n), {"row": n})
    assert [cache.get(str(n)) for n in range(4)] == [{"row": 0}, None, {"row": 2}, {"row": 3}]


@pytest.mark.parametrize("everywhere", [False, True])
def test_a_tile_that_cannot_be_read_is_no_reason_to_refuse_a_run(tmp_path, cache, monkeypatch, everywhere):
    plan, data = plan_in(tmp_path), DATA.copy()
    data[... if everywhere else middle(plan).slices] = np.nan
    calls = watched(monkeypatch)
    assert Prober(in_memory(data), cache)(plan, labels=True).labels is not None
    assert {call.cores[0] == middle(plan) for call in calls} == {everywhere}


def test_scores_that_are_no_numbers_have_a_cost_and_no_labels(tmp_path, cache):
    model = toys.null()
    plan = plan_in(tmp_path, model)
    spoiled = replace(plan, window=Window(0.0, 1e-38, "float32")).computing(Arithmetic("float16"))
    found = Prober(in_memory(np.full(SHAPE, 1e38, np.float32)), cache)(spoiled, labels=True)
    assert found.labels is None
    assert found.seconds > 0


@pytest.mark.parametrize("error", NO_MEMORY.values(), ids=NO_MEMORY)
def test_too_little_memory_is_said_in_a_sentence(tmp_path, cache, monkeypatch, error):
    plan, prober = plan_in(tmp_path), Prober(in_memory(DATA), cache)
    watched(monkeypatch, lambda call: error)
    with pytest.raises(DeviceMemoryError, match=r"a tile of \(16, 16, 16\) voxels, 1 at a time, on cpu"):
        prober(plan)
    assert prober.tried(plan) is None
    assert prober.known(plan) is None


def test_a_long_pass_is_not_repeated_and_what_it_paid_for_memory_is_taken_off(tmp_path, cache, monkeypatch):
    seconds = [probe.WARM_SECONDS + 1, probe.WARM_SECONDS / 2, probe.WARM_SECONDS / 4]
    monkeypatch.setattr(probe, "_timed", lambda *_: (seconds.pop(0), None))
    monkeypatch.setattr(probe, "PAGING", 1e9)
    prober = Prober(in_memory(DATA), cache)
    assert prober(plan_in(tmp_path)).seconds == (probe.WARM_SECONDS + 1) / 2, "half of it at most"
    short = prober(replace(plan_in(tmp_path), core=(32, 16, 16)))
    assert short.seconds == probe.WARM_SECONDS / 4, "of the second pass"


def test_other_errors_rise(tmp_path, cache, monkeypatch):
    watched(monkeypatch, lambda call: RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        Prober(in_memory(DATA), cache).tried(plan_in(tmp_path))


def test_a_pause_has_the_tile_measured_again(tmp_path, cache, monkeypatch):
    control = Control()
    monkeypatch.setattr(control, "wait_if_paused", control.resume)
    calls = watched(monkeypatch, lambda call: control.pause() if call.number == 1 else None)
    found = Prober(in_memory(DATA), cache, control=control)(plan_in(tmp_path, toys.random_unet(0, 1)))
    assert found.seconds > 0
    assert len(calls) > 2


def test_later_stages_see_what_earlier_ones_made_of_the_same_place(tmp_path, cache, monkeypatch):
    compute, made, read = Network.__call__, [], []

    def spied(network, samples, batch=1):
        results = compute(network, samples, batch)
        made.extend(r.arrays()["hint"] for r in results if samples[0].stage.name == "first")
        read.extend(s.arrays["hint"] for s in samples if samples[0].stage.name == "second")
        return results

    monkeypatch.setattr(Network, "__call__", spied)
    Prober(in_memory(DATA), cache)(scout(plan_in(tmp_path, toys.toy()), 16))
    assert made[0].any()
    assert (made[0] == read[0]).all()


@given(
    start=st.tuples(*[st.integers(0, 90)] * 3),
    size=st.tuples(*[st.integers(1, 90)] * 3),
    edge=st.integers(1, 99),
)
def test_a_scout_keeps_to_the_step_and_lies_in_the_region(scouted, start, size, edge):
    shape = (97, 83, 101)
    box = Box.at(start, size).snap((16, 16, 16)).clip(shape)
    if box.is_empty:
        return
    plan = scout(replace(scouted, shape=shape, region=box), edge)
    assert all(n % s == 0 for n, s in zip(plan.core, plan.step, strict=True))
    assert all(n < edge + s for n, s in zip(plan.core, plan.step, strict=True))
    assert not (middle(plan) & box).is_empty
    assert all(np.array(middle(plan).start) % plan.core == 0)


@pytest.fixture(scope="module")
def scouted(tmp_path_factory) -> Plan:
    return plan_in(tmp_path_factory.mktemp("scout"), toys.random_unet(0, 3))
