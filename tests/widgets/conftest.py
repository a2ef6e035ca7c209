"""What tests of the dock share: a small scan, its session, a dock in a real viewer, and quick stand-ins."""

from pathlib import Path

import pytest
import tifffile

from napari_memseg.workflows import child_process as children
from volumes import noise

PATIENCE = 20_000
"""Milliseconds until something that goes on in another process must have happened."""
SHAPE = (40, 48, 56)
STANDINS = {
    "napari_memseg.workflows.segment:segment_session": "widgets.standins:segment",
    "napari_memseg.workflows.segment:forecast_session": "widgets.standins:forecast",
    "napari_memseg.workflows.train:train": "widgets.standins:train",
    "napari_memseg.workflows.costs:costs": "widgets.standins:costs",
}


@pytest.fixture
def write_scan(tmp_path):
    """Write a TIFF stack of noise, whose voxels are of 1 um or of no known size."""

    def write(name="scan", shape=SHAPE, known=True):
        unit = {"spacing": 1, "unit": "\\u00B5m"} if known else {}
        size = {"resolution": (1, 1)} if known else {}
        voxels = noise(shape, "uint8")
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(path, voxels, imagej=known, metadata={"axes": "ZYX", **unit}, **size)
        return path

    return write


@pytest.fixture
def scan(write_scan):
    return write_scan()


@pytest.fixture
def new_session(tmp_path):
    """Begin a session on a scan, and leave it to others."""
    from napari_memseg.annotation.session import Session
    from napari_memseg.io.formats import open_volume
    from napari_memseg.models.classes import ClassTable

    def make(scan: Path) -> Path:
        folder = tmp_path / f"{scan.stem}.memseg"
        Session.create(folder, open_volume(scan), ClassTable.from_ids([1], {1: "bone"})).close()
        return folder

    return make


@pytest.fixture
def folder(new_session, scan):
    """Of a session on a small scan."""
    return new_session(scan)


@pytest.fixture
def model(tmp_path):
    """A file that the stand-in takes for a model."""
    path = tmp_path / "net.safetensors"
    path.write_text("a model")
    return path


@pytest.fixture
def hold(model):
    """A file that keeps a run of the model in its middle until it is deleted."""
    path = model.with_suffix(".hold")
    path.touch()
    return path


@pytest.fixture
def light_children(monkeypatch):
    """Children that know no torch and begin at once, with the stand-ins in place; none is left behind."""
    from napari_memseg.widgets import relay
    from napari_memseg.widgets.desk import Desk

    def stand_in(workflow, *args, **kwargs):
        return children.child_process(STANDINS.get(workflow, workflow), *args, **kwargs)

    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.setattr(children, "_CHILD", "widgets.errands")
    monkeypatch.setattr(relay, "child_process", stand_in)
    monkeypatch.setattr(Desk, "describe_machine", lambda desk: None)
    children.close_children()
    yield
    children.close_children()


@pytest.fixture
def said(monkeypatch):
    """All that a person is told by notifications."""
    from napari_memseg.widgets import desk, painting, segmenting

    told: list[str] = []
    for module in (desk, painting, segmenting):
        for name in ("show_error", "show_info", "show_warning"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, told.append)
    return told


@pytest.fixture
def open_dock(open_real_dock, light_children):
    """Open a viewer with the dock, whose children are stand-ins, and perhaps a session in it."""
    return open_real_dock


@pytest.fixture
def open_real_dock(make_napari_viewer):
    """Open a viewer with the dock, whose children know torch, and perhaps a session in it."""

    def make(folder=None):
        viewer = make_napari_viewer(show=True)
        viewer.window.resize(1280, 800)
        _, dock = viewer.window.add_plugin_dock_widget("napari-memseg", "Memory-efficient segmentation")
        if folder is not None:
            assert dock.desk.open_session(folder)
        return viewer, dock

    return make


@pytest.fixture
def until(qtbot):
    """Wait for what a person would see."""
    return lambda condition: qtbot.waitUntil(condition, timeout=PATIENCE)
