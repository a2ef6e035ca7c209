"""One click on the picture that shows a tool its place, and does not paint.

::

    button ──> wait: pan_zoom ──press, release──> act, the mode as before
                    │   └──press, drag, release──> the picture moved: go on waiting
                    └──another mode, the button again──> nothing is waited for any more
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from napari import Viewer
from napari.layers import Labels
from qtpy.QtWidgets import QApplication

STILL = "pan_zoom"
"""The mode in which a click does nothing, and a drag moves the picture."""


class Pointer:
    """Waits for one click at a time.

    Parameters
    ----------
    viewer : Viewer
        On whose picture it is.
    given_up : callable
        Called where another mode is chosen while a click is waited for.
    """

    def __init__(self, viewer: Viewer, given_up: Callable[[], None]) -> None:
        self._viewer, self._given_up = viewer, given_up
        self._layer: Labels | None = None
        self._mode = STILL
        self._on_press: Callable[[Viewer, Any], Iterator[None]] | None = None
        self.waits_for = ""

    def wait(self, name: str, layer: Labels, act: Callable[[], None]) -> None:
        """Act at the next click, under a name; ``layer`` does not paint until then."""
        self.stop()
        self.waits_for, self._layer, self._mode = name, layer, str(layer.mode)
        layer.mode = STILL

        def on_press(viewer: Viewer, event: Any) -> Iterator[None]:
            first, reach = np.asarray(event.pos), 0.0
            yield
            while event.type == "mouse_move":
                reach = max(reach, float(np.abs(np.asarray(event.pos) - first).max()))
                yield
            if reach < QApplication.startDragDistance() and self._on_press is on_press:
                self.stop()
                act()

        self._on_press = on_press
        self._viewer.mouse_drag_callbacks.append(on_press)
        layer.events.mode.connect(self._on_mode)

    def stop(self) -> None:
        """Wait no more, and go back to the mode of before, unless another was chosen."""
        layer, self._layer, self.waits_for = self._layer, None, ""
        if layer is None:
            return
        if self._on_press in self._viewer.mouse_drag_callbacks:
            self._viewer.mouse_drag_callbacks.remove(self._on_press)
        self._on_press = None
        layer.events.mode.disconnect(self._on_mode)
        if str(layer.mode) == STILL:
            layer.mode = self._mode

    def _on_mode(self) -> None:
        if self._layer is not None and str(self._layer.mode) != STILL:
            self.stop()
            self._given_up()
