"""Take over corrections that were made elsewhere: one step in the log, which one undo takes back.

They are looked at first, and painted only if every value means something; what somebody has
painted here already stays, unless it is to be overwritten::

    labels ──check all──> layer of planes ──cell by cell──> one stroke of kind "import"
           └─refused: nothing was changed                   └─stopped: nothing was changed
"""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import fastremap
import numpy as np

from napari_memseg.annotation.session import Session
from napari_memseg.errors import GeometryError, InputError
from napari_memseg.files import beside
from napari_memseg.geometry import Box, Zyx, zyx
from napari_memseg.inference.control import Control
from napari_memseg.io.formats import open_volume
from napari_memseg.workflows.exports.layers import Layers
from napari_memseg.workflows.label_meaning import ImportConfig, Meaning, told_beside
from napari_memseg.workflows.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_memseg.annotation.overlay import Overlay
    from napari_memseg.io.volume import Volume


def import_corrections(
    folder: Path, labels: str, config: ImportConfig | None = None, *, control: Control | None = None
) -> Generator[Progress, None, None]:
    """Paint labels from elsewhere into a session, as one step of kind "import".

    Parameters
    ----------
    folder : Path
        Of the session, which nobody else may be editing.
    labels : str
        Source of whole numbers, of the session's shape or of the box's.
    config : ImportConfig, optional
        What they mean.
    control : Control, optional
        Cancelling leaves everything as it was.

    Yields
    ------
    Progress
        In planes, per layer that is checked and per cell that is painted; the last carries ``seq``,
        ``imported`` and ``kept`` (voxels that changed, and those that say otherwise here and stayed), and
        ``classes`` (voxels that changed, by class id).

    Raises
    ------
    InputError
        If the labels do not fit, or hold values that mean nothing here; nothing was changed.
    SessionLockedError
        If somebody is editing the session.
    Cancelled
        If ``control`` was asked to cancel.
    """
    control, config = control or Control(), config or ImportConfig()
    with Session.open(folder) as session:
        told = told_beside(labels, session)
        theirs = _Theirs.of(open_volume(labels), session.shape, config.box or told.region, folder)
        meaning = Meaning(session.classes, theirs.dtype, config, told)
        for step in theirs.check(meaning):
            yield step
            control.raise_if_cancelled()
        painting = _Painting(session.overlay, theirs, meaning, overwrite=config.overwrite)
        steps = session.overlay.fill_from(theirs.region, painting.values, tool="import", kind="import")
        with closing(steps):  # before the session, which stores what is painted when it closes
            for cell in steps:
                yield theirs.progress("import labels", cell)
                control.raise_if_cancelled()
        result = {"session": str(folder), "seq": session.corrections.seq, **painting.result()}
    yield Progress(stage="import labels", done=1, total=1, result=result)


@dataclass(frozen=True)
class _Theirs:
    """Labels from elsewhere, in voxels of the session."""

    volume: Volume
    region: Box
    start: Zyx
    """Where in the session the labels begin."""
    folder: Path

    @classmethod
    def of(cls, volume: Volume, shape: Zyx, box: str | None, folder: Path) -> _Theirs:
        """Find out where labels belong."""
        if volume.dtype.kind not in "iub":
            raise InputError(
                f"{volume.source} holds {volume.dtype} voxels, but labels are whole numbers. "
                "Save them as integers, for example as uint8 or uint16."
            )
        region, theirs = Box.parse(box, shape) if box else Box.whole(shape), zyx(volume.shape)
        if theirs not in (shape, region.shape):
            where = f"the box {region} has {region.shape}" if box else "no box was given"
            raise GeometryError(
                f"{volume.source} has {theirs} voxels (z, y, x), the session has {shape}, and {where}. "
                "Labels are as large as the session, or as the box that says where they belong."
            )
        return cls(volume, region, (0, 0, 0) if theirs == shape else region.start, folder)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what is read: yes and no are 1 and 0."""
        return np.dtype(np.uint8) if self.volume.dtype.kind == "b" else self.volume.dtype

    def layers(self) -> Layers:
        """Return them layer by layer; one that is too large for memory waits in the session's folder."""
        chunks = zyx(self.volume.arrays[0].chunks)
        return Layers(self._read, self.region, self.dtype, chunks, beside(self.folder / "import"))

    def _read(self, box: Box) -> NDArray[Any]:
        return self.volume.read(box.relative_to(self.start)).view(self.dtype)

    def check(self, meaning: Meaning) -> Iterator[Progress]:
        """Look at every voxel; unknown values are refused at the end."""
        found: set[int] = set()
        for box, layer in self.layers():
            for plane in layer:
                found.update(fastremap.unique(plane).tolist())
            yield self.progress("check labels", box)
        meaning.learn(found)

    def progress(self, stage: str, box: Box) -> Progress:
        """Say how many planes are done when ``box`` is."""
        done = box.stop[0] - self.region.start[0]
        return Progress(stage=stage, done=done, total=self.region.shape[0], box=box)


class _Painting:
    """What is painted cell by cell, and what it comes to."""

    def __init__(self, overlay: Overlay, theirs: _Theirs, meaning: Meaning, *, overwrite: bool) -> None:
        self._overlay, self._meaning, self._overwrite = overlay, meaning, overwrite
        self._layers = iter(theirs.layers())
        self._at, self._layer = Box((0, 0, 0), (0, 0, 0)), np.empty((0, 0, 0))
        self._kept = 0
        self._changed: Counter[int] = Counter()

    def values(self, cell: Box) -> NDArray[Any]:
        """Return what the overlay shall hold in a cell; cells are asked for in storage order."""
        while not self._at.contains(cell):
            self._at, self._layer = next(self._layers)
        resolve, ours = self._overlay.classes.resolve, self._overlay.read(cell)
        theirs = self._meaning.opinions(self._layer[cell.relative_to(self._at.start).slices])
        theirs = resolve(theirs, opinions=True)
        differ = (theirs != 0) & (theirs != resolve(ours, opinions=True))
        taken = differ if self._overwrite else differ & (ours == 0)
        self._kept += int(differ.sum() - taken.sum())
        ids, counts = np.unique(theirs[taken], return_counts=True)
        self._changed.update(dict(zip(ids.tolist(), counts.tolist(), strict=True)))
        return np.where(taken, theirs, ours)

    def result(self) -> dict[str, Any]:
        """Return what was done, as plain JSON values."""
        background = self._overlay.classes.background_opinion
        found = {0 if i == background else i: n for i, n in self._changed.items()}
        classes = {str(i): found[i] for i in sorted(found)}
        return {"imported": sum(classes.values()), "kept": self._kept, "classes": classes}
