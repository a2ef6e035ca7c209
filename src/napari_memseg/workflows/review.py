"""Find the places of a session that are worth a look.

Volumes that are too large to be weighed voxel by voxel are weighed at a coarser level::

    newest run, its confidence, the run before it   ┐
    opinions, confirmed boxes                        ├─> ranking, block by block ──> reviews/0001/
    image (thumbnails)                               ┘
"""

from __future__ import annotations

import json
from math import prod
from typing import TYPE_CHECKING

import numpy as np
from imagecodecs import png_encode

from napari_memseg.annotation.review import PLACES, Place, next_folder
from napari_memseg.annotation.runs import RunLabels, run_chain
from napari_memseg.annotation.session import Session
from napari_memseg.errors import InputError
from napari_memseg.files import atomic_write
from napari_memseg.geometry import Box, Zyx, ceil_div, zyx
from napari_memseg.inference.control import Control
from napari_memseg.inference.ranking import BLOCK, LARGEST, Candidate, Evidence, Ranking, blocks_of
from napari_memseg.inference.run_card import CONFIDENCE
from napari_memseg.io.files import part_folder
from napari_memseg.io.formats import open_volume
from napari_memseg.io.intensity import sample_window
from napari_memseg.workflows.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_memseg.annotation.composite import Composite
    from napari_memseg.annotation.snapshot import Snapshot
    from napari_memseg.io.volume import Volume

MOST_VOXELS = 2**28
"""That are weighed; a larger volume is weighed at a coarser level."""
MOST_PLACES = 50
THUMBNAIL = 96
"""Edge of a picture, in voxels of the working level."""


def find_places(
    session: Path, *, most: int = MOST_PLACES, seed: int = 0, control: Control | None = None
) -> Iterator[Progress]:
    """Rank the places of the run that is shown, and write them down as a new list.

    Parameters
    ----------
    session : Path
        Its folder; corrections are read as they are when this begins.
    most : int
        Places of the list, random ones among them.
    seed : int
        Of the random ones.
    control : Control, optional
        Cancelling leaves nothing behind.

    Yields
    ------
    Progress
        Per block; the last carries ``review`` (a folder), ``places`` and ``level``.

    Raises
    ------
    InputError
        If nothing is predicted yet.
    Cancelled
        If ``control`` was asked to cancel.
    """
    control = control or Control()
    with Session.open(session, read_only=True) as opened, opened.snapshot() as snapshot:
        source = _Evidence(opened, snapshot)
        ranking, total = Ranking(most, seed), prod(ceil_div(source.shape, BLOCK))
        for done, _ in enumerate(ranking.look(source, blocks_of(source.shape)), start=1):
            control.raise_if_cancelled()
            yield Progress(stage="review", done=done, total=total)
        places = [source.place(number, found) for number, found in enumerate(ranking.places())]
        grey, folder = sample_window(opened.image, opened.level), next_folder(opened.path)
        folder.parent.mkdir(exist_ok=True)
        about = {"run": source.run.run.id, "seq": snapshot.seq, "level": source.level, "seed": seed}
        with part_folder(folder) as part:
            for place in places:
                picture = thumbnail(opened, snapshot.composite, grey, place)
                (part / f"{place.number:03d}.png").write_bytes(png_encode(picture))
            rows = {**about, "places": [place.to_json() for place in places]}
            atomic_write(part / PLACES, json.dumps(rows, indent=1).encode())
        reasons = [{**place.to_json(), "reason": place.reason(opened.classes)} for place in places]
    result = {"review": str(folder), "level": source.level, "places": reasons}
    yield Progress(stage="review", done=total, total=total, result=result)


