"""The image of a session: completed by a person, kept in the folder, given a pyramid there."""

from __future__ import annotations

import json
import logging
import shutil

import numpy as np
import pytest
import tifffile
import zarr

import toys
from napari_memseg.annotation.record import IMAGE
from napari_memseg.annotation.session import Session
from napari_memseg.errors import GeometryError, InputError, SessionError
from napari_memseg.geometry import Box
from napari_memseg.inference.config import SegmentConfig
from napari_memseg.io.formats import open_volume
from napari_memseg.workflows.segment import segment_session
from napari_memseg.workflows.session import build_pyramid, keep_image, new_session
from running import checkpoint_of, in_memory, noise
from volumes import ome_tiff

LONG = (140, 12, 14)
"""Long enough for a pyramid of two levels, and for many rows of one chunk."""
TOLD = (2.0, 0.5, 0.25)


@pytest.fixture
def scan(tmp_path):
    """Write an image that does not say how large its voxels are."""
    path = tmp_path / "scan.tif"
    tifffile.imwrite(path, noise(LONG), photometric="minisblack")
    return path


@pytest.fixture
def told(folder, scan, classes):
    """Make a session whose voxel size a person told."""
    Session.create(folder, open_volume(scan).with_voxel_size(TOLD, "micrometer"), classes).close()
    return folder


def voxels_of(image, level=0):
    return image.read(Box.whole(image.arrays[level].shape), level)


# A voxel size that a person told


def test_a_voxel_size_that_was_told_is_kept_where_the_source_is_silent(told, scan):
    assert open_volume(scan).voxel_size is None
    for _ in range(2):
        with Session.open(told) as again:
            assert (again.image.voxel_size, again.image.unit) == (TOLD, "micrometer")
            assert again.info()["voxel_size"] == list(TOLD)


def test_the_untouched_source_is_completed_when_it_is_given(told, scan):
    with Session.open(told, image=open_volume(scan)) as again:
        assert again.image.voxel_size == TOLD


def test_a_voxel_size_without_a_unit_is_kept_as_that(folder, scan, classes):
    Session.create(folder, open_volume(scan).with_voxel_size(TOLD, None), classes).close()
    list(build_pyramid(folder))
    with Session.open(folder) as again:
        assert (again.image.voxel_size, again.image.unit) == (TOLD, None)
        assert len(again.image.arrays) == 2


def test_runs_take_the_voxel_size_that_was_told(told, tmp_path):
    toys.register()
    model = checkpoint_of(toys.null(), tmp_path)
    last = list(segment_session(told, model, SegmentConfig(chunk=16, device="cpu")))[-1]
    labels = open_volume(last.result["labels"])
    assert (labels.voxel_size, labels.unit) == (TOLD, "micrometer")
    np.testing.assert_array_equal(voxels_of(labels), noise(LONG) > 0.5)
    with Session.open(told) as again:
        np.testing.assert_array_equal(again.composite()[...], noise(LONG) > 0.5)


@pytest.mark.parametrize("size", [(0.0, 1.0, 1.0), (1.0, -1.0, 1.0), (1.0, 1.0, float("nan"))])
def test_an_impossible_voxel_size_is_refused_and_no_session_made(folder, scan, size):
    with pytest.raises(GeometryError, match="impossible"):
        open_volume(scan).with_voxel_size(size, "micrometer")
    with pytest.raises(InputError, match="impossible"):
        new_session(folder, str(scan), {}, 0, size, "micrometer")
    assert not folder.exists()


@pytest.mark.parametrize(("size", "unit"), [(TOLD, "furlong"), (None, "micrometer")])
def test_a_unit_that_means_nothing_is_refused_and_no_session_made(folder, scan, size, unit):
    with pytest.raises(InputError, match=unit):
        new_session(folder, str(scan), {}, 0, size, unit)
    assert not folder.exists()


def test_a_voxel_size_that_contradicts_the_source_is_refused_and_no_session_made(tmp_path, folder):
    source = ome_tiff(tmp_path, noise((4, 6, 8)))
    with pytest.raises(InputError, match=r"2\.5"):
        new_session(folder, source, {}, 0, (9.0, 9.0, 9.0), "micrometer")
    assert not folder.exists()


def test_what_the_source_says_may_be_told_again(tmp_path, folder):
    source = ome_tiff(tmp_path, noise((4, 6, 8)))
    new_session(folder, source, {}, 0, (2.5, 0.5, 0.25), "micrometer")
    Session.open(folder).close()


# A pyramid in the folder


def test_a_pyramid_is_the_image_once_it_is_built(told, scan):
    list(build_pyramid(told))
    with Session.open(told) as again:
        assert again.image.source == str(told / IMAGE)
        assert again.image.voxel_size == TOLD
        assert [array.shape for array in again.image.arrays] == [LONG, (70, 6, 7)]
        np.testing.assert_array_equal(voxels_of(again.image), tifffile.imread(scan))


