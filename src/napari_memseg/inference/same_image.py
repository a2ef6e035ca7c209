"""Is the image still the one that a run began with? Asked after each read, before anything comes of it.

A Zarr on a drive that was pulled out reads as if nobody had ever written it, and a file that was
replaced by one of the same shape reads as that one. What the file system says of a file is cheap
to ask, and where it changed the voxels are asked::

    read ──> stamps as before? ──yes──────────────────────────────────> compute, write
                 └──no──> opened anew: of the same fingerprint? ──yes──────┘
                              └──no──> the run ends, and nothing comes of the read
"""

from __future__ import annotations

import os
from threading import Lock
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from napari_memseg.errors import RunMismatchError, SourceError
from napari_memseg.io.formats import open_volume
from napari_memseg.io.raw import RawArray, WholeArray
from napari_memseg.io.source import parse_source
from napari_memseg.io.volume import CACHE

if TYPE_CHECKING:
    from pathlib import Path

    from napari_memseg.io.volume import Volume

IN_MEMORY = ("memory", "phantom")
"""Formats of what no file holds."""
_DESCRIPTIONS = ("zarr.json", ".zarray", ".zgroup", ".zattrs")
_Stamp = tuple[tuple[int, ...], ...]


class SameImage:
    """Watch the files of an open image; one that is in memory, or is read once and whole, has none.

    Parameters
    ----------
    image : Volume
        Open, and of that fingerprint.
    fingerprint : str
        Of the run's plan.
    """

    def __init__(self, image: Volume, fingerprint: str) -> None:
        self._source, self._fingerprint = image.source, fingerprint
        self._size, self._unit = image.voxel_size, image.unit
        self._lock = Lock()
        self._files = _files(image)
        self._stamp = self._look() if self._files else ()

    def check(self) -> None:
        """Ask the file system, and where it tells of a change, look at the voxels.

        Raises
        ------
        RunMismatchError
            If the image is gone, or another one.
        """
        with self._lock:
            try:
                self._compare()
            except RunMismatchError:
                CACHE.clear()  # a Zarr that is away was read as if nobody had written it
                raise

    def _compare(self) -> None:
        if not self._files or (now := self._look()) == self._stamp:
            return
        if self.is_another():
            raise RunMismatchError(
                f"{self._source} was changed while the run read it: its shape, voxel size or voxels "
                "are others. Restore the file and start again to go on, or begin another run."
            )
        self._stamp = now

    def is_another(self) -> bool:
        """Whether the image, opened anew, has another fingerprint.

        Raises
        ------
        RunMismatchError
            If it is gone.
        """
        if not self._files:
            return False
        try:
            image = open_volume(self._source).completed(self._size, self._unit)
            return image.fingerprint != self._fingerprint
        except (SourceError, OSError) as error:
            raise self._gone(error) from error

    def _look(self) -> _Stamp:
        try:
            found = [os.stat(path) for path in self._files]
        except OSError as error:
            raise self._gone(error) from error
        return tuple((s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns) for s in found)

    def _gone(self, error: Exception) -> RunMismatchError:
        return RunMismatchError(
            f"{self._source} can no longer be read ({error!s:.200}): it was moved or cut off, or its disk is "
            "not connected. What was finished is kept. Put it back, and start again to go on."
        )


_WATCHED: WeakKeyDictionary[Volume, SameImage] = WeakKeyDictionary()


def same_image(image: Volume, fingerprint: str) -> SameImage:
    """Return the one that watches an open image since somebody first asked."""
    if image not in _WATCHED:
        _WATCHED[image] = SameImage(image, fingerprint)
    return _WATCHED[image]


def _files(image: Volume) -> list[Path]:
    """Return what lies where an image is read from, and would change with it."""
    if image.format in IN_MEMORY or any(isinstance(array, WholeArray) for array in image.arrays):
        return []
    try:
        source = parse_source(image.source)
    except SourceError:
        return []
    voxels = {array.file for array in image.arrays if isinstance(array, RawArray)}
    folders = {source.path, source.path / (source.inner or "")} if source.path.is_dir() else set()
    found = [path for folder in folders for name in _DESCRIPTIONS for path in _below(folder, name)]
    return [*{source.path, *voxels, *found}]


def _below(folder: Path, name: str) -> list[Path]:
    return [*folder.glob(name), *folder.glob(f"*/{name}")]
