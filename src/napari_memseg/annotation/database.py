"""Open the one SQLite file that holds all of a user's work, so that a commit is a promise.

On a local disk it keeps a write-ahead log, flushed at every commit; on a network
share, where processes cannot share the log's index, a rollback journal. Who only
reads changes no content, only shares that index; where the folder is read-only and a
log was left behind, a copy elsewhere is read::

    editable    local: WAL, FULL         share: DELETE, FULL
    read-only   mode=ro, else immutable=1, else a temporary copy of file and log
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from napari_memseg.annotation.codec import DAMAGED
from napari_memseg.errors import SessionError
from napari_memseg.io.files import fsync_path, refuse_to_overwrite

SCHEMA = 1
"""Version of tables and of ``session.json``. A session with a higher one is only read."""

WAIT_S = 10.0
"""How long a commit waits for somebody who reads on a network share."""

_NETWORK = {
    *("nfs", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "afpfs", "webdav", "davfs", "9p", "afs"),
    *(
        "ceph",
        "lustre",
        "gpfs",
        "beegfs",
        "glusterfs",
        "fuse.sshfs",
        "fuse.glusterfs",
        "fuse.rclone",
        "ncpfs",
    ),
}

_TABLES = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE stroke (
    seq INTEGER PRIMARY KEY, step INTEGER NOT NULL, undoes INTEGER, kind TEXT NOT NULL, tool TEXT NOT NULL,
    user TEXT NOT NULL, utc TEXT NOT NULL, run_id TEXT, bbox TEXT NOT NULL, voxels INTEGER NOT NULL
);
CREATE TABLE patch (
    id INTEGER PRIMARY KEY, seq INTEGER NOT NULL, z INTEGER NOT NULL, y INTEGER NOT NULL, x INTEGER NOT NULL,
    itemsize INTEGER NOT NULL,
    box BLOB NOT NULL, mask BLOB NOT NULL, before BLOB NOT NULL, after BLOB NOT NULL
);
CREATE INDEX patch_seq ON patch (seq);
CREATE INDEX patch_cell ON patch (z, y, x, id);
CREATE TABLE cell (
    z INTEGER NOT NULL, y INTEGER NOT NULL, x INTEGER NOT NULL, itemsize INTEGER NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (z, y, x)
);
CREATE TABLE confirmed (
    id INTEGER PRIMARY KEY, since INTEGER NOT NULL, until INTEGER, bbox TEXT NOT NULL,
    user TEXT NOT NULL, utc TEXT NOT NULL, run_id TEXT
);
INSERT INTO meta VALUES ('schema', '{SCHEMA}');
"""


def create_database(path: Path) -> None:
    """Make an empty corrections database.

    Raises
    ------
    InputError
        If something is at ``path``.
    """
    refuse_to_overwrite(path)
    with closing(_connect(_uri(path, "rwc"))) as connection:
        _durable(connection, path)
        connection.executescript(f"BEGIN IMMEDIATE; {_TABLES} COMMIT;")
    fsync_path(path.parent)


def open_database(path: Path, *, read_only: bool = False) -> tuple[sqlite3.Connection, str]:
    """Open and check a corrections database; a log that a crash left is rolled forward.

    Returns
    -------
    connection, uri
        In autocommit mode, usable from any thread; and what opens the same state once more for reading.

    Raises
    ------
    SessionError
        If the file is missing or damaged. It is left as it is.
    """
    if not path.is_file():
        raise SessionError(
            f"{path} is missing: the strokes of this session were there. Put the file back, or restore a "
            "backup, or an empty one, with recovery.restore()."
        )
    try:
        if read_only:
            return _open_to_read(path)
        connection = _connect(_uri(path, "rw"))
        return _checked(connection, path, durable=True), _uri(path, "ro")
    except sqlite3.Error as error:
        raise SessionError(DAMAGED.format(what=f"{path} ({error})")) from error


def _open_to_read(path: Path) -> tuple[sqlite3.Connection, str]:
    uri = _uri(path, "ro")
    try:
        return _checked(_connect(uri), path), uri
    except sqlite3.OperationalError:
        log = Path(f"{path}-wal")
        if not log.exists() or log.stat().st_size == 0:
            uri = f"{path.resolve().as_uri()}?immutable=1"
            return _checked(_connect(uri), path), uri
    folder = Path(tempfile.mkdtemp(prefix="napari-memseg-"))
    for name in (path.name, log.name):
        shutil.copyfile(path.with_name(name), folder / name)
    uri = _uri(folder / path.name, "rw")
    return _checked(_connect(uri, _FromCopy), path), uri


class _FromCopy(sqlite3.Connection):
    """A connection to a temporary copy, which goes when the connection does."""

    def close(self) -> None:
        rows = self.execute("PRAGMA database_list").fetchall()
        super().close()
        shutil.rmtree(Path(rows[0][2]).parent, ignore_errors=True)


