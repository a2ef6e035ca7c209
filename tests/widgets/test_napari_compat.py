"""What we ask of napari behind its public face: each test fails first where napari changes."""

import gc
from itertools import permutations
from threading import Event, current_thread, main_thread

import numpy as np
import pytest
from napari import Viewer
from napari.components import ViewerModel
from napari.layers import Image, Labels
from napari.qt import QtViewer
from napari.utils.colormaps import DirectLabelColormap
from napari.utils.key_bindings import KeymapProvider
from napari.utils.notifications import notification_manager
from qtpy.QtCore import QEvent, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QMainWindow

from napari_memseg.annotation.corrections import Corrections
from napari_memseg.annotation.database import create_database
from napari_memseg.annotation.overlay import Overlay
from napari_memseg.geometry import Box, zyx
from napari_memseg.models.classes import ClassTable
from napari_memseg.widgets.napari_compat import (
    Crosshair,
    canvas_of,
    connect_before_napari,
    forget_history,
    hear_keys,
    hide_play,
    main_window,
    patch,
    picture_of,
    read_again,
    shown_box,
    slice_in_thread,
    stop_slicing,
    unwrapped,
    world_factor,
)
from widgets.arrays import Lazy

pytestmark = pytest.mark.qt

SHAPE = (24, 40, 56)
ORDERS = list(permutations(range(3)))
COLORS = DirectLabelColormap(
    color_dict={None: "transparent", 0: "transparent", 1: "#ff0000", 2: "#00ff00", 3: "#0000ff"}
)


def voxels(dtype="uint8", shape=SHAPE, seed=0):
    return np.random.default_rng(seed).integers(0, 4, shape, dtype)


def pyramid(values, levels=2):
    return [Lazy(np.ascontiguousarray(values[:: 2**k, :: 2**k, :: 2**k])) for k in range(levels)]


def labels(values, multiscale=False, **about):
    data = pyramid(values) if multiscale else Lazy(values)
    return Labels(data, multiscale=multiscale, colormap=COLORS, opacity=1.0, **about)


def change(layer, box, seed=9):
    """Change the stored voxels of a level without telling napari; return what they are now."""
    level = layer.data_level if layer.multiscale else 0
    array = layer.data[level] if layer.multiscale else layer.data
    array.values[box.slices] = voxels(array.dtype, box.shape, seed)
    return array.values[box.slices].copy()


