"""Each page says what to do next, offers what works, and says why the rest does not."""

import numpy as np
import pytest
import tifffile
from qtpy.QtWidgets import QApplication, QPushButton

from napari_memseg.annotation.session import Session
from napari_memseg.inference.config import SegmentConfig
from napari_memseg.workflows.session import models_in, unfinished_trainings
from napari_memseg.workflows.train_job import seq_of
from volumes import noise
from widgets.hands import click, close, drop, line, stroke, type_into

pytestmark = pytest.mark.qt

MIDDLE = line(0.4, 0.5, 0.6, 0.5)
LOWER = line(0.4, 0.7, 0.6, 0.7)
HIGHER = line(0.4, 0.3, 0.6, 0.3)


def paint_both(until, viewer, dock):
    """Paint a stroke of each class, and wait until they are counted."""
    for class_id, points in ((0, MIDDLE), (1, LOWER)):
        dock.desk.choose(class_id)
        stroke(viewer, points)
    until(lambda: all(dock.desk.counting.voxels.get(n, 0) for n in (0, 1)))


def choose_volume(until, dock):
    until(lambda: dock.open._adopted is not None)


def start(until, dock):
    click(dock.open.start)
    until(lambda: dock.desk.session is not None)
    return dock.desk.session


def working_buttons(page):
    QApplication.processEvents()
    return [button for button in page.findChildren(QPushButton) if button.isVisible() and button.isEnabled()]


# Without a session


def test_without_a_session_every_page_says_what_to_do_and_offers_nothing_else(open_dock):
    viewer, dock = open_dock()
    for page in dock.pages:
        dock.show_page(page)
        opens = page is dock.open
        assert ("Drop a TIFF stack" if opens else "on the page Open") in page.hint.text()
        assert working_buttons(page) == ([page.file, page.folder] if opens else [])
    assert dock.badge.isHidden()
    close(viewer)


def test_a_session_folder_that_is_dropped_opens_the_dock_and_the_session(
    until, make_napari_viewer, light_children, folder
):
    from napari_memseg.widgets.desk import desk_of

    viewer = make_napari_viewer(show=True)
    drop(viewer, folder)
    desk = desk_of(viewer)
    until(lambda: desk.session is not None)
    assert desk.session.path == folder
    assert [layer.name for layer in viewer.layers] == ["image", "result", "corrections"]
    assert len(viewer.window.dock_widgets) == 1
    close(viewer)


# Open


def test_the_forecast_names_the_folder_and_what_it_will_take(until, open_dock, scan):
    viewer, dock = open_dock()
    drop(viewer, scan)
    choose_volume(until, dock)
    assert dock.open.place.text() == str(scan.with_suffix(".memseg"))
    assert "less than 1 MB" in dock.open.forecast.text()
    assert f"up to {round(40 * 48 * 56 / 1000)} KB" in dock.open.forecast.text()
    assert "are free there" in dock.open.forecast.text()
    assert "40 × 48 × 56, uint8, 1 micrometer" in dock.open.facts.text()
    assert not scan.with_suffix(".memseg").exists()
    close(viewer)


def test_a_session_is_not_begun_where_something_is_or_with_a_size_that_is_none(until, open_dock, write_scan):
    viewer, dock = open_dock()
    scan = write_scan(known=False)
    drop(viewer, scan)
    choose_volume(until, dock)
    page = dock.open
    assert page.start.isEnabled()
    free = page.place.text()
    type_into(page.place, str(scan.parent))
    assert "exists already" in page.start.reason.text()
    assert page.start.toolTip() == page.start.reason.text()
    assert not page.start.isEnabled()
    type_into(page.place, free)
    for texts in (("1", "", ""), ("1", "0", "1"), ("1", "-1", "1"), ("a", "b", "c"), ("nan", "1", "1")):
        for edit, text in zip(page.sizes, texts, strict=True):
            edit.setText(text)
        assert not page.start.isEnabled(), texts
        assert "three positive numbers" in page.start.toolTip()
    for edit in page.sizes:
        edit.clear()
    assert page.start.isEnabled()
    assert page.start.reason.isHidden()
    close(viewer)


