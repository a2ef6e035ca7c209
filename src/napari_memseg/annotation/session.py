"""A session: one image, what people think of it, and what networks predicted.

One folder holds all of it, and outlives every crash::

    session.json        image, class table, working level, schema version
    corrections.sqlite  the only truth about a user's work, sealed while nobody edits it
    runs/0001, ...      predictions, each with its parent in runs/0001.json
    models/, exports/   checkpoints; merged labels with their provenance
    .lock               who edits; everybody else reads

Nothing in it is ever deleted, except unfinished files that a kill left behind.
"""

from __future__ import annotations

import logging
import sqlite3
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_memseg.annotation.cells import check_inside
from napari_memseg.annotation.composite import Composite
from napari_memseg.annotation.corrections import Confirmed, Corrections, Stroke
from napari_memseg.annotation.database import SCHEMA, create_database
from napari_memseg.annotation.lock import SessionLock
from napari_memseg.annotation.overlay import Overlay, login_name
from napari_memseg.annotation.record import CORRECTIONS, SessionRecord
from napari_memseg.annotation.recovery import sweep
from napari_memseg.annotation.replay import check_replay
from napari_memseg.annotation.runs import Run, RunLabels, list_runs, new_run, run_chain
from napari_memseg.annotation.snapshot import Snapshot
from napari_memseg.errors import SessionError
from napari_memseg.io.files import part_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_memseg.geometry import Box, Zyx
    from napari_memseg.io.volume import Volume
    from napari_memseg.models.classes import ClassTable

_log = logging.getLogger(__name__)

_SHOWN = "shown_run"
"""Name of a note in the database: the run that was put back, and the newest there was then."""
SAMPLE = 8
"""Cells that are replayed when a session is opened; ``verify`` replays all."""


