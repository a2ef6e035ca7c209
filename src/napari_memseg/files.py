"""Put a file on disk so that a kill or a power cut leaves the old or the new, never a mixture.

Nothing is ever written under the name it will be read by. It is built beside it,
flushed, and renamed, which the file system does all at once::

    name.<random>.part  ──flush──>  rename  ──flush──>  the folder that holds the name

What is small and decides much, such as which number means which class, is JSON with a
checksum of itself: a bit that flips on the disk is an error, and not another meaning.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from xxhash import xxh3_64, xxh3_64_hexdigest

if TYPE_CHECKING:
    from collections.abc import Mapping

CHECKSUM = "xxh3"
"""Key of the checksum in a JSON object that ``to_checked_json`` wrote."""


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


def to_checked_json(row: Mapping[str, Any]) -> bytes:
    """Return a JSON object that also holds a checksum of all else that is in it."""
    plain = json.loads(json.dumps(row))
    return json.dumps({**plain, CHECKSUM: _checksum(plain)}, indent=1).encode()


def from_checked_json(data: str | bytes) -> dict[str, Any]:
    """Read what ``to_checked_json`` wrote; an object without a checksum is believed.

    Raises
    ------
    ValueError
        If it is no JSON object, or not the one that was written.
    """
    row = json.loads(data)
    if not isinstance(row, dict):
        raise ValueError("it is no JSON object")
    said = row.pop(CHECKSUM, None)
    if said is not None and said != _checksum(row):
        raise ValueError(
            f"its content does not have the checksum that it was written with. If somebody changed it on "
            f"purpose, delete its line {CHECKSUM!r}"
        )
    return row


def hash_of(path: str | os.PathLike[str]) -> str:
    """Return a hash of a file's content, read piece by piece."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, xxh3_64).hexdigest()


def _checksum(row: Mapping[str, Any]) -> str:
    return xxh3_64_hexdigest(json.dumps(row, sort_keys=True).encode())


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
