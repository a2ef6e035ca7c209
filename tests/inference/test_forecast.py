"""What a run will take is said before it begins."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

import toys
from napari_memseg.errors import Cancelled, InputError
from napari_memseg.inference import forecast as module
from napari_memseg.inference import run as run_module
from napari_memseg.inference.control import Control
from napari_memseg.inference.forecast import Forecast, check_disk, forecast
from napari_memseg.inference.plan import Plan
from napari_memseg.inference.probe import Probe, ProbeCache, Prober, middle
from napari_memseg.inference.run_card import begin_run_card
from running import in_memory, noise, plan_of, run
from trouble import NO_MEMORY, larger_than, watched

pytestmark = pytest.mark.usefixtures("_no_flushes", "_own_cache")

SHAPE, TILE = (37, 41, 29), (16, 16, 16)
DATA = noise(SHAPE)
GIB = 2**30


@pytest.fixture
def _own_cache(tmp_path, monkeypatch):
    """Remember nothing beyond a test."""
    cache = ProbeCache(tmp_path / "cache" / "probes.json")
    monkeypatch.setattr(module, "Prober", partial(Prober, cache=cache))


def plan_in(folder: Path, model=None, data=DATA, **settings) -> Plan:
    return plan_of(model or toys.null(), data, folder, **{"tile": TILE, **settings})


@pytest.mark.parametrize("halo", ["exact", (3, 0, 5)])
@pytest.mark.parametrize("tile", [TILE, (32, 16, 48)])
@pytest.mark.parametrize("box", [None, "17:32,0:41,3:5"])
def test_tiles_and_redundancy_are_those_of_the_boxes_that_are_run(tmp_path, monkeypatch, halo, tile, box):
    plan = plan_in(tmp_path, toys.random_unet(0, widths=[2, 2]), halo=halo, tile=tile, box=box)
    expected = forecast(plan, in_memory(DATA))
    calls = watched(monkeypatch)
    run(plan, DATA)
    assert expected.tiles == len(calls)
    assert expected.redundancy == pytest.approx(sum(c.boxes[0].size for c in calls) / plan.region.size)


def test_of_many_stages_the_last_is_counted(tmp_path, monkeypatch):
    plan = plan_in(tmp_path, toys.toy())
    expected = forecast(plan, in_memory(DATA))
    calls = watched(monkeypatch)
    run(plan, DATA)
    last = [call for call in calls if call.stage == "second"]
    assert expected.tiles == len(last)
    assert expected.redundancy == pytest.approx(sum(c.boxes[0].size for c in last) / plan.region.size)


@pytest.mark.parametrize("few", [True, False])
def test_a_network_is_asked_for_a_forecast_once(tmp_path, monkeypatch, few):
    monkeypatch.setattr(module, "OWN_TILE", 1000 if few else 1)
    plan, calls = plan_in(tmp_path), watched(monkeypatch)
    first = forecast(plan, in_memory(DATA))
    asked = len(calls)
    assert asked
    assert (calls[0].cores == [middle(plan)]) is not few
    again = forecast(plan, in_memory(DATA))
    assert len(calls) == asked
    assert (again.seconds, again.disk_gib) == (first.seconds, first.disk_gib)


class Costs:
    """A prober to whom one tile costs a second, and 2 GiB."""

    def __init__(self, image, *, control=None, voxels=16**3) -> None:
        self._probe = Probe(seconds=1.0, read_seconds=0.0, bytes=2 * GIB, voxels=voxels, stored=0.5)

    def known(self, plan):
        return self._probe


def test_time_is_that_of_all_tiles_and_memory_that_of_one(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "Prober", Costs)
    small, large = noise((32, 32, 32)), noise((64, 64, 64))
    few, many = (forecast(plan_in(tmp_path, data=data), in_memory(data)) for data in (small, large))
    assert (few.tiles, many.tiles) == (8, 64)
    assert (few.seconds, many.seconds) == (8, 64)
    assert many.memory_gib - few.memory_gib < 0.1
    assert few.memory_gib > 2


def test_a_device_that_does_not_tell_its_memory_is_not_guessed_at(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "Prober", Costs)
    monkeypatch.setattr(Costs, "known", lambda self, plan: replace(self._probe, bytes=None))
    plan = plan_in(tmp_path)
    assert forecast(plan, in_memory(DATA)).memory_gib is None
    other = forecast(replace(plan, device="mps"), in_memory(DATA))
    assert other.memory_gib is None
    assert other.host_gib > 0


def test_a_tile_for_which_a_probe_has_no_memory_is_told_from_a_smaller_one(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "OWN_TILE", 1)
    monkeypatch.setattr(module, "SCOUT", 8)
    plan = plan_in(tmp_path)
    fails_when = larger_than((8, 8, 8), NO_MEMORY["torch on a CPU"])
    watched(monkeypatch, fails_when)
    expected = forecast(plan, in_memory(DATA))
    assert expected.seconds > 0
    assert expected.memory_gib > 0


def test_who_cancels_is_heard_while_a_tile_is_measured(tmp_path, monkeypatch):
    control = Control()
    watched(monkeypatch, lambda call: control.cancel())
    with pytest.raises(Cancelled):
        forecast(plan_in(tmp_path, toys.random_unet(0, 2)), in_memory(DATA), control)


def test_confidence_and_what_stages_keep_take_room_on_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "Prober", Costs)
    plain, certain, kept = (
        forecast(plan, in_memory(DATA)).disk_gib
        for plan in (
            plan_in(tmp_path),
            plan_in(tmp_path, confidence=True),
            plan_in(tmp_path, toys.toy()),
        )
    )
    assert certain == 2 * plain
    hint = 3 * 19 * 21 * 15
    assert kept - plain >= 2 * hint / GIB


def test_a_run_for_which_there_is_no_room_is_refused_with_figures(tmp_path, monkeypatch):
    plan = plan_in(tmp_path, name="not/yet/there/labels.ome.zarr")
    expected = Forecast(tiles=1, redundancy=1.0, seconds=1.0, memory_gib=1.0, host_gib=1.0, disk_gib=7.25)
    seen = []

    def disk_usage(folder):
        seen.append(folder)
        return SimpleNamespace(total=100 * GIB, free=int(free * GIB))

    monkeypatch.setattr("shutil.disk_usage", disk_usage)
    free = 7.5
    check_disk(plan, expected)
    free = 3.5
    with pytest.raises(InputError, match=r"need about 7\.2 GiB, and 3\.5 GiB are free at .*another disk"):
        check_disk(plan, expected)
    assert seen == [tmp_path] * 2


def test_what_is_there_of_a_run_needs_no_more_room(tmp_path, monkeypatch):
    plan = plan_in(tmp_path)
    expected = Forecast(tiles=1, redundancy=1.0, seconds=1.0, memory_gib=1.0, host_gib=1.0, disk_gib=1e-3)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(total=GIB, free=0))
    path = plan.folder / "old"
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(2 * 2**20))
    with pytest.raises(InputError, match="are free"):
        check_disk(plan, expected)  # a folder of somebody else's
    begin_run_card(Path(plan.destination), plan.id, plan.to_json())
    check_disk(plan, expected)
    path.write_bytes(b"little")
    with pytest.raises(InputError, match="are free"):
        check_disk(plan, expected)


def test_what_another_version_has_forecast_is_unknown():
    known = Forecast(tiles=1, redundancy=1.0, seconds=1.0, memory_gib=1.0, host_gib=1.0, disk_gib=7.25)
    row = asdict(known)
    assert Forecast.from_json(row) == known
    assert Forecast.from_json({**row, "joules": 3}) is None
    assert Forecast.from_json({"tiles": 1}) is None
    assert Forecast.from_json(None) is None


def test_a_gpu_holds_what_its_readers_read_ahead(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "Prober", Costs)
    monkeypatch.setattr(run_module.os, "cpu_count", lambda: 16)
    plan = plan_in(tmp_path)
    one, two = (forecast(replace(plan, device="cuda", batch=batch), in_memory(DATA)) for batch in (1, 2))
    box = plan.box_voxels * DATA.itemsize
    assert one.memory_gib * GIB == 2 * GIB + DATA.nbytes + 10 * box
    assert two.memory_gib * GIB == 2 * GIB + DATA.nbytes + 11 * box


def test_a_place_without_a_size_is_not_judged(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(total=0, free=0))
    expected = forecast(plan_in(tmp_path), in_memory(DATA))
    check_disk(plan_in(tmp_path), expected)
