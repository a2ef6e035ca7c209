"""The page Export: what is written, where, how large; and corrections from elsewhere, back in."""

import json

import numpy as np
import pytest
import tifffile

from napari_memseg.annotation.session import Session
from widgets.hands import click, close, line, stroke, type_into

pytestmark = pytest.mark.qt

SHAPE = (40, 48, 56)
"""Of the scan."""


@pytest.fixture
def theirs(tmp_path):
    """Labels of another program: class 1 is 3 there."""
    labels = np.zeros(SHAPE, "uint8")
    labels[10:20, 5:25] = 3
    tifffile.imwrite(tmp_path / "theirs.tif", labels, photometric="minisblack", compression="zlib")
    return tmp_path / "theirs.tif"


@pytest.fixture
def told(monkeypatch):
    """All errors that a person is told by the page."""
    from napari_memseg.widgets import importing
    from napari_memseg.widgets.pages import export

    said: list[str] = []
    for module in (export, importing):
        monkeypatch.setattr(module, "show_error", said.append)
    return said


@pytest.fixture
def open_page(open_dock):
    """Open the page Export of the dock, with a session."""

    def make(folder):
        viewer, dock = open_dock(folder)
        dock.show_page(dock.export)
        return viewer, dock

    return make


def paint(viewer, dock):
    dock.desk.choose(1)
    stroke(viewer, line(0.4, 0.5, 0.6, 0.5))


def test_format_and_labels_are_chosen_and_told_in_the_provenance(until, open_page, folder):
    viewer, dock = open_page(folder)
    paint(viewer, dock)
    page = dock.export
    page.format.choose("nnunet")
    page.what.choose("confirmed")
    click(page.export)
    until(lambda: not dock.desk.exporting.busy)
    (made,) = (folder / "exports").iterdir()
    told = json.loads((made / "provenance.json").read_bytes())
    assert (told["format"], told["labels"], told["region"]) == ("nnunet", "confirmed", "0:40,0:48,0:56")
    close(viewer)


def test_the_forecast_follows_format_and_region(open_page, folder):
    viewer, dock = open_page(folder)
    page = dock.export
    voxels = np.prod(SHAPE)
    assert f"At most {round(2 * voxels * 8 / 7 / 1000)} KB" in page.forecast.text()
    page.format.choose("tiff")
    assert f"At most {round(2 * voxels / 1000)} KB" in page.forecast.text()
    assert "free" in page.forecast.text()
    page.region.kind.setCurrentText("a rectangle")
    assert "Draw a rectangle first" in page.export.reason.text()
    page.region.kind.setCurrentText("what is visible")
    page.region.slices.setValue(10)
    assert page.export.isEnabled()
    part = page.region.box().size
    assert part < voxels / 3
    assert f"At most {2 * part / 1000:.0f} KB" in page.forecast.text()
    close(viewer)


def test_labels_come_in_as_one_step_and_the_session_opens_again(until, open_page, folder, theirs, told):
    viewer, dock = open_page(folder)
    paint(viewer, dock)
    dock.desk.save()
    before = np.asarray(dock.desk.session.overlay)
    page = dock.export
    type_into(page.imports.file, str(theirs))
    type_into(page.imports.map, "3=1")
    page.imports.zero.setChecked(False)
    click(page.imports.start)
    assert dock.desk.session is None
    assert "opens again by itself" in page.hint.text()
    assert page.cancel.isVisible()
    until(lambda: dock.desk.session is not None)
    overlay = dock.desk.session.overlay
    wanted = np.where((tifffile.imread(theirs) == 3) & (before == 0), 1, before)
    np.testing.assert_array_equal(np.asarray(overlay), wanted)
    assert f"{(wanted != before).sum():,} voxels were imported" in page.bar.text
    assert [layer.name for layer in viewer.layers] == ["image", "result", "corrections"]
    dock.show_page(dock.correct)
    click(dock.correct.undo)
    np.testing.assert_array_equal(np.asarray(overlay), before)
    assert told == []
    close(viewer)


def test_labels_that_mean_nothing_are_refused_and_the_session_is_as_before(
    until, open_page, folder, theirs, told
):
    viewer, dock = open_page(folder)
    paint(viewer, dock)
    seq = dock.desk.session.corrections.seq
    page = dock.export
    type_into(page.imports.file, str(theirs))
    click(page.imports.start)
    until(lambda: dock.desk.session is not None)
    assert "hold [3], which mean nothing here" in page.bar.text
    assert told == [page.bar.text]
    assert dock.desk.session.corrections.seq == seq > 0
    assert not dock.desk.session.read_only
    close(viewer)


def test_an_import_that_is_cancelled_changes_nothing(until, open_page, folder, theirs, told):
    viewer, dock = open_page(folder)
    page = dock.export
    type_into(page.imports.file, str(theirs))
    type_into(page.imports.map, "3=1")
    click(page.imports.start)
    click(page.cancel)
    until(lambda: dock.desk.session is not None)
    assert page.bar.text == "Cancelled; nothing was changed."
    assert dock.desk.session.corrections.seq == 0
    close(viewer)


def test_a_dock_that_is_closed_during_an_import_takes_no_session_along(until, open_page, folder, theirs):
    viewer, dock = open_page(folder)
    desk, page = dock.desk, dock.export
    type_into(page.imports.file, str(theirs))
    type_into(page.imports.map, "3=1")
    click(page.imports.start)
    viewer.window.remove_dock_widget(dock)
    _, again = viewer.window.add_plugin_dock_widget("napari-memseg", "Memory-efficient segmentation")
    assert "opens again by itself" in again.export.hint.text()
    until(lambda: desk.session is not None)
    labels = np.where(tifffile.imread(theirs) == 3, 1, desk.session.classes.background_opinion)
    np.testing.assert_array_equal(np.asarray(desk.session.overlay), labels)
    assert again.export.bar.text == f"{labels.size:,} voxels were imported. Undo takes them back."
    assert [layer.name for layer in viewer.layers] == ["image", "result", "corrections"]
    close(viewer)


def test_the_import_says_what_is_missing(open_page, folder, theirs):
    viewer, dock = open_page(folder)
    imports = dock.export.imports
    assert not imports.start.isEnabled()
    assert "Name a file of labels" in imports.start.toolTip()
    assert imports.start.reason.isHidden()
    type_into(imports.file, str(theirs))
    assert imports.start.isEnabled()
    type_into(imports.unlabelled, "x")
    assert "“x” is no list of values" in imports.start.reason.text()
    type_into(imports.unlabelled, "3, 4")
    assert imports.config().unlabelled == (3, 4)
    close(viewer)


def test_nothing_is_imported_into_a_session_that_another_window_edits(open_page, folder, theirs):
    with Session.open(folder):
        viewer, dock = open_page(folder)
        type_into(dock.export.imports.file, str(theirs))
        assert not dock.export.imports.start.isEnabled()
        assert "can only be looked at" in dock.export.imports.start.reason.text()
        close(viewer)
