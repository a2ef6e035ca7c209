"""What is on the screen, and which part of a volume a run is to predict."""

from dataclasses import dataclass
from itertools import permutations
from types import SimpleNamespace

import numpy as np
import pytest
from napari import Viewer
from napari.components import ViewerModel
from napari.layers import Image, Labels

from napari_memseg.annotation.session import Session
from napari_memseg.geometry import Box, zyx
from napari_memseg.io.formats import open_volume
from napari_memseg.io.pyramid import create_image
from napari_memseg.models.classes import ClassTable
from napari_memseg.widgets.layers import grid
from napari_memseg.widgets.region import DRAWN, LAYER, SEEN, WHOLE, RegionChoice
from napari_memseg.widgets.view import visible_box

pytestmark = pytest.mark.qt

SHAPE = (40, 60, 80)
ORDERS = list(permutations(range(3)))
SCALE = (2.0, 1.0, 1.0)


def empty(multiscale=False, shape=SHAPE, **about):
    voxels = np.zeros(shape, "uint8")
    data = [voxels, voxels[::2, ::2, ::2], voxels[::4, ::4, ::4]] if multiscale else voxels
    return Labels(data, multiscale=multiscale, **about)


def look(viewer, center, zoom):
    """Point the camera at a place, in world units, and let napari draw."""
    viewer.scene.camera.center, viewer.scene.camera.zoom = center, zoom
    viewer.window._qt_viewer.canvas.on_draw(None)


def on_canvas(viewer, layer):
    """The displayed axes' span on the canvas, in voxels, by the geometry of camera and canvas alone."""
    size = np.array(viewer.window._qt_viewer.canvas.size) / viewer.scene.camera.zoom
    middle = np.array(viewer.scene.camera.center[-2:])
    axes = list(viewer.dims.displayed)
    scale, translate = np.array(layer.scale)[axes], np.array(layer.translate)[axes]
    ends = (middle - size / 2 - translate) / scale, (middle + size / 2 - translate) / scale
    return np.clip(ends[0], 0, np.array(SHAPE)[axes]), np.clip(ends[1], 0, np.array(SHAPE)[axes])


@pytest.fixture
def viewer(make_napari_viewer):
    return make_napari_viewer(show=True)


@pytest.mark.parametrize("multiscale", [False, True])
def test_all_of_one_slice_is_visible_at_first_in_every_order_of_axes(viewer, multiscale):
    layer = viewer.add_layer(empty(multiscale, scale=SCALE, translate=(5, -3, 2)))
    for order in ORDERS:
        viewer.dims.order = order
        viewer.reset_view()
        viewer.dims.set_current_step(order[0], 7)
        look(viewer, viewer.scene.camera.center, viewer.scene.camera.zoom)
        start = zyx(7 if axis == order[0] else 0 for axis in range(3))
        stop = zyx(8 if axis == order[0] else n for axis, n in enumerate(SHAPE))
        assert visible_box(viewer, layer, SHAPE) == Box(start, stop)


def test_what_is_visible_when_zoomed_in_is_what_the_canvas_covers(viewer):
    layer = viewer.add_layer(empty(scale=SCALE))
    for order in ORDERS:
        viewer.dims.order = order
        look(viewer, [SHAPE[axis] * SCALE[axis] / 2 for axis in order], zoom=60)
        box = visible_box(viewer, layer, SHAPE)
        low, high = on_canvas(viewer, layer)
        axes = list(order[-2:])
        assert box.shape[order[0]] == 1
        assert np.all(np.abs(np.array(box.start)[axes] - low) <= 2)
        assert np.all(np.abs(np.array(box.stop)[axes] - high) <= 2)
        assert box.size < 60**2


def test_of_a_pyramid_no_voxel_on_the_screen_is_left_out(viewer):
    shape = (4, 2000, 2000)
    layer = viewer.add_layer(empty(True, shape))
    for zoom in (0.3, 0.7, 2):
        look(viewer, (0, 1200, 800), zoom)
        box = visible_box(viewer, layer, shape)
        half = np.array(viewer.window._qt_viewer.canvas.size) / zoom / 2
        assert np.all(np.array(box.start[1:]) <= np.clip(np.ceil([1200, 800] - half), 0, 2000))
        assert np.all(np.array(box.stop[1:]) >= np.clip(np.floor(np.add([1200, 800], half)), 0, 2000))
        assert zoom < 1 or box.size < 2000**2


