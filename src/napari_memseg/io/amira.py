"""Read a lattice of Amira or Avizo (.am): uncompressed where it lies, RLE and zip whole.

A header of text says how large the lattice is and where its corners lie, voxel centre to voxel centre::

    define Lattice 50 50 50                                   x y z
    BoundingBox 95.7 164.3 60.7 129.3 0.7 69.3                (164.3 - 95.7) / 49 = 1.4
    Lattice { byte Labels } @1(HxByteRLE,6113)                behind a line "@1"
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_memseg.errors import SourceError
from napari_memseg.geometry import Zyx, zyx
from napari_memseg.io.header import MOST_TEXT, lengths_zyx, read_text
from napari_memseg.io.raw import (
    PIECE_BYTES,
    RawArray,
    WholeArray,
    inflate,
    raw_volume,
    unpacked,
    whole_volume,
)
from napari_memseg.io.units import unit_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from napari_memseg.io.source import Source
    from napari_memseg.io.units import VoxelSize
    from napari_memseg.io.volume import Volume

TYPES = {
    "byte": "u1",
    "short": "i2",
    "ushort": "u2",
    "int32": "i4",
    "int": "i4",
    "float": "f4",
    "double": "f8",
}
"""dtypes by their names."""
_LATTICE = re.compile(r"define\s+Lattice\s+(\d{1,9})\s+(\d{1,9})\s+(\d{1,9})")
_DATA = re.compile(
    r"Lattice\s*\{\s*(?P<type>\w+)(?P<values>\[\d+\])?\s+(?P<name>\w+)\s*\}\s*(?:=\s*)?(?P<mark>@\d+)"
    r"\s*(?:\(\s*(?P<codec>\w+)\s*,\s*(?P<packed>\d{1,15})\s*\))?"
)
_BOX = re.compile(r"BoundingBox\s+" + r"\s+".join([r"(-?[\d.]+(?:[eE][-+]?\d+)?)"] * 6))
_UNITS = re.compile(r'Coordinates\s+"([^"]{1,20})"')


def open_amira(source: Source) -> Volume:
    """Open the first lattice of numbers of an AmiraMesh file; a label field is known by its type or name.

    Raises
    ------
    SourceError
        If it holds landmarks, a surface or numbers as text, is cut off, or is compressed and too large for
        memory.
    """
    text = read_text(source.path)
    lattice, data = _LATTICE.search(text), _DATA.search(text)
    if not text.lstrip().startswith(("# AmiraMesh", "# Avizo")) or lattice is None or data is None:
        raise SourceError(
            f"{source.path} is not an image: it holds no lattice of voxels ({_kind(text)}). "
            "Export the image itself from Amira, as AmiraMesh or as a TIFF stack."
        )
    shape = zyx(int(n) for n in reversed(lattice.groups()))
    stored = _dtype(text, data, source)
    offset = _behind(text, data["mark"], source)
    size, unit = _voxel_size(text, shape)
    if data["codec"] is None:
        found = raw_volume(source, RawArray(source.path, offset, shape, stored), size, unit, "amira")
    else:
        array = WholeArray(_decode(data, source, offset, shape, stored), shape, stored)
        found = whole_volume(source, array, size, unit, f"amira, {data['codec']}")
    of_labels = "HxUniformLabelField" in text or data["name"] == "Labels"
    return replace(found, is_labels=of_labels and stored.kind in "iu")


def _decode(
    data: re.Match[str], source: Source, offset: int, shape: Zyx, stored: np.dtype[Any]
) -> Callable[[], NDArray[Any]]:
    """Return what unpacks the voxels that lie behind an offset."""
    codec, packed = data["codec"], min(int(data["packed"]), source.path.stat().st_size)
    if codec not in _UNPACK or (codec == "HxByteRLE" and stored.itemsize > 1):
        raise SourceError(f"{source.path} is compressed by {codec}, which is not read. Save it uncompressed.")
    return partial(unpacked, source.path, offset, _UNPACK[codec], shape, stored, packed)


def _kind(text: str) -> str:
    said = re.search(r'ContentType\s+"(\w{1,40})"', text)
    return said[1] if said else text.strip().split("\n", 1)[0][:60]


def _dtype(text: str, data: re.Match[str], source: Source) -> np.dtype[Any]:
    first = text.lstrip().split("\n", 1)[0].upper()
    kind = data["type"]
    if "BINARY" not in first or kind not in TYPES or data["values"]:
        raise SourceError(
            f"{source.path} holds {kind}{data['values'] or ''} values ({first.strip('# ')[:60].strip()}). "
            f"Read are binary lattices of one value: {', '.join(TYPES)}. Export it as one of these."
        )
    return np.dtype(TYPES[kind]).newbyteorder("<" if "LITTLE" in first else ">")


def _behind(text: str, mark: str, source: Source) -> int:
    """Return where the voxels begin: behind the line that holds nothing but the mark."""
    found = re.search(rf"^{mark}[ \t]*\r?\n", text, re.MULTILINE)
    if found is None:
        raise SourceError(
            f"{source.path} has no line {mark} in its first {MOST_TEXT:,} bytes, behind which the voxels "
            "begin. It is cut off: copy it again."
        )
    return found.end()


def _voxel_size(text: str, shape: Zyx) -> tuple[VoxelSize | None, str | None]:
    box = _BOX.search(text)
    if box is None or min(shape) < 2:
        return None, None
    try:
        low, high = [float(n) for n in box.groups()[::2]], [float(n) for n in box.groups()[1::2]]
    except ValueError:
        return None, None
    size = lengths_zyx((b - a) / (n - 1) for a, b, n in zip(low, high, shape[::-1], strict=True))
    unit = _UNITS.search(text)
    return size, unit_name(unit[1]) if size and unit else None


def _run_lengths(packed: Iterable[bytes]) -> Iterator[bytes]:
    """Undo Amira's byte run lengths: n x means x n times, 128 + n that n bytes follow as they are."""
    rest, out = b"", bytearray()
    for piece in packed:
        rest, place = rest + piece, 0
        while place < len(rest) and (end := place + _run(rest[place])) <= len(rest):
            as_is = rest[place] & 0x80
            out += rest[place + 1 : end] if as_is else rest[place + 1 : end] * rest[place]
            place = end
            if len(out) >= PIECE_BYTES:
                yield bytes(out)
                out.clear()
        rest = rest[place:]
    yield bytes(out)


def _run(count: int) -> int:
    """Return how many packed bytes a run takes that begins so."""
    return 1 + (count & 0x7F) if count & 0x80 else 2


_UNPACK = {"HxZip": inflate, "HxByteRLE": _run_lengths}