def test_a_session_that_is_open_finds_the_pyramid_when_it_looks_again(told, scan):
    with Session.open(told) as session:
        list(build_pyramid(told))
        assert session.image.source == str(scan)
        assert session.reopen_image() is session.image
        assert session.image.source == str(told / IMAGE)


def test_looking_again_for_an_image_that_is_gone_is_refused(told, scan):
    with Session.open(told) as session:
        scan.unlink()
        with pytest.raises(SessionError, match="no longer at"):
            session.reopen_image()


def test_with_a_pyramid_the_source_is_needed_no_more(told, scan):
    list(build_pyramid(told))
    scan.unlink()
    with Session.open(told) as again:
        assert again.image.shape == LONG


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_a_pyramid_is_the_same_image_whatever_its_dtype_was_on_disk(tmp_path, folder, classes, byteorder):
    voxels = (noise(LONG) * 1000).astype(np.uint16)
    tifffile.imwrite(tmp_path / "scan.tif", voxels, photometric="minisblack", byteorder=byteorder)
    Session.create(folder, open_volume(tmp_path / "scan.tif"), classes).close()
    list(build_pyramid(folder))
    with Session.open(folder) as again:
        assert len(again.image.arrays) == 2
        assert again.image.voxel_size is None


def test_a_pyramid_of_other_voxels_is_passed_over_in_words(told, scan, caplog):
    list(build_pyramid(told))
    zarr.open_array(told / IMAGE / "0")[0, 0, 0] = 7
    with caplog.at_level(logging.WARNING), Session.open(told) as again:
        assert again.image.source == str(scan)
    assert "passed over" in caplog.text


def test_a_pyramid_on_another_grid_than_the_working_level_is_passed_over(tmp_path, folder, classes):
    list(keep_image(tmp_path / "a", in_memory(noise(LONG)), classes))
    source = tmp_path / "a" / IMAGE
    Session.create(folder, open_volume(source), classes, level=1).close()
    list(build_pyramid(folder))
    with Session.open(folder) as again:
        assert again.image.source == str(folder / IMAGE)
    shutil.rmtree(folder / IMAGE / "1")
    record = folder / IMAGE / "zarr.json"
    row = json.loads(record.read_text())
    row["attributes"]["ome"]["multiscales"][0]["datasets"].pop()
    record.write_text(json.dumps(row))
    with Session.open(folder) as again:
        assert again.image.source == str(source)


# An image from memory


@pytest.fixture
def image():
    return in_memory(noise(LONG), voxel_size=TOLD, unit="micrometer", name="bone in a layer")


def test_an_image_from_memory_is_kept_also_when_the_folder_moves(tmp_path, folder, image, classes):
    steps = list(keep_image(folder, image, classes))
    assert {step.stage for step in steps} == {"save image"}
    assert [step.result for step in steps if step.result] == [{"session": str(folder)}]
    shutil.move(folder, tmp_path / "elsewhere")
    with Session.open(tmp_path / "elsewhere") as again:
        np.testing.assert_array_equal(voxels_of(again.image), noise(LONG))
        assert (again.image.voxel_size, again.image.unit) == (TOLD, "micrometer")
        assert again.classes == classes
        assert len(again.image.arrays) == 2
        assert again.info()["name"] == "bone in a layer"
        again.overlay[0, 0, 0] = 15
        assert again.verify()["ok"]


def test_an_image_from_memory_is_segmented_as_any_other(tmp_path, folder, image, classes):
    toys.register()
    list(keep_image(folder, image, classes))
    model = checkpoint_of(toys.null(), tmp_path)
    list(segment_session(folder, model, SegmentConfig(chunk=16, device="cpu")))
    with Session.open(folder) as again:
        np.testing.assert_array_equal(again.composite()[...], noise(LONG) > 0.5)


def test_a_session_whose_image_could_not_be_kept_leaves_nothing(tmp_path, folder, image, classes):
    class Broken(type(image.arrays[0])):
        def __getitem__(self, index):
            if index[0].start > 64:
                raise OSError("the disk is gone")
            return super().__getitem__(index)

    broken = in_memory(noise(LONG))
    broken.arrays[0] = Broken(noise(LONG))
    with pytest.raises(InputError, match="the disk is gone"):
        list(keep_image(folder, broken, classes))
    assert list(tmp_path.iterdir()) == []


def test_keeping_an_image_can_be_left_in_the_middle_and_leaves_nothing(tmp_path, folder, image, classes):
    steps = keep_image(folder, image, classes)
    next(steps)
    assert not folder.exists()
    steps.close()
    assert list(tmp_path.iterdir()) == []


def test_no_session_is_overwritten_by_one_of_an_image_from_memory(folder, image, classes):
    list(keep_image(folder, image, classes))
    before = (folder / "session.json").read_bytes()
    with pytest.raises(InputError, match="exists already"):
        list(keep_image(folder, image, classes))
    assert (folder / "session.json").read_bytes() == before
