"""The layers of one session in one viewer: added, watched, added again where somebody deleted one.

A deleted layer takes nothing with it: strokes are on the disk, and a run goes on.
"""

from __future__ import annotations

from typing import Any

from napari import Viewer
from napari.layers import Image, Labels, Layer
from qtpy.QtCore import QObject, Signal

from napari_memseg.annotation.session import Session
from napari_memseg.errors import SourceError
from napari_memseg.geometry import Box
from napari_memseg.inference.run_card import CONFIDENCE
from napari_memseg.io.formats import open_volume
from napari_memseg.widgets import layers as make
from napari_memseg.widgets.live import LiveResult
from napari_memseg.widgets.painting import Painter
from napari_memseg.widgets.settings import setting


class SessionLayers(QObject):
    """Image, result, confidence and corrections of a session in a viewer.

    Attributes
    ----------
    image, result, confidence, corrections : layer or None
        None where it is not shown.
    live : LiveResult or None
        Patches the result.
    painter : Painter or None
        Stores what is painted.
    hidden : set of int
        Classes that somebody does not want to see.

    Signals
    -------
    changed
        A layer came or went.
    painted : Box
        Voxels whose opinions changed.
    stored : str
        The state of the overlay, whenever it may be another.
    chosen : int
        The value that the brush of the corrections paints.
    """

    changed = Signal()
    painted = Signal(object)
    stored = Signal(str)
    chosen = Signal(int)

    def __init__(self, viewer: Viewer, session: Session, image: Layer | None, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer, self._session = viewer, session
        self.image: Layer | None = image
        self.result: Labels | None = None
        self.confidence: Image | None = None
        self.corrections: Labels | None = None
        self.live: LiveResult | None = None
        self.painter: Painter | None = None
        self.hidden: set[int] = set()
        self.levels = session.composite().levels
        self.show()
        viewer.layers.events.removed.connect(self._on_removed)

    @property
    def missing(self) -> list[str]:
        """Names of the layers that should be there and are not."""
        names = ("image", "result", "corrections")
        return [name for name in names if getattr(self, name) is None]

    def show(self) -> None:
        """Add the layers that are missing, each in its place."""
        if self.image is None:
            self.image = self._add(make.image_layer(self._session.image, name="image"), below=self.result)
        if self.result is None:
            self.result = self._add(make.result_layer(self._session, self.levels), below=self.corrections)
            self.live = LiveResult(self.result, self.levels, self)
        if self.corrections is None:
            self.corrections = self._add(make.corrections_layer(self._session, setting("brush_size")))
            self.painter = Painter(self.corrections, self._session.overlay, self)
            self.painter.changed.connect(self._on_painted)
            self.painter.stored.connect(self.stored)
            self.corrections.events.selected_label.connect(self._on_chosen)
            self._on_chosen()
        if self.hidden:
            self.recolor()
        self.changed.emit()

    def show_runs(self) -> None:
        """Show the newest run there is, over those that it replaces, in the classes of now."""
        runs = tuple(self._session.shown_runs())
        for composite in self.levels:
            composite.runs, composite.classes = runs, self._session.classes
        if self.live is not None:
            self.live.show_runs(runs)

    def show_confidence(self) -> None:
        """Show how sure the run is that is shown, if it was stored."""
        shown = self._session.shown_run
        path = self._session.path / "runs" / (shown or "none") / CONFIDENCE
        self._remove(self.confidence)
        if not path.exists():
            return
        try:
            layer = make.confidence_layer(self._session, open_volume(path))
        except SourceError:  # the run is being made at this moment
            return
        self.confidence = self._add(layer, below=self.corrections)

    def recolor(self) -> None:
        """Show classes in the colours that they have now."""
        classes = self._session.classes
        if self.result is not None:
            self.result.colormap = make.result_colors(classes, self.hidden)
        if self.corrections is not None:
            self.corrections.colormap = make.corrections_colors(classes, self.hidden)

    def replace_image(self) -> None:
        """Show the image as it opens now, with its pyramid, as it was shown before."""
        old = self.image
        kept: dict[str, Any] = {"name": "image"}
        if isinstance(old, Image):
            kept = {name: getattr(old, name) for name in ("name", "contrast_limits", "opacity", "visible")}
            kept["colormap"] = old.colormap
        layer = make.image_layer(self._session.image, **kept)
        place = 0 if old is None or old not in self._viewer.layers else self._viewer.layers.index(old)
        self.image = layer
        with make.same_active(self._viewer.layers):
            self._viewer.layers.insert(place, layer)
            self._remove(old)
        self.changed.emit()

    def close(self, *, remove: bool) -> None:
        """Let go of the session; ``remove`` takes its layers, but for the image, out of the viewer."""
        self._viewer.layers.events.removed.disconnect(self._on_removed)
        self._close_corrections()
        self._close_result()
        if remove:
            for layer in (self.corrections, self.confidence, self.result):
                self._remove(layer)
        self.image = self.result = self.confidence = self.corrections = None
        self.levels = ()
        self.deleteLater()

    def _add(self, layer: Any, below: Layer | None = None) -> Any:
        make.insert(self._viewer.layers, layer, below)
        return layer

    def _remove(self, layer: Layer | None) -> None:
        if layer is not None and layer in self._viewer.layers:
            self._viewer.layers.remove(layer)

    def _on_painted(self, box: Box) -> None:
        if self.live is not None:
            self.live.changed(box)
        self.painted.emit(box)

    def _on_chosen(self) -> None:
        """Tell which brush was taken; that of a merged class, which the dropper can take, is its new one."""
        if self.corrections is None:
            return
        taken, classes = int(self.corrections.selected_label), self._session.classes
        for value in (make.value_of(classes, c.merged_into or 0) for c in classes.merged if c.id == taken):
            self.corrections.selected_label = value
            return
        self.chosen.emit(taken)

    def _on_removed(self, event: Any) -> None:
        gone = event.value
        if gone is self.corrections:
            self._close_corrections()
            self.corrections = None
        elif gone is self.result:
            self._close_result()
            self.result = None
        elif gone is self.confidence:
            self.confidence = None
        elif gone is self.image:
            self.image = None
        else:
            return
        self.changed.emit()

    def _close_corrections(self) -> None:
        if self.painter is not None:
            self.painter.close()
            self.painter = None

    def _close_result(self) -> None:
        if self.live is not None:
            self.live.close()
            self.live = None
