"""A run of a session goes on by the plan that it was begun with, whatever that was."""

import shutil

import numpy as np
import pytest
import tifffile

import toys
from napari_memseg.annotation.session import Session
from napari_memseg.errors import Cancelled, InputError
from napari_memseg.inference.config import SegmentConfig
from napari_memseg.inference.control import Control
from napari_memseg.inference.ledger import done_boxes
from napari_memseg.inference.run_card import note_on_run_card, read_run_card
from napari_memseg.io.formats import open_volume
from napari_memseg.models.classes import ClassTable
from napari_memseg.models.intensity import Window
from napari_memseg.workflows.segment import resume_run, segment_session
from running import checkpoint_of
from trouble import watched

CONFIG = SegmentConfig(chunk=16, tile=(16, 16, 16), halo=(4, 4, 4), box="0:32,:,:", confidence=True)


@pytest.fixture
def folder(tmp_path):
    voxels = np.random.default_rng(0).integers(0, 255, (48, 32, 32)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "scan.tif", voxels, photometric="minisblack")
    image = open_volume(tmp_path / "scan.tif").with_voxel_size((2.0, 2.0, 2.0), "micrometer")
    Session.create(tmp_path / "scan.memseg", image, ClassTable.from_ids([1])).close()
    return tmp_path / "scan.memseg"


@pytest.fixture
def begun(folder, tmp_path):
    """A run that was left after its first blocks."""
    model = checkpoint_of(toys.random_unet(levels=2, ids=[1]), tmp_path, Window(0.0, 255.0, "uint8"))
    steps = segment_session(folder, model, CONFIG)
    for _ in range(4):
        step = next(steps)
    steps.close()
    return folder, step


def test_a_run_goes_on_by_its_own_plan(begun):
    folder, _ = begun
    plan = read_run_card(folder / "runs" / "0001")
    *_, last = resume_run(folder, "0001")
    assert last.result["resumed"]
    assert last.result["halo"] == [4, 4, 4]
    after = read_run_card(folder / "runs" / "0001")
    assert (after["id"], after["finished"]) == (plan["id"], True)
    with Session.open(folder, read_only=True) as session:
        assert [run.id for run in session.runs()] == ["0001"]


def test_a_run_goes_on_though_its_model_was_trained_further_or_is_gone(begun, tmp_path):
    folder, _ = begun
    before = (folder / "runs" / "0001.safetensors").read_bytes()
    checkpoint_of(toys.random_unet(1, levels=2, ids=[1]), tmp_path, Window(0.0, 255.0, "uint8"))
    assert (folder / "runs" / "0001.safetensors").read_bytes() == before
    for model in tmp_path.glob("*.safetensors"):
        model.unlink()
    *_, last = resume_run(folder, "0001")
    assert last.result["tiles_done"] == last.result["tiles"]
    with Session.open(folder, read_only=True) as session:
        assert session.new_run()[0] == "0002"


def test_what_was_finished_is_known_by_its_voxels(begun):
    folder, step = begun
    boxes = done_boxes(folder / "runs" / "0001")
    assert len(boxes) >= step.done > 0
    assert step.box in boxes
    assert all(box.shape == (16, 16, 16) and box.stop[0] <= 32 for box in boxes)


def test_a_run_that_is_not_there_cannot_go_on(folder):
    with pytest.raises(InputError, match="no run of napari-memseg"):
        next(resume_run(folder, "0007"))


def test_a_finished_run_that_is_started_again_keeps_what_it_was_measured(begun, tmp_path):
    folder, _ = begun
    list(resume_run(folder, "0001"))
    measured = read_run_card(folder / "runs" / "0001")["measured"]
    *_, last = resume_run(folder, "0001")
    assert last.result["tiles_done"] == measured["tiles_done"]
    assert read_run_card(folder / "runs" / "0001")["measured"] == measured


def test_a_run_can_go_on_until_no_tile_is_left_that_failed(begun):
    folder, _ = begun
    path = folder / "runs" / "0001"
    with Session.open(folder, read_only=True) as session:
        (run,) = session.runs()
    assert run.can_go_on
    list(resume_run(folder, "0001"))
    assert not run.can_go_on
    note_on_run_card(path, result={"failures": [{"reason": "odd"}]})
    assert (run.is_finished, run.failures, run.can_go_on) == (True, 1, True)
    list(resume_run(folder, "0001"))
    assert (run.is_finished, run.failures, run.can_go_on) == (True, 0, False), "killed before it could say so"


def test_a_tile_that_fails_again_leaves_what_was_measured(begun, monkeypatch):
    folder, _ = begun
    path = folder / "runs" / "0001"
    list(resume_run(folder, "0001"))
    measured = read_run_card(path)["measured"]
    chunk = next((path / "0" / "c").rglob("0"))
    chunk.unlink() if chunk.is_file() else shutil.rmtree(chunk)
    watched(monkeypatch, lambda call: ValueError("odd"))
    *_, last = resume_run(folder, "0001")
    assert last.result["tiles_failed"] > 0
    assert read_run_card(path)["measured"] == measured


def test_who_cancels_before_a_run_begins_leaves_none_behind(folder, tmp_path, monkeypatch):
    model = checkpoint_of(toys.random_unet(levels=2, ids=[1]), tmp_path, Window(0.0, 255.0, "uint8"))
    control = Control()
    control.cancel()
    with pytest.raises(Cancelled):
        list(segment_session(folder, model, CONFIG, control=control))
    with Session.open(folder, read_only=True) as session:
        assert session.runs() == ()


def test_a_run_that_read_two_images_is_left_alone_and_another_begun(begun, tmp_path):
    folder, _ = begun
    note_on_run_card(folder / "runs" / "0001", mixed=True)
    model = next(tmp_path.glob("*.safetensors"))
    list(segment_session(folder, model, CONFIG))
    with Session.open(folder, read_only=True) as session:
        assert [(run.id, run.is_finished) for run in session.runs()] == [("0001", False), ("0002", True)]
