"""Folders in which a DICOM series does not lie alone, and files that are not what they seem."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest

from napari_memseg.errors import SourceError
from napari_memseg.geometry import Box
from napari_memseg.io import dicom
from napari_memseg.io.dicom import is_dicom
from napari_memseg.io.formats import open_volume
from volumes import dicom_series, noise, png

pydicom = pytest.importorskip("pydicom")

VOXELS = noise()


def everything(source):
    volume = open_volume(source)
    return volume.read(Box.whole(volume.shape))


def series(folder, voxels, uid, about="", start=""):
    """Write a series in files without an ending."""
    folder.mkdir(exist_ok=True)
    (made := folder / "made").mkdir()
    for file in sorted(Path(dicom_series(made, voxels)).iterdir()):
        one = pydicom.dcmread(file)
        one.SeriesInstanceUID, one.SeriesDescription = uid, about
        one.save_as(folder / f"{start}{file.stem}")
        file.unlink()
    made.rmdir()
    return folder


def test_a_series_is_found_behind_files_that_are_none(tmp_path):
    series(tmp_path, VOXELS, "1.2.3")
    for name in ("AUTORUN", "CONTENTS.txt", "DATES", "HELP", "zlast.pdf"):
        (tmp_path / name).write_text("nothing")
    (tmp_path / "DICOMDIR").write_bytes((tmp_path / "IM0").read_bytes()[:200])
    np.testing.assert_array_equal(everything(tmp_path), VOXELS, strict=True)


def test_a_folder_of_pictures_is_none_of_dicom_for_the_sake_of_one_file(tmp_path):
    for number, plane in enumerate(VOXELS.astype(np.uint8)):
        (tmp_path / f"slice_{number}.png").write_bytes(png(plane))
    (tmp_path / "overview.dcm").write_bytes(bytes(128) + b"DICM")
    assert not is_dicom(tmp_path)
    np.testing.assert_array_equal(everything(tmp_path), VOXELS.astype(np.uint8))


@pytest.fixture
def two(tmp_path):
    """A folder with two series."""
    series(tmp_path, VOXELS, "1.2.3", "bone", "a")
    return series(tmp_path, VOXELS[:3] + 1, "1.2.4", start="b")


def test_two_series_in_a_folder_are_listed_with_their_slices(two):
    with pytest.raises(
        SourceError, match=r"holds 2: 1\.2\.3 \(bone\), 5 slices; 1\.2\.4, 3 slices.*::1\.2\.4"
    ):
        open_volume(two)


def test_one_of_two_series_is_chosen_by_its_uid(two):
    np.testing.assert_array_equal(everything(f"{two}::1.2.3"), VOXELS, strict=True)
    np.testing.assert_array_equal(everything(open_volume(f"{two}::1.2.4").source), VOXELS[:3] + 1)
    with pytest.raises(SourceError, match=r"::7 is not one series"):
        open_volume(f"{two}::7")


def test_a_uid_for_each_slice_tells_nothing(tmp_path):
    for number, file in enumerate(Path(dicom_series(tmp_path, VOXELS)).iterdir()):
        one = pydicom.dcmread(file)
        one.SeriesInstanceUID = f"1.2.{number}"
        one.save_as(file)
    np.testing.assert_array_equal(everything(tmp_path), VOXELS, strict=True)


@pytest.fixture
def deflated(tmp_path):
    """A series whose files are deflated."""
    for file in Path(dicom_series(tmp_path, VOXELS)).iterdir():
        one = pydicom.dcmread(file)
        one.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
        one.save_as(file)
    return tmp_path


def test_deflated_slices_are_read(deflated):
    np.testing.assert_array_equal(everything(deflated), VOXELS, strict=True)


def test_a_deflated_slice_that_becomes_too_much_is_not_inflated(deflated, monkeypatch):
    monkeypatch.setattr(dicom, "MOST_INFLATED", 2**18)
    bomb = zlib.compressobj(wbits=-15)
    content = (deflated / "IM0.dcm").read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")
    (deflated / "IM0.dcm").write_bytes(content[:start] + bomb.compress(bytes(2**20)) + bomb.flush())
    with pytest.raises(SourceError, match=r"IM0.dcm is deflated and becomes more than 262,144 bytes"):
        open_volume(deflated)