def around_the_middle(box):
    """A part of what is shown, and of other slices besides."""
    quarter = [max(n // 4, 1) for n in box.shape]
    start = [a + n if b - a > 1 else a for a, b, n in zip(box.start, box.stop, quarter, strict=True)]
    return Box(zyx(start), zyx(a + max(2 * n, 1) for a, n in zip(start, quarter, strict=True)))


def draw(viewer):
    """Let napari choose level and corners, as it does when it paints the canvas."""
    viewer.window._qt_viewer.canvas.on_draw(None)


def picture(viewer):
    return viewer.screenshot(canvas_only=True, flash=False)


def texture(viewer, layer):
    """What lies on the graphics card, as vispy last sent it."""
    return viewer.window._qt_viewer.canvas.layer_to_visual[layer].node._texture


@pytest.fixture
def shown(make_napari_viewer):
    """A viewer of one labels layer, on a real canvas."""

    def show(layer):
        viewer = make_napari_viewer(show=True)
        viewer.add_layer(layer)
        return viewer

    return show


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
@pytest.mark.parametrize("multiscale", [False, True])
def test_a_patched_layer_looks_like_one_that_was_read_anew_in_every_order_of_axes(shown, multiscale, dtype):
    layer = labels(voxels(dtype), multiscale, scale=(2, 1, 1))
    viewer = shown(layer)
    for seed, order in enumerate(ORDERS):
        viewer.dims.order = order
        before = picture(viewer)
        box, level = shown_box(layer)
        part = around_the_middle(box)
        assert patch(layer, part, level, change(layer, part, seed))
        patched, raw, view = picture(viewer), layer._slice.image.raw.copy(), layer._slice.image.view.copy()
        layer.refresh()
        assert np.array_equal(raw, layer._slice.image.raw)
        assert np.array_equal(view, layer._slice.image.view)
        assert not np.array_equal(before, patched)
        assert np.array_equal(patched, picture(viewer))


def test_only_the_patch_is_sent_to_the_graphics_card(shown, monkeypatch):
    layer = labels(voxels())
    viewer = shown(layer)
    viewer.dims.set_point(0, 3)
    picture(viewer)
    sent = []
    card = texture(viewer, layer)
    send = card.scale_and_set_data

    def note(data, offset=None, copy=False):
        sent.append((data.shape, tuple(offset)))
        send(data, offset=offset, copy=copy)

    monkeypatch.setattr(card, "scale_and_set_data", note)
    box = Box((0, 5, 7), (9, 11, 17))
    layer.data.largest = 0
    assert patch(layer, box, 0, np.full(box.shape, 2, "uint8"))
    assert sent == [((6, 10), (5, 7))]
    assert layer.data.largest == 0


def test_what_is_on_another_slice_changes_nothing(shown):
    layer = labels(voxels())
    viewer = shown(layer)
    viewer.dims.set_point(0, 3)
    box = Box((4, 0, 0), (24, 40, 56))
    assert not patch(layer, box, 0, change(layer, box))
    assert np.array_equal(layer._slice.image.raw, layer.data.values[3])


def test_what_is_off_the_screen_changes_nothing(shown):
    layer = zoomed_in(shown, labels(voxels(shape=(4, 2048, 2048)), multiscale=True))
    far = Box((0, 0, 0), (4, 16, 16))
    assert not patch(layer, far, 0, change(layer, far))


def zoomed_in(shown, layer):
    """A part of a large plane, at the finest level."""
    viewer = shown(layer)
    viewer.scene.camera.center = (0, 1024, 1024)
    viewer.scene.camera.zoom = 4
    draw(viewer)
    assert layer.data_level == 0
    return layer


def test_values_of_another_level_are_not_shown(shown):
    layer = labels(voxels(), multiscale=True)
    shown(layer)
    _, level = shown_box(layer)
    box = Box.whole(zyx(layer.data[1 - level].shape))
    assert not patch(layer, box, 1 - level, np.zeros(box.shape, "uint8"))


@pytest.mark.parametrize("multiscale", [False, True])
def test_a_hidden_layer_is_not_patched_and_is_read_anew_when_it_is_shown(shown, multiscale):
    layer = labels(voxels(), multiscale)
    shown(layer)
    box, level = shown_box(layer)
    layer.visible = False
    assert shown_box(layer) is None
    assert not patch(layer, box, level, change(layer, box))
    layer.visible = True
    array = layer.data[level] if multiscale else layer.data
    assert np.array_equal(layer._slice.image.raw, array.values[box.slices][0])


def test_a_layer_that_ends_before_the_slice_shows_nothing():
    viewer = ViewerModel()
    viewer.add_layer(Image(np.zeros((100, 40, 56), "uint8")))
    layer = viewer.add_layer(labels(voxels()))
    viewer.dims.set_point(0, 90)
    assert shown_box(layer) is None


def expected_plane(layer, box, level):
    array = layer.data[level] if layer.multiscale else layer.data
    displayed = list(layer._slice_input.displayed)
    hidden = [axis for axis in range(3) if axis not in displayed]
    plane = array.values[box.slices].transpose(hidden + displayed)
    return plane.reshape([box.shape[axis] for axis in displayed])


@pytest.mark.parametrize("multiscale", [False, True])
@pytest.mark.parametrize("order", ORDERS)
def test_the_shown_box_is_what_is_displayed_wherever_the_sliders_are(order, multiscale):
    viewer = ViewerModel()
    layer = viewer.add_layer(labels(voxels(), multiscale, scale=(3, 2, 0.5), translate=(7, -4, 1)))
    viewer.dims.order = order
    for step in (0, 5, 11, 23):
        viewer.dims.set_current_step(order[0], step)
        box, level = shown_box(layer)
        assert box.shape[order[0]] == 1
        assert np.array_equal(layer._slice.image.raw, expected_plane(layer, box, level))


def test_the_shown_box_follows_pan_and_zoom_in_every_order_of_axes(shown):
    viewer = shown(labels(voxels()))
    for order in ORDERS:
        shape = [5 if axis == order[0] else 1500 for axis in range(3)]
        viewer.layers.clear()
        layer = viewer.add_layer(labels(voxels(shape=shape), multiscale=True))
        viewer.dims.order = order
        follow_the_camera(viewer, layer)


def follow_the_camera(viewer, layer):
    seen = set()
    for zoom, center in ((0.2, (700, 700)), (3, (100, 100)), (3, (920, 1310)), (20, (222, 333))):
        viewer.scene.camera.zoom, viewer.scene.camera.center = zoom, (0, *center)
        draw(viewer)
        box, level = shown_box(layer)
        assert np.array_equal(layer._slice.image.raw, expected_plane(layer, box, level))
        seen.add((box, level))
    assert len(seen) > 2


def test_a_part_of_a_pyramid_is_patched_where_it_lies(shown):
    layer = zoomed_in(shown, labels(voxels(shape=(4, 2048, 2048)), multiscale=True))
    box, level = shown_box(layer)
    assert box.size < 2048**2
    part = Box(box.start, zyx(a + 9 for a in box.start)).grow((0, 6, 3)).clip((4, 2048, 2048))
    assert patch(layer, part, level, change(layer, part))
    assert np.array_equal(layer._slice.image.raw, expected_plane(layer, box, level))


@pytest.mark.parametrize(("unit", "size"), [("mm", 0.001), ("nm", 1000)])
def test_the_shown_box_holds_where_another_layer_has_another_unit(unit, size):
    viewer = ViewerModel()
    viewer.add_layer(Image(np.zeros(SHAPE, "uint8"), scale=(size,) * 3, units=(unit,) * 3))
    layer = viewer.add_layer(labels(voxels(), units=("um",) * 3))
    for step in (0, 4, 17):
        viewer.dims.set_current_step(0, step)
        box, level = shown_box(layer)
        assert np.array_equal(layer._slice.image.raw, expected_plane(layer, box, level))


def test_in_3d_all_of_the_coarsest_level_is_shown(make_napari_viewer):
    viewer = make_napari_viewer()
    layer = viewer.add_layer(labels(voxels(), multiscale=True))
    viewer.dims.ndisplay = 3
    assert shown_box(layer) == (Box.whole((12, 20, 28)), 1)


def test_the_viewer_of_a_dock_is_found_behind_its_proxy(make_napari_viewer_proxy):
    proxy = make_napari_viewer_proxy()
    viewer = unwrapped(proxy)
    assert type(viewer) is Viewer
    assert unwrapped(viewer) is viewer
    assert isinstance(main_window(viewer), QMainWindow)


def test_a_callback_can_be_called_before_those_of_napari():
    viewer, seen = ViewerModel(), []
    layer = viewer.add_layer(labels(voxels()))

    def look():
        seen.append((viewer.dims.ndisplay, layer._slice_input.ndisplay))

    connect_before_napari(viewer.dims.events.ndisplay, look)
    viewer.dims.ndisplay = 3
    viewer.dims.events.ndisplay.disconnect(look)
    viewer.dims.ndisplay = 2
    assert seen == [(3, 2)]
    assert layer._slice_input.ndisplay == 2


def test_a_layers_own_undo_list_can_be_dropped(tmp_path):
    create_database(tmp_path / "corrections.sqlite")
    overlay = Overlay(Corrections(tmp_path / "corrections.sqlite"), SHAPE, ClassTable.from_ids([0, 1]))
    layer = ViewerModel().add_layer(Labels(overlay))
    layer.paint((3, 20, 20), 1)
    layer.undo()
    assert not np.any(overlay[3])
    layer.redo()
    forget_history(layer)
    layer.undo()
    assert np.any(overlay[3])


@pytest.fixture
def second(qapp):
    """Make a second canvas, whose slices are read in a thread."""
    made = []

    def make():
        viewer = ViewerModel()
        slice_in_thread(viewer)
        made.append(QtViewer(viewer))
        made[-1].show()
        return made[-1]

    yield make
    for canvas in made:
        stop_slicing(canvas.viewer)
        canvas.close()
    del canvas
    made.clear()
    QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    gc.collect()


def test_another_canvas_reads_its_slices_in_a_thread_of_its_own(second, qtbot):
    canvas, threads, told = second(), [], []
    canvas.viewer._layer_slicer.events.ready.connect(lambda: told.append(current_thread()))

    class Noted(Lazy):
        def __getitem__(self, index):
            threads.append(current_thread())
            return super().__getitem__(index)

    layer = canvas.viewer.add_layer(Labels(Noted(voxels()), colormap=COLORS))
    qtbot.waitUntil(lambda: layer.loaded and not layer._slice.empty)
    threads.clear()
    read_again(layer)
    qtbot.waitUntil(lambda: bool(threads) and layer.loaded)
    assert main_thread() not in threads
    assert set(told) == {main_thread()}, "Qt objects are made, connected and let go of there alone"
    assert np.array_equal(layer._slice.image.raw, expected_plane(layer, *shown_box(layer)))


def test_what_goes_wrong_after_the_end_is_told_to_nobody(monkeypatch):
    told, held = [], Event()
    monkeypatch.setattr(notification_manager, "receive_error", lambda *error: told.append(error))

    class Breaking(Lazy):
        broken = False

        def __getitem__(self, index):
            if self.broken:
                held.wait(10)
                raise OSError("the disk is gone")
            return super().__getitem__(index)

    viewer = ViewerModel()
    slice_in_thread(viewer)
    layer = viewer.add_layer(Labels(Breaking(voxels()), colormap=COLORS))
    layer.data.broken = True
    read_again(layer)
    stop_slicing(viewer)
    held.set()
    viewer._layer_slicer._executor.shutdown(wait=True)
    read_again(layer)
    assert not told


def test_keys_over_a_canvas_reach_whom_they_are_meant_for(second):
    canvas, pressed = second(), []

    class Mine(KeymapProvider):
        pass

    mine = Mine()
    mine.bind_key("K", lambda one: pressed.append(one))
    hear_keys(canvas, lambda: [mine])
    canvas.viewer.add_layer(labels(voxels()))
    QTest.keyClick(picture_of(canvas), Qt.Key.Key_K)
    assert pressed == [mine]


def test_a_crosshair_is_seen_and_taken_away(make_napari_viewer):
    viewer = make_napari_viewer(show=True)
    viewer.add_image(np.zeros((9, 40, 56), "uint8"), contrast_limits=(0, 1))
    before = picture(viewer)
    crosshair = Crosshair(canvas_of(viewer), "#ffcc33")
    assert np.array_equal(before, picture(viewer))
    crosshair.show(np.array([(0.0, 20.0), (50.0, 20.0)]))
    with_lines = picture(viewer)
    assert (with_lines != before).any(axis=-1).sum() > 100
    crosshair.hide()
    assert np.array_equal(before, picture(viewer))
    crosshair.close()


@pytest.mark.parametrize(("unit", "factor"), [("mm", 0.001), ("um", 1.0), ("pixel", 1.0), (None, 1.0)])
def test_the_units_of_a_viewer_are_known(unit, factor):
    viewer = ViewerModel()
    units = {"units": (unit,) * 3} if unit else {}
    viewer.add_layer(Image(np.zeros(SHAPE, "uint8"), **units))
    assert world_factor(viewer, "um") == pytest.approx(factor)
    assert world_factor(viewer, None) == 1.0


def test_a_narrow_canvas_has_no_play_button(second):
    canvas = second()
    canvas.viewer.add_layer(labels(voxels()))
    hide_play(canvas)
    assert not any(slider.play_button.isVisible() for slider in canvas.dims.slider_widgets)
    assert canvas.dims.slider_widgets[0].slider.isVisible()
