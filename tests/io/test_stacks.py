"""Stacks that are written plane by plane: what comes back, and what is left when it goes wrong."""

from __future__ import annotations

import configparser
import os
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from napari_memseg.errors import InputError
from napari_memseg.geometry import Box
from napari_memseg.io.formats import open_volume
from napari_memseg.io.stacks import Stack, write_bigtiff, write_raw, write_slices
from volumes import noise

VOXELS = noise((5, 20, 37))
STACK = Stack(
    shape=(5, 20, 37),
    dtype=VOXELS.dtype,
    voxel_size=(2.5, 2.5, 2.5),
    unit="micrometer",
    name="fly",
    description="synthetic: a <fly> & more, 4 µm",
)
WRITERS = {"scan.ome.tif": write_bigtiff, "scan": write_slices, "scan.mhd": write_raw}
"""By what they write, below a folder."""
every_format = pytest.mark.parametrize("name", WRITERS)


def write(path: Path, stack: Stack = STACK, planes: Any = VOXELS, **options: Any) -> None:
    WRITERS[path.name](path, stack, planes, **options)


def read(path: Path) -> np.ndarray:
    if path.suffix != ".mhd":
        volume = open_volume(path)
        return volume.read(Box.whole(volume.shape))
    said = header(path)
    dtype = {"MET_UCHAR": "u1", "MET_USHORT": "<u2", "MET_INT": "<i4", "MET_FLOAT": "<f4"}[
        said["ElementType"]
    ]
    shape = [int(n) for n in reversed(said["DimSize"].split())]
    return np.fromfile(path.with_name(said["ElementDataFile"]), dtype).reshape(shape)


def header(path: Path) -> dict[str, str]:
    lines = path.read_text("utf-8").splitlines()
    return dict(line.split(" = ", 1) for line in lines)


def unwanted() -> Iterator[np.ndarray]:
    """Planes of a stack that is refused before the first one is asked for."""
    yield pytest.fail("a plane was made in vain")


@every_format
@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2", "int32", "float32"])
def test_what_was_written_comes_back(name: str, dtype: str, tmp_path: Path) -> None:
    voxels = VOXELS.astype(dtype)
    write(tmp_path / name, replace(STACK, dtype=voxels.dtype), iter(voxels))
    np.testing.assert_array_equal(read(tmp_path / name), voxels)


@every_format
@pytest.mark.parametrize("shape", [(1, 20, 37), (3, 1, 37), (3, 20, 1), (1, 1, 1)])
def test_a_stack_may_be_one_voxel_thick(name: str, shape: Any, tmp_path: Path) -> None:
    write(tmp_path / name, replace(STACK, shape=shape), noise(shape))
    np.testing.assert_array_equal(read(tmp_path / name), noise(shape))


@pytest.mark.parametrize("tile", [None, 16, 64])
@pytest.mark.parametrize("compression", ["none", "zlib", "lzw", "zstd"])
def test_a_bigtiff_is_one_series_however_it_is_stored(
    compression: Any, tile: int | None, tmp_path: Path
) -> None:
    path = tmp_path / "scan.ome.tif"
    write(path, compression=compression, tile=tile)
    with tifffile.TiffFile(path) as file:
        assert (file.is_bigtiff, len(file.series), file.series[0].axes) == (True, 1, "ZYX")
        page = file.pages[0]
        assert page.compression.name.lower().replace("adobe_deflate", "zlib") == compression
        assert page.tile == ((tile, tile) if tile else None)
    volume = open_volume(path)
    assert (volume.voxel_size, volume.unit, volume.format) == (STACK.voxel_size, STACK.unit, "ome-bigtiff")
    np.testing.assert_array_equal(read(path), VOXELS)


def test_bare_planes_lie_edge_to_edge(tmp_path: Path) -> None:
    write(tmp_path / "scan.ome.tif")
    np.testing.assert_array_equal(tifffile.memmap(tmp_path / "scan.ome.tif", mode="r"), VOXELS)


@pytest.mark.parametrize("compression", ["none", "zlib", "lzw", "zstd"])
def test_slices_are_stored_as_asked(compression: Any, tmp_path: Path) -> None:
    write(tmp_path / "scan", compression=compression)
    with tifffile.TiffFile(tmp_path / "scan" / "fly_0004.tif") as file:
        assert file.pages[0].compression.name.lower().replace("adobe_deflate", "zlib") == compression


