"""The array that is painted on: opinions only, on disk before anybody is told so.

A dab changes cells in memory. When the stroke ends, the log and the cells go to disk
in one transaction; while the button is down, at most a second or a hundred dabs are
in memory alone. Where the disk refuses, memory goes back to what is on disk::

    dab, dab, dab ──> dirty cells ──commit──> disk        state: saved, pending, saved
                                     └─refused─> dirty cells forgotten      state: failed

Voxels hold 0 (no opinion), a class id, or the class table's ``background_opinion``.
napari paints on this object as on a numpy array; each assignment outside of a stroke
is a stroke of its own.
"""

from __future__ import annotations

import getpass
import sqlite3
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_memseg.annotation.cells import CACHE_BYTES, check_inside
from napari_memseg.annotation.codec import Patch
from napari_memseg.annotation.corrections import Corrections, Stroke, now_utc
from napari_memseg.annotation.dirty import DIRTY_BYTES, DirtyCells, Mask
from napari_memseg.annotation.indexing import CELL, Points, Strided, cell_at, parse
from napari_memseg.annotation.journal import CHANGES, Journal
from napari_memseg.errors import ClassTableError, GeometryError, SessionError
from napari_memseg.geometry import Box, Zyx, cells

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from numpy.typing import ArrayLike, NDArray

    from napari_memseg.models.classes import ClassTable

GROUP_SECONDS = 1.0
GROUP_DABS = 100
"""What a crash in mid-stroke may cost: so much, whichever comes first."""

FEW_CELLS = 8
"""Changed cells of a large edit that wait in memory: so many go to the open transaction at once."""

State = Literal["saved", "pending", "failed"]


@dataclass
class _Open:
    """The stroke that is being made."""

    stroke: Stroke
    whole: bool
    """All of it or nothing goes to disk, whatever its size."""
    since: float
    dabs: int = 0


