"""The corrections of a session on disk: a log of strokes, and what they came to.

Both change in one transaction, so that neither is ever ahead of the other. The log
only grows; a cell is there only where somebody has an opinion::

    stroke  seq 7: who, when, with what, over which run      ┐
    patch   seq 7, cell (0, 3, 1): mask, before, after       ├ one transaction
    cell    (0, 3, 1): zstd(overlay[0:64, 192:256, 64:128])  ┘

A stroke that lasts is stored in parts, each with a seq of its own; the seq of the
first part names the whole, as its *step*, which is what undo takes back. Values are
absolute: replaying a stroke twice is replaying it once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_memseg.annotation.codec import DAMAGED, Patch, pack, unpack
from napari_memseg.annotation.database import SCHEMA, copy_database, create_database, open_database
from napari_memseg.annotation.indexing import CELL
from napari_memseg.annotation.seal import break_seal, broken_seal, put_seal
from napari_memseg.errors import SessionError
from napari_memseg.geometry import Box, Zyx, zyx

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray


def now_utc() -> str:
    """Return the time as the log keeps it. Nothing is ordered by it: clocks jump."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stroke:
    """What is known of a stroke beside its voxels."""

    kind: str
    tool: str
    user: str
    run_id: str | None = None
    """The newest run when it was made: what the user saw."""
    step: int | None = None
    """Seq of the first part of the same step; None for a first part."""
    undoes: int | None = None
    """For undo and redo: the step that they take back or bring back."""
    utc: str = field(default_factory=now_utc)


@dataclass(frozen=True, slots=True)
class Confirmed:
    """A region that somebody declared checked: what was shown there is true."""

    id: int
    box: Box
    run_id: str | None
    """The newest run at that time: what it shows there is what was checked."""
    user: str
    utc: str