class Session:
    """An open session; ``create`` and ``open`` make one, ``close`` or ``with`` ends it.

    Attributes
    ----------
    path : Path
        The folder.
    read_only : bool
        Nothing can be painted, confirmed or renamed here.
    corrections : Corrections
        The database.
    overlay : Overlay
        The array that is painted on, by the thread that opened the session.
    notes : list of str
        What a user should be told about the opening: strokes recovered, why it is read-only.
    """

    def __init__(
        self, path: Path, record: SessionRecord, corrections: Corrections, lock: SessionLock | None
    ) -> None:
        self.path, self.corrections = path, corrections
        self.read_only = corrections.read_only
        self.notes: list[str] = []
        self._record, self._lock, self._closed = record, lock, False
        self._image: Volume | None = None
        self._open_overlay()

    @classmethod
    def create(
        cls, path: str | Path, image: Volume, classes: ClassTable, level: int = 0, *, user: str | None = None
    ) -> Session:
        """Begin a session and open it for editing.

        Parameters
        ----------
        path : path-like
            A folder that does not exist yet; it appears whole or not at all.
        image : Volume
            What is to be segmented. Its source and fingerprint are stored, not its voxels.
        classes : ClassTable
            More can be added later.
        level : int
            The working level: the overlay and all runs are on its grid.
        user : str, optional
            Who paints; by default who is logged in.

        Raises
        ------
        InputError
            If something is at ``path``.
        SessionError
            If the image has no such level.
        SourceError
            If ``image.check`` finds a file that does not belong.
        """
        image.check()
        record = SessionRecord.new(image, classes, level)
        with part_folder(path) as part:
            lay_out(part, record)
        return cls.open(path, image=image, user=user)

    @classmethod
    def open(
        cls,
        path: str | Path,
        read_only: bool | None = False,
        *,
        takeover: bool = False,
        image: Volume | None = None,
        user: str | None = None,
    ) -> Session:
        """Open a session folder.

        Parameters
        ----------
        path : path-like
            Of the session.
        read_only : bool or None
            True takes no lock and writes nothing. None edits if that is possible, and reads otherwise.
        takeover : bool
            Edit although a process on another machine did not close the session.
        image : Volume, optional
            The image, if it is open already or has moved.
        user : str, optional
            Who paints; by default who is logged in.

        Raises
        ------
        SessionLockedError
            If somebody else is editing it.
        SessionError
            If it is no session, is damaged, or belongs to another image.
        """
        folder = Path(path)
        record = SessionRecord.load(folder)
        notes = []
        if record.schema > SCHEMA:
            read_only = True
            notes.append(f"read-only: written by a newer program (schema {record.schema}, known is {SCHEMA})")
        with ExitStack() as undo:
            lock = None if read_only else _lock(folder, takeover, read_only, notes)
            if lock:
                undo.callback(lock.release)
            corrections = Corrections(folder / CORRECTIONS, read_only=lock is None)
            undo.callback(corrections.connection.close)
            session = cls(folder, record, corrections, lock)
            session.notes += notes
            session.overlay.user = user or login_name()
            session._examine(image)
            undo.pop_all()
        return session

    def _examine(self, image: Volume | None) -> None:
        """Check what was found on disk, and clean up behind a crash."""
        if image is not None or not self.read_only:
            self._image = self._record.open_image(self.path, image)
        changed = self.corrections.fault
        faults = check_replay(self.corrections, None if changed and not self.read_only else SAMPLE)
        if faults and not self.read_only:
            raise SessionError(
                f"The corrections of {self.path} contradict their log: {faults[0]}. Open the session with "
                "read_only=True to look and to back up, or restore a backup with recovery.restore()."
            )
        self.notes += faults
        if changed:
            checked = "; its cells were compared with its strokes and are right"
            self.notes.append(f"{changed}{'' if self.read_only else checked}")
        if self.corrections.schema > SCHEMA:
            self.notes.append(
                f"read-only: the corrections have schema {self.corrections.schema}, known is {SCHEMA}"
            )
        if self.recovered:
            self.notes.append(f"recovered {self.recovered} strokes: the session was not closed")
        if self._lock and not self.read_only:
            swept = sweep(self.path, self._lock.since)
            self.notes += [f"deleted the unfinished {path.name}" for path in swept]
        for note in self.notes:
            _log.info("%s: %s", self.path, note)

    def _open_overlay(self, before: Overlay | None = None) -> None:
        """Make the array that is painted on; brushes are bound as they were before."""
        user = None if before is None else before.user
        self.overlay = Overlay(self.corrections, self.shape, self.classes, user=user)
        self.overlay.run_id = self.shown_run
        if before is not None:
            ids = {before.classes.background_opinion: self.classes.background_opinion}
            self.overlay.locked = frozenset(ids.get(value, value) for value in before.locked)
            self.overlay.only_where = before.only_where

    # What is there

    @cached_property
    def image(self) -> Volume:
        """The image, opened from its source where it was not given; refused if it is another one."""
        return self._image or self._record.open_image(self.path)

    def reopen_image(self) -> Volume:
        """Open the image anew, to find the pyramid that was built of it meanwhile.

        Raises
        ------
        SessionError
            If it is no longer where it was.
        """
        self._image = self._record.open_image(self.path)
        self.__dict__.pop("image", None)
        return self.image

    @property
    def source(self) -> str:
        """What the image was opened from when the session began; a pyramid of it changes nothing here."""
        return self._record.image.source

    @property
    def classes(self) -> ClassTable:
        """What the numbers mean."""
        return self._record.classes

    @property
    def level(self) -> int:
        """The working level of the image, whose grid overlay and runs share."""
        return self._record.level

    @property
    def shape(self) -> Zyx:
        """Of the working level, in voxels."""
        return self._record.shape

    @property
    def recovered(self) -> int:
        """Strokes that were stored after the last clean close, and found again."""
        return 0 if self.read_only else self.corrections.recovered

    def info(self) -> dict[str, Any]:
        """Describe the session in plain JSON values."""
        return {
            "path": str(self.path),
            "read_only": self.read_only,
            **self._record.describe(),
            "strokes": self.corrections.seq,
            "painted_cells": len(self.corrections.keys()),
            "confirmed": len(self.confirmed()),
            "runs": [run.id for run in self.runs()],
            "recovered": self.recovered,
            "notes": self.notes,
        }

    def log(self) -> Iterator[dict[str, Any]]:
        """Yield every stroke, oldest first, as plain JSON values."""
        return self.corrections.log()

    def verify(self) -> dict[str, Any]:
        """Replay all strokes, and compare the result with what is painted.

        Returns
        -------
        dict
            ``ok``, ``strokes``, ``cells``, ``faults`` (texts) and ``integrity`` (what SQLite says).
        """
        faults, integrity = check_replay(self.corrections), self.corrections.integrity()
        return {
            "ok": not faults and integrity == "ok",
            "strokes": self.corrections.seq,
            "cells": len(self.corrections.keys()),
            "faults": faults,
            "integrity": integrity,
        }

    def backup(self, destination: str | Path) -> Path:
        """Copy everything that is on disk of the corrections to a new file, while painting goes on.

        Raises
        ------
        InputError
            If something is at ``destination``.
        """
        self.corrections.backup(Path(destination))
        return Path(destination)

    # Runs, and what is seen

    def runs(self) -> tuple[Run, ...]:
        """Return the runs that were begun, the oldest first."""
        return list_runs(self.path / "runs")

    def new_run(self, parent: str | None = None) -> tuple[str, Path]:
        """Claim a new run, to be written at the path that is returned.

        Parameters
        ----------
        parent : str, optional
            The run that shows through until this one has predicted; by default the one that is shown.

        Returns
        -------
        run_id, path
            Nothing is at the path yet. Corrections are not touched, so no lock is needed.
        """
        run = new_run(self.path / "runs", parent or self.put_back_run)
        self.overlay.run_id = run.id
        return run.id, run.path

    def composite(self, *, seq: int | None = None, run: str | None = None) -> Composite:
        """Return what is to be seen: live, or as it was after one stroke.

        Parameters
        ----------
        seq : int, optional
            Frozen after this stroke; by default live.
        run : str, optional
            The newest run to show; by default the newest there is.
        """
        if seq is not None:
            return self.snapshot(seq=seq, run=run).composite
        return Composite(self.overlay, self.shown_runs(run), self.classes)

    def shown_runs(self, run: str | None = None) -> list[RunLabels]:
        """Return a run (by default the newest) and what shows through it, one after the other.

        The newest is noted as what the user sees from now on.
        """
        chain = run_chain(self.runs(), run or self.shown_run)
        self.overlay.run_id = chain[0].id if chain else None
        return [RunLabels(shown, self.shape, self.classes) for shown in chain]

    def snapshot(self, *, seq: int | None = None, run: str | None = None) -> Snapshot:
        """Freeze what is on disk, or what was there after one stroke: to train on, or to export.

        Parameters as for ``composite``; with no ``seq`` that of the last stroke on disk. A stroke
        that is still open is not in it.

        Raises
        ------
        SessionError
            If there is no such seq or run.
        """
        newest = run or self.shown_run
        uri = self.corrections.uri
        return Snapshot(uri, self.shape, self.classes, self.runs(), seq=seq, run_id=newest)

    def put_back(self, run: str | None) -> None:
        """Show an earlier run in place of the newest, until another one is begun; None: the newest again.

        Raises
        ------
        SessionError
            If there is no such run, or it could not be stored.
        """
        runs = self.runs()
        run_chain(runs, run)
        self._must_write()
        try:
            self.corrections.note(_SHOWN, "" if run is None else f"{run} {runs[-1].id}")
        except (sqlite3.Error, OSError) as error:
            raise SessionError(f"This could not be stored ({error}). Make space, and try again.") from error

    @property
    def put_back_run(self) -> str | None:
        """The run that was put back, as long as no newer one is there; else None."""
        runs = self.runs()
        run, _, newest = (self.corrections.meta(_SHOWN) or "").partition(" ")
        return run if runs and newest == runs[-1].id and run in {known.id for known in runs} else None

    @property
    def shown_run(self) -> str | None:
        """The run that is shown over all others: the newest, or one that was put back; None without any."""
        runs = self.runs()
        return self.put_back_run or (runs[-1].id if runs else None)

    # What may change

    def confirm(self, box: Box) -> int:
        """Declare that all that is shown in ``box`` is right: it becomes training truth.

        Returns
        -------
        int
            What ``unconfirm`` asks for.

        Raises
        ------
        SessionError
            If the newest run still has gaps there, through which an older one shows: when it fills them,
            something would be true that nobody saw.
        """
        check_inside(box, self.shape)
        self.overlay.run_id = shown = self.shown_run
        runs = [run for run in self.runs() if run.id == shown]
        if runs and not runs[0].is_finished and self.composite(run=runs[0].id).shows_older(box):
            raise SessionError(
                f"Run {runs[0].id} has not predicted all of {box} yet, and an older run shows through. "
                "Wait until it is finished (or go on with it), or confirm a smaller box that it predicted."
            )
        with self._noting("confirm") as stroke:
            return self.corrections.confirm(box, stroke)

    def unconfirm(self, confirmed_id: int) -> None:
        """Take a confirmation back; that it was there stays in the log."""
        with self._noting("unconfirm") as stroke:
            self.corrections.unconfirm(confirmed_id, stroke)

    def confirmed(self) -> list[Confirmed]:
        """Return the regions that count as checked."""
        return self.corrections.confirmed()

    def _must_write(self) -> None:
        """Store what is pending, before something else is written.

        Raises
        ------
        SessionError
            If the session can only be read, or a large edit is being painted.
        """
        if self.read_only:
            raise SessionError(
                f"{self.path} is open for reading only here. Close it where it is edited, and open it again."
            )
        self.overlay.settle()

    @contextmanager
    def _noting(self, kind: str) -> Iterator[Stroke]:
        self._must_write()
        try:
            yield Stroke(kind=kind, tool=kind, user=self.overlay.user, run_id=self.overlay.run_id)
        except (sqlite3.Error, OSError) as error:
            self.corrections.rollback()
            raise SessionError(f"This could not be stored ({error}). Make space, and try again.") from error

    def add_class(self, class_id: int, name: str, color: str | None = None) -> None:
        """Add a class; an id that has a meaning keeps it.

        Where the id needs a wider dtype, ``overlay`` becomes a new object.

        Raises
        ------
        ClassTableError
            If the id is taken.
        """
        self._set_classes(self._record.with_class(class_id, name, color))

    def rename_class(self, class_id: int, name: str, color: str | None = None) -> None:
        """Give a class another name, and perhaps another colour.

        Raises
        ------
        ClassTableError
            If there is no such class.
        """
        self._set_classes(self._record.with_class_renamed(class_id, name, color))

    def merge_class(self, class_id: int, into: int) -> None:
        """Count a class as another one from now on, wherever it was painted or predicted.

        Nothing that was painted or predicted is changed, so that ``part_class`` takes it back.

        Raises
        ------
        ClassTableError
            If one of them is no class.
        """
        self._set_classes(self._record.with_class_merged(class_id, into))

    def part_class(self, class_id: int) -> None:
        """Make a merged class one of its own again, with all that was painted and predicted of it.

        Raises
        ------
        ClassTableError
            If it was not merged.
        """
        self._set_classes(self._record.with_class_apart(class_id))

    def _set_classes(self, record: SessionRecord) -> None:
        self.overlay.settle()
        try:
            self.corrections.probe()
            record.save(self.path)
        except (sqlite3.Error, OSError) as error:
            raise SessionError(
                f"The classes could not be stored ({error}). Make space, and try again."
            ) from error
        self._record = record
        if self.classes.dtype == self.overlay.dtype:
            self.overlay.set_classes(self.classes)
        else:
            self._open_overlay(self.overlay)

    # The end

    def close(self) -> None:
        """Store what is pending, and let others edit; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        with ExitStack() as ending:
            if self._lock:
                ending.callback(self._lock.release)
            ending.callback(self.corrections.close)
            self.overlay.commit()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def lay_out(folder: Path, record: SessionRecord) -> None:
    """Put into a folder what makes it a session without strokes."""
    for name in ("runs", "models", "exports"):
        (folder / name).mkdir()
    record.save(folder)
    create_database(folder / CORRECTIONS)


def _lock(folder: Path, takeover: bool, read_only: bool | None, notes: list[str]) -> SessionLock | None:
    try:
        return SessionLock(folder, takeover=takeover)
    except SessionError as error:
        if read_only is not None:
            raise
        notes.append(f"read-only: {error}")
        return None
