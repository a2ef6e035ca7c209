"""Put a file on disk so that a kill or a power cut leaves the old or the new, never a mixture.

Nothing is ever written under the name it will be read by. It is built beside it,
flushed, and renamed, which the file system does all at once::

    name.<random>.part  ──flush──>  rename  ──flush──>  the folder that holds the name
"""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4


def atomic_write(path: str | os.PathLike[str], data: bytes) -> None:
    """Replace the content of one file, durably and all at once.

    Parameters
    ----------
    path : path-like
        The final name; its folder must exist.
    data : bytes
        All of the new content.

    Raises
    ------
    OSError
        If the disk is full or the folder not writable; the old content stays.
    """
    final = Path(path)
    part = beside(final)
    try:
        with part.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(final)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    fsync_path(final.parent)


def fsync_path(path: str | os.PathLike[str]) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk.

    Windows flushes folders by itself and knows no call for it: there, folders are left alone.
    """
    windows = os.name == "nt"
    if windows and os.path.isdir(path):
        return
    descriptor = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def beside(final: Path) -> Path:
    """Return a name that nobody has, in the same folder, to build ``final`` under."""
    return final.with_name(f"{final.name}.{uuid4().hex[:8]}.part")