def _connect(uri: str, factory: type[sqlite3.Connection] = sqlite3.Connection) -> sqlite3.Connection:
    return sqlite3.connect(
        uri, uri=True, isolation_level=None, check_same_thread=False, timeout=WAIT_S, factory=factory
    )


def _checked(connection: sqlite3.Connection, path: Path, *, durable: bool = False) -> sqlite3.Connection:
    """Return the connection if SQLite finds no fault in the file; close it otherwise."""
    try:
        connection.execute("PRAGMA trusted_schema = OFF")
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.Error:
        connection.close()
        raise
    if found != "ok" or not tables >= {"meta", "stroke", "patch", "cell", "confirmed"}:
        connection.close()
        raise SessionError(
            DAMAGED.format(what=f"{path} ({found if found != 'ok' else 'tables are missing'})")
        )
    return connection


def _durable(connection: sqlite3.Connection, path: Path) -> None:
    """Make every commit wait for the disk."""
    mode = "DELETE" if on_network(path) else "WAL"
    connection.execute(f"PRAGMA journal_mode = {mode}")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA fullfsync = ON")
    connection.execute(f"PRAGMA journal_size_limit = {64 << 20}")


def _uri(path: Path, mode: str) -> str:
    return f"{path.resolve().as_uri()}?mode={mode}"


def copy_database(uri: str, destination: Path) -> None:
    """Copy what is committed of a database, in use or not, to a new file: whole or not at all.

    Raises
    ------
    InputError
        If something is at ``destination``.
    """
    refuse_to_overwrite(destination)
    part = destination.with_name(f"{destination.name}.part")
    part.unlink(missing_ok=True)
    try:
        with closing(_connect(uri)) as source, closing(sqlite3.connect(part)) as copy:
            source.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")
        fsync_path(part)
        part.rename(destination)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    fsync_path(destination.parent)


def freeze(uri: str, destination: Path, seq: int | None = None) -> sqlite3.Connection:
    """Copy what a database knew at one seq to a new file, in one read transaction.

    Parameters
    ----------
    uri : str
        Of the live database; painting there goes on.
    destination : Path
        Of a temporary file that does not exist yet: it is not made durable.
    seq : int, optional
        The last stroke to know; by default the last that is committed.

    Returns
    -------
    sqlite3.Connection
        To the copy. Its cells are those of now, its strokes those up to ``seq``, and its patches just
        those that came later and are still to be taken back.

    Raises
    ------
    SessionError
        If there is no such seq.
    """
    copy = _connect(_uri(destination, "rwc"))
    copy.execute("PRAGMA journal_mode = OFF")
    copy.execute("PRAGMA synchronous = OFF")
    copy.executescript(_TABLES)
    copy.execute("ATTACH ? AS live", (uri,))
    copy.execute("BEGIN")
    last = copy.execute("SELECT coalesce(max(seq), 0) FROM live.stroke").fetchone()[0]
    at = last if seq is None else seq
    if not 0 <= at <= last:
        copy.close()
        raise SessionError(
            f"There is no state {seq}: the strokes are numbered up to {last}, and 0 is the start."
        )
    copy.execute("INSERT INTO cell SELECT * FROM live.cell")
    copy.execute("INSERT INTO confirmed SELECT * FROM live.confirmed")
    copy.execute("INSERT INTO stroke SELECT * FROM live.stroke WHERE seq <= ?", (at,))
    copy.execute("INSERT INTO patch SELECT * FROM live.patch WHERE seq > ?", (at,))
    copy.execute("COMMIT")
    copy.execute("DETACH live")
    return copy


def on_network(path: str | os.PathLike[str], mounts: str | None = None) -> bool:
    """Tell whether a path lies on a disk that other machines share.

    Parameters
    ----------
    path : path-like
        Of a file or folder, existing or not.
    mounts : str, optional
        The list of mounts, in the manner of ``/proc/mounts``; by default that of this machine.
    """
    place = os.path.realpath(path)
    if sys.platform == "win32" and mounts is None:
        import ctypes

        drive = os.path.splitdrive(place)[0]
        return drive.startswith("\\\\") or ctypes.windll.kernel32.GetDriveTypeW(f"{drive}\\") == 4
    best, network = "", False
    for folder, kind in _mounts(mounts):
        inside = place == folder or place.startswith(folder.rstrip("/") + "/")
        if inside and len(folder) >= len(best):
            best, network = folder, kind in _NETWORK
    return network


def _mounts(text: str | None) -> list[tuple[str, str]]:
    """Return (folder, file system) of every mount."""
    if text is None and sys.platform == "darwin":
        lines = subprocess.run(
            ["/sbin/mount"], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        halves = [line.split(" on ", 1)[-1].rsplit(" (", 1) for line in lines]
        return [(half[0], half[-1].split(",")[0].rstrip(")")) for half in halves]
    if text is None:
        table = Path("/proc/mounts")
        text = table.read_text() if table.exists() else ""
    rows = [line.split(" ") for line in text.splitlines()]
    return [(row[1].replace("\\040", " "), row[2]) for row in rows if len(row) > 2]
