"""The memory that a run reports is that of whoever computed it."""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

import toys
from napari_memseg.inference.executors import Tally
from napari_memseg.inference.folder import prepare
from napari_memseg.inference.forecast import Forecast
from napari_memseg.inference.resources import Peaks, begin_peaks, peak_rss_gib
from napari_memseg.inference.store import Store
from napari_memseg.inference.writer import BlockDone
from napari_memseg.workflows.run_report import result_of
from running import noise, plan_of

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a peak begin anew")
EXPECTED = Forecast(tiles=8, redundancy=1.0, seconds=1.0, memory_gib=1.0, host_gib=1.0, disk_gib=1.0)


def reported(folder, *peaks: Peaks | None, device: str = "cpu") -> tuple[float | None, float | None]:
    """Return the peaks in the result of a run whose blocks were told with these, of all and of the device."""
    plan = plan_of(toys.random_unet(widths=[2, 2]), noise((32, 32, 32)), folder, tile=(16, 16, 16))
    prepare(plan)
    with closing(Store(plan)) as store:
        tally = Tally(plan, store)
        for block, told in zip(tally.left, peaks, strict=False):
            last = tally.step(BlockDone(block=block, box=plan.box_of(block), peaks=told))
    result = result_of(replace(plan, device=device), EXPECTED, 1.0, last)
    return result["peak_rss_gib"], result["peak_memory_gib"]


def test_on_a_cluster_it_is_the_largest_workers(tmp_path):
    assert reported(tmp_path, Peaks(1000.0), Peaks(3000.0), None, Peaks(2000.0)) == (3000.0, 3000.0)


def test_and_on_a_gpu_that_of_another_worker_perhaps(tmp_path):
    peaks = (Peaks(1000.0, 40.0), Peaks(3000.0, 20.0))
    assert reported(tmp_path, *peaks, device="cuda") == (3000.0, 40.0)


@linux
def test_in_one_process_it_is_its_own(tmp_path):
    before = Peaks.here("cpu").rss_gib
    of_all, of_device = reported(tmp_path, None)
    assert before <= of_all == of_device < 1000


def test_what_the_system_does_not_tell_stays_unknown():
    assert Peaks(None, None) | Peaks(2.0, None) == Peaks(2.0, None)


@linux
def test_what_was_held_before_a_run_is_not_its_peak():
    np.ones(2**28, np.uint8)
    whole = peak_rss_gib()
    begin_peaks("cpu")
    assert Peaks.here("cpu").rss_gib < whole - 0.2
    assert peak_rss_gib() == whole
