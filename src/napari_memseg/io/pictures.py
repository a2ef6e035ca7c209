"""Read slices that are PNG or BMP files: what they say at their beginning, and their voxels.

What a file claims is looked at before anything is decoded, by imagecodecs.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np

from napari_memseg.errors import SourceError
from napari_memseg.io.tiff_pages import MAX_RATIO, Page
from napari_memseg.io.volume import DECODING_ERRORS

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    from numpy.typing import NDArray

ENDINGS = (".png", ".bmp")
PNG, BMP = b"\x89PNG\r\n\x1a\n", b"BM"
"""How the files begin."""
GREY, GREY_BY_TABLE, GREY_AND_ALPHA = 0, 3, 4
"""Colour types of a PNG in grey."""
RUN_LENGTHS = (1, 2)
"""How a BMP may be packed."""
MOST_CHUNKS = 100
"""Of a PNG that are looked at for its palette; it comes before the pixels."""
HEAD_BYTES = 2048
"""Of a BMP, in which its palette ends."""


def page_of(path: Path) -> Page:
    """Return what a picture claims to be.

    Raises
    ------
    SourceError
        If it is neither PNG nor BMP, claims more than it can hold, has a palette of colours or transparent
        places, or is a BMP that is packed.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        palette = _png_palette(file) if head.startswith(PNG) else _bmp_palette(head)
    if head.startswith(PNG) and len(head) >= 26:
        width, height, bits, color = struct.unpack(">IIBB", head[16:26])
        if color == GREY_AND_ALPHA:
            raise SourceError(
                f"{path} has 2 samples per pixel (grey and alpha), so a pixel may be grey and invisible. "
                "Save the slices in grey, without transparency."
            )
        samples = 1 if color in (GREY, GREY_BY_TABLE) else 3
        bits, palette = (8, palette) if color == GREY_BY_TABLE else (bits, palette[:0])
    elif head.startswith(BMP) and len(head) >= 34:
        if int.from_bytes(head[14:18], "little") >= 40 and head[30] in RUN_LENGTHS:
            raise SourceError(
                f"{path} is a BMP that is packed by run lengths, which is not read. Save the slices as BMP "
                "without compression, or as PNG."
            )
        width, height, _, depth = struct.unpack("<iiHH", head[18:30])
        height, bits, samples = abs(height), min(depth, 8), 1 if depth <= 8 else 3
    else:
        raise SourceError(f"{path} is no {path.suffix[1:].upper()} picture, or is cut off. Copy it again.")
    page = Page(height=height, width=width, bits=max(bits, 8), kind="uint", samples=samples)
    if width < 1 or height < 1 or page.nbytes > path.stat().st_size * MAX_RATIO:
        raise SourceError(
            f"{path} claims {height} x {width} pixels, which its {path.stat().st_size:,} bytes cannot hold. "
            "It is damaged: copy it again."
        )
    if (palette != palette[:, :1]).any():
        raise SourceError(
            f"{path} has a palette of {len(palette)} colours, so its pixels are numbers of colours, not grey "
            "values. Save the slices in grey, without a palette."
        )
    return page


def _png_palette(file: BinaryIO) -> NDArray[np.uint8]:
    """Return the (n, 3) entries of a PNG's palette, of which it may have none."""
    file.seek(len(PNG))
    for _ in range(MOST_CHUNKS):
        size, kind = int.from_bytes(file.read(4), "big"), file.read(4)
        if kind == b"PLTE":
            return _entries(file.read(min(size, 3 * 256)), 3)
        if kind in (b"", b"IDAT"):
            break
        file.seek(size + 4, 1)
    return _entries(b"", 3)


def _bmp_palette(head: bytes) -> NDArray[np.uint8]:
    """Return the (n, 3) entries of a BMP's palette, which lies between its headers and its pixels."""
    if len(head) < 54 or (depth := int.from_bytes(head[28:30], "little")) > 8:
        return _entries(b"", 4)
    pixels, header = struct.unpack("<II", head[10:18])
    used = int.from_bytes(head[46:50], "little") or 256
    return _entries(head[14 + header : min(14 + header + 4 * min(used, 2**depth), pixels)], 4)


def _entries(table: bytes, length: int) -> NDArray[np.uint8]:
    rows = np.frombuffer(table, np.uint8, len(table) // length * length)
    return rows.reshape(-1, length)[:, :3]


def decode(path: Path) -> NDArray[Any]:
    """Return the pixels (y, x) of a picture in grey, of one with a palette the grey values in it.

    Raises
    ------
    SourceError
        If it is damaged.
    """
    read = imagecodecs.png_decode if path.suffix.lower() == ".png" else imagecodecs.bmp_decode
    try:
        pixels = np.asarray(read(path.read_bytes()))
    except (*DECODING_ERRORS, imagecodecs.PngError, imagecodecs.BmpError) as error:
        raise SourceError(f"{path} is damaged ({error}). Copy it again.") from error
    return pixels[..., 0] if pixels.ndim == 3 else pixels  # as a palette says: in red, green and blue
