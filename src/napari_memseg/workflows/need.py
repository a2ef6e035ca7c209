"""In which order a session is predicted again: where people were at work, where it was unsure, the rest.

What is looked at comes before all of it (``Control.look_at``)::

    0   around corrections that were painted, or boxes that were confirmed
    1   where the last finished run was least sure: a quarter of what it predicted
    2   the rest
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from napari_memseg.annotation.indexing import CELL
from napari_memseg.geometry import Box, Zyx, ceil_div, cells, zyx
from napari_memseg.inference.run_card import CONFIDENCE
from napari_memseg.io.formats import open_volume

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from napari_memseg.annotation.runs import Run
    from napari_memseg.annotation.session import Session

CORRECTED, UNSURE, REST = 0, 1, 2
SHARE = 0.25
"""Of what was predicted, that counts as unsure."""
MOST_VOXELS = 2**24
"""Of the coarse look at a run's confidence."""


def order_of_need(session: Session) -> Callable[[Box], int] | None:
    """Return how late a box can wait; None where nothing was predicted before, and all of it is new.

    Parameters
    ----------
    session : Session
        Read as it is now.
    """
    runs = [run for run in session.runs() if (run.path / "0").exists()]
    if not runs:
        return None
    corrected = set(session.overlay.painted_in(Box.whole(session.shape)))
    for one in session.confirmed():
        corrected.update(cells(one.box, CELL))
    finished = [run for run in runs if run.is_finished]  # not the one that goes on
    size, unsure = _unsure_cells(finished[-1]) if finished else (CELL, set[Zyx]())

    def need(box: Box) -> int:
        if any(cell in corrected for cell in cells(box, CELL)):
            return CORRECTED
        return UNSURE if any(cell in unsure for cell in cells(box, size)) else REST

    return need


def _unsure_cells(run: Run) -> tuple[Zyx, set[Zyx]]:
    """Return the cells in which a run was least sure, and their size in voxels of the session.

    There are none where confidence was not stored, or is too large. A cell is no smaller than what was read.
    """
    stored = run.path / CONFIDENCE
    if not stored.exists():
        return CELL, set()
    volume = open_volume(stored)
    level = len(volume.arrays) - 1
    shape = volume.arrays[level].shape
    if prod(shape) > MOST_VOXELS:
        return CELL, set()
    edge = 2**level  # every level of a run halves every axis
    means = _means(volume.read(Box.whole(shape), level), zyx(max(c // edge, 1) for c in CELL))
    size = zyx(max(c, edge) for c in CELL)
    known = means[np.isfinite(means)]
    if not known.size:
        return size, set()
    limit = np.quantile(known, SHARE)
    return size, {zyx(index) for index in np.argwhere(means <= limit).tolist()}


def _means(confidence: NDArray[np.uint8], cell: Zyx) -> NDArray[np.float64]:
    """Return the mean confidence of each cell; NaN where nothing was predicted."""
    found = np.full(ceil_div(zyx(confidence.shape), cell), np.nan)
    for index in np.ndindex(found.shape):
        box = Box.at(zyx(i * n for i, n in zip(index, cell, strict=True)), cell).clip(zyx(confidence.shape))
        part = confidence[box.slices]
        if (predicted := part[part != 255]).size:
            found[index] = predicted.mean()
    return found
