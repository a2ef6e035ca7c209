"""The few things that we ask of napari behind its public face, in one place.

Each has a test on a real viewer, which fails first where napari changes. Everything else in
this package uses napari's public names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from weakref import ref

import numpy as np
import pint
from napari import Viewer
from napari.components import ViewerModel
from napari.layers import Labels, Layer
from napari.qt import QtViewer
from napari.utils.events import EventEmitter
from numpy.typing import NDArray
from qtpy.compat import isalive
from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QMainWindow, QWidget
from vispy.scene.visuals import Line  # type: ignore[import-untyped]

from napari_memseg.geometry import Box, zyx


def unwrapped(viewer: Viewer) -> Viewer:
    """Return the viewer itself: docks are given a proxy, which is slow and differs from what layers hold."""
    found: Viewer = getattr(viewer, "__wrapped__", viewer)
    return found


def main_window(viewer: Viewer) -> QMainWindow:
    """Return the Qt window of a viewer, which outlives our dock."""
    found: QMainWindow = viewer.window._qt_window
    return found


def connect_before_napari(emitter: EventEmitter, callback: Callable[[], None]) -> None:
    """Be called before napari's own callbacks, behind which it puts those of all others."""
    emitter.connect(callback)
    place = emitter.callbacks.index(emitter._normalize_cb(callback)[0])
    for row in (emitter._callbacks, emitter._callback_refs, emitter._callback_pass_event):
        row.insert(0, row.pop(place))


def shown_box(layer: Labels) -> tuple[Box, int] | None:
    """Return the voxels of a (z, y, x) layer that are on the screen or just beside it, and their level.

    Returns
    -------
    box, level
        Box in voxels of that level, one voxel thick along an axis that is not displayed; None where nothing
        is shown yet, or the layer is hidden.
    """
    slice_input = layer._slice_input
    if not layer.visible or not layer.loaded or layer._slice.empty:
        return None
    level = layer.data_level if layer.multiscale else 0
    tile = layer._transforms["tile2data"]
    shape: list[int] = list(_array(layer, level).shape)
    point = slice_point(layer)
    start, stop = [0, 0, 0], [0, 0, 0]
    for axis in range(3):
        if axis in slice_input.displayed:
            raw_axis = list(slice_input.displayed).index(axis)
            start[axis] = round(tile.translate[axis] / tile.scale[axis])
            stop[axis] = start[axis] + layer._slice.image.raw.shape[raw_axis]
        else:
            factor = layer.downsample_factors[level][axis] if layer.multiscale else 1.0
            start[axis] = int(np.clip(round(point[axis] / factor), 0, shape[axis] - 1))
            stop[axis] = start[axis] + 1
    return Box(zyx(start), zyx(stop)), level


def shows_volume(layer: Labels) -> bool:
    """Whether a layer is rendered in 3D."""
    return bool(layer._slice_input.ndisplay == 3)


def slice_point(layer: Labels) -> NDArray[np.float64]:
    """Return where the sliders stand, in voxels of the finest level; nan along an axis that is displayed.

    ``world_to_data`` says another place where a layer has other units than the viewer.
    """
    return np.asarray(layer._data_slice.point, np.float64)


def patch(
    layer: Labels, box: Box, level: int, values: NDArray[Any], *, shown: tuple[Box, int] | None = None
) -> bool:
    """Replace a part of what a labels layer shows, without reading the rest again.

    Parameters
    ----------
    layer : Labels
        (z, y, x), in any order of axes, single-scale or multiscale.
    box : Box
        Where, in voxels of ``level``.
    level : int
        For which level the values are.
    values : (z, y, x) array
        As large as the box.
    shown : (Box, int), optional
        What ``shown_box`` says, where it was asked already.

    Returns
    -------
    bool
        Whether anything of it is on the screen now.
    """
    shown = shown or shown_box(layer)
    if shown is None or shown[1] != level or (part := box & shown[0]).is_empty:
        return False
    displayed = list(layer._slice_input.displayed)
    seen = values[part.relative_to(box.start).slices]
    kept = seen.transpose([a for a in range(3) if a not in displayed] + displayed)
    kept = kept.reshape([part.shape[a] for a in displayed])
    where = tuple(part.relative_to(shown[0].start).slices[a] for a in displayed)
    image = layer._slice.image
    image.raw[where] = kept
    image.view[where] = layer.colormap._data_to_texture(np.ascontiguousarray(kept))
    offset = [span.start for span in where]
    layer.events.labels_update(data=image.view[where], offset=offset)
    return True


def forget_history(layer: Labels) -> None:
    """Drop napari's own undo list of a layer: ours is on disk, and napari's holds a copy of every stroke."""
    layer._reset_history()


# More than one canvas in a window


