import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from errno import ENOSPC
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import zarr
from filelock import FileLock

import toys
from napari_memseg.errors import Cancelled, GeometryError, InputError, RunMismatchError
from napari_memseg.geometry import Box, ceil_div
from napari_memseg.inference import tensors
from napari_memseg.inference.config import SegmentConfig
from napari_memseg.inference.control import Control
from napari_memseg.inference.draft import make_plan
from napari_memseg.inference.executors import in_process
from napari_memseg.inference.folder import LOCK, prepare
from napari_memseg.inference.ledger import FAILED, Ledger, read_ledgers
from napari_memseg.inference.plan import Plan
from napari_memseg.inference.run import open_image, run_blocks
from napari_memseg.inference.run_card import read_run_card
from napari_memseg.inference.stages import ReadPlan
from napari_memseg.io import coarser
from napari_memseg.io.formats import open_volume
from napari_memseg.io.halving import halve_mean
from napari_memseg.io.pyramid import Pyramid
from napari_memseg.models.base import Halo, Where
from running import checkpoint_of, expected, in_memory, labels_of, noise, plan_of, run, stored_bytes

SHAPE = (37, 41, 29)


def test_a_finished_run_computes_nothing_again(tmp_path):
    data = noise(SHAPE)
    plan = plan_of(toys.null(), data, tmp_path, tile=(16, 16, 16))
    first = run(plan, data)
    again = run(plan, data)
    assert [step.done for step in again] == [first[-1].total]
    assert again[0].resumed == first[-1].total


def test_the_run_card_tells_the_plan_and_that_it_is_finished(tmp_path):
    data = noise(SHAPE)
    plan = plan_of(toys.null(), data, tmp_path)
    prepare(plan)
    assert read_run_card(Path(plan.destination))["finished"] is False
    run(plan, data)
    card = read_run_card(Path(plan.destination))
    assert card["finished"] is True
    assert Plan.from_json(card["plan"]) == plan


def test_another_plan_is_refused_with_the_difference_named_and_nothing_changed(tmp_path):
    data = noise(SHAPE)
    plan = plan_of(toys.null(), data, tmp_path, tile=(16, 16, 16))
    run(plan, data)
    before = stored_bytes(plan)
    other = plan_of(toys.null(), data, tmp_path, tile=(32, 16, 16))
    with pytest.raises(
        RunMismatchError, match=r"the tile's core is \[32, 16, 16\] here and \[16, 16, 16\] there"
    ):
        run(other, data)
    assert stored_bytes(plan) == before


def test_another_image_and_another_model_are_other_runs(tmp_path):
    data = noise(SHAPE)
    plan = plan_of(toys.null(), data, tmp_path)
    (image,) = plan.differences(plan_of(toys.null(), noise(SHAPE, 1), tmp_path))
    (model,) = plan.differences(plan_of(toys.null(threshold=0.4), data, tmp_path))
    assert image.startswith("the image")
    assert model.startswith("the model")


def test_a_folder_that_is_no_run_is_left_alone(tmp_path):
    data = noise(SHAPE)
    (tmp_path / "labels.ome.zarr").mkdir()
    (tmp_path / "labels.ome.zarr" / "thesis.txt").write_text("mine")
    plan = plan_of(toys.null(), data, tmp_path)
    for restart in (False, True):
        with pytest.raises(InputError, match="no run of napari-memseg"):
            run(plan, data, restart=restart)
    assert (tmp_path / "labels.ome.zarr" / "thesis.txt").read_text() == "mine"


def test_restart_discards_a_run_of_another_plan(tmp_path):
    data = noise(SHAPE)
    run(plan_of(toys.null(), data, tmp_path, tile=(16, 16, 16)), data)
    plan = plan_of(toys.null(threshold=0.2), data, tmp_path, tile=(32, 32, 32))
    run(plan, data, restart=True)
    assert (labels_of(plan) == (data > 0.2)).mean() > 0.999


def test_a_region_is_widened_to_whole_chunks_and_the_rest_stays_not_predicted(tmp_path):
    model, data = toys.toy(), noise(SHAPE)
    plan = plan_of(model, data, tmp_path, tile=(32, 16, 16), box="20:21,5:20,8:9", halo="exact")
    run(plan, data)
    assert plan.region == Box((16, 0, 0), (32, 32, 16))
    labels, inside = labels_of(plan), plan.region.slices
    assert (labels[inside] == expected(model, data)[inside]).all()
    labels[inside] = model.classes.not_predicted
    assert (labels == model.classes.not_predicted).all()


