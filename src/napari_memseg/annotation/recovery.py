"""After a crash: what is unfinished goes, what is damaged is kept aside, and only when asked.

A damaged database is never opened for editing and never deleted. Who decides to go
on gives a backup, or begins with no corrections at all::

    corrections.sqlite (damaged)  ──>  corrections.aside-1/
    backup                        ──>  corrections.sqlite
"""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path

from napari_memseg.annotation.database import create_database, open_database
from napari_memseg.annotation.lock import SessionLock
from napari_memseg.annotation.record import CORRECTIONS, IMAGE, SessionRecord
from napari_memseg.annotation.seal import ENDING
from napari_memseg.io.files import fsync_path

STILL_BUILT = 3600.0
"""Seconds without a write after which nobody is building a folder any more."""


def restore(path: str | Path, backup: str | Path | None, *, takeover: bool = False) -> Path | None:
    """Put a backup in the place of a session's corrections, which are kept aside.

    Parameters
    ----------
    path : path-like
        Of the session; nobody may have it open for editing.
    backup : path-like or None
        What ``Session.backup`` made; None begins with no corrections at all.
    takeover : bool
        As for ``Session.open``.

    Returns
    -------
    Path or None
        The folder with the files that were set aside.

    Raises
    ------
    SessionError
        If the backup is damaged itself: then nothing is moved.
    """
    folder = Path(path)
    SessionRecord.load(folder)
    if backup is not None:
        open_database(Path(backup), read_only=True)[0].close()
    lock = SessionLock(folder, takeover=takeover)
    try:
        return _replace(folder, None if backup is None else Path(backup))
    finally:
        lock.release()


def _replace(folder: Path, backup: Path | None) -> Path | None:
    fresh = folder / f"{CORRECTIONS}.part"
    fresh.unlink(missing_ok=True)
    if backup is None:
        create_database(fresh)
    else:
        shutil.copyfile(backup, fresh)
        fsync_path(fresh)
    aside = _set_aside(folder)
    fresh.rename(folder / CORRECTIONS)
    fsync_path(folder)
    return aside


def _set_aside(folder: Path) -> Path | None:
    names = [f"{CORRECTIONS}{end}" for end in ("-wal", "-shm", "-journal", ENDING, "")]
    old = [folder / name for name in names if (folder / name).exists()]
    if not old:
        return None
    aside = folder / f"corrections.aside-{len(list(folder.glob('corrections.aside-*'))) + 1}"
    aside.mkdir()
    for path in old:
        path.rename(aside / path.name)
    return aside


def sweep(folder: Path, since: float) -> list[Path]:
    """Delete what was being built in a session and is left, and name it; runs look after their inside.

    A pyramid of the image stays: whoever builds it again goes on with it.

    Parameters
    ----------
    folder : Path
        Of the session.
    since : float
        When it was locked, in seconds as ``st_mtime`` counts them. What anything was written in within an
        hour before may still be in the making: an export needs no lock.
    """
    found = [path for sub in (".", "models", "exports", "runs") for path in (folder / sub).glob("*")]
    parts = [path for path in found if path.suffix in (".part", ".partial") and path.stem != IMAGE]
    old = [path for path in parts if _last_written(path) < since - STILL_BUILT]
    for path in old:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    return old


def _last_written(path: Path) -> float:
    """Return the newest time of a file, or of a folder and anything in it."""
    names = [os.path.join(root, name) for root, folders, files in os.walk(path) for name in folders + files]
    try:
        return max(os.lstat(name).st_mtime for name in [str(path), *names])
    except FileNotFoundError:  # somebody is at work there
        return math.inf
