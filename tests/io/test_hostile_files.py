"""Files that claim far more than they hold are refused before anybody believes them."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_memseg.errors import SourceError
from napari_memseg.geometry import Box
from napari_memseg.io.formats import open_volume
from napari_memseg.io.units import unit_name
from volumes import edit_json, noise, write_ome_zarr, write_zarr

OME = b'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">%b</OME>'
TAGS = [(256, 3, 1, 1), (257, 3, 1, 1), (258, 3, 1, 8), (262, 3, 1, 1), (273, 4, 1, 8), (279, 4, 1, 1)]
"""Of a page of one voxel, which is the byte 8 of the file."""


def described(path: Path, text: bytes) -> Path:
    tifffile.imwrite(path, noise((2, 6, 7)), photometric="minisblack", description=text, metadata=None)
    return path


def chain(path: Path, pages: int) -> Path:
    """Write a TIFF of so many pages, all of them one voxel."""
    page = struct.pack("<H", len(TAGS)) + b"".join(struct.pack("<HHII", *tag) for tag in TAGS)
    starts = [16 + n * (len(page) + 4) for n in range(1, pages)]
    links = b"".join(page + struct.pack("<I", start) for start in (*starts, 0))
    path.write_bytes(struct.pack("<2sHI", b"II", 42, 16) + bytes(8) + links)
    return path


def test_more_pages_than_any_stack_has_are_not_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("napari_memseg.io.tiff_pages.MAX_PAGES", 100)
    assert open_volume(chain(tmp_path / "a.tif", 100)).shape == (100, 1, 1)
    with pytest.raises(SourceError, match="has more than 100 pages"):
        open_volume(chain(tmp_path / "b.tif", 101))


def test_a_strip_of_a_terabyte_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise((2, 6, 7)), photometric="minisblack", bigtiff=True, metadata=None)
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        place = file.pages[0].tags["StripByteCounts"].offset
    struct.pack_into("<HQQ", content, place + 2, 16, 1, 10**12)
    path.write_bytes(content)
    with pytest.raises(SourceError, match="needs bytes up to 10000000"):
        open_volume(path)


def test_a_description_of_many_megabytes_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("napari_memseg.io.tiff_pages.MAX_TEXT_BYTES", 1000)
    with pytest.raises(SourceError, match=r"has a description of .* bytes, more than 1000"):
        open_volume(described(tmp_path / "a.ome.tif", OME % (b" " * 1000)))


def test_a_description_nested_ever_deeper_ends_no_process(tmp_path):
    path = described(tmp_path / "a.ome.tif", OME % (b"<a>" * 100_000 + b"</a>" * 100_000))
    assert open_volume(path).shape == (2, 6, 7)


@pytest.mark.parametrize("chunk", [0, -1, 2.5, "4", None, 2**40])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_impossible_chunks_are_refused(chunk, zarr_format, tmp_path):
    path = write_zarr(tmp_path / "a.zarr", noise(), zarr_format)

    def change(said):
        if zarr_format == 2:
            said["chunks"][0] = chunk
        else:
            said["chunk_grid"]["configuration"]["chunk_shape"][0] = chunk

    edit_json(path / ("zarr.json" if zarr_format == 3 else ".zarray"), change)
    with pytest.raises(SourceError, match=r"a\.zarr"):
        open_volume(path)


def test_a_volume_of_2_to_the_120_voxels_is_refused(tmp_path):
    path = write_zarr(tmp_path / "a.zarr", noise(), 3)
    edit_json(path / "zarr.json", lambda said: said.update(shape=[2**40] * 3))
    with pytest.raises(SourceError, match=r"a\.zarr"):
        open_volume(path)


def test_a_hundred_thousand_levels_are_refused_before_one_is_opened(tmp_path):
    path = Path(write_ome_zarr(tmp_path / "a.zarr", [noise()]))

    def change(said):
        (image,) = said["attributes"]["ome"]["multiscales"]
        image["datasets"] *= 10**5

    edit_json(path / "zarr.json", change)
    with pytest.raises(SourceError, match="describes 100000 levels, but 1 to 64"):
        open_volume(path)


def test_twelve_bits_a_voxel_become_sixteen(tmp_path):
    voxels = noise((3, 16, 17)) * 20
    tifffile.imwrite(tmp_path / "a.tif", voxels, photometric="minisblack", bitspersample=12)
    volume = open_volume(tmp_path / "a.tif")
    np.testing.assert_array_equal(volume.read(Box.whole(volume.shape)), voxels, strict=True)


@pytest.mark.parametrize(
    "text", ["\N{MICRO SIGN}m", "\N{GREEK SMALL LETTER MU}m", "\\u00B5m", "\\u03BCm", "Âµm", "um", "microns"]
)
def test_every_spelling_of_a_micrometre_is_one(text):
    assert unit_name(text) == "micrometer"


@pytest.mark.parametrize("text", ["", None, "pixel", "furlong", "reference frame", 3, "second"])
def test_what_is_no_length_is_no_unit(text):
    assert unit_name(text) is None