@pytest.mark.parametrize("multiscale", [False, True])
def test_in_3d_the_whole_volume_is_visible(multiscale):
    viewer = ViewerModel()
    layer = viewer.add_layer(empty(multiscale))
    viewer.dims.ndisplay = 3
    assert visible_box(viewer, layer, SHAPE) == Box.whole(SHAPE)


def test_a_hidden_layer_tells_what_is_visible_as_well(viewer):
    layer = viewer.add_layer(empty())
    layer.visible = False
    viewer.dims.set_current_step(0, 11)
    look(viewer, viewer.scene.camera.center, viewer.scene.camera.zoom)
    assert visible_box(viewer, layer, SHAPE) == Box((11, 0, 0), (12, 60, 80))


def test_the_visible_slice_holds_where_another_layer_has_another_unit():
    viewer = ViewerModel()
    viewer.add_layer(Image(np.zeros(SHAPE, "uint8"), scale=(1000,) * 3, units=("nm",) * 3))
    layer = viewer.add_layer(empty(units=("um",) * 3))
    viewer.dims.set_current_step(0, 11)
    assert visible_box(viewer, layer, SHAPE).start[0] == 11


# The region of a run


@dataclass
class Desk:
    """What the choice asks of a desk, without its child process."""

    viewer: Viewer
    session: Session | None
    layer: Labels | None = None
    session_changed = SimpleNamespace(connect=lambda slot: None)
    segmenting = SimpleNamespace(moved=session_changed)

    def visible_box(self):
        return None if self.layer is None else visible_box(self.viewer, self.layer, SHAPE)


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    folder = tmp_path_factory.mktemp("region")
    about = {"voxel_size": SCALE, "unit": "micrometer"}
    create_image(folder / "scan.ome.zarr", shape=SHAPE, dtype="uint8", **about)
    image = open_volume(folder / "scan.ome.zarr")
    with Session.create(folder / "scan.memseg", image, ClassTable.from_ids([1])) as found:
        yield found


@pytest.fixture
def choice(qtbot, session):
    """A choice on a viewer without a window, and the labels that it looks at."""
    viewer = ViewerModel()
    layer = viewer.add_layer(empty(**grid(session)))
    found = RegionChoice(Desk(viewer, session, layer))
    qtbot.addWidget(found)
    return found


def on_screen(choice, low, high):
    """Let a canvas show these voxels of both displayed axes."""
    axes = list(choice._desk.viewer.dims.displayed)
    corners = np.zeros((2, 3), int)
    corners[:, axes] = low, np.array(high) - 1
    choice._desk.layer.corner_pixels = corners


def rectangle(choice, low, high, axis=0, at=20):
    """Draw as a person does: choose the tool, then drag."""
    choice.kind.setCurrentText(DRAWN)
    choice.draw.click()
    layer = choice._desk.viewer.layers[LAYER]
    corners = [(low[0], low[1]), (low[0], high[1]), (high[0], high[1]), (high[0], low[1])]
    layer.add_rectangles([np.insert(np.array(corners, float), axis, at, axis=1)])


def test_the_whole_volume_is_no_box(choice):
    assert choice.kind.currentText() == WHOLE
    assert choice.box() is None
    assert choice.why_not() == ""


@pytest.mark.parametrize(("slices", "start", "stop"), [(1, 20, 21), (4, 19, 23), (5, 18, 23), (64, 0, 40)])
def test_what_is_visible_gets_the_depth_that_was_chosen_around_the_slice(choice, slices, start, stop):
    choice.kind.setCurrentText(SEEN)
    choice.slices.setValue(slices)
    choice._desk.viewer.dims.set_current_step(0, 20)
    on_screen(choice, (10, 20), (30, 50))
    assert choice.box() == Box((start, 10, 20), (stop, 30, 50))


