"""Read the text in front of, or beside, a run of voxels: keys, and numbers that may lie.

Scanners and medical formats say how to read a file of bare voxels in a few lines of text.
Each wrong or missing number is refused by its key, before anything is opened because of it.
"""

from __future__ import annotations

from math import isfinite
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any

from napari_memseg.errors import SourceError
from napari_memseg.geometry import Zyx, zyx

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from napari_memseg.io.units import VoxelSize

MOST_TEXT = 2**20
"""Bytes of a file that are looked at for its header."""


class Header:
    """What a text header says, by key in lower case.

    Parameters
    ----------
    path : Path
        Where it was read, for messages.
    values : mapping of str to str
        Its lines.
    """

    def __init__(self, path: Path, values: Mapping[str, str]) -> None:
        self.path = path
        self._values = {key.strip().lower(): value.strip() for key, value in values.items()}

    def text(self, key: str, default: str | None = None) -> str:
        """Return a value; SourceError where it is missing and has no default."""
        found = self._values.get(key.lower(), default)
        if found is None:
            raise SourceError(f"{self.path} does not say {key!r}. It is cut off, or no header of a volume.")
        return found

    def whole(self, key: str, count: int) -> tuple[int, ...]:
        """Return whole numbers above 0; SourceError for anything else."""
        text = self.text(key)
        try:
            found = tuple(int(part) for part in text.split())
        except ValueError:
            found = ()
        if len(found) != count or min(found) < 1:
            raise SourceError(
                f"{self.path} says {key} = {text!r:.80}, but {count} whole numbers above 0 are needed. "
                "The header is damaged: write the file again where it came from."
            )
        return found

    def xyz(self, key: str) -> Zyx:
        """Return three lengths that are given as x, y, z in the order z, y, x."""
        return zyx(self.whole(key, 3)[::-1])

    def lengths(self, key: str) -> VoxelSize | None:
        """Return three lengths, given as x, y, z, in the order z, y, x; None where they are none."""
        return lengths_zyx(self.text(key, "").split())

    def beside(self, name: str) -> Path:
        """Return the path of a file that the header names, in the header's folder or below it.

        A link that lies there is followed, wherever it leads: it is the user's own, who keeps the voxels on
        another disk, while the name in a header may have been written by anybody.

        Raises
        ------
        SourceError
            If the name leads out of the folder, or to anything but a file.
        """
        name = _in_utf8(name)
        found = self.path.parent / name
        if PureWindowsPath(name).anchor or ".." in PureWindowsPath(name).parts:
            raise SourceError(
                f"{self.path} points to {name!r}, outside of its own folder. Put the voxels beside the "
                "header and write only their file name into it."
            )
        if not found.is_file():
            raise SourceError(f"{self.path} needs {found.name} beside it, {_what_is_wrong(found)}")
        return found


def _what_is_wrong(found: Path) -> str:
    """Say why there is no file at a path, and what to do."""
    link = f"a link to {found.readlink()}" if found.is_symlink() else ""
    if found.exists():
        return (
            f"but that is {link or 'there'} and no file: put the voxels there in one file, or a link to it."
        )
    if link:
        return f"but that is {link}, which is not there. Connect the disk it leads to, or copy the voxels."
    return "which is not there. Copy both files."


def _in_utf8(name: str) -> str:
    """Return a name that was read one character a byte as what it says."""
    try:
        return name.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return name


def lengths_zyx(found: Iterable[Any]) -> VoxelSize | None:
    """Return three lengths, given as x, y, z, in the order z, y, x; None where they are none."""
    try:
        lengths = [float(length) for length in found]
    except (ValueError, TypeError):
        return None
    if len(lengths) != 3 or not all(isfinite(length) and length > 0 for length in lengths):
        return None
    x, y, z = lengths
    return z, y, x


def read_ini(path: Path) -> dict[str, dict[str, str]]:
    """Return the sections of a file of ``[section]`` and ``key=value``, names and keys in lower case."""
    found: dict[str, dict[str, str]] = {}
    section: dict[str, str] = {}
    for line in map(str.strip, read_text(path).splitlines()):
        key, equals, value = line.partition("=")
        if line.startswith("[") and line.endswith("]"):
            section = found.setdefault(line[1:-1].strip().lower(), {})
        elif equals:
            section[key.strip().lower()] = value.strip()
    return found


def read_text(path: Path) -> str:
    """Return the beginning of a file as text, one character a byte."""
    with path.open("rb") as file:
        return file.read(MOST_TEXT).decode("latin-1")
