"""Read a MetaImage: a text header, and voxels beside it (.mhd) or behind it (.mha).

Keys as in https://itk.org/Wiki/ITK/MetaIO/Documentation, where lengths are in millimetres unless another unit
is named. Uncompressed voxels are read where they lie.
"""

from __future__ import annotations

from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_memseg.errors import SourceError
from napari_memseg.io.header import Header, read_text
from napari_memseg.io.raw import RawArray, WholeArray, inflate, raw_volume, unpacked, whole_volume
from napari_memseg.io.units import unit_name

if TYPE_CHECKING:
    from pathlib import Path

    from napari_memseg.geometry import Zyx
    from napari_memseg.io.source import Source
    from napari_memseg.io.volume import Volume

TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
"""dtypes by their names; "long" has 32 bits there."""
END = "elementdatafile"
"""The last key; voxels follow its line where it says LOCAL."""


def open_metaimage(source: Source) -> Volume:
    """Open a MetaImage of three axes and one channel.

    Raises
    ------
    SourceError
        If it is anything else, is cut off, or is compressed and too large for memory.
    """
    header, behind = _read(source.path)
    shape, stored = _shape(header), _dtype(header)
    size = header.lengths("ElementSpacing") or header.lengths("ElementSize")
    unit = unit_name(header.text("DistanceUnits", "mm")) if size else None
    name = header.text(END)
    local = name.upper() == "LOCAL"
    file = source.path if local else header.beside(name)
    offset = behind if local else max(_number(header, "HeaderSize"), 0)
    if _number(header, "HeaderSize") == -1 and not local:
        offset = file.stat().st_size - prod(shape) * stored.itemsize
    if not _yes(header, "BinaryData", "True"):
        raise SourceError(f"{source.path} holds its voxels as text. Save it in binary.")
    if not _yes(header, "CompressedData"):
        return raw_volume(source, RawArray(file, max(offset, 0), shape, stored), size, unit, "metaimage")
    array = WholeArray(partial(unpacked, file, offset, inflate, shape, stored), shape, stored)
    return whole_volume(source, array, size, unit, "metaimage, compressed")


def _read(path: Path) -> tuple[Header, int]:
    """Return the header, and how many bytes lie before what follows it."""
    values: dict[str, str] = {}
    place = 0
    for line in read_text(path).splitlines(keepends=True):
        key, equals, value = line.partition("=")
        place += len(line)
        if not equals:
            break
        values[key] = value
        if key.strip().lower() == END:
            break
    header = Header(path, values)
    header.text("NDims")
    return header, place


def _shape(header: Header) -> Zyx:
    dimensions, channels = header.text("NDims"), header.text("ElementNumberOfChannels", "1")
    if dimensions != "3" or channels != "1":
        raise SourceError(
            f"{header.path} has {dimensions} axes and {channels} channels, but a volume has three axes and "
            "one channel. Save one of its channels or times as a file of its own."
        )
    return header.xyz("DimSize")


def _dtype(header: Header) -> np.dtype[Any]:
    name = header.text("ElementType")
    if name not in TYPES:
        raise SourceError(f"{header.path} has voxels of type {name!r}. Possible are: {', '.join(TYPES)}.")
    big = _yes(header, "BinaryDataByteOrderMSB") or _yes(header, "ElementByteOrderMSB")
    return np.dtype(TYPES[name]).newbyteorder(">" if big else "<")


def _yes(header: Header, key: str, default: str = "False") -> bool:
    return header.text(key, default)[:1] in ("T", "t", "1")


def _number(header: Header, key: str) -> int:
    text = header.text(key, "0")
    try:
        return int(text)
    except ValueError:
        raise SourceError(f"{header.path} says {key} = {text!r:.80}, which is no whole number.") from None
