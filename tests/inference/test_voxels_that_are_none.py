"""NaN and infinity in an image: the tile is marked and named, and nothing of it is background."""

from __future__ import annotations

import numpy as np
import pytest

import toys
from napari_memseg.inference.run_card import read_run_card
from running import labels_of, noise, plan_of, run

pytestmark = pytest.mark.usefixtures("_no_flushes")

SHAPE, TILE = (48, 32, 29), (16, 16, 16)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_voxel_that_is_no_number_takes_its_tile_and_no_other(tmp_path, value):
    data = noise(SHAPE)
    data[20, 20, 20] = value
    plan = plan_of(toys.null(), data, tmp_path, tile=TILE)
    last = run(plan, data)[-1]
    labels, lost = labels_of(plan), (slice(16, 32), slice(16, 32), slice(16, 29))
    assert (last.done, last.failed) == (last.total - 1, 1)
    assert (labels[lost] == plan.classes.not_predicted).all()
    labels[lost] = data[lost] > 0.5
    assert (labels == (data > 0.5)).all()


def test_a_plane_of_nan_takes_the_tiles_that_it_goes_through(tmp_path):
    data = noise(SHAPE)
    data[20] = np.nan
    plan = plan_of(toys.null(), data, tmp_path, tile=TILE)
    last = run(plan, data)[-1]
    labels = labels_of(plan)
    assert last.failed == 4
    assert (labels[16:32] == plan.classes.not_predicted).all()
    assert (labels[:16] == (data[:16] > 0.5)).all()
    failures = read_run_card(plan.folder.parent)["result"]["failures"]
    assert all("that are NaN" in failure["reason"] for failure in failures)
