"""Nothing that is larger than memory is read whole: not in 3D, not by a fill, not by mistake."""

from types import SimpleNamespace

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels, Points
from napari.utils.interactions import mouse_press_callbacks, mouse_release_callbacks

from annotation.helpers import Picture
from napari_memseg.annotation.indexing import MOST_VOXELS
from napari_memseg.annotation.session import Session
from napari_memseg.errors import GeometryError
from napari_memseg.models.classes import ClassTable
from napari_memseg.widgets.guards import MOST_BYTES_3D, Guard3D
from napari_memseg.widgets.layers import corrections_layer
from napari_memseg.widgets.painting import MOST_FILLED, Painter
from widgets.arrays import vast

pytestmark = pytest.mark.qt

HUGE = (MOST_BYTES_3D // 64**2 + 1, 64, 64)
"""Just too large for 3D at one byte per voxel; a plane of it is small."""


@pytest.fixture
def guarded(qtbot):
    """A viewer without a window, and its guard."""
    viewer = ViewerModel()
    return viewer, Guard3D(viewer)


def huge(kind=Image, dtype="uint8", shape=HUGE, **about):
    """A layer that cannot be read beyond a plane without a failure."""
    limits = {"contrast_limits": (0, 1)} if kind is Image else {}
    return kind(vast(shape, dtype, most=64**2), **limits, **about)


@pytest.mark.parametrize("kind", [Image, Labels])
def test_a_large_layer_is_hidden_before_3d_would_read_it_and_is_back_in_2d(guarded, kind):
    viewer, _ = guarded
    layer = viewer.add_layer(huge(kind, name="scan"))
    viewer.dims.ndisplay = 3
    assert not layer.visible
    viewer.dims.ndisplay = 2
    assert layer.visible
    assert layer.data.largest == 64**2
    assert layer._slice.image.raw.shape == (64, 64)


def test_a_large_layer_is_hidden_on_a_real_canvas_too(make_napari_viewer):
    viewer = make_napari_viewer(show=True)
    guard = Guard3D(viewer)
    layer = viewer.add_layer(huge(Labels))
    for ndisplay in (3, 2, 3):
        viewer.dims.ndisplay = ndisplay
        viewer.screenshot(canvas_only=True, flash=False)
        assert layer.visible == (ndisplay == 2)
    guard.close()


def test_the_button_for_3d_is_guarded(make_napari_viewer, qtbot):
    viewer = make_napari_viewer(show=True)
    guard = Guard3D(viewer)
    layer = viewer.add_layer(huge())
    viewer.window._qt_viewer.viewerButtons.ndisplayButton.click()
    assert viewer.dims.ndisplay == 3
    assert not layer.visible
    guard.close()


@pytest.mark.parametrize(("dtype", "more"), [("uint8", 0), ("uint16", 0), ("uint8", 1), ("float32", 1)])
def test_bytes_count_and_not_voxels(guarded, monkeypatch, dtype, more):
    viewer, _ = guarded
    voxels = np.zeros((10 + more, 16, 16), dtype)
    monkeypatch.setattr("napari_memseg.widgets.guards.MOST_BYTES_3D", 10 * 16 * 16 * voxels.itemsize)
    layer = viewer.add_image(voxels)
    viewer.dims.ndisplay = 3
    assert layer.visible == (more == 0)


def test_small_layers_pyramids_and_what_is_no_picture_stay(guarded):
    viewer, _ = guarded
    small = viewer.add_image(np.zeros((8, 9, 10), "uint8"))
    pyramid = viewer.add_layer(
        Labels([vast(HUGE, most=64**2), np.zeros((64, 64, 64), "uint8")], multiscale=True)
    )
    plane = viewer.add_image(np.zeros((64, 64), "uint8"))
    points = viewer.add_layer(Points(np.zeros((1, 3))))
    viewer.dims.ndisplay = 3
    assert all(layer.visible for layer in (small, pyramid, plane, points))


def test_what_a_person_hid_stays_hidden(guarded):
    viewer, _ = guarded
    layer = viewer.add_layer(huge(visible=False))
    for ndisplay in (3, 2):
        viewer.dims.ndisplay = ndisplay
        assert not layer.visible


def test_a_layer_that_is_added_in_3d_is_hidden_and_back_in_2d(guarded):
    viewer, _ = guarded
    viewer.add_image(np.zeros((8, 9, 10), "uint8"))
    viewer.dims.ndisplay = 3
    data = vast(HUGE, most=64**2)
    layer = viewer.add_layer(Labels(data))
    assert not layer.visible
    viewer.dims.ndisplay = 2
    assert layer.visible
    assert data.largest == 64**2


def test_a_hidden_layer_may_be_deleted(guarded):
    viewer, _ = guarded
    layer = viewer.add_layer(huge())
    viewer.dims.ndisplay = 3
    viewer.layers.remove(layer)
    viewer.dims.ndisplay = 2
    assert layer not in viewer.layers


def test_a_closed_guard_hides_nothing(guarded, monkeypatch):
    viewer, guard = guarded
    monkeypatch.setattr("napari_memseg.widgets.guards.MOST_BYTES_3D", 1)
    guard.close()
    layer = viewer.add_image(np.zeros((8, 9, 10), "uint8"))
    viewer.dims.ndisplay = 3
    assert layer.visible


# Painting


@pytest.fixture
def painted(tmp_path, qtbot):
    """A corrections layer of any size, with who stores its strokes."""
    sessions = []

    def make(shape):
        image = Picture(shape)
        image.scale = lambda level: (1, 1, 1)
        session = Session.create(tmp_path / "s.memseg", image, ClassTable.from_ids([1]))
        sessions.append(session)
        viewer = ViewerModel()
        layer = viewer.add_layer(corrections_layer(session, brush_size=3))
        return viewer, layer, Painter(layer, session.overlay)

    yield make
    for session in sessions:
        session.close()


def press(layer, place, displayed):
    """What napari does at a click on a layer: down and up, in world units."""
    event = SimpleNamespace(
        type="mouse_press",
        position=layer.data_to_world(place),
        dims_displayed=list(displayed),
        dims_point=layer.data_to_world(place),
        view_direction=(1.0, 0, 0) if len(displayed) == 3 else None,
        is_dragging=False,
        button=1,
        modifiers=(),
        handled=False,
        pos=np.array([0, 0]),
    )
    mouse_press_callbacks(layer, event)
    event.type = "mouse_release"
    mouse_release_callbacks(layer, event)


def test_a_fill_on_a_slice_is_stored(painted):
    viewer, layer, painter = painted((4, 20, 30))
    layer.mode = "fill"
    press(layer, (2, 10, 10), viewer.dims.displayed)
    assert painter.overlay.state == "saved"
    assert painter.overlay[2:3].sum() == 20 * 30
    assert painter.overlay.can_undo


@pytest.mark.parametrize(
    ("shape", "dims", "words"),
    [
        ((2, 4097, 4097), 2, "too many to fill"),
        ((2000, 100, 100), 3, "n edit dim: 2"),
    ],
    ids=["huge slice", "3d"],
)
def test_a_fill_that_would_read_too_much_paints_nothing(painted, monkeypatch, shape, dims, words):
    said = []
    monkeypatch.setattr("napari_memseg.widgets.painting.show_info", said.append)
    viewer, layer, painter = painted(shape)
    assert np.prod(shape[-dims:]) > MOST_FILLED
    layer.n_edit_dimensions = dims
    layer.mode = "fill"
    press(layer, (1, 10, 10), viewer.dims.displayed)
    assert words in said[0]
    assert layer.mode == "pan_zoom"
    assert not painter.overlay[1:2, :50, :50].any()
    assert not painter.overlay.can_undo
    assert painter.overlay.state == "saved"


def test_a_brush_works_where_a_fill_does_not(painted):
    viewer, layer, painter = painted((2, 4097, 4097))
    layer.mode = "paint"
    press(layer, (1, 10, 10), viewer.dims.displayed)
    assert painter.overlay[1:2, :50, :50].any()
    assert painter.overlay.state == "saved"


def test_an_overlay_that_is_too_large_is_shown_by_its_planes_and_never_read_whole(painted, qtbot):
    shape = (MOST_VOXELS // 64**2 + 1, 64, 64)
    viewer, layer, painter = painted(shape)
    guard = Guard3D(viewer)
    with pytest.raises(GeometryError, match="too many to read at once"):
        np.asarray(painter.overlay)
    viewer.dims.ndisplay = 3
    assert not layer.visible
    viewer.dims.ndisplay = 2
    assert layer._slice.image.raw.shape == (64, 64)
    guard.close()
