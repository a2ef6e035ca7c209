"""The seal of corrections that were closed: a hash of the file, beside it.

SQLite finds a page that is none, but no bit that flips inside of a row, where it can
move a stroke or a confirmed region. So it is known whether the file is what it was when it was closed::

    open: compare ──> break the seal ──> strokes ──> close: seal
             └──another──> all strokes are replayed, and a person is told

Behind a crash there is no seal, nor where another program held the file open; some cells are replayed as
always.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from napari_memseg.files import atomic_write, fsync_path, hash_of

if TYPE_CHECKING:
    from pathlib import Path

ENDING = ".xxh3"
_log = logging.getLogger(__name__)


def put_seal(database: Path) -> None:
    """Seal a database that was closed; on a full disk, or while its log is not empty, it stays without."""
    try:
        log = database.with_name(f"{database.name}-wal")
        if log.exists() and log.stat().st_size:
            return
        atomic_write(_seal(database), hash_of(database).encode())
    except OSError as error:
        _log.warning("%s is not sealed: %s", database, error)


def break_seal(database: Path) -> None:
    """Say that the database is about to change: on disk when this returns."""
    if _seal(database).exists():
        _seal(database).unlink()
        fsync_path(database.parent)


def broken_seal(database: Path) -> str | None:
    """Say in words that a sealed database is not what was closed; None if it is, or was not sealed."""
    try:
        said = _seal(database).read_bytes()
        if (
            said == hash_of(database).encode() or not _seal(database).exists()
        ):  # unless somebody opened it now
            return None
    except FileNotFoundError:
        return None
    return (
        f"{database} is not the file that was closed: a bit of it has flipped, or another program wrote to it"
    )


def _seal(database: Path) -> Path:
    return database.with_name(f"{database.name}{ENDING}")
