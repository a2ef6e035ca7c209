"""What a source may say, and what is refused before anything is decoded."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_memseg.errors import SourceError
from napari_memseg.geometry import Box
from napari_memseg.io.formats import Source, open_volume, parse_source
from volumes import noise, write_ome_zarr, write_zarr

VOXELS = noise((3, 8, 9))


def write_tiff(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, VOXELS, photometric="minisblack")
    return path


@pytest.mark.parametrize(
    ("tail", "inner", "selection"),
    [
        ("", None, {}),
        ("::raw", "raw", {}),
        ("::labels/bone", "labels/bone", {}),
        ("@c=1", None, {"c": 1}),
        ("@c=1,t=0", None, {"c": 1, "t": 0}),
        ("@C=1 , t = 20", None, {"c": 1, "t": 20}),
        ("::a::b@c=2", "a::b", {"c": 2}),
    ],
)
def test_a_source_is_a_path_what_is_inside_and_a_selection(
    tail: str, inner: str | None, selection: dict[str, int], tmp_path: Path
) -> None:
    path = write_tiff(tmp_path / "scan.tif")
    assert parse_source(f"{path}{tail}") == Source(path, inner, selection)


@pytest.mark.parametrize(
    "name", ["a@c=1.tif", "a@c=1", "a::b.tif", "a::1@c=0,t=0", "me@home.tif", "x@y/z.tif"]
)
def test_a_path_that_exists_wins_over_what_its_signs_could_mean(name: str, tmp_path: Path) -> None:
    path = write_tiff(tmp_path / name)
    assert parse_source(path) == Source(path)
    assert parse_source(f"{path}::0@c=1") == Source(path, "0", {"c": 1})


@pytest.mark.parametrize("text", ["@c", "@c=", "@c=-1", "@c=one", "@c=1,c=2", "@c=1;t=0", "@=1"])
def test_a_selection_that_selects_nothing_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"selects nothing|There is no file"):
        parse_source(f"{write_tiff(tmp_path / 'scan.tif')}{text}")


@settings(max_examples=40)
@given(text=st.text(st.sampled_from("ab:@=,1/. \0"), max_size=20))
def test_any_text_is_a_source_or_refused(text: str) -> None:
    with suppress(SourceError):
        assert parse_source(text).path.exists()


def test_what_a_source_says_opens_it_again(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "scan.tif")
    text = str(parse_source(f"{path}::0@c=1,t=0"))
    assert text == f"{path}::0@c=1,t=0"
    assert str(parse_source(text)) == text


@pytest.mark.parametrize(
    ("name", "called"),
    [
        ("a.tif", "a"),
        ("a.b.ome.tiff", "a.b"),
        ("scan.ome.zarr", "scan"),
        ("folder", "folder"),
        ("x.OME.TIF", "x"),
    ],
)
def test_a_volume_is_called_by_its_file_without_the_ending(name: str, called: str, tmp_path: Path) -> None:
    assert Source(tmp_path / name).name == called


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"There is no file or folder .*gone\.tif"):
        open_volume(tmp_path / "gone.tif@c=1")


def test_an_unknown_ending_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    path = tmp_path / "scan.xyz"
    path.write_bytes(b"something")
    with pytest.raises(SourceError, match=r"ending \.xyz, which is not read.*\.tif.*Zarr.*slices"):
        open_volume(path)


def test_a_folder_without_a_volume_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(SourceError, match="holds no volume"):
        open_volume(tmp_path)


@pytest.mark.parametrize("name", ["scan.tif", "scan.xyz"])
def test_an_empty_file_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    with pytest.raises(SourceError, match="is empty: 0 bytes"):
        open_volume(tmp_path / name)


def test_a_git_lfs_pointer_is_told_from_the_image(tmp_path: Path) -> None:
    path = tmp_path / "scan.tif"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(SourceError, match=r"Git LFS pointer.*git lfs pull"):
        open_volume(path)


def test_a_file_that_is_no_tiff_inside_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scan.tif"
    path.write_bytes(b"GIF89a and so on, for many bytes")
    with pytest.raises(SourceError, match="is not a TIFF"):
        open_volume(path)


def test_four_and_five_dimensions_are_refused_with_the_choices_named(tmp_path: Path) -> None:
    five = np.zeros((2, 3, 4, 8, 8), np.uint8)
    path = write_ome_zarr(tmp_path / "a.zarr", [five], axes="tczyx")
    with pytest.raises(SourceError, match=r"t \(2\), c \(3\).*t is 0 to 1, c is 0 to 2.*a\.zarr@t=0,c=0"):
        open_volume(path)
    with pytest.raises(SourceError, match=r"choose one index along t \(2\)"):
        open_volume(f"{path}@c=1")


@pytest.mark.parametrize("choice", ["@c=3", "@q=0", "@z=1"])
def test_a_choice_that_there_is_not_is_refused(choice: str, tmp_path: Path) -> None:
    path = write_ome_zarr(tmp_path / "a.zarr", [np.zeros((3, 4, 8, 8), np.uint8)], axes="czyx")
    with pytest.raises(SourceError, match=r"selects .*c is 0 to 2"):
        open_volume(f"{path}{choice}")


def test_a_selection_picks_the_channel_and_the_time(tmp_path: Path) -> None:
    five = noise((2, 3, 4, 8, 8))
    path = write_ome_zarr(tmp_path / "a.zarr", [five], axes="tczyx")
    volume = open_volume(f"{path}@c=2,t=1")
    np.testing.assert_array_equal(volume.read(Box.whole(volume.shape)), five[1, 2])
    assert volume.source == f"{path}@c=2,t=1"
    assert open_volume(f"{path}@c=1,t=1").fingerprint != volume.fingerprint


def test_an_axis_of_length_one_needs_no_choice(tmp_path: Path) -> None:
    four = noise((1, 4, 8, 8))
    volume = open_volume(write_zarr(tmp_path / "a.zarr", four, 3))
    np.testing.assert_array_equal(volume.read(Box.whole(volume.shape)), four[0])


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("dtype", [">u2", ">f4", "bool", "float16"])
def test_unusual_numbers_become_native_ones(zarr_format: int, dtype: str, tmp_path: Path) -> None:
    voxels = (noise() % 2).astype(dtype)
    volume = open_volume(write_zarr(tmp_path / "a.zarr", voxels, zarr_format))
    assert volume.dtype == {"bool": np.uint8, "float16": np.float32}.get(
        dtype, np.dtype(dtype).newbyteorder("=")
    )
    assert volume.dtype.isnative
    np.testing.assert_array_equal(
        volume.read(Box.whole(volume.shape)), voxels.astype(volume.dtype), strict=True
    )


def test_a_folder_that_may_not_be_read_is_an_error_of_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("napari_memseg.io.formats.holds_slices", refuse)
    with pytest.raises(SourceError, match=r"cannot be read .*Permission denied"):
        open_volume(tmp_path)
