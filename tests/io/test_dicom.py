"""Folders in which a DICOM series does not lie alone, and files that are not what they seem."""

from __future__ import annotations

import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest

from napari_memseg.errors import SourceError
from napari_memseg.geometry import Box
from napari_memseg.io import dicom_header
from napari_memseg.io.dicom import is_dicom
from napari_memseg.io.formats import open_volume
from volumes import dicom_series, noise, png

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


def test_pydicom_knows_a_file_by_its_name(tmp_path):
    file = Path(dicom_series(tmp_path, VOXELS)) / "IM0.dcm"
    assert dicom_header._read(pydicom, file).filename == str(file)


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


def changed(folder, **said):
    """Write a series in whose first slice some things are said otherwise."""
    file = Path(dicom_series(folder, VOXELS)) / "IM0.dcm"
    one = pydicom.dcmread(file)
    for key, value in said.items():
        setattr(one, key, value)
    one.save_as(file)
    return folder


def test_slices_that_are_turned_otherwise_are_no_volume(tmp_path):
    changed(tmp_path, ImageOrientationPatient=[1, 0, 0, 0, 0, 1], ImagePositionPatient=[0, 0, 0])
    with pytest.raises(
        SourceError, match=r"IM3.dcm .* is turned to .* but IM0.dcm to .*Keep one series in a folder"
    ):
        open_volume(tmp_path)


def test_slices_whose_directions_are_rounded_are_a_volume(tmp_path):
    changed(tmp_path, ImageOrientationPatient=[1, 0.0000004, 0, 0, 0.9999999, 0])
    np.testing.assert_array_equal(everything(tmp_path), VOXELS, strict=True)


@pytest.mark.parametrize(
    "other", [{"ImageOrientationPatient": [1, 0, 0, 0, 0, 1]}, {"PixelSpacing": [0.5, 0.5]}]
)
def test_slices_with_a_uid_each_are_several_series_if_they_are_not_of_one_grid(tmp_path, other):
    changed(tmp_path, **other)
    for number, file in enumerate(tmp_path.iterdir()):
        one = pydicom.dcmread(file)
        one.SeriesInstanceUID = f"1.2.{number}"
        one.save_as(file)
    with pytest.raises(SourceError, match=r"not one series.* holds 5"):
        open_volume(tmp_path)


@pytest.mark.parametrize(
    ("key", "dtype"), [("FloatPixelData", "float32"), ("DoubleFloatPixelData", "float64")]
)
def test_voxels_that_are_floats_stay_floats(tmp_path, key, dtype):
    voxels = VOXELS.astype(dtype) - 0.5
    for file in Path(dicom_series(tmp_path, VOXELS)).iterdir():
        one = pydicom.dcmread(file)
        del one.PixelData, one.PixelRepresentation, one.BitsStored, one.HighBit
        one.BitsAllocated = 8 * voxels.itemsize
        setattr(one, key, voxels[round(one.ImagePositionPatient[2] / 2.5)].tobytes())
        one.save_as(file)
    np.testing.assert_array_equal(everything(tmp_path), voxels, strict=True)


def test_a_slice_that_changes_after_it_was_opened_is_refused(tmp_path):
    volume = open_volume(dicom_series(tmp_path, VOXELS))
    one = pydicom.dcmread(tmp_path / "IM0.dcm")
    one.PixelRepresentation = 1
    one.save_as(tmp_path / "IM0.dcm")
    with pytest.raises(SourceError, match=r"IM0.dcm holds .* of int16, but its header promised .* uint16"):
        volume.read(Box.whole(volume.shape))


def test_a_palette_of_colours_is_refused(tmp_path):
    with pytest.raises(SourceError, match=r"IM0.dcm has a palette of colours.* Export the series in grey"):
        open_volume(changed(tmp_path, PhotometricInterpretation="PALETTE COLOR"))


def packed(folder, syntax):
    """Write a slice that is packed, as it says."""
    one = pydicom.dcmread(Path(dicom_series(folder, VOXELS[:1])) / "IM0.dcm")
    one.PixelData = pydicom.encaps.encapsulate([bytes(100)])
    one.file_meta.TransferSyntaxUID = syntax
    one.save_as(folder / "IM0.dcm")
    return folder


def test_a_decoder_that_is_missing_is_named_with_the_line_that_installs_it(tmp_path, monkeypatch):
    needs = ["gdcm - requires gdcm>=3.0.10", "pylibjpeg - requires pylibjpeg>=2.0 and pylibjpeg-libjpeg>=2.1"]
    decoder = SimpleNamespace(is_available=False, missing_dependencies=needs)
    monkeypatch.setattr(pydicom.pixels, "get_decoder", lambda _: decoder)
    said = r"IM0.dcm is compressed as JPEG-LS Lossless .*pip install pylibjpeg pylibjpeg-libjpeg\. Or export"
    with pytest.raises(SourceError, match=said):
        open_volume(packed(tmp_path, pydicom.uid.JPEGLSLossless))


def test_what_nobody_decodes_is_to_be_exported_uncompressed(tmp_path):
    with pytest.raises(SourceError, match=r"MPEG2.* installed\. Export the series uncompressed"):
        open_volume(packed(tmp_path, pydicom.uid.MPEG2MPML))


def test_one_slice_knows_how_large_its_pixels_are(tmp_path):
    volume = open_volume(dicom_series(tmp_path, VOXELS[:1]))
    assert (volume.voxel_size, volume.unit) == (None, None)
    assert volume.pixel_size == (0.5, 0.25, "millimeter")


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
    monkeypatch.setattr(dicom_header, "MOST_INFLATED", 2**18)
    bomb = zlib.compressobj(wbits=-15)
    content = (deflated / "IM0.dcm").read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")
    (deflated / "IM0.dcm").write_bytes(content[:start] + bomb.compress(bytes(2**20)) + bomb.flush())
    with pytest.raises(SourceError, match=r"IM0.dcm is deflated and becomes more than 262,144 bytes"):
        open_volume(deflated)
