"""Twins of a session's layers, for another plane of the same voxels.

A twin shows the same array, so nothing is held twice, and what is chosen for one holds
for the other::

    main layer  <── opacity, colours, brush, class, mode ──>  twin
         └────────────── the same array ──────────────────────┘
    corrections: a Painter of its own on the one overlay: one journal, one undo
    result:      a LiveResult of its own on the one composite
"""

from __future__ import annotations

from napari.experimental import link_layers, unlink_layers
from napari.layers import Image, Labels, Layer
from qtpy.QtCore import QObject

from napari_memseg.annotation.indexing import MOST_VOXELS
from napari_memseg.annotation.overlay import Overlay
from napari_memseg.annotation.session import Session
from napari_memseg.geometry import Box
from napari_memseg.widgets import layers as make
from napari_memseg.widgets.desk import Desk
from napari_memseg.widgets.live import LiveResult
from napari_memseg.widgets.napari_compat import patch, read_again, shown_box
from napari_memseg.widgets.painting import Painter
from napari_memseg.widgets.session_layers import SessionLayers
from napari_memseg.workflows.progress import Progress

SEEN = ("visible", "opacity", "blending")
OF_IMAGES = (*SEEN, "colormap", "contrast_limits", "gamma")
OF_LABELS = (*SEEN, "contour")
BRUSH = ("brush_size", "selected_label", "preserve_labels", "contiguous", "n_edit_dimensions")
OF_BRUSHES = (*OF_LABELS, *BRUSH, "editable")


class PlaneResult(LiveResult):
    """A result whose slices are read in a thread: what changes meanwhile is patched when they are there."""

    def refresh(self) -> None:
        """Read all that is on the screen anew."""
        read_again(self.layer)

    def _look(self) -> None:
        if self.layer.loaded:
            super()._look()
        else:
            self._wake()


class Follower(QObject):
    """What shows in one corrections layer that another changed, in the same moment.

    Parameters
    ----------
    layer : Labels
        Of the overlay.
    overlay : Overlay
        That is painted on anywhere.
    """

    def __init__(self, layer: Labels, overlay: Overlay, parent: QObject) -> None:
        super().__init__(parent)
        self._layer, self._overlay = layer, overlay
        self._missed: Box | None = None
        overlay.changed.append(self._on_change)
        layer.events.set_data.connect(self._on_loaded)

    def close(self) -> None:
        """Listen no more."""
        self._overlay.changed.remove(self._on_change)
        self._layer.events.set_data.disconnect(self._on_loaded)
        self.deleteLater()

    def _on_change(self, box: Box) -> None:
        if not self._layer.loaded:
            self._missed = box if self._missed is None else self._missed | box
            return
        if (shown := shown_box(self._layer)) is None or (part := box & shown[0]).is_empty:
            return
        if part.size <= MOST_VOXELS:
            patch(self._layer, part, 0, self._overlay.read(part), shown=shown)
        else:
            read_again(self._layer)

    def _on_loaded(self) -> None:
        """Show what was painted while a slice was being read, which may hold it or not."""
        if self._missed is not None and self._layer.loaded:
            box, self._missed = self._missed, None
            self._on_change(box)


class Twin:
    """A layer of a plane, and the one of the main viewer that it resembles."""

    def __init__(self, source: Layer, layer: Layer, shared: tuple[str, ...]) -> None:
        self.source, self.layer = source, layer
        for name in shared:
            setattr(layer, name, getattr(source, name))
        link_layers([source, layer], shared)
        if isinstance(source, Labels):
            source.events.colormap.connect(self._take_colors)
            self._take_colors()

    def close(self) -> None:
        """Let them differ."""
        if isinstance(self.source, Labels):
            self.source.events.colormap.disconnect(self._take_colors)
        unlink_layers([self.source, self.layer])

    def _take_colors(self) -> None:
        """Take the colours of the classes, which napari's links cannot compare."""
        self.layer.colormap = self.source.colormap


class PaintedTwin(Twin):
    """A corrections layer with a painter of its own."""

    layer: Labels
    source: Labels

    def __init__(self, source: Labels, layer: Labels, session: Session, shown: SessionLayers) -> None:
        super().__init__(source, layer, OF_BRUSHES)
        self.painter = Painter(layer, session.overlay, shown)
        self.painter.stored.connect(shown.stored)
        self.follower = Follower(layer, session.overlay, shown)
        source.events.mode.connect(self._take_mode)
        layer.events.mode.connect(self._give_mode)
        self._take_mode()

    def _take_mode(self) -> None:
        if str(self.layer.mode) != str(self.source.mode):
            self.layer.mode = self.source.mode

    def _give_mode(self) -> None:
        if str(self.layer.mode) != str(self.source.mode):
            self.source.mode = self.layer.mode

    def close(self) -> None:
        """Store what is pending, and let them differ."""
        self.painter.close()  # which gives the brush back, here and in the main viewer
        self.painter.deleteLater()
        self.source.events.mode.disconnect(self._take_mode)
        self.layer.events.mode.disconnect(self._give_mode)
        super().close()
        self.follower.close()


class LiveTwin(Twin):
    """A result layer that is patched like the main one."""

    def __init__(self, source: Labels, layer: Labels, desk: Desk, shown: SessionLayers) -> None:
        super().__init__(source, layer, OF_LABELS)
        self._desk, self._shown = desk, shown
        self.live = PlaneResult(layer, shown.levels, shown)
        shown.painted.connect(self.live.changed)
        desk.segmenting.relay.stepped.connect(self._on_step)
        desk.segmenting.runs_changed.connect(self._on_runs)

    def _on_step(self, step: Progress) -> None:
        if step.box is not None and step.stage != "forecast":
            self.live.finished(step.box)

    def _on_runs(self) -> None:
        self.live.show_runs(self._shown.levels[0].runs)

    def close(self) -> None:
        """Patch no more."""
        self._shown.painted.disconnect(self.live.changed)
        self._desk.segmenting.relay.stepped.disconnect(self._on_step)
        self._desk.segmenting.runs_changed.disconnect(self._on_runs)
        super().close()
        self.live.close()
        self.live.deleteLater()


def twin_of(name: str, source: Layer, desk: Desk) -> Twin:
    """Make the twin of one of the session's layers.

    Parameters
    ----------
    name : str
        ``image``, ``result``, ``confidence`` or ``corrections``.
    source : Layer
        The one in the main viewer.
    desk : Desk
        With the session open.
    """
    session, shown = desk.session, desk.shown
    assert session is not None
    assert shown is not None
    if name == "corrections":
        assert isinstance(source, Labels)
        layer = make.corrections_layer(session, int(source.brush_size))
        return PaintedTwin(source, layer, session, shown)
    if name == "result":
        assert isinstance(source, Labels)
        return LiveTwin(source, make.result_layer(session, shown.levels), desk, shown)
    return Twin(source, copy_of(source), OF_IMAGES if isinstance(source, Image) else OF_LABELS)


def copy_of(source: Layer) -> Layer:
    """Return another layer of the same array, which keeps no slices that nobody looks at."""
    data, about, kind = source.as_layer_data_tuple()
    cache = {"cache": False} if isinstance(source, Image | Labels) else {}
    return Layer.create(data, {**about, **cache}, kind)
