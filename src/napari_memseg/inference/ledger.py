"""What is done: one small database per writing process, merged when read.

A row is added after the files that it speaks of are on disk, so a row without
its data cannot exist; data without a row is merely computed again, to the same
bytes::

    chunk files ── fsync ── folders ── fsync ── row (stage, block, "done", xxh3)

No two processes share a file, so nothing needs a lock. The journal is SQLite's
rollback journal, since a write-ahead log needs memory that is shared by all readers
and therefore fails on network disks; ``synchronous=FULL``.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from napari_memseg.geometry import Box, Zyx, cell_box, zyx
from napari_memseg.inference.run_card import FOLDER, read_run_card

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from types import TracebackType

DONE, SKIPPED, FAILED = "done", "skipped", "failed"

_log = logging.getLogger(__name__)

_TABLE = """
CREATE TABLE IF NOT EXISTS block (
    stage TEXT NOT NULL, block TEXT NOT NULL, status TEXT NOT NULL,
    xxh3 TEXT NOT NULL, seconds REAL NOT NULL, utc TEXT NOT NULL,
    PRIMARY KEY (stage, block))
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One block of one stage that was finished, skipped since it is empty, or failed."""

    stage: str
    block: Zyx
    status: str = DONE
    xxh3: str = ""
    """Hash of the voxels that were written."""
    seconds: float = 0.0
    utc: str = ""
    """When, as ISO 8601; filled in when the row is added."""


class Ledger:
    """The ledger of this process; its file is made with the first row."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"ledger-{os.getpid()}-{uuid4().hex}.sqlite"
        self._database: sqlite3.Connection | None = None

    def add(self, rows: Iterable[Row]) -> None:
        """Write rows in one transaction; on return they are on disk."""
        database = self._database = self._database or _create(self.path)
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        values = [(r.stage, _text(r.block), r.status, r.xxh3, r.seconds, now) for r in rows]
        with database:
            database.executemany("INSERT OR REPLACE INTO block VALUES (?, ?, ?, ?, ?, ?)", values)

    def close(self) -> None:
        """Close the file."""
        if self._database:
            self._database.close()
            self._database = None

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class LedgerReader:
    """Reads the rows of every process that ever wrote to a run, each row once, however often it is asked."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._last: dict[Path, int] = {}  # number of the latest row; a row that is replaced gets a new one

    def new_rows(self) -> Iterator[Row]:
        """Yield the rows that were added or replaced since; a damaged ledger, or row, counts as none."""
        for path in sorted(self._folder.glob("ledger-*.sqlite")):
            for number, stage, block, *rest in _rows(path, self._last.get(path, 0)):
                self._last[path] = number
                try:
                    yield Row(stage, _index(block), *rest)
                except (ValueError, AttributeError):
                    _log.warning("%s is damaged: %r is no block, and is passed over.", path, block)


def read_ledgers(folder: Path) -> Iterator[Row]:
    """Yield the rows of every process that ever wrote to this run; a damaged ledger counts as empty."""
    return LedgerReader(folder).new_rows()


def _rows(path: Path, after: int) -> list[Any]:
    """Return the rows of one ledger with a number above ``after``, by number."""
    wanted = "SELECT rowid, * FROM block WHERE rowid > ? ORDER BY rowid"
    try:
        with closing(sqlite3.connect(path, timeout=60)) as database:
            exists = database.execute("SELECT 1 FROM sqlite_master WHERE name = 'block'").fetchone()
            return database.execute(wanted, [after]).fetchall() if exists else []
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
            raise
        _log.warning("%s is damaged (%s): the blocks that it speaks of are computed again.", path, error)
        return []


def done_blocks(folder: Path) -> dict[str, set[Zyx]]:
    """Return the indices of finished or skipped blocks per stage, all ledgers merged.

    A block that failed in one process and was finished by another is done.
    """
    done: dict[str, set[Zyx]] = {}
    for row in read_ledgers(folder):
        if row.status in (DONE, SKIPPED):
            done.setdefault(row.stage, set()).add(row.block)
    return done


def done_boxes(run: Path) -> list[Box]:
    """Return the voxels that a run has predicted so far, a box for each finished block of its last stage.

    Raises
    ------
    InputError
        If there is no run of ours.
    """
    plan = read_run_card(run)["plan"]
    shape, core = zyx(plan["shape"]), zyx(plan["core"])
    region = Box.parse(plan["region"], shape)
    done = done_blocks(run / FOLDER).get(plan["stages"][-1]["name"], set())
    return [cell_box(index, core, shape) & region for index in done]


def _create(path: Path) -> sqlite3.Connection:
    """Make an empty ledger that one thread at a time may write to."""
    database = sqlite3.connect(path, check_same_thread=False, timeout=60)
    database.execute("PRAGMA synchronous = FULL")
    with database:
        database.execute(_TABLE)
    return database


def _text(block: Zyx) -> str:
    return ",".join(map(str, block))


def _index(text: str) -> Zyx:
    return zyx(int(part) for part in text.split(","))
