"""What the corrections said at one moment, to train on and to export, while painting goes on.

The cells are copied to a temporary file in one read transaction, and strokes after
the wanted seq are taken back there. For training, voxels without an opinion stay
unlabelled, except where somebody confirmed what was shown::

    opinion                       -> its class (background as 0)
    none, in a confirmed region   -> what the run of that time predicts
    none                          -> unlabelled
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_memseg.annotation.cells import SparseCells
from napari_memseg.annotation.codec import Patch
from napari_memseg.annotation.composite import Composite
from napari_memseg.annotation.corrections import Confirmed, Corrections, load_cell, store_cell
from napari_memseg.annotation.database import freeze
from napari_memseg.annotation.indexing import CELL, cell_at
from napari_memseg.annotation.runs import Run, RunLabels, run_chain
from napari_memseg.geometry import Box, Zyx, cells, zyx

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from napari_memseg.models.classes import ClassTable


class Snapshot:
    """Corrections at one seq, read-only: a source of labels for training, and what an export writes.

    Parameters
    ----------
    uri : str
        Of the live database.
    shape : (z, y, x)
        Of the session's working level, in voxels.
    classes : ClassTable
        Of the session.
    runs : sequence of Run
        All of the session's.
    seq : int, optional
        By default that of the last stroke on disk.
    run_id : str, optional
        The newest run of the composite; None for none.

    Attributes
    ----------
    composite : Composite
        Opinions over predictions, frozen: the same seq, run and class table read the same for ever.
    overlay : SparseCells
        The opinions alone.
    unlabelled : int
        What ``read`` returns where nobody has an opinion.

    Raises
    ------
    SessionError
        If there is no such seq or run.
    """

    def __init__(
        self,
        uri: str,
        shape: Zyx,
        classes: ClassTable,
        runs: Sequence[Run],
        *,
        seq: int | None = None,
        run_id: str | None = None,
    ) -> None:
        self.shape, self.dtype, self.classes, self.run_id = shape, classes.dtype, classes, run_id
        self.unlabelled = classes.not_predicted
        self._runs = tuple(runs)
        chain = run_chain(self._runs, run_id)
        self._corrections, self._end = _frozen(uri, seq, classes.dtype)
        self.seq = self._corrections.seq
        self.overlay = SparseCells(self._corrections, shape, classes.dtype)
        self.composite = self._over(chain)
        self.confirmed: list[Confirmed] = self._corrections.confirmed()
        self._checked = [(c.box, self._over(run_chain(self._runs, c.run_id))) for c in self.confirmed]

    def _over(self, chain: Sequence[Run]) -> Composite:
        labels = [RunLabels(run, self.shape, self.classes) for run in chain]
        return Composite(self.overlay, labels, self.classes)

    def read(self, box: Box) -> NDArray[Any]:
        """Return class ids, and ``unlabelled`` where nobody has an opinion.

        Raises
        ------
        GeometryError
            If the box leaves the volume.
        """
        out = self.overlay.read(box)
        silent = out == 0
        out = self.classes.resolve(out, opinions=True)
        out[silent] = self.unlabelled
        out[out == self.classes.background_opinion] = 0
        for checked, shown in reversed(self._checked):
            part = checked & box
            if not part.is_empty:
                inside = out[part.relative_to(box.start).slices]
                gaps = inside == self.unlabelled
                inside[gaps] = shown.read(part)[gaps]
        return out

    def cells(self) -> Iterator[Box]:
        """Yield the boxes in which labels can be: of painted cells, then of confirmed regions."""
        painted = set(self.overlay.painted_in(Box.whole(self.shape)))
        yield from (cell_at(key, self.shape) for key in sorted(painted))
        for i, one in enumerate(self.confirmed):
            before = [c.box.coarsen(CELL) for c in self.confirmed[:i]]
            for key in cells(one.box, CELL):
                at = Box.at(key, (1, 1, 1))
                if key not in painted and not any(box.contains(at) for box in before):
                    yield cell_at(key, self.shape)

    def counts(self) -> dict[int, int]:
        """Count the labelled voxels of each class; those without a voxel are left out."""
        found: dict[int, int] = {}
        for box in self.cells():
            ids, times = np.unique(self.read(box), return_counts=True)
            for class_id, n in zip(ids.tolist(), times.tolist(), strict=True):
                found[class_id] = found.get(class_id, 0) + n
        found.pop(self.unlabelled, None)
        return dict(sorted(found.items()))

    def close(self) -> None:
        """Delete the temporary copy; it also goes when nobody holds the snapshot any more."""
        self._end()

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _frozen(
    uri: str, seq: int | None, dtype: np.dtype[Any]
) -> tuple[Corrections, weakref.finalize[..., Any]]:
    """Return a copy of the corrections at one seq, and what deletes it."""
    folder = Path(tempfile.mkdtemp(prefix="napari-memseg-"))
    try:
        with closing(freeze(uri, folder / "frozen.sqlite", seq)) as copy:
            _rewind(copy, dtype)
        corrections = Corrections(folder / "frozen.sqlite", read_only=True)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return corrections, weakref.finalize(corrections, _discard, corrections.connection, folder)


def _rewind(copy: sqlite3.Connection, dtype: np.dtype[Any]) -> None:
    """Take back every patch that is left in a frozen copy, the last one first."""
    ids = [row[0] for row in copy.execute("SELECT id FROM patch ORDER BY id DESC")]
    copy.execute("BEGIN")
    for patch_id in ids:
        row = copy.execute(
            "SELECT z, y, x, itemsize, box, mask, before, after FROM patch WHERE id = ?", (patch_id,)
        ).fetchone()
        key = zyx(row[:3])
        cell = load_cell(copy, key, dtype)
        Patch.from_row(row[3:], dtype).undo(cell)
        store_cell(copy, key, cell)
    copy.execute("COMMIT")


def _discard(connection: sqlite3.Connection, folder: Path) -> None:
    connection.close()
    shutil.rmtree(folder, ignore_errors=True)