@pytest.mark.parametrize("unit", ["meter", "millimeter", "micrometer", "nanometer", "angstrom", "inch"])
def test_a_bigtiff_knows_the_length_of_each_axis(unit: str, tmp_path: Path) -> None:
    stack = replace(STACK, voxel_size=(0.1, 1 / 3, 7.25e-9), unit=unit)
    write(tmp_path / "scan.ome.tif", stack)
    volume = open_volume(tmp_path / "scan.ome.tif")
    assert (volume.voxel_size, volume.unit) == (stack.voxel_size, unit)


def test_an_mhd_speaks_of_x_first_and_in_millimetres(tmp_path: Path) -> None:
    write(tmp_path / "scan.mhd", replace(STACK, voxel_size=(7.0, 2.5, 1.3)))
    said = header(tmp_path / "scan.mhd")
    assert (said["DimSize"], said["ElementSpacing"]) == ("37 20 5", "0.0013 0.0025 0.007")
    assert list(said)[-1] == "ElementDataFile"


def test_slices_bring_the_log_of_a_scanner_that_was_none(tmp_path: Path) -> None:
    write(tmp_path / "scan", replace(STACK, voxel_size=(0.004, 0.004, 0.004), unit="millimeter"))
    content = (tmp_path / "scan" / "fly_.log").read_bytes()
    assert content.count(b"\r\n") == content.count(b"\n")
    log = configparser.ConfigParser(interpolation=None)
    log.read_string(content.decode())
    assert log["System"]["Scanner"].startswith("No scanner")
    assert log["System"]["Comment"] == STACK.description
    assert log["Reconstruction"]["Pixel Size (um)"] == "4"
    assert log["Reconstruction"]["Result Image Width (pixels)"] == "37"
    assert log["Reconstruction"]["Sections Count"] == "5"
    assert log["File name convention"]["Filename Prefix"] == "fly_"


def test_slices_of_voxels_that_are_no_cubes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no cube"):
        write(tmp_path / "scan", replace(STACK, voxel_size=(5.0, 2.5, 2.5)))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("depth", "last"), [(10, "fly_9.tif"), (11, "fly_10.tif")])
def test_slices_are_numbered_in_as_many_digits_as_the_last_one_has(
    depth: int, last: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_memseg.io.stacks.MIN_DIGITS", 1)
    shape = (depth, 1, 2)
    write(tmp_path / "scan", replace(STACK, shape=shape), noise(shape))
    names = sorted(path.name for path in (tmp_path / "scan").glob("*.tif"))
    assert (names[-1], len({len(name) for name in names})) == (last, 1)


@every_format
def test_a_voxel_size_that_is_unknown_is_not_invented(name: str, tmp_path: Path) -> None:
    write(tmp_path / name, replace(STACK, voxel_size=None, unit=None))
    if name == "scan.mhd":
        assert "ElementSpacing" not in header(tmp_path / name)
    else:
        assert (open_volume(tmp_path / name).voxel_size, open_volume(tmp_path / name).unit) == (None, None)
    assert not list(tmp_path.rglob("*.log"))


@every_format
def test_the_description_is_in_the_file(name: str, tmp_path: Path) -> None:
    write(tmp_path / name)
    if name == "scan.mhd":
        assert header(tmp_path / name)["Comment"] == STACK.description
        return
    path = tmp_path / name
    with tifffile.TiffFile(path if path.is_file() else path / "fly_0003.tif") as file:
        said = file.pages[0].description.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    assert STACK.description in said


@every_format
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, GeneratorExit])
def test_nothing_is_left_when_the_planes_fail(name: str, error: Any, tmp_path: Path) -> None:
    def planes() -> Iterator[np.ndarray]:
        yield from VOXELS[:3]
        assert not (tmp_path / name).exists()
        raise error

    with pytest.raises(error):
        write(tmp_path / name, STACK, planes())
    assert os.listdir(tmp_path) == []


@every_format
@pytest.mark.parametrize(
    ("planes", "said"),
    [
        (VOXELS[:4], "Only 4 planes came, of the 5"),
        ([], "Only 0 planes came"),
        (np.concatenate([VOXELS, VOXELS]), "More planes came than the 5"),
        (VOXELS[:, :19], r"Plane 0 is \(19, 37\) uint16, but .* \(20, 37\) uint16"),
        ([*VOXELS[:2], VOXELS[2].astype("u1")], r"Plane 2 is \(20, 37\) uint8, but .* uint16"),
    ],
)
def test_planes_of_another_stack_are_refused(name: str, planes: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        write(tmp_path / name, STACK, planes)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "in_the_way"), [*((name, name) for name in WRITERS), ("scan.mhd", "scan.raw")]
)
def test_nothing_is_overwritten(name: str, in_the_way: str, tmp_path: Path) -> None:
    (tmp_path / in_the_way).write_bytes(b"theirs")
    with pytest.raises(InputError, match="exists already"):
        write(tmp_path / name, STACK, unwanted())
    assert os.listdir(tmp_path) == [in_the_way]
    assert (tmp_path / in_the_way).read_bytes() == b"theirs"


