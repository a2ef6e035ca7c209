"""Have done what napari does once, when its first labels layer is made, before anybody waits for it.

It imports pandas for the layer's table and has numba compile how labels become colours: one to two seconds
in which the window would stand still when the first session is opened. A thread does it while the dock is
looked at.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from importlib import import_module
from threading import Thread

import numpy as np
from napari.utils.colormaps import DirectLabelColormap

DTYPES = (np.uint8, np.uint16)
"""Of the labels of sessions, but for those of more classes."""


@cache
def warm_up() -> Thread:
    """Begin, once in a process; return the thread."""
    thread = Thread(target=_warm, name="warming")
    thread.start()
    return thread


def _warm() -> None:
    with suppress(ImportError):  # should napari do without one day
        import_module("pandas")
    colors = DirectLabelColormap(color_dict={None: "transparent", 0: "transparent", 1: "white"})
    for dtype in DTYPES:
        colors.map(np.zeros((2, 2), dtype))
