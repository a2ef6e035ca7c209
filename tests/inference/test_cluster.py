"""A run in the workers of a cluster: a real scheduler, real processes, and what may happen to them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import distributed
import numpy as np
import pytest

import clusters
import toys
from napari_memseg.errors import Cancelled, DeviceLostError, InputError, RunMismatchError
from napari_memseg.geometry import Box
from napari_memseg.inference import crew
from napari_memseg.inference.cluster import on_cluster
from napari_memseg.inference.cluster_worker import TOPIC, Attempt, Wish, do_pencil, leave, steer
from napari_memseg.inference.config import SegmentConfig
from napari_memseg.inference.control import Control
from napari_memseg.inference.crew import next_generation
from napari_memseg.inference.draft import make_plan
from napari_memseg.inference.executors import in_process
from napari_memseg.inference.folder import prepare
from napari_memseg.inference.ledger import read_ledgers
from napari_memseg.inference.plan import Block, Plan
from napari_memseg.inference.resources import peak_rss_gib
from napari_memseg.inference.run_card import read_run_card
from napari_memseg.inference.store import Finished, Store
from napari_memseg.io.formats import open_volume
from napari_memseg.models import registry
from running import checkpoint_of, noise, stored_bytes
from volumes import write_ome_zarr

pytestmark = pytest.mark.slow
SHAPE = (48, 52, 40)


@pytest.fixture(scope="module", autouse=True)
def _networks_are_known():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_REGISTERED", dict(registry._REGISTERED))
        clusters.register()
        yield


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    with clusters.cluster(tmp_path_factory.mktemp("cluster")) as address:
        yield address


def planned(model, folder: Path, voxels: np.ndarray, **settings) -> Plan:
    """Plan a run over an image on the disk, which has a coarser level."""
    image = open_volume(write_ome_zarr(folder / "noise.ome.zarr", [voxels, voxels[::2, ::2, ::2]]))
    usual = {"chunk": 16, "tile": (16, 16, 16), "device": "cpu", "precision": "float32", "batch": 1}
    config = SegmentConfig(**{**usual, "threads": 1, **settings})
    return make_plan(checkpoint_of(model, folder), image, folder / "labels.ome.zarr", config)


def elsewhere(plan: Plan, folder: Path) -> Plan:
    return replace(plan, destination=str(folder / "labels.ome.zarr"))


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> Plan:
    """Return the plan of a run of three stages that has been done once, in one process, undisturbed."""
    plan = planned(toys.toy(), tmp_path_factory.mktemp("one process"), noise(SHAPE), confidence=True)
    list(in_process(plan))
    return plan


def results_of(plan: Plan) -> dict[str, bytes]:
    """Return every chunk and description; a killed worker may leave a journal that was never used."""
    return {name: data for name, data in stored_bytes(plan).items() if not name.endswith(".sqlite-journal")}


def assert_as_undisturbed(plan: Plan, undisturbed: Plan) -> None:
    """Assert that no byte differs, and no block was done twice."""
    assert results_of(plan) == results_of(undisturbed)
    assert max(Counter((row.stage, row.block) for row in read_ledgers(plan.folder)).values()) == 1
    assert read_run_card(Path(plan.destination))["finished"]


def test_the_bytes_are_those_of_one_process_and_each_block_is_told_once(plan, tmp_path, scheduler):
    mine = elsewhere(plan, tmp_path)
    first, *steps = on_cluster(mine, scheduler=scheduler)
    assert (first.done, first.block) == (0, None)
    assert sorted(step.block for step in steps) == sorted(plan.blocks())
    assert [step.done for step in steps] == list(range(1, first.total + 1))
    assert_as_undisturbed(mine, plan)


def test_a_finished_run_is_found_to_be_finished(plan, tmp_path, scheduler):
    mine = elsewhere(plan, tmp_path)
    list(on_cluster(mine, scheduler=scheduler))
    (only,) = on_cluster(mine, scheduler=scheduler)
    assert only.done == only.resumed == only.total


def test_workers_of_this_machine_are_started_and_ended(tmp_path):
    plan = planned(toys.random_unet(widths=[4, 4]), tmp_path, noise(SHAPE), box="16:48,0:32,:")
    undisturbed = elsewhere(plan, tmp_path / "undisturbed")
    list(in_process(undisturbed))
    list(on_cluster(plan, workers=2))
    assert_as_undisturbed(plan, undisturbed)


@pytest.mark.parametrize("share", [0.1, 0.7])
def test_what_a_killed_worker_had_not_done_is_done_by_another(plan, tmp_path, scheduler, share):
    mine = elsewhere(plan, tmp_path)
    steps = on_cluster(mine, scheduler=scheduler)
    for step in steps:
        if step.done >= share * step.total:
            break
    with distributed.Client(scheduler, set_as_default=False) as client:
        os.kill(min(client.run(os.getpid).values()), signal.SIGKILL)
    list(steps)
    assert_as_undisturbed(mine, plan)


def killed_client(plan: Plan, folder: Path, scheduler: str, share: float) -> int:
    """Kill a client when so large a share of its run is done; return how many blocks it has told."""
    (folder / "plan.json").write_text(json.dumps(plan.to_json()))
    here = Path(__file__).parent
    with subprocess.Popen(
        [sys.executable, here / "clustered.py", folder / "plan.json", scheduler],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": clusters.python_path()},
        text=True,
    ) as process:
        for line in process.stdout:
            done, total = map(int, line.split())
            if done >= share * total:
                process.kill()
                break
    return done


@pytest.mark.parametrize("share", [0.0, 0.6])
def test_a_killed_client_goes_on_where_it_was(plan, tmp_path, scheduler, share):
    mine = elsewhere(plan, tmp_path)
    done = killed_client(mine, tmp_path, scheduler, share)
    first, *_ = on_cluster(mine, scheduler=scheduler)
    assert first.resumed >= done
    assert_as_undisturbed(mine, plan)


def test_a_restart_ends_what_a_killed_client_has_left_at_work(plan, tmp_path, scheduler):
    mine = elsewhere(plan, tmp_path)
    killed_client(mine, tmp_path, scheduler, 0.6)
    other = planned(toys.toy(seed=1), tmp_path, noise(SHAPE))
    undisturbed = elsewhere(other, tmp_path / "undisturbed")
    list(in_process(undisturbed))
    first, *_ = on_cluster(other, scheduler=scheduler, restart=True)
    assert first.done == 0
    assert_as_undisturbed(other, undisturbed)


def test_a_cancelled_run_ends_and_goes_on_later(plan, tmp_path, scheduler):
    mine, control = elsewhere(plan, tmp_path), Control()
    steps = on_cluster(mine, control, scheduler=scheduler)
    told = [next(steps) for _ in range(11)]
    control.cancel()
    with pytest.raises(Cancelled, match="go on"):
        told.extend(steps)
    first, *_ = on_cluster(mine, scheduler=scheduler)
    assert 10 <= first.resumed == told[-1].done < first.total
    assert_as_undisturbed(mine, plan)


def test_who_stops_asking_leaves_no_worker_at_work(plan, tmp_path, scheduler):
    mine = elsewhere(plan, tmp_path)
    steps = on_cluster(mine, scheduler=scheduler)
    next(steps)
    next(steps)
    steps.close()
    rows = list(read_ledgers(mine.folder))
    first, *_ = on_cluster(mine, scheduler=scheduler)
    assert first.resumed == len(
        {(row.stage, row.block) for row in rows} & {(b.stage, b.index) for b in plan.blocks()}
    )
    assert_as_undisturbed(mine, plan)


def test_a_paused_run_waits(plan, tmp_path, scheduler):
    control = Control()
    control.pause()
    steps = on_cluster(elsewhere(plan, tmp_path), control, scheduler=scheduler)
    next(steps)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(next, steps)
        assert not waiting.done()
        control.resume()
        assert waiting.result(timeout=60).done == 1
    list(steps)


def test_what_is_looked_at_comes_first_and_may_change(tmp_path):
    plan = planned(toys.random_unet(widths=[4, 4]), tmp_path, noise((32, 112, 112)))
    control, place = Control(), Box((16, 96, 96), (32, 112, 112))
    control.look_at(place)
    steps = on_cluster(plan, control, workers=1)
    total = next(steps).total
    assert next(steps).box == place
    control.look_at(Box((16, 0, 96), (32, 16, 112)))
    boxes = [step.box for step in steps]
    assert boxes.index(control.box) <= 2 * total // 8, "at most what was handed out before comes before"


def test_a_second_client_is_refused_and_the_first_goes_on(plan, tmp_path, scheduler):
    mine = elsewhere(plan, tmp_path)
    steps = on_cluster(mine, scheduler=scheduler)
    next(steps)
    with pytest.raises(InputError, match="Another process is writing"):
        list(on_cluster(mine, scheduler=scheduler))
    list(steps)
    assert_as_undisturbed(mine, plan)


def test_a_late_word_of_an_earlier_attempt_ends_nothing(plan, tmp_path, scheduler):
    mine = elsewhere(plan, tmp_path)
    steps = on_cluster(mine, scheduler=scheduler)
    next(steps)
    earlier = Attempt(os.path.abspath(mine.destination), 1, "z")
    with distributed.Client(scheduler, set_as_default=False) as client:
        for word in ((steer, earlier, Wish(cancelled=True)), (leave, earlier)):
            with pytest.raises(InputError, match="Another client has taken over the run at"):
                client.run(*word)
        late = client.submit(do_pencil, json.dumps(mine.to_json()), earlier, [], pure=False)
        with pytest.raises(InputError, match=r"On the worker .*: Another client has taken over"):
            late.result()
    list(steps)
    assert_as_undisturbed(mine, plan)


def test_a_later_attempt_is_greater_even_if_its_clock_is_behind(scheduler):
    with distributed.Client(scheduler, set_as_default=False) as client:
        numbers = [next_generation(client, "a run") for _ in range(2)]
        client.set_metadata([TOPIC, "a run"], 2**62)
        numbers += [next_generation(client, "a run") for _ in range(2)]
        other = next_generation(client, "another run")
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == 2**62 + 2
    assert other < 2**62


def test_what_needs_a_failed_block_fails_with_it(tmp_path, scheduler):
    voxels = noise(SHAPE)
    voxels[20, 20, 20] = np.nan
    plan = planned(toys.toy(), tmp_path, voxels)
    ends = []
    for run, name in ((in_process, "one"), (lambda plan: on_cluster(plan, scheduler=scheduler), "many")):
        mine = replace(plan, destination=str(tmp_path / f"{name}.ome.zarr"))
        prepare(mine)
        with closing(Store(mine)) as store:  # else all would fail with what all need
            vector = {"latent": np.zeros(toys.LATENT, np.float32)}
            store.write([Finished(Block("coarse", (0, 0, 0)), vector, 0.0)])
        last = list(run(mine))[-1]
        ends.append((last.done, last.failed, stored_bytes(mine).keys()))
    assert ends[0] == ends[1]
    assert 0 < ends[1][1] < ends[1][0]


def test_empty_tiles_are_skipped_as_in_one_process(tmp_path, scheduler):
    voxels = noise(SHAPE)
    voxels[:, :, 12:] = 0
    plan = planned(toys.toy(), tmp_path, voxels, skip_below=0.01)
    alone = elsewhere(plan, tmp_path / "alone")
    one, many = list(in_process(alone))[-1], list(on_cluster(plan, scheduler=scheduler))[-1]
    assert one.skipped == many.skipped > 0
    assert_as_undisturbed(plan, alone)


def test_a_worker_whose_gpu_is_gone_ends_and_another_goes_on(tmp_path, scheduler):
    model = clusters.LosesItsDevice(toys.null().classes, log=str(tmp_path / "log"), times=1)
    plan = planned(model, tmp_path, noise(SHAPE))
    last = list(on_cluster(plan, scheduler=scheduler))[-1]
    assert (last.done, last.failed) == (last.total, 0)
    assert (tmp_path / "log").read_bytes() == b"x"


def test_blocks_over_which_worker_after_worker_dies_end_the_run(tmp_path, scheduler):
    model = clusters.LosesItsDevice(toys.null().classes, log=str(tmp_path / "log"), times=99)
    with pytest.raises(DeviceLostError, match="Worker after worker died"):
        list(on_cluster(planned(model, tmp_path, noise(SHAPE)), scheduler=scheduler))


def test_what_does_not_fit_a_worker_tries_once_and_all_that_they_tried_is_told(tmp_path, scheduler):
    log = tmp_path / "log"
    model = clusters.TakesSmallTiles(toys.null().classes, log=str(log), most=16**3)
    plan = planned(model, tmp_path, noise((64, 48, 48)), tile=(32, 16, 16))
    last = list(on_cluster(plan, scheduler=scheduler))[-1]
    assert (last.done, last.failed) == (last.total, 0)
    tried = len(log.read_bytes())
    assert 1 <= tried <= clusters.WORKERS
    assert last.memory == {"retries": tried, "batch": 1, "tile": [16, 16, 16], "cpu": False}
    assert read_run_card(Path(plan.destination))["result"]["out_of_memory"] == last.memory


def test_the_memory_of_workers_is_told(plan, tmp_path, scheduler):
    *_, last = on_cluster(elsewhere(plan, tmp_path), scheduler=scheduler)
    with distributed.Client(scheduler, set_as_default=False) as client:
        held = client.run(peak_rss_gib).values()
    assert last.peaks.device_gib is None
    assert 0 < last.peaks.rss_gib < 1.1 * max(held), "Linux is not exact here"


def test_an_image_that_workers_do_not_see_is_named_with_the_worker(plan, tmp_path, scheduler):
    image = open_volume(plan.image)
    lost = replace(elsewhere(plan, tmp_path), image=str(tmp_path / "elsewhere.tif"))
    with pytest.raises(InputError, match=r"On the worker tcp://.*elsewhere\.tif"):
        list(on_cluster(lost, scheduler=scheduler, image=image))


def test_a_run_of_another_plan_is_refused(plan, tmp_path, scheduler):
    mine = elsewhere(plan, tmp_path)
    prepare(mine)
    with pytest.raises(RunMismatchError):
        list(on_cluster(replace(mine, confidence=False), scheduler=scheduler))


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense", "ftp://127.0.0.1:9"])
def test_a_scheduler_that_does_not_answer_is_named(plan, tmp_path, address):
    with pytest.raises(InputError, match=f"No scheduler answers at '{address}'"):
        list(on_cluster(elsewhere(plan, tmp_path), scheduler=address))
    assert not (tmp_path / "labels.ome.zarr").exists()


def test_a_scheduler_without_workers_says_how_to_start_one(plan, tmp_path):
    with (
        distributed.LocalCluster(n_workers=0, processes=True, dashboard_address="127.0.0.1:0") as cluster,
        pytest.raises(InputError, match="dask worker tcp"),
    ):
        list(on_cluster(elsewhere(plan, tmp_path), scheduler=cluster.scheduler_address))


def test_a_scheduler_that_goes_away_ends_the_run_which_can_be_resumed(
    plan, tmp_path, tmp_path_factory, scheduler
):
    mine = elsewhere(plan, tmp_path)
    with clusters.cluster(tmp_path_factory.mktemp("short-lived"), workers=1) as address:
        steps = on_cluster(mine, scheduler=address)
        next(steps)
        next(steps)
    with pytest.raises(DeviceLostError, match="scheduler"):
        list(steps)
    list(on_cluster(mine, scheduler=scheduler))
    assert_as_undisturbed(mine, plan)


def begun_by_workers_that_leave(plan, address: str, folder):
    """Begin a run with a worker, which is gone after the first block; return its further steps."""
    with clusters.at_work(folder, 1):
        steps = on_cluster(plan, scheduler=address)
        next(steps)
        next(steps)
    return steps


def test_a_scheduler_that_loses_all_its_workers_ends_the_run_which_can_be_resumed(
    plan, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(crew, "WORKERLESS_SECONDS", 0)
    mine = elsewhere(plan, tmp_path)
    with clusters.scheduler_alone(tmp_path) as address:
        steps = begun_by_workers_that_leave(mine, address, tmp_path)
        with pytest.raises(DeviceLostError, match=r"lost all its workers.*start the same again to go on"):
            list(steps)
        assert [record.message for record in caplog.records if record.name == crew.__name__] == [
            "The cluster has lost all its workers: waiting 0 s for others."
        ]
        with clusters.at_work(tmp_path, 1):
            list(on_cluster(mine, scheduler=address))
    assert_as_undisturbed(mine, plan)


def test_workers_that_come_back_in_time_go_on_even_if_answers_were_lost(plan, tmp_path):
    mine = elsewhere(plan, tmp_path)
    with clusters.scheduler_alone(tmp_path) as address:
        steps = begun_by_workers_that_leave(mine, address, tmp_path)
        with ThreadPoolExecutor(1) as pool:
            others = pool.submit(list, steps)
            with clusters.at_work(tmp_path, 1):
                assert others.result(timeout=120)[-1].done == len(list(plan.blocks()))
    assert_as_undisturbed(mine, plan)


@pytest.mark.parametrize("asked", [{}, {"workers": 0}, {"workers": 2, "scheduler": "tcp://127.0.0.1:9"}])
def test_a_cluster_is_one_that_runs_or_one_to_start(plan, asked):
    with pytest.raises(InputError, match="scheduler or a number of workers"):
        list(on_cluster(plan, **asked))


def test_without_distributed_the_extra_is_named(plan, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"napari-memseg\[cluster\]"):
        list(on_cluster(plan, workers=1))
