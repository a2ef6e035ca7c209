"""Put folders on disk as ``napari_memseg.files`` puts files: whole or not at all.

A folder is built beside its final name, flushed from the innermost file outwards, and
renamed. Unlike a file, it replaces nothing: what has a name already keeps it.
"""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from napari_memseg.errors import InputError
from napari_memseg.files import atomic_write, beside, fsync_path

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "atomic_write",
    "fsync_path",
    "fsync_tree",
    "locked",
    "part_folder",
    "refuse_to_overwrite",
    "remove",
    "rename_folder",
]


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
    part = beside(target)
    part.mkdir(parents=True)
    try:
        yield part
        fsync_tree(part)
        rename_folder(part, target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


@contextmanager
def part_files(*finals: Path) -> Iterator[tuple[Path, ...]]:
    """Build files of one folder under other names; they get their own one after the other at the end.

    Where the ``with`` body raises, nothing is left of them. Folders above are made where they are missing.

    Raises
    ------
    InputError
        If something is at one of ``finals``, now or once the files are built.
    """
    for final in finals:
        _refuse_file(final)
    finals[0].parent.mkdir(parents=True, exist_ok=True)
    parts = tuple(beside(final) for final in finals)
    named: list[Path] = []
    try:
        yield parts
        for part in parts:
            fsync_path(part)
        for part, final in zip(parts, finals, strict=True):
            _refuse_file(final)
            named.append(part.rename(final))
    except BaseException:
        for path in (*parts, *named):
            path.unlink(missing_ok=True)
        raise
    fsync_path(finals[0].parent)


def _refuse_file(final: Path) -> None:
    refuse_to_overwrite(final)
    if final.is_dir():
        raise InputError(f"{final} is a folder, and a file should be written there. Choose another name.")


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


def remove(path: Path) -> None:
    """Delete a file, or a folder with all that is in it, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the one process that writes an unfinished folder; it is made where it is missing.

    Raises
    ------
    InputError
        If another process is writing it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock", thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"Another process is writing {folder} right now. Wait for it, or choose another destination."
        ) from error
    try:
        yield
    finally:
        lock.release()