class Corrections:
    """One open corrections database; any thread may read, one writes.

    Parameters
    ----------
    path : Path
        Of the database.
    read_only : bool
        Never write, whatever happens.

    Attributes
    ----------
    fault : str or None
        In words, if the file is not the one that was closed: whoever edits looks at all of it first.

    Raises
    ------
    SessionError
        If the file is missing or damaged.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self.fault = broken_seal(path)
        if not read_only:
            break_seal(path)
        self._db, self.uri = open_database(path, read_only=read_only)
        self.schema = int(self.meta("schema") or 0)
        self.read_only = read_only or self.schema > SCHEMA
        if self.read_only and not read_only:
            self._db.close()
            self._db, self.uri = open_database(path, read_only=True)
        self.recovered = self._since_clean_close()
        self._open: _Transaction | None = None
        self._closed = False
        if not self.read_only:
            self.probe()

    @classmethod
    def create(cls, path: Path) -> Corrections:
        """Make an empty database and open it."""
        create_database(path)
        return cls(path)

    # What is there

    @property
    def connection(self) -> sqlite3.Connection:
        """The open database, for whoever has to close it in the end."""
        return self._db

    @property
    def seq(self) -> int:
        """Of the last stroke that is on disk; 0 before the first."""
        return int(self._db.execute("SELECT coalesce(max(seq), 0) FROM stroke").fetchone()[0])

    def meta(self, key: str) -> str | None:
        """Return one of the database's own notes."""
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def keys(self) -> set[Zyx]:
        """Return the indices of all cells that hold an opinion."""
        return {zyx(row) for row in self._db.execute("SELECT z, y, x FROM cell")}

    def cell(self, key: Zyx, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return the opinions in one cell as a new array; zeros where there is none."""
        return load_cell(self._db, key, dtype)

    def steps(self) -> Iterator[tuple[int, str, int | None]]:
        """Yield (step, kind, undoes) of every step, in the order of the log."""
        yield from self._db.execute("SELECT seq, kind, undoes FROM stroke WHERE seq = step ORDER BY seq")

    def patches(self, step: int) -> list[int]:
        """Return the ids of a step's patches, in the order in which they were made."""
        rows = self._db.execute(
            "SELECT p.id FROM patch p JOIN stroke s USING (seq) WHERE s.step = ? ORDER BY p.id", (step,)
        )
        return [row[0] for row in rows]

    def patch(self, patch_id: int, dtype: np.dtype[Any]) -> tuple[Zyx, Patch]:
        """Return the cell and the change that a patch holds."""
        row = self._db.execute(
            "SELECT z, y, x, itemsize, box, mask, before, after FROM patch WHERE id = ?", (patch_id,)
        ).fetchone()
        return zyx(row[:3]), Patch.from_row(row[3:], dtype)

    def box_of(self, step: int) -> Box:
        """Return the smallest box around all that a step changed."""
        rows = self._db.execute("SELECT bbox FROM stroke WHERE step = ?", (step,))
        return reduce(or_, (_box(row[0]) for row in rows))

    def log(self) -> Iterator[dict[str, Any]]:
        """Yield every stroke, oldest first, as plain JSON values."""
        names = ("seq", "step", "undoes", "kind", "tool", "user", "utc", "run_id", "bbox", "voxels")
        for row in self._db.execute(f"SELECT {', '.join(names)} FROM stroke ORDER BY seq"):
            yield dict(zip(names, row, strict=True))

    def confirmed(self, at: int | None = None) -> list[Confirmed]:
        """Return the regions that count as checked at a seq (by default now), oldest first."""
        rows = self._db.execute(
            "SELECT id, bbox, run_id, user, utc FROM confirmed "
            "WHERE since <= :at AND (until IS NULL OR until > :at) ORDER BY id",
            {"at": self.seq if at is None else at},
        )
        return [Confirmed(row[0], _box(row[1]), *row[2:]) for row in rows]

    # Writing

    def put(self, key: Zyx, before: NDArray[Any], after: NDArray[Any]) -> None:
        """Add a cell's change to the open transaction, or to a new one; an equal state adds nothing."""
        change = Patch.between(before, after)
        if change is None:
            return
        self._open = self._open or self._begin()
        self._db.execute(
            "INSERT INTO patch (seq, z, y, x, itemsize, box, mask, before, after) VALUES (?,?,?,?,?,?,?,?,?)",
            (self._open.seq, *key, *change.to_row()),
        )
        store_cell(self._db, key, after)
        self._open.add(key, change)

    def _begin(self) -> _Transaction:
        self._must_write()
        self._db.execute("BEGIN IMMEDIATE")
        return _Transaction(self.seq + 1)

    def commit(self, stroke: Stroke) -> int | None:
        """End the transaction: when this returns, the stroke is on disk.

        Returns
        -------
        int or None
            Its seq; None if it changed no voxel and left no trace. An undo or redo always leaves one.
        """
        if self._open is None and stroke.undoes is None:
            return None
        self._open = self._open or self._begin()
        seq = self._open.seq
        self._log(seq, stroke, str(self._open.box or _NOWHERE), self._open.voxels)
        self._db.execute("COMMIT")
        self._open = None
        return seq

    def rollback(self) -> None:
        """Forget the transaction, if there is one: the disk stays as it was."""
        self._open = None
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def probe(self) -> None:
        """Write and flush one note, or raise ``sqlite3.Error``: whether anything can be stored at all."""
        self._must_write()
        self._db.execute("INSERT OR REPLACE INTO meta VALUES ('opened', ?)", (now_utc(),))

    def confirm(self, box: Box, stroke: Stroke) -> int:
        """Record that a region was checked, and return the id of that record."""
        seq = self._begin_note(stroke, box)
        found = self._db.execute(
            "INSERT INTO confirmed (since, bbox, user, utc, run_id) VALUES (?,?,?,?,?)",
            (seq, str(box), stroke.user, stroke.utc, stroke.run_id),
        ).lastrowid
        self._db.execute("COMMIT")
        return int(found or 0)

    def unconfirm(self, confirmed_id: int, stroke: Stroke) -> None:
        """Record that a region is no longer counted as checked; the record of it stays."""
        known = {c.id: c.box for c in self.confirmed()}
        if confirmed_id not in known:
            raise SessionError(f"No confirmed region has the id {confirmed_id}. There are: {sorted(known)}.")
        seq = self._begin_note(stroke, known[confirmed_id])
        self._db.execute("UPDATE confirmed SET until = ? WHERE id = ?", (seq, confirmed_id))
        self._db.execute("COMMIT")

    def _begin_note(self, stroke: Stroke, box: Box) -> int:
        self._must_write()
        self._db.execute("BEGIN IMMEDIATE")
        seq = self.seq + 1
        self._log(seq, stroke, str(box), 0)
        return seq

    def _log(self, seq: int, stroke: Stroke, box: str, voxels: int) -> None:
        self._db.execute(
            "INSERT INTO stroke (seq, step, undoes, kind, tool, user, utc, run_id, bbox, voxels) "
            "VALUES (?,?,?,?,?,?,?,?,?,?)",
            (
                *(seq, stroke.step or seq, stroke.undoes, stroke.kind, stroke.tool),
                *(stroke.user, stroke.utc, stroke.run_id, box, voxels),
            ),
        )

    def _must_write(self) -> None:
        if self.read_only:
            raise SessionError(
                f"{self.path} is open for reading only, and nothing in it can change. "
                "Open the session for editing where nobody else does, with a program that is new enough."
            )

    # Trust

    def touched(self) -> set[Zyx]:
        """Return the cells that any stroke ever changed."""
        return {zyx(row) for row in self._db.execute("SELECT DISTINCT z, y, x FROM patch")}

    def latest(self, count: int) -> set[Zyx]:
        """Return the cells that the last ``count`` patches changed."""
        rows = self._db.execute("SELECT z, y, x FROM patch ORDER BY id DESC LIMIT ?", (count,))
        return {zyx(row) for row in rows}

    def history(self, key: Zyx, dtype: np.dtype[Any]) -> Iterator[Patch]:
        """Yield everything that happened to one cell, oldest first."""
        rows = self._db.execute(
            "SELECT itemsize, box, mask, before, after FROM patch "
            "WHERE z = ? AND y = ? AND x = ? ORDER BY id",
            key,
        )
        for row in rows:
            yield Patch.from_row(row, dtype)

    def integrity(self) -> str:
        """Return ``ok``, or the first fault that SQLite finds in the whole file."""
        return str(self._db.execute("PRAGMA integrity_check(1)").fetchone()[0])

    def note(self, key: str, value: str) -> None:
        """Store one of the database's own notes; on disk when this returns."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def backup(self, destination: Path) -> None:
        """Copy everything that is committed to a new file, while painting goes on."""
        copy_database(self.uri, destination)

    def close(self) -> None:
        """Close for good; the next one to open sees that nothing was cut off. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            if not self.read_only:
                self._db.execute("INSERT OR REPLACE INTO meta VALUES ('closed_at', ?)", (str(self.seq),))
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            self._db.close()
        if not self.read_only:
            put_seal(self.path)

    def _since_clean_close(self) -> int:
        """Count the strokes that were stored after the last clean close."""
        closed_at = int(self.meta("closed_at") or 0)
        return int(self._db.execute("SELECT count(*) FROM stroke WHERE seq > ?", (closed_at,)).fetchone()[0])


def load_cell(db: sqlite3.Connection, key: Zyx, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return one cell as a new array; zeros where there is none."""
    row = db.execute("SELECT data, itemsize FROM cell WHERE z = ? AND y = ? AND x = ?", key).fetchone()
    return np.zeros(CELL, dtype) if row is None else unpack(row[0], CELL, row[1], dtype)


def store_cell(db: sqlite3.Connection, key: Zyx, cell: NDArray[Any]) -> None:
    """Store one cell, or remove it where there is no opinion left."""
    if cell.any():
        db.execute("INSERT OR REPLACE INTO cell VALUES (?,?,?,?,?)", (*key, cell.itemsize, pack(cell)))
    else:
        db.execute("DELETE FROM cell WHERE z = ? AND y = ? AND x = ?", key)


_NOWHERE = Box((0, 0, 0), (0, 0, 0))


class _Transaction:
    """What the open transaction came to so far."""

    def __init__(self, seq: int) -> None:
        self.seq, self.voxels = seq, 0
        self.box: Box | None = None

    def add(self, key: Zyx, change: Patch) -> None:
        origin = zyx(k * n + s for k, n, s in zip(key, CELL, change.start, strict=True))
        box = Box.at(origin, zyx(change.mask.shape))
        self.voxels += change.after.size
        self.box = box if self.box is None else self.box | box


def _box(text: str) -> Box:
    try:
        spans = [part.split(":") for part in text.split(",")]
        return Box(zyx(int(a) for a, _ in spans), zyx(int(b) for _, b in spans))
    except ValueError as error:
        raise SessionError(DAMAGED.format(what=f"{text!r} is no box")) from error