class _Evidence:
    """What a session knows of the run that is shown, at a level that can be weighed."""

    def __init__(self, session: Session, snapshot: Snapshot) -> None:
        runs = session.runs()
        chain = [run for run in run_chain(runs, session.shown_run) if (run.path / "0").exists()]
        if not chain:
            raise InputError("There is no prediction to review yet. Segment first; then find places.")
        classes = session.classes
        self.run = RunLabels(chain[0], session.shape, classes)
        self._before = RunLabels(chain[1], session.shape, classes) if len(chain) > 1 else None
        stored = chain[0].path / CONFIDENCE
        self._confidence = open_volume(stored) if stored.exists() else None
        self._snapshot, self._nobody, self._whole = snapshot, classes.not_predicted, session.shape
        self.level = next(k for k in range(64) if prod(self._shape_at(k)) <= MOST_VOXELS)
        self._step = zyx([2**self.level] * 3)

    def _shape_at(self, level: int) -> Zyx:
        return ceil_div(self._whole, zyx([2**level] * 3))

    @property
    def shape(self) -> Zyx:
        """Of the level that is weighed."""
        return self._shape_at(self.level)

    def read(self, box: Box) -> Evidence:
        """Return what is known of a box, in voxels of the level."""
        labels = self.run.read(box, level=self.level)
        asked = (labels != self._nobody) & ~self._known(box)
        other = None if self._before is None else self._before.read(box, level=self.level)
        differs = None if other is None else (other != labels) & (other != self._nobody)
        confidence = None if self._confidence is None else self._sure(self._confidence, box)
        return Evidence(labels=labels, asked=asked, confidence=confidence, other=other, differs=differs)

    def place(self, number: int, found: Candidate) -> Place:
        """Return a place in voxels of the working level."""
        step = self._step[0]
        centre = zyx(min(c * step + step // 2, n - 1) for c, n in zip(found.centre, self._whole, strict=True))
        box = found.box.refine(self._step).clip(self._whole)
        near = Box(zyx(c - LARGEST // 2 for c in centre), zyx(c + LARGEST // 2 for c in centre))
        return Place(
            number=number,
            kind=found.kind,
            score=round(found.score * step**3, 1),
            centre=centre,
            box=box & near,
            label=found.label,
            other=found.other,
        )

    def _finest(self, box: Box) -> Box:
        return box.refine(self._step).clip(self._whole)

    def _known(self, box: Box) -> NDArray[np.bool_]:
        """Say where somebody has an opinion, or confirmed what is shown."""
        known: NDArray[np.bool_] = self._snapshot.overlay.read(self._finest(box), self._step) != 0
        for one in self._snapshot.confirmed:
            part = one.box.coarsen(self._step) & box
            if not part.is_empty:
                known[part.relative_to(box.start).slices] = True
        return known

    def _sure(self, stored: Volume, box: Box) -> NDArray[np.uint8]:
        if self.level < len(stored.arrays) and tuple(stored.arrays[self.level].shape) == self.shape:
            return np.asarray(stored.read(box, self.level))
        return np.asarray(stored.read(self._finest(box)))[tuple(slice(None, None, s) for s in self._step)]


def thumbnail(
    session: Session, shown: Composite, window: tuple[float, float], place: Place
) -> NDArray[np.uint8]:
    """Return a picture (y, x, 3) of the slice through a place: grey values under the colours of labels."""
    z, *middle = place.centre
    spans = [
        (max(c - THUMBNAIL // 2, 0), min(c + THUMBNAIL // 2, n))
        for c, n in zip(middle, session.shape[1:], strict=True)
    ]
    box = Box((z, spans[0][0], spans[1][0]), (z + 1, spans[0][1], spans[1][1]))
    low, high = window
    grey = np.clip(
        (session.image.read(box, session.level)[0].astype(np.float32) - low) / max(high - low, 1e-6), 0, 1
    )
    picture = np.repeat(255 * grey[..., None], 3, -1)
    labels = np.asarray(shown.read(box))[0]
    for one in session.classes:
        if one.id:
            color = [int(one.color[i : i + 2], 16) for i in (1, 3, 5)]
            inside = labels == one.id
            picture[inside] = 0.6 * picture[inside] + 0.4 * np.array(color)
    return picture.astype(np.uint8)
