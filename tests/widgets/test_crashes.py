"""The viewer dies in mid-stroke, the child in mid-run: nothing acknowledged is lost, no byte is another."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import toys
from napari_memseg.annotation.session import Session
from napari_memseg.data import bundled
from napari_memseg.inference.config import SegmentConfig
from napari_memseg.io.formats import open_volume
from napari_memseg.models.checkpoint import Card, save_checkpoint
from napari_memseg.models.classes import ClassTable
from napari_memseg.models.intensity import Window
from napari_memseg.workflows import child_process
from napari_memseg.workflows.segment import segment_session
from widgets.hands import click, close

pytestmark = [pytest.mark.qt, pytest.mark.slow]

PATIENCE = 120_000
TESTS = Path(__file__).parents[1]
IN_27 = SegmentConfig(tile=(64, 64, 64), precision="float32", batch=1, threads=1)
"""A run of many blocks that leaves nothing to a measurement: whoever plans it plans the same."""


@pytest.fixture
def folder(tmp_path):
    shutil.copy(bundled("trabecular_bone.ome.tif"), tmp_path / "bone.ome.tif")
    classes = ClassTable.from_ids([1], {1: "bone"})
    Session.create(tmp_path / "bone.memseg", open_volume(tmp_path / "bone.ome.tif"), classes).close()
    return tmp_path / "bone.memseg"


@pytest.mark.parametrize("strokes", [1, 4, 9])
def test_a_viewer_that_dies_of_a_segmentation_fault_in_mid_stroke_loses_nothing_acknowledged(
    folder, tmp_path, strokes
):
    program = [sys.executable, TESTS / "widgets" / "painted_and_killed.py"]
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    arguments = [folder, str(strokes), tmp_path / "told.npz"]
    run = subprocess.run([*program, *arguments], env=environment, capture_output=True, timeout=120)
    assert run.returncode == -signal.SIGSEGV, run.stderr.decode()
    told = np.load(tmp_path / "told.npz")
    with Session.open(folder) as session:
        assert session.recovered >= strokes
        assert session.verify()["ok"]
        found = np.asarray(session.overlay)
        kept = np.asarray(session.snapshot(seq=int(told["seq"])).overlay)
    assert np.array_equal(kept, told["overlay"])
    assert np.array_equal(found[told["overlay"] != 0], told["overlay"][told["overlay"] != 0])
    assert np.count_nonzero(told["overlay"]) > 100 * strokes


def test_one_session_after_the_other_is_opened_in_one_window(folder):
    """napari frees what a layer drew in whatever OpenGL context is current: in Qt's, the next one crashes."""
    program = [sys.executable, TESTS / "widgets" / "opened_and_closed.py", folder]
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    run = subprocess.run(program, env=environment, capture_output=True, timeout=120)
    assert run.returncode == 0, run.stderr.decode()
    with Session.open(folder) as session:
        assert session.corrections.seq >= 1
        assert session.verify()["ok"]


@pytest.fixture
def model(tmp_path):
    """A network of random weights, whose runs take a moment."""
    net = toys.random_unet(levels=2, ids=[1], widths=[8, 8])
    card = Card(
        architecture=net.architecture,
        arguments=net.arguments,
        classes=net.classes,
        window=Window(0.0, 255.0, "uint8"),
    )
    save_checkpoint(tmp_path / "net.safetensors", net, card)
    return tmp_path / "net.safetensors"


def chunks(session: Path) -> dict[str, bytes]:
    """Return every stored chunk of a session's newest run, by its path."""
    run = sorted(path for path in (session / "runs").iterdir() if path.is_dir())[-1]
    files = (path for path in run.rglob("c/*/*/*") if path.is_file())
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


@pytest.mark.parametrize("after", [1, 3, 6])
def test_a_child_that_is_killed_in_mid_run_takes_nothing_with_it_and_the_run_ends_as_if_undisturbed(
    qtbot, make_napari_viewer, folder, model, tmp_path, after
):
    undisturbed = Path(shutil.copytree(folder, tmp_path / "undisturbed.memseg"))
    list(segment_session(undisturbed, model, IN_27))

    viewer = make_napari_viewer(show=True)
    _, dock = viewer.window.add_plugin_dock_widget("napari-memseg", "Memory-efficient segmentation")
    assert dock.desk.open_session(folder)
    dock.show_page(dock.segment)
    relay = dock.desk.segmenting.relay

    def kill(step):
        if step.box is not None and step.done >= after:
            relay.stepped.disconnect(kill)
            (busy,) = [child for child in child_process._children if child.busy and child.alive]
            busy.process.kill()

    relay.stepped.connect(kill)
    dock.desk.segmenting.start(model, IN_27)
    qtbot.waitUntil(lambda: not relay.busy, timeout=PATIENCE)
    assert "SIGKILL" in dock.segment.bar.text
    session = dock.desk.session
    assert not session.runs()[-1].is_finished
    with session.overlay.stroke():
        session.overlay[10, 10:20, 10:20] = 1
    click(dock.segment.resume)
    qtbot.waitUntil(lambda: not relay.busy, timeout=PATIENCE)
    assert session.runs()[-1].is_finished
    assert len(session.runs()) == 1
    assert (session.composite()[10, 10:20, 10:20] == 1).all()
    assert chunks(folder) == chunks(undisturbed)
    close(viewer)
