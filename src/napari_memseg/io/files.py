"""Put bytes on disk so that a kill or a power cut leaves the old or the new, never a mixture.

Nothing is ever written under the name it will be read by. It is built beside it,
flushed, and renamed, which the file system does all at once::

    name.<random>.part  ──flush──>  rename  ──flush──>  the folder that holds the name
"""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from napari_memseg.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator


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
    part = _beside(final)
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


def fsync_tree(folder: str | os.PathLike[str]) -> None:
    """Wait until a folder and all that is in it are on the disk, innermost first."""
    for root, _, names in os.walk(folder, topdown=False):
        for name in names:
            fsync_path(os.path.join(root, name))
        fsync_path(root)


def refuse_to_overwrite(path: str | os.PathLike[str]) -> None:
    """Raise unless nothing, or an empty folder, is at ``path``.

    Raises
    ------
    InputError
        If a file or a folder with something in it is there.
    """
    final = Path(path)
    if final.is_dir() and not any(final.iterdir()):
        return
    if final.exists() or final.is_symlink():
        raise InputError(
            f"{final} exists already, and nothing is overwritten. Choose another name, or move it away."
        )


@contextmanager
def part_folder(final: str | os.PathLike[str]) -> Iterator[Path]:
    """Build a folder under another name, which becomes ``final`` as the last step.

    Where the ``with`` body raises, what was built is deleted; after a kill it
    stays behind as ``<final>.<random>.part``, and ``final`` does not exist.

    Parameters
    ----------
    final : path-like
        Where the finished folder shall lie. Folders above it are made where they are missing.

    Yields
    ------
    Path
        An empty folder beside ``final``.

    Raises
    ------
    InputError
        If something is at ``final``, now or once the folder is built.
    """
    target = Path(final)
    refuse_to_overwrite(target)
    part = _beside(target)
    part.mkdir(parents=True)
    try:
        yield part
        fsync_tree(part)
        rename_folder(part, target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def rename_folder(part: Path, final: Path) -> None:
    """Give a finished folder its final name, durably; whatever is there already stays.

    Raises
    ------
    InputError
        If a file or a folder with something in it is at ``final``.
    """
    refuse_to_overwrite(final)
    if final.is_dir():
        final.rmdir()
    part.rename(final)
    fsync_path(final.parent)


def _beside(final: Path) -> Path:
    return final.with_name(f"{final.name}.{uuid4().hex[:8]}.part")
