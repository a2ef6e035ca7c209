"""Read a volume of VGStudio: voxels in a .vol file, and a .vgi beside it that says how.

The .vgi is text: names in braces, sections in brackets below them, keys and values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_memseg.errors import SourceError
from napari_memseg.io.header import Header, read_text
from napari_memseg.io.raw import RawArray, raw_volume
from napari_memseg.io.units import unit_name, voxel_size

if TYPE_CHECKING:
    from pathlib import Path

    from napari_memseg.io.source import Source
    from napari_memseg.io.volume import Volume

KINDS = {"unsigned integer": "u", "signed integer": "i", "integer": "i", "float": "f"}
"""Of voxels, by their names."""


def open_vgi(source: Source) -> Volume:
    """Open the first volume that a .vgi describes.

    Raises
    ------
    SourceError
        If it describes none, or its voxels are missing or cut off.
    """
    sections = _sections(source.path)
    about = Header(source.path, next((s for name, s in sections if name.startswith("file")), {}))
    if about.text("FileFormat", "raw").lower() != "raw":
        raise SourceError(
            f"{source.path} points to {about.text('FileFormat')!r} files; only raw ones are read. "
            "Export the volume as raw, or as a TIFF stack."
        )
    space = Header(source.path, next((s for name, s in sections if name == "geometry"), {}))
    lengths, unit = space.lengths("resolution"), space.text("unit", "")
    size, named = voxel_size(lengths or (None,) * 3, [unit] * 3) if unit_name(unit) else (lengths, None)
    skipped = 0 if about.text("SkipHeader", "0") == "0" else about.whole("SkipHeader", 1)[0]
    array = RawArray(about.beside(about.text("Name")), skipped, about.xyz("Size"), _dtype(about))
    return raw_volume(source, array, size, named, "vgi")


def _sections(path: Path) -> list[tuple[str, dict[str, str]]]:
    """Return the sections in their order, by name in lower case."""
    found: list[tuple[str, dict[str, str]]] = []
    for line in map(str.strip, read_text(path).splitlines()):
        key, equals, value = line.partition("=")
        if line.startswith("[") and line.endswith("]"):
            found.append((line[1:-1].strip().lower(), {}))
        elif equals and found:
            found[-1][1][key] = value
    return found


def _dtype(about: Header) -> np.dtype[Any]:
    kind, (bits,) = KINDS.get(about.text("Datatype").lower()), about.whole("BitsPerElement", 1)
    try:
        return np.dtype(f"<{kind}{bits // 8 if bits in (8, 16, 32, 64) else 0}")
    except TypeError:
        raise SourceError(
            f"{about.path} has voxels of {bits} bits and type {about.text('Datatype')!r}. Possible are "
            f"{', '.join(KINDS)}, of 8, 16, 32 or 64 bits."
        ) from None
