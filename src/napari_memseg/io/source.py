"""Read the text that says where a volume is.

A file or folder, perhaps what is meant inside it, perhaps which of its channels and times::

    scan.ome.tif          scan.ome.zarr::labels/bone          scan.ome.zarr::0@c=1,t=0
    └── path ───┘                        └─ inner ─┘                          └ selection ┘

A path may hold ``@`` and ``::`` itself: if what the longer reading names exists, it wins.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from napari_memseg.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Mapping

_ENDING = re.compile(
    r"(\.ome)?\.(tiff?|btf|tf8|zarr|mh[ad]|nrrd|nhdr|nii(\.gz)?|h5|hdf5|am|vgi|xtekct)$", re.IGNORECASE
)
"""Of a name, with which nobody calls a volume."""
_CHOICE = re.compile(r"\s*(\w+)\s*=\s*(\d{1,9})\s*")


@dataclass(frozen=True, slots=True)
class Source:
    """What is to be opened.

    Attributes
    ----------
    path : Path
        Of the file or folder, absolute.
    inner : str or None
        What is meant inside it: a group, an array, the number of a series.
    selection : mapping of str to int
        Index along each axis that is not space, by the axis's name in lower case.
    """

    path: Path
    inner: str | None = None
    selection: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        inner = f"::{self.inner}" if self.inner else ""
        choices = ",".join(f"{axis}={index}" for axis, index in self.selection.items())
        return f"{self.path}{inner}" + (f"@{choices}" if choices else "")

    @property
    def name(self) -> str:
        """What a person calls it: the file's name without its endings, and what is inside it."""
        stem = _ENDING.sub("", self.path.name)
        return f"{stem} {self.inner}" if self.inner else stem


def parse_source(text: str | os.PathLike[str]) -> Source:
    """Split a source into its path, what is inside it, and the selection.

    Raises
    ------
    SourceError
        If there is nothing at the path, however the text is read, or the selection is none.
    """
    written = os.fspath(text)
    if not written or "\0" in written:
        raise SourceError(f"{written!r} is no path. Give the path of a file or folder that holds a volume.")
    whole, choices = written, ""
    if not _exists(whole) and "=" in written.rpartition("@")[2]:
        whole, _, choices = written.rpartition("@")
    path, inner = _split_inner(whole)
    if not _exists(path):
        raise SourceError(
            f"There is no file or folder {_absolute(path)}. Check the spelling and, if it is on "
            "another disk, that the disk is connected."
        )
    return Source(_absolute(path), inner, _parse_selection(choices, written))


def _split_inner(text: str) -> tuple[str, str | None]:
    """Split at the last ``::`` before which something exists; at the first one if there is none."""
    parts = text.split("::")
    splits = [("::".join(parts[:n]), "::".join(parts[n:]) or None) for n in range(len(parts), 0, -1)]
    return next((split for split in splits if split[0] and _exists(split[0])), splits[-1])


def _parse_selection(text: str, written: str) -> dict[str, int]:
    matches = [_CHOICE.fullmatch(part) for part in text.split(",")] if text else []
    found = [(match[1].lower(), int(match[2])) for match in matches if match]
    if len(found) != len(matches) or len(dict(found)) != len(found):
        raise SourceError(
            f"{text!r} in {written} selects nothing. Write one whole number for each axis, as in @c=1,t=0."
        )
    return dict(found)


def _exists(path: str) -> bool:
    try:
        return os.path.exists(_absolute(path))
    except (OSError, ValueError):  # a name that the file system cannot hold
        return False


def _absolute(path: str) -> Path:
    return Path(os.path.abspath(os.path.expanduser(path)))
