import json
import os
import random
import subprocess
import sys
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import tifffile
import torch

import toys
from napari_memseg.inference.config import SegmentConfig
from napari_memseg.inference.draft import make_plan
from napari_memseg.inference.executors import in_process
from napari_memseg.inference.ledger import read_ledgers
from napari_memseg.inference.plan import Plan
from napari_memseg.inference.store import Store
from napari_memseg.io.formats import open_volume
from napari_memseg.models.cascade import Cascade
from napari_memseg.models.classes import ClassTable
from running import checkpoint_of, noise, stored_bytes

pytestmark = pytest.mark.slow
KILLS = 10


def cascade():
    """Return a small cascade, whose second stage reads what two branches wrote."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Cascade(ClassTable.from_ids([1, 2]), widths=[4, 6], standard=8)
        toys.randomise(model)
    return model


@pytest.fixture(scope="module")
def plan(request, tmp_path_factory) -> Plan:
    """Return the plan of a run of several stages that has been done once, undisturbed."""
    folder = tmp_path_factory.mktemp("kills")
    tifffile.imwrite(folder / "noise.tif", noise((48, 52, 40)), photometric="minisblack")
    config = SegmentConfig(chunk=16, tile=(16, 16, 16), confidence=True, device="cpu")
    image = open_volume(folder / "noise.tif")
    plan = make_plan(
        checkpoint_of(getattr(request, "param", toys.toy)(), folder),
        image,
        folder / "labels.ome.zarr",
        config,
    )
    list(in_process(plan))
    return plan


def elsewhere(plan: Plan, folder: Path) -> Plan:
    return replace(plan, destination=str(folder / "labels.ome.zarr"))


def start(plan: Plan, folder: Path) -> subprocess.Popen:
    (folder / "plan.json").write_text(json.dumps(plan.to_json()))
    here = Path(__file__).parent
    return subprocess.Popen(
        [sys.executable, here / "killed.py", folder / "plan.json"],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(here.parent), "OMP_NUM_THREADS": "1"},
        text=True,
    )


def kill_after(plan: Plan, folder: Path, is_enough) -> list[str]:
    """Kill a run at the first line that is enough; return what it told."""
    told = []
    with start(plan, folder) as process:
        for line in process.stdout:
            told.append(line)
            if is_enough(line):
                process.kill()
                break
        told += process.stdout
    return told


def rows_by_block(plan: Plan) -> Counter:
    return Counter((row.stage, row.block) for row in read_ledgers(plan.folder))


def assert_as_undisturbed(plan: Plan, undisturbed: Plan) -> None:
    assert stored_bytes(plan) == stored_bytes(undisturbed)
    assert max(rows_by_block(plan).values()) == 1, "a finished block was computed twice"
    with closing(Store(plan)) as store:
        assert all(store.is_done(block) for block in plan.blocks())


@pytest.mark.parametrize("plan", [toys.toy, cascade], indirect=True)
def test_ten_kills_at_random_moments_change_no_byte_and_repeat_no_block(plan, tmp_path):
    mine, chance = elsewhere(plan, tmp_path), random.Random(0)
    total = sum(1 for _ in plan.blocks())
    for part in range(KILLS):
        until = total * part // KILLS + chance.randrange(total // KILLS)
        kill_after(mine, tmp_path, lambda line, until=until: int(line.split()[1]) >= until)
    with start(mine, tmp_path) as process:
        process.communicate()
    assert process.returncode == 0
    assert_as_undisturbed(mine, plan)


@pytest.mark.parametrize("stage", ["coarse", "first", "second"])
def test_a_run_killed_in_any_of_its_stages_goes_on(plan, tmp_path, stage):
    mine = elsewhere(plan, tmp_path)
    kill_after(mine, tmp_path, lambda line: line.startswith(stage))
    told = kill_after(mine, tmp_path, lambda line: False)
    assert int(told[0].split()[1]) >= 1
    assert_as_undisturbed(mine, plan)
