"""Folders of slices: their order, and all that can be wrong with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from napari_memseg.annotation.session import Session
from napari_memseg.errors import SourceError
from napari_memseg.geometry import Box
from napari_memseg.io.formats import open_volume
from napari_memseg.io.volume import Volume
from napari_memseg.models.classes import ClassTable
from napari_memseg.workflows.convert import convert
from napari_memseg.workflows.info import describe
from volumes import noise

PLANES = noise((13, 6, 7))


def write(folder: Path, *names: str) -> None:
    for plane, name in zip(PLANES, names, strict=False):
        tifffile.imwrite(folder / name, plane)


def voxels(volume: Volume) -> np.ndarray:
    return volume.read(Box.whole(volume.shape))


@pytest.mark.parametrize("name", ["slice_{}.tif", "{}.TIFF", "a2b_{:04d}_rec.tif", "Scan 3 - {:03d}.tiff"])
def test_slices_come_in_the_order_of_their_numbers(name: str, tmp_path: Path) -> None:
    write(tmp_path, *(name.format(number) for number in range(3, 16)))
    volume = open_volume(tmp_path)
    np.testing.assert_array_equal(voxels(volume), PLANES)
    assert (volume.format, volume.arrays[0].chunks) == ("tiff slices", (1, 6, 7))


def test_every_tenth_slice_is_a_series_too(tmp_path: Path) -> None:
    write(tmp_path, *(f"s{number}.tif" for number in range(0, 130, 10)))
    np.testing.assert_array_equal(voxels(open_volume(tmp_path)), PLANES)


def test_one_slice_is_a_volume_of_one(tmp_path: Path) -> None:
    write(tmp_path, "only.tif")
    assert open_volume(tmp_path).shape == (1, 6, 7)


def test_what_is_no_slice_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path, "s1.tif", "s2.tif")
    for name in (".s3.tif", "._s1.tif", "Thumbs.db", "s.log", "Thumbs.tif"):
        (tmp_path / name).write_bytes(b"junk")
    tifffile.imwrite(tmp_path / "s_spr.tif", np.zeros((2, 2), np.uint8))
    (tmp_path / "s4.tif").mkdir()
    assert open_volume(tmp_path).shape == (2, 6, 7)


def test_a_missing_slice_is_named(tmp_path: Path) -> None:
    write(tmp_path, "s08.tif", "s09.tif", "s11.tif")
    with pytest.raises(SourceError, match=r"number 10 should come after s09\.tif, but s11\.tif does"):
        open_volume(tmp_path)


def test_two_slices_for_one_place_are_named(tmp_path: Path) -> None:
    write(tmp_path, "s1.tif", "s2.tif", "s02.tif")
    with pytest.raises(SourceError, match=r"s02\.tif and s2\.tif .* one place"):
        open_volume(tmp_path)


def test_one_slice_in_two_endings_is_there_twice(tmp_path: Path) -> None:
    write(tmp_path, "s1.tif", "s1.tiff")
    with pytest.raises(SourceError, match="one place"):
        open_volume(tmp_path)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (np.zeros((6, 8), np.uint16), r"s2\.tif .* is 6 x 8 .* but s1\.tif is 6 x 7"),
        (np.zeros((6, 7), np.uint8), r"s2\.tif .* uint8, but s1\.tif .* uint16"),
        (np.zeros((6, 7, 3), np.uint8), r"s2\.tif has 3 samples per pixel: it is a colour"),
        (np.zeros((4, 6, 7), np.uint16), r"s2\.tif holds several pages"),
    ],
)
def test_a_slice_that_differs_is_named_with_both(other: np.ndarray, said: str, tmp_path: Path) -> None:
    write(tmp_path, "s1.tif")
    tifffile.imwrite(tmp_path / "s2.tif", other, photometric="rgb" if other.shape[-1] == 3 else "minisblack")
    with pytest.raises(SourceError, match=said):
        open_volume(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", r"s2\.tif is empty"),
        (b"not a TIFF at all", r"s2\.tif is not a TIFF"),
        (b"version https://git-lfs.github.com/spec/v1\n", r"s2\.tif is a Git LFS pointer"),
    ],
)
def test_a_file_that_is_no_image_is_named(content: bytes, said: str, tmp_path: Path) -> None:
    write(tmp_path, "s1.tif")
    (tmp_path / "s2.tif").write_bytes(content)
    with pytest.raises(SourceError, match=said):
        open_volume(tmp_path)


def test_a_slice_that_was_cut_off_is_named(tmp_path: Path) -> None:
    write(tmp_path, "s1.tif", "s2.tif")
    whole = (tmp_path / "s2.tif").read_bytes()
    (tmp_path / "s2.tif").write_bytes(whole[:-20])
    with pytest.raises(SourceError, match=r"s2\.tif is cut off"):
        open_volume(tmp_path)


@pytest.mark.parametrize("names", [("a1.tif", "b2.tif"), ("bone.tif", "skin.tif"), ("c1z1.tif", "c2z2.tif")])
def test_names_that_do_not_count_are_refused(names: tuple[str, str], tmp_path: Path) -> None:
    write(tmp_path, *names)
    with pytest.raises(SourceError, match="order is unknown"):
        open_volume(tmp_path)


@pytest.mark.parametrize("tail", ["::raw", "@c=0"])
def test_there_is_nothing_to_choose_in_a_folder_of_slices(tail: str, tmp_path: Path) -> None:
    write(tmp_path, "s1.tif", "s2.tif")
    with pytest.raises(SourceError, match="nothing to choose"):
        open_volume(f"{tmp_path}{tail}")


def test_a_slice_that_changes_while_it_is_open_is_noticed(tmp_path: Path) -> None:
    write(tmp_path, "s1.tif", "s2.tif")
    volume = open_volume(tmp_path)
    tifffile.imwrite(tmp_path / "s2.tif", np.zeros((6, 9), np.uint16))
    with pytest.raises(SourceError, match=r"s2\.tif .* is 6 x 9 .* or was changed"):
        voxels(volume)


def test_a_slice_that_vanishes_while_it_is_open_is_noticed(tmp_path: Path) -> None:
    write(tmp_path, "s1.tif", "s2.tif")
    volume = open_volume(tmp_path)
    (tmp_path / "s2.tif").unlink()
    with pytest.raises(SourceError, match=r"s2\.tif cannot be opened \(No such file"):
        voxels(volume)


@pytest.fixture
def many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of more slices than are looked at at once, of which the second is too small."""
    monkeypatch.setattr("napari_memseg.io.slices.AT_ONCE", 2)
    write(tmp_path, "s1.tif", "s2.tif", "s3.tif")
    tifffile.imwrite(tmp_path / "s2.tif", np.zeros((6, 5), np.uint16))
    return tmp_path


