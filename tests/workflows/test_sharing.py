"""Workers of this machine share it; those of a cluster have machines of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tifffile
import torch

from napari_memseg.annotation.session import Session
from napari_memseg.inference.choices import choose_threads
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
        found.update(facts)
        assert config.threads is None, "who asks for nothing can go on with what was begun"
        raise Planned

    monkeypatch.setattr(workflow, "make_plan", make_plan)
    return found


SHARED = pytest.mark.parametrize(
    ("cluster", "sharers"),
    [(None, 1), (Cluster(workers=3), 3), (Cluster(scheduler="tcp://127.0.0.1:9"), 1)],
)


@SHARED
def test_threads_and_memory_are_shared_among_workers_of_this_machine(
    image, tmp_path, asked, cluster, sharers
):
    with pytest.raises(Planned):
        next(segment(image, tmp_path / "labels.ome.zarr", tmp_path / "model", cluster=cluster))
    assert asked["sharers"] == sharers


@SHARED
def test_so_they_are_in_a_session(image, tmp_path, asked, cluster, sharers):
    session = tmp_path / "scan.memseg"
    Session.create(session, open_volume(image), ClassTable.from_ids([1])).close()
    with pytest.raises(Planned):
        next(segment_session(session, tmp_path / "model", cluster=cluster))
    assert asked["sharers"] == sharers


@pytest.mark.parametrize(("workers", "threads"), [(1, 16), (3, 5), (16, 1), (40, 1)])
def test_each_worker_computes_with_its_share_of_the_cores(monkeypatch, workers, threads):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    assert choose_threads(None, "cpu", workers) == threads
    assert choose_threads(7, "cpu", workers) == 7
    assert choose_threads(7, "cuda", workers) is None
