"""Read an NRRD: a text header, and voxels behind it or in a file beside it.

Format: https://teem.sourceforge.net/nrrd/format.html; the header is parsed by pynrrd. Lengths are the norms
of the space directions, so that an oblique grid keeps its voxel size. Uncompressed voxels are read where they
lie.
"""

from __future__ import annotations

from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_memseg.errors import SourceError
from napari_memseg.geometry import Zyx, zyx
from napari_memseg.io.extras import need
from napari_memseg.io.header import MOST_TEXT, Header, lengths_zyx
from napari_memseg.io.raw import RawArray, WholeArray, bunzip, inflate, raw_volume, unpacked, whole_volume
from napari_memseg.io.units import unit_name, voxel_size
from napari_memseg.io.volume import DECODING_ERRORS

if TYPE_CHECKING:
    from pathlib import Path

    from napari_memseg.io.source import Source
    from napari_memseg.io.units import VoxelSize
    from napari_memseg.io.volume import Volume

TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("longlong", "long long", "long long int", "int64", "int64_t"), "i8"),
    **dict.fromkeys(
        ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), "u8"
    ),
    "float": "f4",
    "double": "f8",
}
"""dtypes by all their names."""
MOST_SKIPPED = 2**20
"""Lines or bytes before the voxels."""
SPATIAL = ("domain", "space", "???", "none")
"""Kinds of an axis along which a volume may lie."""
GZIP, BZIP2 = ("gzip", "gz"), ("bzip2", "bz2")


def open_nrrd(source: Source) -> Volume:
    """Open an NRRD of three axes.

    Raises
    ------
    SourceError
        If it is anything else, cut off, or compressed and too large for memory.
    """
    header, file, offset = _read(source)
    shape, stored = _shape(header, source), _dtype(header, source)
    size, unit = _voxel_size(header)
    encoding = str(header.get("encoding", "")).lower()
    if encoding == "raw":
        return raw_volume(source, RawArray(file, offset, shape, stored), size, unit, "nrrd")
    if encoding not in (*GZIP, *BZIP2):
        raise SourceError(
            f"{source.path} has encoding {encoding!r}. Possible are raw, gzip and bzip2: save it as one of "
            "these."
        )
    _check_encoding(file, offset, encoding)
    unpack = inflate if encoding in GZIP else bunzip
    array = WholeArray(partial(unpacked, file, offset, unpack, shape, stored), shape, stored)
    return whole_volume(source, array, size, unit, f"nrrd, {encoding}")


def _read(source: Source) -> tuple[dict[str, Any], Path, int]:
    """Return what the header says, the file of the voxels, and the bytes before them."""
    nrrd = need("nrrd", source)
    try:
        lines = _lines(source)
        with np.errstate(invalid="ignore"):
            header = dict(nrrd.read_header(line.decode("latin-1") for line in lines))
        behind = sum(map(len, lines))
    except (*DECODING_ERRORS, nrrd.NRRDError) as error:
        raise SourceError(f"{source.path} has no header of an NRRD that can be read ({error}).") from error
    named = header.get("data file", header.get("datafile"))
    file = source.path if named is None else Header(source.path, {}).beside(str(named))
    offset = 0 if named is not None else behind
    skipped = [_skip(header, key, source) for key in ("line skip", "byte skip")]
    offset = _behind_lines(file, offset, skipped[0])
    if skipped[1] == -1:  # counted from the end
        return (
            header,
            file,
            file.stat().st_size - prod(_shape(header, source)) * _dtype(header, source).itemsize,
        )
    return header, file, offset + skipped[1]


def _lines(source: Source) -> list[bytes]:
    """Return the lines of a header up to the empty one; one without an end is no header."""
    with source.path.open("rb") as opened:
        lines = opened.read(MOST_TEXT).splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            return lines[:number]
    if sum(map(len, lines)) < MOST_TEXT:
        return lines
    raise SourceError(f"{source.path} has a header of more than {MOST_TEXT:,} bytes, which is not believed.")


def _skip(header: dict[str, Any], key: str, source: Source) -> int:
    """Return how much is to be passed over before the voxels; -1 bytes: they end the file."""
    count = int(header.get(key, header.get(key.replace(" ", ""), 0)))
    if count < (-1 if key == "byte skip" else 0) or count > MOST_SKIPPED:
        raise SourceError(f"{source.path} says {key}: {count}, which cannot be. Write the header again.")
    return count


def _behind_lines(file: Path, offset: int, lines: int) -> int:
    if not lines:
        return offset
    with file.open("rb") as opened:
        opened.seek(offset)
        for _ in range(lines):
            opened.readline(MOST_TEXT)
        return opened.tell()


def _shape(header: dict[str, Any], source: Source) -> Zyx:
    sizes = [int(n) for n in np.atleast_1d(header.get("sizes", []))]
    if len(sizes) != 3:
        raise SourceError(
            f"{source.path} has {len(sizes)} axes of lengths {sizes}, but a volume has three. Save one "
            "channel or time of it as a file of its own."
        )
    kinds = [str(kind).lower() for kind in np.atleast_1d(header.get("kinds", []))]
    if strange := [kind for kind in kinds if kind not in SPATIAL]:
        raise SourceError(
            f"{source.path} has an axis of kind {strange[0]!r}, so it is no volume of grey values in three "
            "axes of space. Save one channel or time of it as a file of its own."
        )
    return zyx(sizes[::-1])


def _dtype(header: dict[str, Any], source: Source) -> np.dtype[Any]:
    name = str(header.get("type", "")).lower()
    if name not in TYPES:
        raise SourceError(f"{source.path} has voxels of type {name!r}. Possible are: {', '.join(TYPES)}.")
    return np.dtype(TYPES[name]).newbyteorder(">" if header.get("endian") == "big" else "<")


def _voxel_size(header: dict[str, Any]) -> tuple[VoxelSize | None, str | None]:
    """Return the lengths of the axes, and their unit where it is said."""
    if (directions := header.get("space directions")) is not None:
        lengths = lengths_zyx(np.linalg.norm(np.asarray(directions, float), axis=-1))
    else:
        lengths = lengths_zyx(np.atleast_1d(header.get("spacings", [])))
    if lengths is None:
        return None, None
    if of_space := _units(header, "space units"):  # of the axes of space, which a direction may mix
        alike = len({unit_name(unit) for unit in of_space}) == 1
        return (lengths, unit_name(of_space[0])) if alike else (None, None)
    units = _units(header, "units")
    if len(units) == 3 and all(unit_name(unit) for unit in units):
        return voxel_size(lengths, units[::-1])
    return lengths, None


def _units(header: dict[str, Any], key: str) -> list[str]:
    return [str(unit).strip('"') for unit in np.atleast_1d(header.get(key, []))]


def _check_encoding(file: Path, offset: int, encoding: str) -> None:
    """Refuse a file that says one compression and has another."""
    with file.open("rb") as opened:
        opened.seek(offset)
        magic = opened.read(3)
    if not magic.startswith(b"\x1f\x8b" if encoding in GZIP else b"BZh"):
        raise SourceError(
            f"{file} should hold voxels in encoding {encoding!r}, but they begin otherwise ({magic!r}). "
            "Correct the header's encoding, or write the file again."
        )