def test_a_small_region_needs_few_blocks_of_earlier_stages(tmp_path):
    data = noise((128, 32, 32))
    plan = plan_of(toys.toy(), data, tmp_path, tile=(16, 16, 16), box="64:80,0:16,0:16")
    blocks = [block for block in plan.blocks() if block.stage == "first"]
    assert 0 < len(blocks) <= 12


@pytest.mark.slow
def test_the_pyramid_is_every_second_voxel(tmp_path):
    data = noise((70, 41, 29))
    plan = plan_of(toys.null(), data, tmp_path, tile=(16, 16, 16))
    run(plan, data)
    assert (labels_of(plan, 1) == labels_of(plan)[::2, ::2, ::2]).all()


def test_confidence_is_the_margin_between_the_best_two(tmp_path):
    model, data = toys.null(), noise(SHAPE)
    plan = plan_of(model, data, tmp_path, confidence=True)
    run(plan, data)
    scores = toys.whole_volume(model, data).astype(np.float64)
    shares = np.sort(np.exp(scores) / np.exp(scores).sum(0), 0)
    stored = zarr.open_array(Path(plan.destination) / "confidence" / "0", mode="r")[...]
    assert np.abs(stored - np.minimum(255 * (shares[-1] - shares[-2]), 254)).max() <= 1


def test_a_deleted_chunk_is_computed_again(tmp_path):
    data = noise(SHAPE)
    plan = plan_of(toys.null(), data, tmp_path, tile=(16, 16, 16))
    total = run(plan, data)[-1].total
    before = stored_bytes(plan)
    (Path(plan.destination) / "0" / "c" / "1" / "0" / "1").unlink()
    again = run(plan, data)
    assert again[0].done == total - 1
    assert again[-1].block.index == (1, 0, 1)
    assert stored_bytes(plan) == before


def test_a_tile_with_nan_is_marked_and_named_and_the_others_are_right(tmp_path):
    data = noise(SHAPE)
    data[20, 20, 20] = np.nan
    plan = plan_of(toys.null(), data, tmp_path, tile=(16, 16, 16))
    last = run(plan, data)[-1]
    assert (last.done, last.failed) == (last.total - 1, 1)
    labels, inside = labels_of(plan), (slice(16, 32), slice(16, 32), slice(16, 29))
    assert (labels[inside] == plan.classes.not_predicted).all()
    labels[inside] = data[inside] > 0.5
    assert (labels == (data > 0.5)).mean() > 0.999
    (failure,) = read_run_card(Path(plan.destination))["result"]["failures"]
    assert failure["box"] == "16:32,16:32,16:29"
    assert "1 voxels that are NaN" in failure["reason"]


def test_a_network_that_makes_nan_ends_the_run(tmp_path):
    model, data = toys.null(), np.full(SHAPE, 3e38, np.float32)
    plan = plan_of(model, data, tmp_path)
    with pytest.raises(InputError, match="scores are NaN or infinite"):
        run(plan, data)


def test_an_image_of_another_dtype_is_segmented_in_a_window_of_its_own(tmp_path):
    data = (noise(SHAPE) * 1000).astype(np.uint16)
    plan = plan_of(toys.null(), data, tmp_path, window=(0, 1000))
    run(plan, data)
    assert (labels_of(plan) == (data > 500)).mean() > 0.99


def test_cancel_keeps_what_is_done_and_the_next_run_goes_on(tmp_path):
    data, control = noise(SHAPE), Control()
    plan = plan_of(toys.null(), data, tmp_path, tile=(16, 16, 16))
    seen = []

    def cancel_after_five():
        for step in in_process(plan, control, image=in_memory(data)):
            seen.append(step)
            if step.done == 5:
                control.cancel()

    with pytest.raises(Cancelled):
        cancel_after_five()
    assert seen[-1].done < seen[-1].total
    again = run(plan, data)
    assert again[0].done == seen[-1].done
    assert len({row.block for row in read_ledgers(plan.folder) if row.stage == "network"}) == again[-1].total


def test_what_a_kill_left_half_written_of_a_chunk_goes_when_the_run_goes_on(tmp_path):
    data = noise((32, 32, 32))
    plan = plan_of(toys.null(), data, tmp_path, tile=(16, 16, 16))
    steps = in_process(plan, image=in_memory(data))
    next(steps)
    steps.close()
    left = Path(plan.destination) / "0" / "c" / "1" / "1.0123abcd.partial"
    left.parent.mkdir(parents=True, exist_ok=True)
    left.write_bytes(b"half")
    run(plan, data)
    assert not list(Path(plan.destination).rglob("*.partial"))


