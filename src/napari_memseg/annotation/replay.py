"""Is what is painted what was logged? The overlay must be the replay of its strokes.

Each cell is replayed by itself, so that a check needs the memory of one cell::

    0 ──stroke 1──> ──stroke 4──> ──undo 4──> ... == cell
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np

from napari_memseg.annotation.indexing import CELL
from napari_memseg.errors import SessionError

if TYPE_CHECKING:
    from napari_memseg.annotation.corrections import Corrections
    from napari_memseg.geometry import Zyx

_WIDEST = np.dtype(np.uint32)


def check_replay(corrections: Corrections, sample: int | None = None) -> list[str]:
    """Name the cells that differ from the replay of their strokes; there should be none.

    Parameters
    ----------
    corrections : Corrections
        With nothing pending.
    sample : int, optional
        Look at so many cells only: those that changed last, and some others.
    """
    keys = corrections.keys() | corrections.touched() if sample is None else _sample(corrections, sample)
    return [fault for key in sorted(keys) if (fault := _fault(corrections, key))]


def _sample(corrections: Corrections, count: int) -> set[Zyx]:
    latest = corrections.latest(count // 2)
    others = sorted(corrections.keys() - latest)
    return latest | set(random.Random(0).sample(others, min(count - len(latest), len(others))))


def _fault(corrections: Corrections, key: Zyx) -> str | None:
    replayed = np.zeros(CELL, _WIDEST)
    try:
        for patch in corrections.history(key, _WIDEST):
            if (replayed[patch.slices][patch.mask] != patch.before).any():
                return f"cell {key}: a stroke was recorded over something else than the strokes before it"
            patch.redo(replayed)
        stored = corrections.cell(key, _WIDEST)
    except SessionError as error:
        return f"cell {key}: {error}"
    return None if (stored == replayed).all() else f"cell {key} differs from the replay of its strokes"
