"""Slices whose pixels are places in a palette, or more or less than grey values."""

from __future__ import annotations

import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile

from napari_memseg.errors import SourceError
from napari_memseg.geometry import Box
from napari_memseg.io.formats import open_volume
from volumes import bmp, noise

PLANE = noise(dtype="uint8")[0]
GREY = np.repeat(np.arange(256, dtype=np.uint8)[::-1, None], 3, axis=1)
"""Entries of a palette in which 0 is white."""


def png(plane, palette, *more):
    """Return a picture of places in a palette."""
    about = struct.pack(">IIBBBBB", plane.shape[1], plane.shape[0], 8, 3, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in plane)
    parts = [(b"IHDR", about), (b"tEXt", b"Comment\0" + bytes(5000)), (b"PLTE", palette.tobytes()), *more]
    parts += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    chunks = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def bmp_with(plane, palette):
    """Return the same as a BMP."""
    content = bmp(plane)
    return content[:54] + np.pad(palette, ((0, 0), (0, 1))).tobytes() + content[54 + 1024 :]


def opened(folder, ending, content):
    (folder / f"slice_1.{ending}").write_bytes(content)
    return open_volume(folder)


@pytest.mark.parametrize(("ending", "write"), [("png", png), ("bmp", bmp_with)])
def test_a_palette_of_greys_is_applied(tmp_path, ending, write):
    volume = opened(tmp_path, ending, write(PLANE, GREY))
    np.testing.assert_array_equal(volume.read(Box.whole(volume.shape))[0], 255 - PLANE, strict=True)


@pytest.mark.parametrize("name", ["labels.tif", ""])
def test_places_in_the_palette_of_a_tiff_are_read_as_they_are(tmp_path, name):
    colours = noise((3, 256), "uint16")
    tifffile.imwrite(tmp_path / "labels.tif", PLANE, photometric="palette", colormap=colours)
    volume = open_volume(tmp_path / name)
    np.testing.assert_array_equal(volume.read(Box.whole(volume.shape))[0], PLANE, strict=True)


@pytest.mark.parametrize(("ending", "write"), [("png", png), ("bmp", bmp_with)])
def test_a_palette_of_colours_is_refused(tmp_path, ending, write):
    colours = GREY.copy()
    colours[7, 0] ^= 1
    with pytest.raises(SourceError, match=r"palette of 256 colours.* Save the slices in grey"):
        opened(tmp_path, ending, write(PLANE, colours))


def test_a_grey_picture_with_transparent_places_keeps_its_greys(tmp_path):
    volume = opened(tmp_path, "png", png(PLANE, GREY, (b"tRNS", b"\0\x80")))
    np.testing.assert_array_equal(volume.read(Box.whole(volume.shape))[0], 255 - PLANE, strict=True)


def test_grey_beside_alpha_is_two_samples(tmp_path):
    with pytest.raises(
        SourceError, match=r"has 2 samples per pixel \(grey and alpha\).* without transparency"
    ):
        opened(tmp_path, "png", imagecodecs.png_encode(np.stack([PLANE, PLANE], axis=-1)))


def test_a_bmp_that_is_packed_is_to_be_saved_otherwise(tmp_path):
    content = bytearray(bmp(PLANE))
    content[30] = 1
    with pytest.raises(
        SourceError, match=r"packed by run lengths.* Save the slices as BMP without compression"
    ):
        opened(tmp_path, "bmp", bytes(content))