def test_a_generator_that_is_left_early_leaves_whole_blocks(tmp_path):
    data = noise(SHAPE)
    plan = plan_of(toys.null(), data, tmp_path, tile=(16, 16, 16))
    steps = in_process(plan, image=in_memory(data))
    for _ in range(3):
        next(steps)
    steps.close()
    assert run(plan, data)[0].done >= 2
    assert (labels_of(plan) == (data > 0.5)).mean() > 0.999


@pytest.mark.slow
def test_what_is_looked_at_passes_through_all_stages_first(tmp_path):
    data, control = noise((64, 64, 64)), Control()
    plan = plan_of(toys.toy(), data, tmp_path, tile=(16, 16, 16))
    control.look_at(Box((50, 50, 50), (51, 51, 51)))
    done = [step.block for step in in_process(plan, control, image=in_memory(data)) if step.block]
    first_label = next(n for n, block in enumerate(done) if block.stage == "second")
    assert done[first_label].index == (3, 3, 3)
    assert first_label < 16


@pytest.mark.slow
def test_a_later_look_changes_the_order_of_what_has_not_begun(tmp_path):
    data, control = noise((64, 64, 64)), Control()
    plan = plan_of(toys.null(), data, tmp_path, tile=(16, 16, 16))
    done = []
    for step in in_process(plan, control, image=in_memory(data)):
        done.append(step.block)
        if step.done == 10:
            control.look_at(Box((63, 63, 63), (64, 64, 64)))
    assert done.index(next(b for b in done if b and b.index == (3, 3, 3))) < 20


def test_a_done_block_is_in_the_ledger_with_the_hash_of_its_voxels(tmp_path):
    data = noise(SHAPE)
    plan = plan_of(toys.null(), data, tmp_path, tile=(16, 16, 16))
    run(plan, data)
    rows = [row for row in read_ledgers(plan.folder) if row.stage == "network"]
    assert {row.block for row in rows} == {block.index for block in plan.blocks()}
    assert all(len(row.xxh3) == 16 for row in rows)


