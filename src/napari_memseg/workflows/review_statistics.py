"""How a session's review goes: time, voxels, and how far its runs agree with what is known by now.

Known is what somebody painted or confirmed, and nothing else::

    snapshot (opinions, confirmed boxes) ──┬── oldest run ──> Dice before
                                           └── newest run ──> Dice after, voxels changed
"""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_memseg.annotation.journal import CHANGES
from napari_memseg.annotation.runs import RunLabels, run_chain
from napari_memseg.annotation.session import Session
from napari_memseg.inference.control import Control
from napari_memseg.workflows.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_memseg.geometry import Box
    from napari_memseg.models.classes import ClassTable

PAUSE_SECONDS = 120.0
"""Between two strokes: who is silent for longer was away."""


def statistics(session: Path, *, control: Control | None = None) -> Iterator[Progress]:
    """Tell how a session's review goes: time, voxels, and how far the runs agree with what is known by now.

    Parameters
    ----------
    session : Path
        Its folder.
    control : Control, optional
        Cancelling ends it.

    Yields
    ------
    Progress
        Per cell in which something is known. The last carries ``minutes`` of painting, ``strokes``,
        ``known`` voxels and those ``changed`` (where the shown run says something else), ``reviewed`` (the
        share of the volume that is known), and per class ``known``, ``changed``, ``dice_before`` (of the
        oldest run) and ``dice_after`` (of the shown) on known voxels; None where a run predicted none.
    """
    control = control or Control()
    with Session.open(session, read_only=True) as opened, opened.snapshot() as snapshot:
        chain = run_chain(opened.runs(), opened.shown_run)
        written = [run for run in reversed(chain) if (run.path / "0").exists()]
        runs = [RunLabels(run, opened.shape, opened.classes) for run in written]
        tally = _Tally(opened.classes, runs)
        boxes = list(snapshot.cells())
        for done, box in enumerate(boxes, start=1):
            tally.add(snapshot.read(box), box)
            control.raise_if_cancelled()
            yield Progress(stage="statistics", done=done, total=len(boxes))
        log = list(opened.log())
        result = {
            "minutes": round(minutes_of([row["utc"] for row in log]), 1),
            "strokes": len({row["step"] for row in log if row["kind"] in CHANGES}),
            "reviewed": tally.known / prod(opened.shape),
            **tally.result(),
        }
    yield Progress(stage="statistics", done=len(boxes), total=len(boxes), result=result)


def minutes_of(moments: Iterable[str]) -> float:
    """Return how long somebody worked who did something at these times (ISO, rising), without breaks."""
    times = [datetime.fromisoformat(moment) for moment in moments]
    gaps = [(later - earlier).total_seconds() for earlier, later in pairwise(times)]
    return sum(gap for gap in gaps if 0 < gap <= PAUSE_SECONDS) / 60


class _Tally:
    """Counts of known voxels: by class, and how the first and the last run agree with them."""

    def __init__(self, classes: ClassTable, runs: list[RunLabels]) -> None:
        self._classes, self.known = classes, 0
        self._runs = {"dice_before": runs[0], "dice_after": runs[-1]} if runs else {}
        n = len(classes)
        self._counts = {name: np.zeros((n + 1, n + 1), np.int64) for name in self._runs}
        self._truth = np.zeros(n, np.int64)

    def add(self, truth: NDArray[Any], box: Box) -> None:
        """Count a box of truth."""
        known = truth != self._classes.not_predicted
        self.known += int(known.sum())
        expected = self._index(truth[known])
        self._truth += np.bincount(expected, minlength=len(self._truth) + 1)[:-1]
        for name, run in self._runs.items():
            found = self._index(run.read(box)[known])
            width = len(self._counts[name])
            self._counts[name] += np.bincount(expected * width + found, minlength=width**2).reshape(
                width, width
            )

    def result(self) -> dict[str, Any]:
        """Return numbers in plain JSON values."""
        rows = {str(c.id): {"known": int(self._truth[i]), **self._of(i)} for i, c in enumerate(self._classes)}
        changed = sum(row["changed"] or 0 for row in rows.values())
        return {"known": self.known, "changed": changed, "classes": rows}

    def _of(self, i: int) -> dict[str, Any]:
        found: dict[str, Any] = {"changed": None, "dice_before": None, "dice_after": None}
        for name, counts in self._counts.items():
            seen = counts[:, :-1]  # the last column: not predicted
            total = seen[i].sum() + seen[:, i].sum()
            found[name] = float(2 * seen[i, i] / total) if seen[i].sum() else None
            if name == "dice_after":
                found["changed"] = int(seen[i].sum() - seen[i, i])
        return found

    def _index(self, ids: NDArray[Any]) -> NDArray[np.int64]:
        """Return the place of each id in the class table; behind the last one what is none of it."""
        table = np.asarray(self._classes.ids)
        at = np.searchsorted(table, ids).clip(max=len(table) - 1)
        return np.where(table[at] == ids, at, len(table))