def test_a_voxel_size_that_no_file_says_is_asked_for_and_kept(until, open_dock, write_scan):
    viewer, dock = open_dock()
    drop(viewer, write_scan(known=False))
    choose_volume(until, dock)
    assert dock.open.size_form.isVisible()
    for edit, text in zip(dock.open.sizes, ("4", "2,5", "2.5"), strict=True):
        type_into(edit, text)
    folder = start(until, dock).path
    close(viewer)
    viewer, dock = open_dock(folder)
    assert (dock.desk.session.image.voxel_size, dock.desk.session.image.unit) == ((4, 2.5, 2.5), "micrometer")
    for layer in viewer.layers:
        assert tuple(layer.scale) == (4, 2.5, 2.5)
        assert {str(unit) for unit in layer.units} == {"micrometer"}
    close(viewer)


def test_where_the_file_says_how_large_pixels_are_only_the_distance_of_slices_is_asked_for(
    until, open_dock, tmp_path
):
    scan = tmp_path / "scan.tif"
    resolution = {"resolution": (4000, 2000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(scan, noise((20, 24, 28), "uint8"), photometric="minisblack", **resolution)
    viewer, dock = open_dock()
    drop(viewer, scan)
    choose_volume(until, dock)
    assert "pixels of 5 × 2.5 micrometer" in dock.open.facts.text()
    assert [edit.placeholderText() for edit in dock.open.sizes] == ["z", "5", "2.5"]
    type_into(dock.open.sizes[0], "4")
    session = start(until, dock)
    assert (session.image.voxel_size, session.image.unit) == ((4, 5, 2.5), "micrometer")
    close(viewer)


def test_a_voxel_size_that_the_file_says_is_not_asked_for(until, open_dock, scan):
    viewer, dock = open_dock()
    drop(viewer, scan)
    choose_volume(until, dock)
    assert dock.open.size_form.isHidden()
    session = start(until, dock)
    assert session.image.voxel_size == (1, 1, 1)
    assert viewer.layers[0].name == "scan"
    assert [layer.name for layer in viewer.layers][1:] == ["result", "corrections"]
    close(viewer)


def test_a_layer_in_memory_becomes_a_session_with_its_image_inside(until, open_dock, tmp_path):
    viewer, dock = open_dock()
    voxels = noise((40, 48, 56), "uint8", seed=3)
    viewer.add_image(voxels, name="made up")
    choose_volume(until, dock)
    assert "in memory" in dock.open.facts.text()
    assert "A copy of the image" in dock.open.forecast.text()
    type_into(dock.open.place, str(tmp_path / "new.memseg"))
    session = start(until, dock)
    assert (session.path / "image.ome.zarr").is_dir()
    image = dock.desk.shown.image
    shown = image.data[0] if image.multiscale else image.data
    assert not isinstance(shown, np.ndarray)
    assert np.array_equal(np.asarray(shown), voxels)
    assert [layer.name for layer in viewer.layers] == ["image", "result", "corrections"]
    close(viewer)
    with Session.open(tmp_path / "new.memseg") as again:
        assert np.array_equal(np.asarray(again.image.levels[0]), voxels)


def test_a_layer_of_another_reader_is_taken_by_its_path(until, open_dock, scan):
    viewer, dock = open_dock()
    viewer.open(scan, plugin="napari")
    choose_volume(until, dock)
    assert str(scan) in dock.open.facts.text()
    session = start(until, dock)
    assert session.source == str(scan)
    assert not (session.path / "image.ome.zarr").exists()
    assert not isinstance(dock.desk.shown.image.data, np.ndarray)
    assert len(viewer.layers) == 3
    close(viewer)


def test_another_layer_that_comes_while_a_session_is_made_takes_nothing_from_it(
    until, open_dock, scan, write_scan
):
    viewer, dock = open_dock()
    drop(viewer, scan)
    choose_volume(until, dock)
    click(dock.open.start)
    drop(viewer, write_scan("other", shape=(8, 9, 10)))
    until(lambda: dock.desk.session is not None)
    assert dock.desk.session.path == scan.with_suffix(".memseg")
    assert dock.desk.shown.image.name == "scan"
    assert "other" in viewer.layers
    close(viewer)


def test_after_a_session_its_image_can_begin_another_and_nothing_of_it_is_left_on_the_pages(
    until, open_dock, folder
):
    viewer, dock = open_dock(folder)
    dock.train.curve.add(1, 0.5, None)
    dock.segment.bar.clear("Done.")
    dock.show_page(dock.open)
    click(dock.open.close_button)
    choose_volume(until, dock)
    assert dock.open.start.isEnabled()
    assert dock.open.place.text() not in ("", str(folder))
    assert dock.export.place.text() == ""
    assert dock.train.curve.losses == []
    assert dock.segment.bar.text == ""
    close(viewer)


# The pyramid


def test_a_pyramid_is_built_while_one_paints_and_the_image_is_shown_as_before(
    until, open_dock, new_session, write_scan
):
    viewer, dock = open_dock(new_session(write_scan(shape=(140, 140, 140))))
    dock.desk.shown.image.contrast_limits = (20, 90)
    dock.show_page(dock.open)
    assert "The pyramid would take up to" in dock.open.pyramid_bar.text
    click(dock.open.pyramid)
    viewer.dims.set_current_step(0, 10)
    dock.desk.choose(1)
    stroke(viewer, MIDDLE)
    assert dock.desk.building.busy
    until(lambda: not dock.desk.building.busy)
    image = dock.desk.shown.image
    assert image.multiscale
    assert viewer.layers.index(image) == 0
    assert tuple(image.contrast_limits) == (20, 90)
    assert len(dock.desk.session.image.arrays) > 1
    assert dock.open.pyramid.isHidden()
    assert np.asarray(dock.desk.session.overlay).any()
    close(viewer)


def test_a_pyramid_is_stopped_and_continued(until, open_dock, new_session, write_scan):
    viewer, dock = open_dock(new_session(write_scan(shape=(140, 140, 140))))
    dock.show_page(dock.open)
    click(dock.open.pyramid)
    click(dock.open.stop)
    until(lambda: not dock.desk.building.busy)
    stopped = not dock.desk.shown.image.multiscale
    if stopped:
        click(dock.open.pyramid)
        until(lambda: not dock.desk.building.busy)
    assert dock.desk.shown.image.multiscale
    close(viewer)
    assert stopped


# Train


def test_training_waits_for_strokes_of_each_class(until, open_dock, folder):
    viewer, dock = open_dock(folder)
    dock.show_page(dock.train)
    assert not dock.train.train.isEnabled()
    until(lambda: "Nothing is painted yet of background, bone" in dock.train.train.reason.text())
    dock.desk.choose(1)
    stroke(viewer, MIDDLE)
    until(lambda: "of background:" in dock.train.train.reason.text())
    assert dock.train.train.toolTip() == dock.train.train.reason.text()
    dock.desk.choose(0)
    stroke(viewer, LOWER)
    until(dock.train.train.isEnabled)
    assert dock.train.train.reason.isHidden()
    close(viewer)


def begin_long_training(until, viewer, dock):
    """Train until the stand-in waits to be stopped, and stop."""
    paint_both(until, viewer, dock)
    dock.show_page(dock.train)
    type_into(dock.train.steps, "20")
    until(dock.train.train.isEnabled)
    click(dock.train.train)
    until(lambda: len(dock.train.curve.losses) == 5)
    assert not dock.train.choices.isEnabled()
    click(dock.train.stop)
    until(lambda: not dock.desk.training.busy)
    assert "Stopped" in dock.train.bar.text


def test_a_training_is_stopped_and_goes_on_after_more_strokes_as_it_was_begun(until, open_dock, folder):
    viewer, dock = open_dock(folder)
    begin_long_training(until, viewer, dock)
    (model,) = unfinished_trainings(folder)
    learned_from = seq_of(model)
    dock.desk.choose(1)
    stroke(viewer, HIGHER)
    assert dock.desk.session.corrections.seq > learned_from
    click(dock.train.go_on)
    until(lambda: not dock.desk.training.busy)
    assert models_in(folder) == [model]
    assert [step for step, _ in dock.train.curve.losses] == list(range(1, 21))
    assert dock.train.go_on.isHidden()
    assert dock.train.discard.isHidden()
    assert "is trained: 20 steps" in dock.train.bar.text
    close(viewer)


def test_a_training_that_was_stopped_is_discarded(until, open_dock, folder):
    viewer, dock = open_dock(folder)
    begin_long_training(until, viewer, dock)
    click(dock.train.discard)
    assert unfinished_trainings(folder) == []
    assert list((folder / "models").iterdir()) == []
    assert dock.train.go_on.isHidden()
    assert dock.train.train.isVisible()
    close(viewer)


def test_retraining_starts_from_the_last_model(until, open_dock, folder):
    viewer, dock = open_dock(folder)
    paint_both(until, viewer, dock)
    dock.show_page(dock.correct)
    assert not dock.correct.retrain.isEnabled()
    assert "There is no model yet" in dock.correct.retrain.reason.text()
    dock.show_page(dock.train)
    type_into(dock.train.steps, "3")
    for number in (1, 2):
        until(dock.train.train.isEnabled)
        click(dock.train.train)
        until(lambda number=number: not dock.desk.training.busy and len(models_in(folder)) == number)
        dock.show_page(dock.correct)
        click(dock.correct.retrain)
        assert dock.train.isVisible()
        assert dock.train.origin.currentText() == f"small-{number}"
        assert not dock.train.network.isEnabled()
    assert (folder / "models" / "small-2.safetensors").read_text() == "from small-1"
    assert dock.segment.model.currentText() == "small-2"
    close(viewer)


def test_an_older_model_stays_chosen_whatever_comes_and_a_new_one_is_offered(until, open_dock, folder):
    for name in ("small-1", "small-2"):
        (folder / "models" / f"{name}.safetensors").write_text(name)
    viewer, dock = open_dock(folder)
    older = models_in(folder)[1]
    dock.train.origin.setCurrentText(older.stem)
    dock.segment.model.setCurrentText(older.stem)
    paint_both(until, viewer, dock)
    dock.desk.models_changed.emit()
    assert dock.train.origin.currentData() == dock.segment.model.currentData() == older
    (folder / "models" / "small-3.safetensors").write_text("new")
    dock.desk.models_changed.emit()
    assert dock.segment.model.currentText() == "small-3"
    close(viewer)


# Segment and export


def test_segmenting_waits_for_a_model_and_for_a_rectangle(open_dock, folder, model):
    viewer, dock = open_dock(folder)
    page = dock.segment
    dock.show_page(page)
    assert not page.segment.isEnabled()
    assert page.segment.toolTip() == page.segment.reason.text() == "There is no model yet."
    assert "train one, on the page Train" in page.hint.text()
    page.model.addItem("net", model)
    page.refresh()
    assert page.segment.isEnabled()
    assert page.segment.reason.isHidden()
    page.region.kind.setCurrentText("a rectangle")
    assert "Draw a rectangle first" in page.segment.reason.text()
    assert not page.segment.isEnabled()
    close(viewer)


def test_export_waits_for_a_run_to_finish(until, open_dock, folder, model, hold):
    viewer, dock = open_dock(folder)
    dock.show_page(dock.export)
    assert dock.export.export.isEnabled()
    dock.desk.segmenting.start(model, SegmentConfig())
    until(lambda: len(dock.desk.session.runs()) == 1 and not dock.export.export.isEnabled())
    assert "No run is finished yet" in dock.export.export.reason.text()
    hold.unlink()
    until(lambda: not dock.desk.segmenting.relay.busy)
    assert dock.export.export.isEnabled()
    assert dock.export.run_choice.currentData() == "0001"
    close(viewer)


def test_each_export_has_a_name_of_its_own_and_overwrites_nothing(until, open_dock, folder):
    viewer, dock = open_dock(folder)
    page = dock.export
    dock.show_page(page)
    for count in (1, 2):
        click(page.export)
        until(lambda: not dock.desk.exporting.busy)
        exports = sorted((folder / "exports").iterdir())
        assert len(exports) == count
        assert f"Written to {folder / 'exports'}" in page.bar.text
        assert page.show_folder.isVisible()
        assert page.place.text() not in map(str, exports)
        assert page.export.isEnabled()
    type_into(page.place, str(exports[0]))
    assert not page.export.isEnabled()
    assert "nothing is overwritten" in page.export.reason.text()
    page.place.clear()
    assert "Name a folder" in page.export.toolTip()
    close(viewer)
