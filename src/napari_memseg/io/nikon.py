"""Read a volume of a Nikon scanner: float32 voxels in a .vol file, and an .xtekct beside it that says how.

The .xtekct is an INI file; its lengths are in millimetres.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_memseg.errors import SourceError
from napari_memseg.io.header import Header, read_ini
from napari_memseg.io.raw import RawArray, raw_volume

if TYPE_CHECKING:
    from napari_memseg.io.source import Source
    from napari_memseg.io.volume import Volume

SECTION = "XTekCT"


def open_nikon(source: Source) -> Volume:
    """Open the reconstruction that an .xtekct describes.

    Raises
    ------
    SourceError
        If it is none, or the voxels are missing or cut off.
    """
    said = read_ini(source.path).get(SECTION.lower())
    if said is None:
        raise SourceError(
            f"{source.path} has no section [{SECTION}]: it is cut off, or no scan. Copy it again."
        )
    for key, names in (("size", "VoxelsX VoxelsY VoxelsZ"), ("length", "VoxelSizeX VoxelSizeY VoxelSizeZ")):
        said[key] = " ".join(said.get(name.lower(), "") for name in names.split())
    header = Header(source.path, said)
    name = said.get("name", "").strip() or source.path.stem
    file = header.beside(f"{name}.vol")
    size = header.lengths("length")
    array = RawArray(file, 0, header.xyz("size"), np.dtype("<f4"))
    return raw_volume(source, array, size, "millimeter" if size else None, "nikon")