def test_what_is_visible_is_deep_along_the_axis_that_is_not_shown(choice):
    choice.kind.setCurrentText(SEEN)
    choice.slices.setValue(10)
    choice._desk.viewer.dims.order = (2, 0, 1)
    choice._desk.viewer.dims.set_current_step(2, 40)
    on_screen(choice, (5, 6), (15, 26))
    assert choice.box() == Box((5, 6, 36), (15, 26, 46))


def test_in_3d_all_is_visible(choice):
    choice.kind.setCurrentText(SEEN)
    choice._desk.viewer.dims.ndisplay = 3
    assert choice.box() is None


def test_a_rectangle_is_drawn_on_the_grid_of_the_session(choice, session):
    rectangle(choice, (10.2, 20.4), (29.8, 49.6))
    layer = choice._desk.viewer.layers[LAYER]
    assert choice._desk.viewer.layers.selection.active is layer
    assert (layer.mode, tuple(layer.scale)) == ("add_rectangle", SCALE)
    choice.slices.setValue(6)
    assert choice.why_not() == ""
    assert choice.box() == Box((18, 10, 20), (24, 30, 50))


def test_the_last_rectangle_counts_on_one_layer(choice):
    rectangle(choice, (0, 0), (5, 5))
    rectangle(choice, (7, 8), (9, 11))
    choice.slices.setValue(1)
    assert choice.box() == Box((20, 7, 8), (21, 9, 11))
    assert [layer.name for layer in choice._desk.viewer.layers].count(LAYER) == 1


def test_a_rectangle_is_deep_across_the_slice_that_it_was_drawn_on(choice):
    viewer = choice._desk.viewer
    viewer.dims.order = (1, 0, 2)
    rectangle(choice, (10, 20), (30, 50), axis=1, at=33)
    choice.slices.setValue(4)
    for order in ORDERS:
        viewer.dims.order = order
        assert choice.box() == Box((10, 32, 20), (30, 36, 50))


def test_a_rectangle_holds_in_3d(choice):
    rectangle(choice, (10, 20), (30, 50))
    choice.slices.setValue(2)
    choice._desk.viewer.dims.ndisplay = 3
    assert choice.box() == Box((20, 10, 20), (22, 30, 50))


def test_a_rectangle_is_cut_at_the_faces_of_the_volume(choice):
    rectangle(choice, (-9, 70), (12.0, 300))
    choice.slices.setValue(1)
    assert choice.box() == Box((20, 0, 70), (21, 12, 80))


def test_a_rectangle_that_is_missing_is_asked_for(choice):
    choice.kind.setCurrentText(DRAWN)
    assert "Draw a rectangle first" in choice.why_not()
    rectangle(choice, (10, 20), (30, 50))
    choice._desk.viewer.layers[LAYER].data = []
    assert "Draw a rectangle first" in choice.why_not()
    choice._desk.viewer.layers.remove(LAYER)
    assert "Draw a rectangle first" in choice.why_not()


@pytest.mark.parametrize(("low", "high"), [((-20, -20), (-3, -3)), ((100, 100), (120, 130))])
def test_a_rectangle_beside_the_volume_is_refused(choice, low, high):
    rectangle(choice, low, high)
    assert "beside the volume" in choice.why_not()


def test_without_a_session_there_is_no_region_and_nothing_to_draw_on(qtbot):
    choice = RegionChoice(Desk(ViewerModel(), None))
    qtbot.addWidget(choice)
    for kind in (WHOLE, SEEN, DRAWN):
        choice.kind.setCurrentText(kind)
        choice.draw.click()
        assert choice.box() is None
    assert not choice._desk.viewer.layers


def test_only_what_matters_to_the_kind_is_offered(choice):
    offered = {}
    for kind in (WHOLE, SEEN, DRAWN):
        choice.kind.setCurrentText(kind)
        offered[kind] = (
            not choice.slices.isHidden() and not choice.slices_form.isHidden(),
            choice.draw.isHidden(),
        )
    assert offered == {WHOLE: (False, True), SEEN: (True, True), DRAWN: (True, False)}
