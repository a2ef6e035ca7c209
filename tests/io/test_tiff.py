"""TIFFs: what they say of themselves, and files that are damaged, cut off or lie."""

from __future__ import annotations

import gc
import struct
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_memseg.errors import SourceError
from napari_memseg.geometry import Box
from napari_memseg.io.formats import open_volume
from napari_memseg.io.volume import Volume
from volumes import noise

VOXELS = noise((6, 20, 24))


def write(path: Path, voxels: np.ndarray = VOXELS, **options: Any) -> Path:
    tifffile.imwrite(path, voxels, **({"photometric": "minisblack"} | options))
    return path


def voxels_of(volume: Volume) -> np.ndarray:
    return volume.read(Box.whole(volume.shape))


def ome(pixels: str, before: str = "") -> bytes:
    """OME's description of 6 pages, with other attributes of Pixels."""
    return (
        f'<?xml version="1.0"?>{before}<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        f'<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" {pixels} '
        'SizeX="24" SizeY="20" SizeZ="6" SizeC="1" SizeT="1">'
        '<TiffData IFD="0" PlaneCount="6"/></Pixels></Image></OME>'
    ).encode()


def size_of_ome(path: Path, pixels: str) -> tuple[Any, str | None]:
    volume = open_volume(write(path, description=ome(pixels), metadata=None))
    return volume.voxel_size, volume.unit


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint32", "float32", "float64"])
def test_either_byte_order_reads_as_native_numbers(
    byteorder: Any, bigtiff: bool, dtype: str, tmp_path: Path
) -> None:
    voxels = noise((3, 7, 9), dtype)
    volume = open_volume(write(tmp_path / "a.tif", voxels, byteorder=byteorder, bigtiff=bigtiff))
    assert volume.dtype.isnative
    np.testing.assert_array_equal(voxels_of(volume), voxels, strict=True)


def test_half_floats_and_bits_become_what_a_network_takes(tmp_path: Path) -> None:
    half = open_volume(write(tmp_path / "half.tif", VOXELS.astype(np.float16)))
    bits = open_volume(write(tmp_path / "bits.tif", VOXELS > 100, compression="packbits"))
    assert (half.dtype, bits.dtype) == (np.float32, np.uint8)
    np.testing.assert_array_equal(voxels_of(half), VOXELS.astype(np.float32))
    np.testing.assert_array_equal(voxels_of(bits), VOXELS > 100)


def test_complex_voxels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="complex"):
        open_volume(write(tmp_path / "a.tif", VOXELS.astype(np.complex64)))


@pytest.mark.parametrize("options", [{}, {"planarconfig": "separate"}])
def test_colour_is_refused(options: dict[str, Any], tmp_path: Path) -> None:
    shape = (3, 20, 24) if options else (20, 24, 3)
    path = write(tmp_path / "a.tif", np.zeros(shape, np.uint8), photometric="rgb", **options)
    with pytest.raises(SourceError, match="3 samples per pixel: it is a colour image"):
        open_volume(path)


def test_one_page_is_one_slice(tmp_path: Path) -> None:
    volume = open_volume(write(tmp_path / "a.tif", VOXELS[0]))
    np.testing.assert_array_equal(voxels_of(volume), VOXELS[:1])


