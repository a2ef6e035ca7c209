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

    from numpy.typing import NDArray

ENDINGS = (".png", ".bmp")
PNG, BMP = b"\x89PNG\r\n\x1a\n", b"BM"
"""How the files begin."""
GREY, GREY_BY_TABLE = 0, 3
"""Colour types of a PNG whose pixels are one number each."""


def page_of(path: Path) -> Page:
    """Return what a picture claims to be.

    Raises
    ------
    SourceError
        If it is neither PNG nor BMP, or claims more than it can hold.
    """
    with path.open("rb") as file:
        head = file.read(32)
    if head.startswith(PNG) and len(head) >= 26:
        width, height, bits, color = struct.unpack(">IIBB", head[16:26])
        samples = 1 if color in (GREY, GREY_BY_TABLE) else 3
        bits = 8 if color == GREY_BY_TABLE else bits
    elif head.startswith(BMP) and len(head) >= 30:
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
    return page


def decode(path: Path) -> NDArray[Any]:
    """Return the pixels (y, x) of a picture in grey.

    Raises
    ------
    SourceError
        If it is damaged.
    """
    read = imagecodecs.png_decode if path.suffix.lower() == ".png" else imagecodecs.bmp_decode
    try:
        return np.asarray(read(path.read_bytes()))
    except (*DECODING_ERRORS, imagecodecs.PngError, imagecodecs.BmpError) as error:
        raise SourceError(f"{path} is damaged ({error}). Copy it again.") from error