class Overlay(DirtyCells):
    """A user's opinions as an array (z, y, x): read from any thread, painted on by the one that made it.

    Parameters
    ----------
    corrections : Corrections
        Where it is stored.
    shape : (z, y, x)
        Of the session's working level, in voxels.
    classes : ClassTable
        What may be painted.
    user : str, optional
        Who paints; by default who is logged in.
    clock : callable
        Seconds that never run backwards.
    cache_bytes, dirty_bytes : int
        Budgets for cells as they are on disk, and for changed ones.

    Attributes
    ----------
    changed : list of callable
        Each is called with the box of voxels that changed, on the painting thread.
    run_id : str or None
        The newest run that the user sees, noted with each stroke.
    locked : frozenset of int
        Opinions that neither brush nor tool paints over. ``fill``, undo, redo and imports still change them,
        and a class that is only predicted is not protected.
    only_where : callable of Box -> bool array, or None
        Voxels of a dab that a brush may paint: a box of them is asked for at each dab. It does not bind
        who withdraws, ``fill``, ``fill_from``, undo and redo.
    """

    def __init__(
        self,
        corrections: Corrections,
        shape: Zyx,
        classes: ClassTable,
        *,
        user: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        cache_bytes: int = CACHE_BYTES,
        dirty_bytes: int = DIRTY_BYTES,
    ) -> None:
        super().__init__(corrections, shape, classes.dtype, cache_bytes=cache_bytes, dirty_bytes=dirty_bytes)
        self.user = user or login_name()
        self.changed: list[Callable[[Box], None]] = []
        self.run_id: str | None = None
        self.locked: frozenset[int] = frozenset()
        self.only_where: Callable[[Box], NDArray[np.bool_]] | None = None
        self._owner, self._clock = threading.get_ident(), clock
        self._journal = Journal(corrections.steps())
        self._open: _Open | None = None
        self._failed = self._filling = False
        self.set_classes(classes)

    def set_classes(self, classes: ClassTable) -> None:
        """Take another class table of the same dtype: what may be painted from now on."""
        self.classes = classes
        self._allowed = np.array([*classes.known_ids, classes.background_opinion], self.dtype)

    # Painting

    def __setitem__(self, index: Any, value: ArrayLike) -> None:
        """Paint, as numpy would assign; a stroke of its own where none is open.

        Raises
        ------
        ClassTableError, GeometryError
            If a value is no class of the table, or of a shape that does not fit the index; nothing is
            painted, and a stroke that is open stays open.
        SessionError
            If it could not be stored: then it is not in memory either.
        """
        self._own()
        self._not_while_filling()
        values, selection = self._check(value), parse(index, self.shape)
        voxels, kind = _expand(selection, values), "paint" if values.any() else "withdraw"
        if isinstance(selection, Points):
            if selection.z.size:
                voxels = self._unless_locked(voxels, lambda: np.asarray(self[index]).reshape(voxels.shape))
                self._dab(self.assign_points(selection, voxels), selection.box, kind)
        elif not selection.box.is_empty:
            if self.only_where is not None and selection.stride == (1, 1, 1) and kind == "paint":
                allowed = self.only_where(selection.box)
                voxels = np.where(allowed | (voxels == 0), voxels, self.read(selection.box))
            voxels = self._unless_locked(voxels, partial(self.read, selection.box, selection.stride))
            self._dab(self.assign_strided(selection, voxels), selection.box, kind)

    def fill(
        self, box: Box, value: int, mask: Mask | None = None, *, tool: str = "fill", kind: str = "fill"
    ) -> int | None:
        """Give all voxels of a box, or of a mask in it, one value: one stroke, stored whole or not at all.

        Parameters
        ----------
        box : Box
            Of any size: it passes through memory cell by cell.
        value : int
            As for painting; 0 withdraws.
        mask : bool array, or callable of Box -> bool array, optional
            Which voxels, as large as the box; a callable is asked cell by cell.
        tool, kind : str
            For the log; ``kind`` is one of ``fill``, ``bulk``, ``withdraw``, ``import``.

        Returns
        -------
        int or None
            The seq of the stroke; None if nothing changed.
        """
        self._own()
        check_inside(box, self.shape)
        if isinstance(mask, np.ndarray) and mask.shape != box.shape:
            raise GeometryError(f"The mask is of shape {mask.shape}, but the box is of {box.shape} voxels.")
        values = self._check(value)
        self._begin(tool, _known(kind), whole=True)
        return self._paint_whole(self.assign_masked(box, values, mask), box)

    def fill_from(
        self, box: Box, values: Callable[[Box], NDArray[Any]], *, tool: str, kind: str = "bulk"
    ) -> Generator[Box, None, None]:
        """Give the voxels of a box values of their own, cell by cell: one stroke, stored whole or not at all.

        Whoever stops before the end, or an error on the way, leaves everything as it was. Until then nothing
        else can be painted or undone (SessionError), and ``commit`` stores nothing.

        Parameters
        ----------
        box : Box
            Of any size: it passes through memory cell by cell, in storage order.
        values : callable of Box -> (z, y, x) array
            As for painting, asked for one cell at a time; 0 withdraws.
        tool, kind : str
            For the log, as for ``fill``.

        Yields
        ------
        Box
            Each cell once it is taken; all are on disk when the iteration has ended.
        """
        self._own()
        check_inside(box, self.shape)
        self._begin(tool, _known(kind), whole=True)
        yield from self._slowly(self._filled(box, values, binds=kind != "import"), box)

    def _filled(self, box: Box, values: Callable[[Box], NDArray[Any]], *, binds: bool) -> Iterator[Box]:
        """Take the values of a box cell by cell; locked opinions stay where the lock ``binds``."""
        for key in cells(box, CELL):
            cell = cell_at(key, self.shape)
            part = cell & box
            found = self._check(values(part))
            if binds:
                found = self._unless_locked(found, partial(self.read, part))
            self.assign(key, part.relative_to(cell.start).slices, found)
            yield part

    def _slowly(self, pieces: Iterator[Box], box: Box) -> Generator[Box, None, int | None]:
        """Take the open stroke piece by piece, store it at the end, and return its seq.

        Whoever stops before the end, or an error on the way, leaves everything as it was.
        """
        self._filling = True
        try:
            for piece in pieces:
                if len(self._dirty) >= FEW_CELLS:
                    with self._to_disk():
                        self.spill()
                yield piece
        except BaseException:
            self._roll_back()
            raise
        finally:
            self._filling = False
        seq = self.commit()
        self._tell(box)
        return seq

    @contextmanager
    def stroke(self, *, tool: str = "brush", kind: str = "paint") -> Iterator[Overlay]:
        """Gather all that is painted in the ``with`` body into one stroke, on disk when it ends."""
        self.begin_stroke(tool=tool, kind=kind)
        try:
            yield self
        finally:
            self.commit()

    def begin_stroke(self, *, tool: str = "brush", kind: str = "paint") -> None:
        """Open a stroke (button down); one that is still open is stored first."""
        self._begin(tool, _known(kind), whole=False)

    @property
    def in_stroke(self) -> bool:
        """Whether a stroke is open."""
        return self._open is not None

    def commit(self) -> int | None:
        """Store and close the open stroke (button up).

        Returns
        -------
        int or None
            The seq of what is now on disk; None if there was nothing to store.

        Raises
        ------
        SessionError
            If it could not be stored: memory is back at what is on disk, and ``state`` is ``failed``.
        """
        self._own()
        if self._filling:
            return None
        seq = self._store(last=True)
        self._open = None
        return seq

    def settle(self) -> None:
        """Store and close the open stroke, before anything but a stroke is written; errors as for ``commit``.

        Raises
        ------
        SessionError
            Also while a large edit is being painted: nothing else can be written until it is done.
        """
        self._not_while_filling()
        self.commit()

    def flush(self) -> int | None:
        """Store what is pending of the open stroke, and leave it open; errors as for ``commit``."""
        self._own()
        return None if self._open is None or self._open.whole else self._store(last=False)

    def _not_while_filling(self) -> None:
        if self._filling:
            raise SessionError("A large edit is still being painted. Wait a moment, and do it again.")

    def _unless_locked(self, voxels: NDArray[Any], here: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """Return what is to be painted, with locked opinions as they are."""
        if not self.locked:
            return voxels
        current = here()
        kept = np.isin(current, list(self.locked))
        return np.where(kept, current, voxels) if kept.any() else voxels

    def _begin(self, tool: str, kind: str, *, whole: bool, undoes: int | None = None) -> None:
        self._not_while_filling()
        self.commit()
        self.retry()
        stroke = Stroke(kind=kind, tool=tool, user=self.user, run_id=self.run_id, undoes=undoes)
        self._open = _Open(stroke, whole, self._clock())

    def _dab(self, pieces: Iterator[None], box: Box, alone: str) -> None:
        """Take one dab, inside the open stroke or as one of its own, of kind ``alone``."""
        if self._open is None:
            self._begin("array", alone, whole=True)
            self._paint_whole(pieces, box)
        else:
            self._paint(pieces)
            self._after_dab()
            self._tell(box)

    def _paint_whole(self, pieces: Iterator[None], box: Box) -> int | None:
        """Take and store all of a stroke, and only then tell of it: a listener that raises undoes nothing."""
        self._paint(pieces)
        seq = self.commit()
        self._tell(box)
        return seq

    def _paint(self, pieces: Iterator[None]) -> None:
        try:
            for _ in pieces:
                self._make_room()
        except BaseException:
            self._roll_back()
            raise

    def _check(self, value: ArrayLike) -> NDArray[Any]:
        """Return values that the overlay may hold, in its dtype."""
        values = np.asarray(value)
        if values.dtype.kind not in "iu" or not np.isin(values, self._allowed).all():
            found = np.unique(values)[:10].tolist()
            raise ClassTableError(
                f"{values.dtype} values {found} cannot all be painted. Possible are 0 (withdraw), classes "
                f"{list(self.classes.ids[1:])}, and {self.classes.background_opinion} (this is background). "
                "Add a class to the session first."
            )
        return values.astype(self.dtype, copy=False)

    # Undo

    @property
    def can_undo(self) -> bool:
        """Whether there is a step to take back."""
        return self._journal.undoable is not None

    @property
    def can_redo(self) -> bool:
        """Whether there is a step to bring back."""
        return self._journal.redoable is not None

    def undo(self) -> int | None:
        """Take the last step back: exactly the opinions before it, also after a restart.

        Returns
        -------
        int or None
            The seq under which that was stored; None if there is nothing to take back.
        """
        return _last(self.undoing())

    def redo(self) -> int | None:
        """Bring back the step that was taken back last; as for ``undo``."""
        return _last(self.redoing())

    def undoing(self) -> Generator[Box, None, int | None]:
        """Take the last step back cell by cell; returns what ``undo`` does.

        As for ``fill_from``: whoever stops before the end leaves everything as it was, and until then
        nothing else can be painted or undone.

        Yields
        ------
        Box
            Each cell of the step once it is as it was; all are on disk when the iteration has ended.
        """
        self.settle()
        step = self._journal.undoable
        return None if step is None else (yield from self._walk(step, "undo", Patch.undo, backwards=True))

    def redoing(self) -> Generator[Box, None, int | None]:
        """Bring back the step that was taken back last, cell by cell; as for ``undoing``."""
        self.settle()
        step = self._journal.redoable
        return None if step is None else (yield from self._walk(step, "redo", Patch.redo, backwards=False))

    def _walk(
        self, step: int, kind: str, apply: Callable[[Patch, NDArray[Any]], None], *, backwards: bool
    ) -> Generator[Box, None, int | None]:
        ids = self._corrections.patches(step)
        self._begin(kind, kind, whole=True, undoes=step)
        pieces = self._applied(ids[::-1] if backwards else ids, apply)
        return (yield from self._slowly(pieces, self._corrections.box_of(step)))

    def _applied(self, ids: list[int], apply: Callable[[Patch, NDArray[Any]], None]) -> Iterator[Box]:
        for patch_id in ids:
            key, patch = self._corrections.patch(patch_id, self.dtype)
            with self._lock:
                cell = self._look(key).copy()
            apply(patch, cell)
            self.assign(key, ..., cell)
            yield cell_at(key, self.shape)

    # Storing

    @property
    def state(self) -> State:
        """What the badge shows: ``saved`` only if everything that can be seen is on disk."""
        if self._failed:
            return "failed"
        return "pending" if self.has_pending else "saved"

    def retry(self) -> None:
        """See whether the disk takes anything again, after it refused; painting starts with this.

        Raises
        ------
        SessionError
            If it still refuses.
        """
        try:
            if self._failed or self._corrections.read_only:
                self._corrections.probe()
            self._failed = False
        except (sqlite3.Error, OSError) as error:
            raise _refused(error, "Nothing was painted") from error

    def _after_dab(self) -> None:
        """Store a lasting stroke in parts, so that a crash costs a second of it at most."""
        if self._open is None or self._open.whole:
            return
        self._open.dabs += 1
        if self._open.dabs >= GROUP_DABS or self._clock() - self._open.since >= GROUP_SECONDS:
            self._store(last=False)

    def _make_room(self) -> None:
        """Keep changed cells within their budget: on disk, or in the open transaction."""
        if self._open is None or not self.is_full:
            return
        if self._open.whole:
            with self._to_disk():
                self.spill()
        else:
            self._store(last=False)

    def _store(self, *, last: bool) -> int | None:
        """Commit what is pending as one part of the open stroke."""
        if self._open is None:
            return None
        with self._to_disk():
            self.spill()
            seq = self._corrections.commit(replace(self._open.stroke, utc=now_utc()))
        self.saved()
        self._open.since, self._open.dabs = self._clock(), 0
        if seq is not None:
            self._remember(seq, last=last)
        return seq

    @contextmanager
    def _to_disk(self) -> Iterator[None]:
        """Go back to what is on disk, and say so, where the disk refuses."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            self._failed = True
            try:
                self._roll_back()
            finally:
                raise _refused(error, "What was painted since the last save is gone") from error
        except BaseException:
            self._roll_back()
            raise

    def _remember(self, seq: int, *, last: bool) -> None:
        if self._open is None:
            return
        step = self._open.stroke.step or seq
        self._journal.record(step, self._open.stroke.kind, self._open.stroke.undoes)
        if not last:
            self._open.stroke = replace(self._open.stroke, step=step)

    def _roll_back(self) -> None:
        """Forget everything that is not on disk."""
        self._open = None
        self.forget()
        self._journal = Journal(self._corrections.steps())
        self._tell(Box.whole(self.shape))

    def _tell(self, box: Box) -> None:
        """Call every listener in turn, also after one that raises; then its error rises."""
        with ExitStack() as calls:
            for listener in reversed(self.changed):
                calls.callback(listener, box)

    def _own(self) -> None:
        if threading.get_ident() != self._owner:
            raise RuntimeError(
                "Only the thread that opened the session may paint. Send the change to it, "
                "for example by a Qt signal; reading is possible from any thread."
            )


def _expand(selection: Strided | Points, values: NDArray[Any]) -> NDArray[Any]:
    try:
        return selection.expand(values)
    except ValueError as error:
        raise GeometryError(
            f"Values of shape {values.shape} do not fit the voxels that they are painted on ({error}). "
            "Give one value, or as many as the index names."
        ) from error


def _last(steps: Generator[Box, None, int | None]) -> int | None:
    """Take all steps at once, and return what they return."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            seq: int | None = end.value
            return seq


def _known(kind: str) -> str:
    if kind not in CHANGES:
        raise SessionError(f"{kind!r} is no kind of stroke. There are: {', '.join(CHANGES)}.")
    return kind


def _refused(error: Exception, what: str) -> SessionError:
    return SessionError(
        f"The correction could not be stored ({error}). {what}; everything saved before is safe. "
        "Make space, or the folder writable, and paint again."
    )


def login_name() -> str:
    """Return who is logged in, as far as the system can say."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