@pytest.mark.parametrize("name", ["scan.ome.tif", "scan.mhd"])
def test_an_empty_folder_is_in_the_way_of_a_file(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match="is a folder"):
        write(tmp_path / name)
    assert os.listdir(tmp_path) == [name]


@every_format
def test_what_somebody_else_finished_first_stays(name: str, tmp_path: Path) -> None:
    def planes() -> Iterator[np.ndarray]:
        yield from VOXELS[:4]
        (tmp_path / name).write_bytes(b"theirs")
        yield VOXELS[4]

    with pytest.raises(InputError, match="exists already"):
        write(tmp_path / name, STACK, planes())
    assert os.listdir(tmp_path) == [name]
    assert (tmp_path / name).read_bytes() == b"theirs"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("scan.ome.tif", {}),
        ("scan.ome.tif", {"compression": "zlib"}),
        ("scan.ome.tif", {"compression": "zstd", "tile": 16}),
        ("scan.ome.tif", {"tile": 16}),
        ("scan", {}),
        ("scan", {"compression": "lzw"}),
        ("scan.mhd", {}),
    ],
)
def test_a_plane_is_forgotten_before_the_next_is_asked_for(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    made: list[weakref.ref[np.ndarray]] = []

    def planes() -> Iterator[np.ndarray]:
        for number in range(5):
            assert not any(plane() is not None for plane in made)
            plane = VOXELS[number].copy()
            made.append(weakref.ref(plane))
            yield plane
            del plane

    write(tmp_path / name, STACK, planes(), **options)
    assert len(made) == 5


@every_format
@pytest.mark.parametrize("dtype", ["complex64", "float16", "bool"])
def test_voxels_that_a_format_cannot_hold_are_refused(name: str, dtype: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"cannot hold {dtype} voxels here; possible are int8"):
        write(tmp_path / name, replace(STACK, dtype=np.dtype(dtype)), unwanted())
    assert os.listdir(tmp_path) == []


def test_long_labels_go_into_a_raw_file_only(tmp_path: Path) -> None:
    stack = replace(STACK, dtype=np.dtype("int64"))
    write(tmp_path / "scan.mhd", stack, VOXELS.astype("int64"))
    assert header(tmp_path / "scan.mhd")["ElementType"] == "MET_LONG_LONG"
    with pytest.raises(InputError, match="TIFF cannot hold int64"):
        write(tmp_path / "scan.ome.tif", stack)


@pytest.mark.parametrize("name", ["scan.ome.tif", "scan"])
def test_a_compression_that_is_unknown_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'jpeg' is not known: none, zlib, lzw, zstd are"):
        write(tmp_path / name, compression="jpeg")


@pytest.mark.parametrize("tile", [-16, 0, 8, 100])
def test_a_tile_that_tiff_does_not_know_is_refused(tile: int, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"multiple of 16 pixels, as TIFF asks, got {tile}"):
        write(tmp_path / "scan.ome.tif", tile=tile)


@pytest.mark.parametrize(("writer", "name"), [(write_bigtiff, "scan.png"), (write_raw, "scan.raw")])
def test_an_ending_that_readers_do_not_know_is_refused(writer: Any, name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="should end in"):
        writer(tmp_path / name, STACK, VOXELS)


def test_a_header_that_itk_would_read_as_a_pattern_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="without it"):
        write_raw(tmp_path / "dose50%.mhd", STACK, unwanted())


@pytest.mark.parametrize("name", [".fly", "a/b", "a:b", "what?"])
def test_a_name_that_no_slice_can_bear_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot begin the name of a file"):
        write(tmp_path / "scan", replace(STACK, name=name))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"shape": (0, 20, 37)}, "three lengths"),
        ({"name": ""}, "one line of text"),
        ({"description": "a\nElementDataFile = b"}, "one line"),
        ({"voxel_size": (1.0, 0.0, 1.0)}, "impossible"),
        ({"unit": None}, "nothing without its unit"),
        ({"voxel_size": None}, "nothing without its unit"),
        ({"unit": "pixel"}, "'pixel' is no unit of a voxel"),
    ],
)
def test_a_stack_that_no_file_could_describe_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        replace(STACK, **change)