def test_pages_of_different_size_are_refused_with_both_sizes(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for shape in ((20, 24), (11, 17)):
            file.write(np.zeros(shape, np.uint8), photometric="minisblack", metadata=None)
    with pytest.raises(SourceError, match=r"20, 24.*11, 17.*a\.tif::0"):
        open_volume(tmp_path / "a.tif")
    assert open_volume(f"{tmp_path / 'a.tif'}::1").shape == (1, 11, 17)
    with pytest.raises(SourceError, match="Choose one by its number"):
        open_volume(f"{tmp_path / 'a.tif'}::2")


def test_a_pyramid_inside_is_read_level_by_level(tmp_path: Path) -> None:
    about = {"axes": "ZYX"}
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as file:
        file.write(VOXELS, subifds=1, metadata=about, tile=(16, 16), photometric="minisblack")
        file.write(VOXELS[:, ::2, ::2], subfiletype=1, tile=(16, 16), photometric="minisblack")
    volume = open_volume(tmp_path / "a.ome.tif")
    assert [array.shape for array in volume.arrays] == [(6, 20, 24), (6, 10, 12)]
    assert volume.scale(1) == (1, 2, 2)
    np.testing.assert_array_equal(volume.read(Box.whole((6, 10, 12)), 1), VOXELS[:, ::2, ::2])


def test_a_hyperstack_is_opened_by_channel_and_time(tmp_path: Path) -> None:
    five = noise((2, 4, 3, 20, 24))
    write(tmp_path / "a.tif", five, imagej=True, metadata={"axes": "TZCYX"})
    with pytest.raises(SourceError, match=r"t \(2\), c \(3\)"):
        open_volume(tmp_path / "a.tif")
    volume = open_volume(f"{tmp_path / 'a.tif'}@t=1,c=2")
    np.testing.assert_array_equal(voxels_of(volume), five[1, :, 2])


@pytest.mark.parametrize("axis", ["t", "c"])
@pytest.mark.parametrize("options", [{"imagej": True}, {"ome": True}])
def test_times_and_channels_are_no_depth(axis: str, options: dict[str, Any], tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", metadata={"axes": f"{axis}yx".upper()}, **options)
    with pytest.raises(SourceError, match=rf"choose one index along {axis} \(6\)"):
        open_volume(path)
    volume = open_volume(f"{path}@{axis}=4")
    np.testing.assert_array_equal(voxels_of(volume), VOXELS[4:5])


@pytest.mark.parametrize("metadata", [None, {}, {"axes": "QYX"}, {"axes": "IYX"}])
def test_an_axis_without_a_name_is_the_depth(metadata: dict[str, Any] | None, tmp_path: Path) -> None:
    volume = open_volume(write(tmp_path / "a.tif", metadata=metadata))
    np.testing.assert_array_equal(voxels_of(volume), VOXELS)


@pytest.mark.parametrize(
    ("unit", "name"),
    [("um", "micrometer"), ("\\u00B5m", "micrometer"), ("micron", "micrometer"), ("mm", "millimeter")],
)
def test_the_units_of_imagej_have_one_name(unit: str, name: str, tmp_path: Path) -> None:
    about = {"axes": "ZYX", "spacing": 3.0, "unit": unit}
    volume = open_volume(write(tmp_path / "a.tif", imagej=True, metadata=about, resolution=(2, 4)))
    assert volume.voxel_size == pytest.approx((3.0, 0.25, 0.5))
    assert volume.unit == name


@pytest.mark.parametrize(
    "about",
    [
        {"unit": "um"},
        {"spacing": 3.0, "unit": "pixel"},
        {"spacing": 0.0, "unit": "um"},
        {"spacing": -1, "unit": "um"},
    ],
)
def test_an_imagej_stack_that_does_not_say_z_has_no_voxel_size(about: dict[str, Any], tmp_path: Path) -> None:
    about = {"axes": "ZYX", **about}
    volume = open_volume(write(tmp_path / "a.tif", imagej=True, metadata=about, resolution=(2, 4)))
    assert (volume.voxel_size, volume.unit) == (None, None)


@pytest.mark.parametrize(
    ("resolution", "unit", "said"),
    [
        ((5000, 2500), "CENTIMETER", (4.0, 2.0, "micrometer")),
        ((4000, 4000), "INCH", (6.35, 6.35, "micrometer")),
        ((72, 72), "INCH", None),
        ((300, 300), "INCH", None),
        ((100, 100), "NONE", None),
        ((0, 100), "CENTIMETER", None),
        ((28.346, 28.346), "CENTIMETER", None),
        ((118.11, 118.11), "CENTIMETER", None),
        ((1, 1), "INCH", None),
        ((1, 1), "CENTIMETER", None),
    ],
)
def test_resolution_tags_say_how_large_a_pixel_is_and_nothing_of_z(
    resolution: tuple[float, float], unit: str, said: tuple[float, float, str] | None, tmp_path: Path
) -> None:
    volume = open_volume(write(tmp_path / "a.tif", resolution=resolution, resolutionunit=unit))
    assert volume.voxel_size is None
    assert volume.pixel_size == said


def test_ome_and_imagej_without_z_say_how_large_a_pixel_is(tmp_path: Path) -> None:
    write(tmp_path / "a.ome.tif", metadata={"axes": "ZYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25})
    assert open_volume(tmp_path / "a.ome.tif").pixel_size == (0.25, 0.5, "micrometer")
    write(tmp_path / "b.tif", imagej=True, metadata={"axes": "ZYX", "unit": "um"}, resolution=(2, 4))
    assert open_volume(tmp_path / "b.tif").pixel_size == (0.25, 0.5, "micrometer")


def test_an_imagej_stack_in_the_inches_of_a_printer_has_no_size(tmp_path: Path) -> None:
    about = {"axes": "ZYX", "unit": "inch", "spacing": 1.0}
    volume = open_volume(write(tmp_path / "a.tif", imagej=True, metadata=about, resolution=(300, 300)))
    assert (volume.voxel_size, volume.pixel_size) == (None, None)


def test_a_voxel_size_that_is_told_takes_the_place_of_the_pixels(tmp_path: Path) -> None:
    volume = open_volume(write(tmp_path / "a.tif", resolution=(100, 100), resolutionunit="CENTIMETER"))
    told = volume.with_voxel_size((100.0, 100.0, 100.0), "micrometer")
    assert (told.voxel_size, told.pixel_size) == ((100.0, 100.0, 100.0), None)


def test_ome_lengths_come_in_the_unit_of_x(tmp_path: Path) -> None:
    pixels = (
        'PhysicalSizeX="0.5" PhysicalSizeY="500" PhysicalSizeYUnit="nm" '
        'PhysicalSizeZ="0.002" PhysicalSizeZUnit="mm"'
    )
    size, unit = size_of_ome(tmp_path / "a.ome.tif", pixels)
    assert (size, unit) == (pytest.approx((2.0, 0.5, 0.5)), "micrometer")


@pytest.mark.parametrize(
    "z", ["", '"0"', '"-2"', '"NaN"', '"INF"', '"thick"', '"2" PhysicalSizeZUnit="reference frame"']
)
def test_an_ome_length_that_is_none_makes_the_voxel_size_unknown(z: str, tmp_path: Path) -> None:
    third = f"PhysicalSizeZ={z}" if z else ""
    pixels = f'PhysicalSizeX="1" PhysicalSizeY="1" {third}'
    assert size_of_ome(tmp_path / "a.ome.tif", pixels) == (None, None)


def test_entities_in_a_description_are_refused(tmp_path: Path) -> None:
    before = '<!DOCTYPE bomb [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]>'
    path = write(tmp_path / "a.ome.tif", description=ome("", before), metadata=None)
    with pytest.raises(SourceError, match="defines entities"):
        open_volume(path)


def test_a_broken_description_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ome.tif", description=ome("")[:-6] + b"OME>", metadata=None)
    with pytest.raises(SourceError, match=r"OME description .* is damaged"):
        open_volume(path)


def test_one_file_of_an_ome_set_says_which_to_open(tmp_path: Path) -> None:
    text = b'<OME xmlns="x"><BinaryOnly MetadataFile="scan_Z0.ome.tif" UUID="urn:uuid:0"/></OME>'
    path = write(tmp_path / "a.ome.tif", description=text, metadata=None)
    with pytest.raises(SourceError, match=r"Open the master file, scan_Z0\.ome\.tif"):
        open_volume(path)


def test_pages_that_the_description_promises_must_be_there(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ome.tif", VOXELS[:4], description=ome(""), metadata=None)
    with pytest.raises(SourceError, match=r"6 pages, but 2 of them are missing|4 of 6"):
        open_volume(path)


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"imagej": True}, {"tile": (16, 16)}])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_file_that_was_cut_off_is_refused_with_the_pages_counted(
    options: dict[str, Any], share: float, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.tif", **options)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(SourceError, match=r"cut off or damaged.*page"):
        open_volume(path)


@settings(max_examples=30)
@given(share=st.floats(0, 0.999))
def test_no_cut_goes_unnoticed(share: float, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = write(tmp_path_factory.getbasetemp() / "cut.tif", compression="zlib")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(SourceError):
        open_volume(path)


@settings(max_examples=60)
@given(place=st.integers(0, 400), value=st.integers(0, 255))
def test_a_changed_byte_is_an_error_of_the_source_or_harmless(
    place: int, value: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = write(tmp_path_factory.getbasetemp() / "changed.tif", compression="zlib")
    content = bytearray(path.read_bytes())
    content[place] = value
    path.write_bytes(content)
    with suppress(SourceError):
        assert voxels_of(open_volume(path)).size > 0


def patched(path: Path, tag: int, value: int, count: int = 1) -> Path:
    """Overwrite the value of a tag on the first page of a classic little-endian TIFF."""
    content = bytearray(path.read_bytes())
    (start,) = struct.unpack_from("<I", content, 4)
    (entries,) = struct.unpack_from("<H", content, start)
    places = [start + 2 + 12 * n for n in range(entries)]
    (place,) = [p for p in places if struct.unpack_from("<H", content, p)[0] == tag]
    struct.pack_into("<HII", content, place + 2, 4, count, value)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(("tag", "value"), [(257, 2**31 - 1), (256, 2**31 - 1), (273, 2**31), (279, 2**31)])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_page_that_claims_more_than_the_file_holds_is_refused(
    tag: int, value: int, compression: str | None, tmp_path: Path
) -> None:
    path = patched(write(tmp_path / "a.tif", VOXELS[0], compression=compression), tag, value)
    with pytest.raises(SourceError, match=r"a\.tif"):
        open_volume(path)


def test_damaged_data_are_named_by_page(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", compression="zlib")
    with tifffile.TiffFile(path) as file:
        offset = file.pages[3].dataoffsets[0]
    content = bytearray(path.read_bytes())
    content[offset : offset + 40] = bytes(40)
    path.write_bytes(content)
    volume = open_volume(path)
    np.testing.assert_array_equal(volume.read(Box((0, 0, 0), (3, 20, 24))), VOXELS[:3])
    with pytest.raises(SourceError, match="page 3"):
        voxels_of(volume)


def test_a_chain_of_pages_that_loops_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", VOXELS[:2], metadata=None)
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        first, last = (page.offset for page in file.pages)
    (entries,) = struct.unpack_from("<H", content, last)
    struct.pack_into("<I", content, last + 2 + 12 * entries, first)
    path.write_bytes(content)
    with pytest.raises(SourceError, match="loop: behind the last of 2"):
        open_volume(path)


def test_a_tall_stack_of_thin_strips_is_read_in_good_bites(tmp_path: Path) -> None:
    voxels = noise((2, 300, 24))
    volume = open_volume(write(tmp_path / "a.tif", voxels, rowsperstrip=1, compression="zlib"))
    assert volume.arrays[0].chunks == (1, 300, 24)
    np.testing.assert_array_equal(voxels_of(volume), voxels)


def test_a_volume_that_is_gone_closes_its_file(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        voxels_of(open_volume(write(tmp_path / "a.tif")))
        gc.collect()
    (tmp_path / "a.tif").unlink()