class _Reader(ThreadPoolExecutor):
    """The thread that reads slices; what goes wrong once nobody waits for them is nobody's concern."""

    ended = False
    delivery: _Delivery

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self.ended:
            late: Future[Any] = Future()
            late.cancel()
            return late
        return super().submit(self._try, fn, *args, **kwargs)

    def _try(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return fn(*args, **kwargs)
        except Exception:
            if self.ended:
                return {}
            raise


class _Delivery(QObject):
    """Carries slices from the thread that read them to the one that shows them."""

    read = Signal(object)

    def __init__(self, ready: EventEmitter) -> None:
        super().__init__()
        self._ready = ready
        self.read.connect(self._tell)

    def _tell(self, result: Any) -> None:
        self._ready(value=result)


def slice_in_thread(viewer: ViewerModel) -> None:
    """Let a thread read what a viewer shows, whatever the Preferences say: its slices may take seconds.

    napari would tell its canvas from that thread, by a QObject that is made, connected and disconnected
    there; with PySide6 that waits for ever, now and then, for a lock of the main thread. A signal of an
    object of the main thread crosses over instead.
    """
    slicer = viewer._layer_slicer
    slicer._executor.shutdown()
    slicer._executor = reader = _Reader(1, thread_name_prefix="memseg-slice")
    slicer._force_sync = False
    reader.delivery = _Delivery(slicer.events.ready)

    def read(requests: dict[Any, Callable[[], Any]]) -> dict[Any, Any]:
        result = {layer: request() for layer, request in requests.items()}
        if not reader.ended:
            reader.delivery.read.emit(result)
        return result

    slicer._slice_layers = read


def stop_slicing(viewer: ViewerModel) -> None:
    """Read nothing more for a viewer of ``slice_in_thread``, without waiting for what is being read."""
    slicer = viewer._layer_slicer
    slicer._executor.ended = True
    slicer._executor.shutdown(wait=False, cancel_futures=True)
    slicer.events.ready.disconnect()


def read_again(layer: Layer) -> None:
    """Read anew what a layer shows, as its viewer reads: in a thread if that is so."""
    layer.events.reload(layer=layer)


def canvas_of(viewer: Viewer) -> QtViewer:
    """Return the canvas of a window with its sliders."""
    return viewer.window._qt_viewer


def picture_of(canvas: QtViewer) -> QWidget:
    """Return the widget in which the mouse points and paints."""
    found: QWidget = canvas.canvas.native
    return found


def free_in_own_context(viewer: ViewerModel, canvas: QtViewer) -> None:
    """Let napari free what a removed layer drew where it was drawn: in the OpenGL context of that picture.

    It frees at once, in whatever context is current: after Qt has put a window together, Qt's own. Then
    buffers of the wrong context are deleted, and the next picture may end in a segmentation fault.
    """
    picture = ref(picture_of(canvas))

    def make_current() -> None:
        found = picture()
        if found is not None and isalive(found):  # type: ignore[no-untyped-call]
            found.makeCurrent()  # type: ignore[attr-defined] # an OpenGL widget

    connect_before_napari(viewer.layers.events.removed, make_current)


def hide_play(canvas: QtViewer) -> None:
    """Leave room for the slider of a narrow canvas: nobody plays a film there."""
    for slider in canvas.dims.slider_widgets:
        slider.play_button.hide()


def hear_keys(canvas: QtViewer, providers: Callable[[], Sequence[Any]]) -> None:
    """Let keys that are pressed over a canvas reach ``providers()``, the first that knows a key.

    napari asks the active layer and the canvas's own viewer; it chooses anew with each active layer.
    """

    def choose() -> None:
        canvas._key_map_handler.keymap_providers = list(providers())

    canvas.viewer.layers.selection.events.active.connect(choose)
    choose()


def world_factor(viewer: ViewerModel, unit: str | None) -> float:
    """Return how many units of a viewer's sliders one ``unit`` is; 1 where either is unknown."""
    units = viewer.layers.extent.units
    if unit is None or not units:
        return 1.0
    try:
        known = pint.get_application_registry()  # type: ignore[no-untyped-call]
        return float(known.Quantity(1.0, unit).to(units[-1]).magnitude)
    except pint.errors.PintError:
        return 1.0


class Crosshair:
    """Two thin lines over a picture, with a gap where they would cross.

    Parameters
    ----------
    canvas : QtViewer
        Over whose layers they are drawn; no layer list knows of them.
    color : str
        As vispy names it.
    """

    def __init__(self, canvas: QtViewer, color: str) -> None:
        self._line = Line(connect="segments", color=color, width=1, parent=canvas.canvas.view.scene)
        self._line.set_gl_state("translucent", depth_test=False)
        self._line.order = 1_000_000
        self._line.visible = False

    @property
    def points(self) -> NDArray[np.float32]:
        """Ends of the four lines, (8, 2), as (x, y) in the viewer's world; none while it is hidden."""
        hidden = np.zeros((0, 2), np.float32)
        return np.asarray(self._line.pos[:, :2], np.float32) if self._line.visible else hidden

    def show(self, points: NDArray[np.float64]) -> None:
        """Draw lines between (2 n, 2) points, as (x, y) in the viewer's world."""
        self._line.set_data(pos=points.astype(np.float32))
        self._line.visible = True

    def hide(self) -> None:
        """Draw nothing."""
        self._line.visible = False

    def close(self) -> None:
        """Take the lines out of the picture."""
        self._line.parent = None


def _array(layer: Labels, level: int) -> Any:
    return layer.data[level] if layer.multiscale else layer.data