def test_headers_of_many_slices_are_looked_at_once_the_folder_is_shown(many: Path) -> None:
    volume = open_volume(many)
    assert volume.shape == (3, 6, 7)
    with pytest.raises(SourceError, match=r"s2\.tif .* is 6 x 5 .* but s1\.tif is 6 x 7"):
        volume.check()


def test_a_slice_that_nobody_has_looked_at_is_looked_at_when_it_is_read(many: Path) -> None:
    volume = open_volume(many)
    np.testing.assert_array_equal(volume.read(Box((2, 0, 0), (3, 6, 7)))[0], PLANES[2])
    with pytest.raises(SourceError, match=r"s2\.tif"):
        volume.read(Box((1, 0, 0), (2, 6, 5)))


def test_no_work_begins_on_slices_that_nobody_has_looked_at(many: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"s2\.tif"):
        describe(open_volume(many))
    with pytest.raises(SourceError, match=r"s2\.tif"):
        next(convert(many, tmp_path / "copy"))
    with pytest.raises(SourceError, match=r"s2\.tif"):
        Session.create(tmp_path / "session", open_volume(many), ClassTable.from_ids([1]))


def test_looking_at_headers_can_be_left_in_between(many: Path) -> None:
    volume = open_volume(many)
    checks = volume.checks()
    next(checks)
    checks.close()
    with pytest.raises(SourceError, match=r"s2\.tif"):
        volume.check()


def test_headers_that_were_looked_at_are_not_looked_at_again(many: Path) -> None:
    tifffile.imwrite(many / "s2.tif", PLANES[1])
    volume = open_volume(many)
    volume.check()
    (many / "s2.tif").unlink()
    volume.check()


def test_slices_say_how_large_their_pixels_are(tmp_path: Path) -> None:
    for number in range(3):
        path = tmp_path / f"s{number}.tif"
        tifffile.imwrite(path, PLANES[number], resolution=(5000, 2500), resolutionunit="CENTIMETER")
    volume = open_volume(tmp_path)
    assert (volume.voxel_size, volume.pixel_size) == (None, (4.0, 2.0, "micrometer"))
    (tmp_path / "s.log").write_text("[Reconstruction]\nPixel Size (um)=4.5\n")
    logged = open_volume(tmp_path)
    assert (logged.voxel_size, logged.pixel_size) == ((4.5, 4.5, 4.5), None)
