"""What a network that is still learning says of what is looked at, as a layer of its own.

It is stored nowhere and never confirmed: pieces come from the training, stay while the
view is about, and go with the session::

    training (child) ──pieces──> PreviewArray (a few MB) ──patch──> layer "preview"
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels
from napari.utils.colormaps import DirectLabelColormap
from numpy.typing import NDArray
from qtpy.QtCore import QObject

from napari_memseg.annotation.indexing import ReadByBox
from napari_memseg.annotation.session import Session
from napari_memseg.geometry import Box, Zyx, ceil_div
from napari_memseg.widgets.layers import grid, insert, result_colors
from napari_memseg.widgets.napari_compat import patch
from napari_memseg.workflows.progress import Progress

if TYPE_CHECKING:
    from napari_memseg.widgets.desk import Desk

NAME = "preview"
MOST_PIECES = 1024
"""That are kept; the oldest go first."""


class PreviewArray(ReadByBox):
    """The last pieces of a preview as an array (z, y, x); 0 where there is none.

    Parameters
    ----------
    shape : (z, y, x)
        Of the session's working level.
    dtype : dtype
        Of the class table.
    """

    def __init__(self, shape: Zyx, dtype: np.dtype[Any]) -> None:
        self.shape, self.dtype = shape, dtype
        self._pieces: OrderedDict[Box, NDArray[Any]] = OrderedDict()

    def put(self, box: Box, voxels: NDArray[Any]) -> None:
        """Show class ids in a box from now on."""
        self._pieces.pop(box, None)
        self._pieces[box] = voxels
        while len(self._pieces) > MOST_PIECES:
            self._pieces.popitem(last=False)

    def clear(self) -> None:
        """Forget all pieces."""
        self._pieces.clear()

    @property
    def holds_any(self) -> bool:
        """Whether there is anything to see."""
        return bool(self._pieces)

    def read(self, box: Box, stride: Zyx = (1, 1, 1)) -> NDArray[Any]:
        """Return every ``stride``-th voxel of ``box``, newer pieces over older ones."""
        out = np.zeros(box.shape, self.dtype)
        for at, voxels in list(self._pieces.items()):
            part = at & box
            if not part.is_empty:
                out[part.relative_to(box.start).slices] = voxels[part.relative_to(at.start).slices]
        steps = tuple(slice(None, None, step) for step in stride)
        assert out[steps].shape == ceil_div(box.shape, stride)
        return out[steps]


class Previewing(QObject):
    """Shows the pieces of a training's preview.

    Attributes
    ----------
    layer : Labels or None
        While there is something to show.
    """

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self._desk = desk
        self.layer: Labels | None = None
        self._array: PreviewArray | None = None
        self._deleted = False
        desk.training.stepped.connect(self._on_step)
        desk.session_changed.connect(self.clear)
        desk.classes_changed.connect(self._recolor)
        desk.viewer.layers.events.removed.connect(self._on_removed)

    def begin(self) -> None:
        """Expect a new training: what an older one said is no longer of use."""
        self.empty()
        self._deleted = False

    def empty(self) -> None:
        """Show nothing until there is something new; the layer stays, since napari takes long to add one."""
        if self.layer is not None and self._array is not None:
            self._array.clear()
            self.layer.visible = False

    def clear(self) -> None:
        """Take the layer away, with all that it shows."""
        layer, self.layer, self._array = self.layer, None, None
        if layer is not None and layer in self._desk.viewer.layers:
            self._desk.viewer.layers.remove(layer)

    def close(self) -> None:
        """Listen no more."""
        self._desk.viewer.layers.events.removed.disconnect(self._on_removed)

    def _on_step(self, step: Progress) -> None:
        session = self._desk.session
        if step.voxels is None or step.box is None or session is None or self._deleted:
            return
        if self._desk.segmenting.relay.busy:  # a run is what is to be seen now
            return
        if self.layer is None or self._array is None:
            self._array = PreviewArray(session.shape, session.classes.dtype)
            self.layer = self._add(session, self._array)
        if not self._array.holds_any:
            self.layer.visible = True
        self._array.put(step.box, step.voxels.astype(self._array.dtype, copy=False))
        patch(self.layer, step.box, 0, step.voxels)

    def _add(self, session: Session, array: PreviewArray) -> Labels:
        layer = Labels(array, name=NAME, opacity=0.45, colormap=self._colors(session), **grid(session))
        layer.editable = False
        shown = self._desk.shown
        insert(self._desk.viewer.layers, layer, below=shown.corrections if shown is not None else None)
        return layer

    def _colors(self, session: Session) -> DirectLabelColormap:
        shown = self._desk.shown
        return result_colors(session.classes, shown.hidden if shown is not None else ())

    def _recolor(self) -> None:
        if self.layer is not None and self._desk.session is not None:
            self.layer.colormap = self._colors(self._desk.session)

    def _on_removed(self, event: Any) -> None:
        if self.layer is not None and event.value is self.layer:
            self.layer, self._array, self._deleted = None, None, True
