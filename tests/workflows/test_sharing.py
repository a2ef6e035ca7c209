"""Workers of this machine share it; those of a cluster have machines of their own."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import tifffile

from napari_memseg.annotation.session import Session
from napari_memseg.io.formats import open_volume
from napari_memseg.models.classes import ClassTable
from napari_memseg.workflows import segment as workflow
from napari_memseg.workflows.segment import Cluster, segment, segment_session


class Planned(Exception):
    """Raised instead of planning."""


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "scan.tif"
    tifffile.imwrite(path, np.zeros((8, 8, 8), np.uint8), photometric="minisblack")
    return path


@pytest.fixture
def asked(monkeypatch) -> dict[str, Any]:
    """Return what a plan is asked for."""
    found: dict[str, Any] = {}

    def make_plan(model, image, destination, config, **facts):
        found.update(facts, threads=config.threads)
        raise Planned

    monkeypatch.setattr(workflow, "make_plan", make_plan)
    return found


SHARED = pytest.mark.parametrize(
    ("cluster", "sharers", "threads"),
    [
        (None, 1, None),
        (Cluster(workers=3), 3, max((os.cpu_count() or 1) // 3, 1)),
        (Cluster(scheduler="tcp://127.0.0.1:9"), 1, None),
    ],
)


@SHARED
def test_threads_and_memory_are_shared_among_workers_of_this_machine(
    image, tmp_path, asked, cluster, sharers, threads
):
    with pytest.raises(Planned):
        next(segment(image, tmp_path / "labels.ome.zarr", tmp_path / "model", cluster=cluster))
    assert (asked["sharers"], asked["threads"]) == (sharers, threads)


@SHARED
def test_so_they_are_in_a_session(image, tmp_path, asked, cluster, sharers, threads):
    session = tmp_path / "scan.memseg"
    Session.create(session, open_volume(image), ClassTable.from_ids([1])).close()
    with pytest.raises(Planned):
        next(segment_session(session, tmp_path / "model", cluster=cluster))
    assert (asked["sharers"], asked["threads"]) == (sharers, threads)