@pytest.mark.slow
def test_a_region_leaves_no_coarse_level_behind(tmp_path):
    data = noise((130, 40, 40))
    plan = plan_of(toys.null(), data, tmp_path, tile=(16, 16, 16), box="0:16,0:16,0:16")
    run(plan, data)
    for level in (1, 2, 3):
        part = labels_of(plan, level)[: 16 // 2**level, : 16 // 2**level, : 16 // 2**level]
        assert (part == labels_of(plan)[: 16 : 2**level, : 16 : 2**level, : 16 : 2**level]).all()


def test_a_deleted_coarse_chunk_is_built_again_without_computing(tmp_path):
    data = noise((70, 41, 29))
    plan = plan_of(toys.null(), data, tmp_path, tile=(16, 16, 16), confidence=True)
    total = run(plan, data)[-1].total
    before = stored_bytes(plan)
    for group in (Path(plan.destination), Path(plan.destination) / "confidence"):
        (group / "1" / "c" / "1" / "0" / "0").unlink()
    assert run(plan, data)[0].done == total
    assert stored_bytes(plan) == before


class Killed(BaseException):
    """Stands for the end of the process, which no code of ours may survive."""


@pytest.mark.slow
@pytest.mark.parametrize("fatal", [1, 2, 7, 12])
def test_a_death_between_the_voxels_and_their_row_changes_no_byte(tmp_path, monkeypatch, fatal):
    data = noise(SHAPE)
    plan = plan_of(toys.toy(), data, tmp_path, tile=(16, 16, 16), confidence=True)
    other = replace(plan, destination=str(tmp_path / "other" / "labels.ome.zarr"))
    run(other, data)
    add, calls = Ledger.add, count(1)

    def die(ledger, rows):
        if next(calls) >= fatal:
            raise Killed
        add(ledger, rows)

    monkeypatch.setattr(Ledger, "add", die)
    with pytest.raises(Killed):
        run(plan, data)
    monkeypatch.undo()
    run(plan, data)
    assert stored_bytes(plan) == stored_bytes(other)


def test_a_full_disk_ends_the_run_and_the_next_one_goes_on(tmp_path, monkeypatch):
    data = noise(SHAPE)
    plan = plan_of(toys.null(), data, tmp_path, tile=(16, 16, 16))
    write, calls = Pyramid.write, count(1)

    def fill_up(pyramid, box, voxels, **how):
        if next(calls) == 4:
            raise OSError(ENOSPC, "No space left on device")
        write(pyramid, box, voxels, **how)

    monkeypatch.setattr(Pyramid, "write", fill_up)
    with pytest.raises(OSError, match="No space left"):
        run(plan, data)
    again = run(plan, data)
    assert again[0].done >= 3
    assert (labels_of(plan) == (data > 0.5)).mean() > 0.999


def test_a_failed_block_is_in_the_ledger_and_is_tried_again(tmp_path):
    data = noise(SHAPE)
    broken = data.copy()
    broken[20, 20, 20] = np.nan
    plan = plan_of(toys.null(), data, tmp_path, tile=(16, 16, 16))
    run(plan, broken)
    failed = [row.block for row in read_ledgers(plan.folder) if row.status == FAILED]
    assert failed == [(1, 1, 1)]
    run(plan, data)
    assert (labels_of(plan) != plan.classes.not_predicted).all()


def test_a_block_whose_needs_are_nowhere_is_refused(tmp_path):
    data = noise(SHAPE)
    plan = plan_of(toys.toy(), data, tmp_path, tile=(16, 16, 16))
    prepare(plan)
    last = [block for block in plan.blocks() if block.stage == "second"]
    with pytest.raises(InputError, match="needs block"):
        list(run_blocks(plan, last, image=in_memory(data)))


def test_an_image_that_was_replaced_is_no_longer_the_runs(tmp_path):
    tifffile.imwrite(tmp_path / "noise.tif", noise(SHAPE), photometric="minisblack")
    config = SegmentConfig(chunk=16, device="cpu")
    image = open_volume(tmp_path / "noise.tif")
    plan = make_plan(checkpoint_of(toys.null(), tmp_path), image, tmp_path / "labels.ome.zarr", config)
    tifffile.imwrite(tmp_path / "noise.tif", noise(SHAPE, 1), photometric="minisblack")
    with pytest.raises(RunMismatchError, match="has changed"):
        list(in_process(plan))


def test_an_image_whose_voxel_size_a_person_told_is_the_runs(tmp_path):
    tifffile.imwrite(tmp_path / "scan.tif", noise((32, 32, 32)), photometric="minisblack")
    told = open_volume(tmp_path / "scan.tif").with_voxel_size((3.0, 2.0, 0.7), "micrometer")
    config = SegmentConfig(chunk=16, device="cpu")
    plan = make_plan(checkpoint_of(toys.null(), tmp_path), told, tmp_path / "labels.ome.zarr", config)
    assert open_image(plan).fingerprint == told.fingerprint


def test_a_model_that_was_trained_on_is_no_longer_the_runs(tmp_path):
    data = noise(SHAPE)
    plan = plan_of(toys.null(), data, tmp_path)
    checkpoint_of(toys.null(threshold=0.1), tmp_path)
    with pytest.raises(RunMismatchError, match="has changed"):
        run(plan, data)


def test_restart_in_an_empty_folder_is_a_start(tmp_path):
    data = noise(SHAPE)
    plan = plan_of(toys.null(), data, tmp_path)
    Path(plan.destination).mkdir()
    assert run(plan, data, restart=True)[0].resumed == 0


def test_a_paused_run_has_told_of_all_it_finished_and_goes_on_when_it_may(tmp_path):
    data, control = noise(SHAPE), Control()
    plan = plan_of(toys.null(), data, tmp_path, tile=(16, 16, 16))
    steps = in_process(plan, control, image=in_memory(data))
    with ThreadPoolExecutor(1) as pool:
        done = next(steps).done
        control.pause()
        waiting = pool.submit(list, steps)
        assert not waiting.done()
        control.resume()
        told = waiting.result(timeout=60)
    assert [step.done for step in told] == list(range(done + 1, told[-1].total + 1))


@pytest.mark.parametrize("level", [1, 2])
def test_a_coarse_image_that_the_pyramid_lacks_is_halved_slab_by_slab(tmp_path, monkeypatch, level):
    monkeypatch.setattr(coarser, "SLAB_VOXELS", 1)
    data = noise(SHAPE)
    plan = plan_of(toys.null(), data, tmp_path)
    reader = tensors.Reader(plan, in_memory(data))
    read = ReadPlan(
        name=f"image@{level}",
        factor=(2**level,) * 3,
        halo=Halo(),
        whole=True,
        exact=True,
        level=0,
        halvings=level,
    )
    there = Box.whole(ceil_div(SHAPE, read.factor))
    found = reader._read(read, Where(box=Box.whole(SHAPE), shape=SHAPE, boxes={read.name: there}))
    expected = data
    for _ in range(level):
        expected = halve_mean(expected)
    assert np.allclose(found, expected, atol=1e-6)


def test_a_stage_that_returns_too_little_is_told_so():
    with pytest.raises(GeometryError, match="Mend the model"):
        tensors.crop(torch.zeros(1, 2, 7, 8, 8), Box.whole((8, 8, 8)), Box.whole((4, 4, 4)), (1, 1, 1))


def test_a_run_that_was_begun_with_other_threads_goes_on_with_them(tmp_path):
    data = noise(SHAPE)
    plan = plan_of(toys.null(), data, tmp_path, threads=3)
    prepare(plan)
    assert plan_of(toys.null(), data, tmp_path).threads == 3
    assert plan_of(toys.null(), data, tmp_path, threads=2).differences(plan) == [
        "threads is 2 here and 3 there"
    ]


def test_threads_are_those_of_the_plan_while_it_runs_and_no_longer(tmp_path):
    data, before = noise(SHAPE), torch.get_num_threads()
    plan = plan_of(toys.null(), data, tmp_path, tile=(16, 16, 16), threads=before + 1)
    seen = [torch.get_num_threads() for step in in_process(plan, image=in_memory(data)) if step.block]
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before


def test_a_run_of_another_version_is_refused(tmp_path):
    data = noise(SHAPE)
    plan = plan_of(toys.null(), data, tmp_path)
    prepare(plan)
    card = read_run_card(Path(plan.destination))
    del card["plan"]["core"]
    (plan.folder / "run.json").write_text(json.dumps(card))
    with pytest.raises(RunMismatchError, match="begun by version"):
        run(plan, data)


@pytest.mark.parametrize("restart", [False, True])
def test_a_second_writer_of_one_destination_is_refused_and_changes_nothing(tmp_path, restart):
    data = noise(SHAPE)
    plan = plan_of(toys.null(), data, tmp_path, tile=(16, 16, 16))
    run(plan, data)
    before = stored_bytes(plan)
    with FileLock(plan.folder / LOCK), pytest.raises(InputError, match="Another process is writing"):
        run(plan, data, restart=restart)
    assert stored_bytes(plan) == before
    assert run(plan, data, restart=restart)[-1].done == run(plan, data)[-1].total


def test_another_model_is_refused_under_a_running_job_even_with_restart(tmp_path):
    data = noise(SHAPE)
    plan = plan_of(toys.null(), data, tmp_path, tile=(16, 16, 16))
    steps = in_process(plan, image=in_memory(data))
    next(steps)
    other = replace(plan, sha256="0" * 64)
    with pytest.raises(RunMismatchError):
        run(other, data)
    with pytest.raises(InputError, match="Another process is writing"):
        run(other, data, restart=True)
    told = list(steps)
    assert (told[-1].done, read_run_card(Path(plan.destination))["id"]) == (told[-1].total, plan.id)


def test_a_run_that_was_left_in_the_middle_is_free_for_the_next(tmp_path):
    data = noise(SHAPE)
    plan = plan_of(toys.null(), data, tmp_path, tile=(16, 16, 16))
    steps = in_process(plan, image=in_memory(data))
    next(steps)
    steps.close()
    assert run(plan, data)[-1].done == len(list(plan.blocks()))


def test_a_run_whose_ledger_is_damaged_is_computed_again_to_the_same_bytes(tmp_path):
    data = noise(SHAPE)
    plan = plan_of(toys.null(), data, tmp_path, tile=(16, 16, 16))
    run(plan, data)
    before = stored_bytes(plan)
    (ledger,) = plan.folder.glob("ledger-*.sqlite")
    ledger.write_bytes(b"\0" * ledger.stat().st_size)
    assert run(plan, data)[0].done == 0
    assert stored_bytes(plan) == before


def test_what_a_kill_left_of_a_discarded_run_is_deleted_by_the_next(tmp_path, monkeypatch):
    data = noise(SHAPE)
    plan = plan_of(toys.null(), data, tmp_path)
    run(plan, data)
    neighbour = tmp_path / "labels.ome.zarr.mine.part"
    neighbour.mkdir()
    with monkeypatch.context() as killed:
        killed.setattr("shutil.rmtree", lambda *_, **__: sys.exit("killed"))
        with pytest.raises(SystemExit):
            run(plan, data, restart=True)
    assert len(list(tmp_path.glob("labels.ome.zarr*"))) == 2
    run(plan, data)
    assert {path.name for path in tmp_path.glob("labels.ome.zarr*")} == {"labels.ome.zarr", neighbour.name}


def test_the_cpu_takes_no_index(tmp_path):
    with pytest.raises(InputError, match=r"no device 'cpu:4' here.*auto"):
        plan_of(toys.null(), noise(SHAPE), tmp_path, device="cpu:4")
