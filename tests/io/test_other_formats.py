"""What single formats add to the contract of all: side files, series, choices, and refusals that help."""

from __future__ import annotations

import gzip
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from napari_memseg.errors import SourceError
from napari_memseg.geometry import Box
from napari_memseg.io import raw
from napari_memseg.io.formats import open_volume
from volumes import amira, bmp, dicom_series, hdf5, metaimage, nifti, noise, nrrd, png, vgi
from volumes import nikon as write_nikon

VOXELS = noise()


def everything(source):
    volume = open_volume(source)
    return volume.read(Box.whole(volume.shape))


def edited(path, old, new):
    """Return a file in which bytes were replaced."""
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    return path


# Side files


@pytest.fixture
def nikon(tmp_path):
    """A header, and float32 voxels beside it."""
    return Path(write_nikon(tmp_path, VOXELS))


def test_a_nikon_volume_is_float_voxels_in_millimetres(nikon):
    volume = open_volume(nikon)
    np.testing.assert_array_equal(everything(nikon), VOXELS.astype(np.float32), strict=True)
    assert (volume.voxel_size, volume.unit, volume.name) == ((0.0195,) * 3, "millimeter", "fly")


def test_bare_voxels_that_are_cut_off_are_refused_with_both_sizes(nikon):
    voxels = nikon.with_suffix(".vol")
    voxels.write_bytes(voxels.read_bytes()[:-1])
    with pytest.raises(SourceError, match=r"cut off: .* need 21,460 bytes, and it has 21,459"):
        open_volume(nikon)


@pytest.mark.parametrize("name", [b"/etc/passwd", b"../scan.raw"])
def test_a_header_leads_nowhere_outside_of_its_folder(tmp_path, name):
    path = tmp_path / "in" / "scan.mhd"
    path.parent.mkdir()
    metaimage(path.parent, VOXELS)
    with pytest.raises(SourceError, match="outside of its own folder"):
        open_volume(edited(path, b"scan.raw", name))


def test_a_header_without_its_voxels_says_which_file_is_missing(tmp_path):
    path = vgi(tmp_path, VOXELS)
    (tmp_path / "scan.vol").unlink()
    with pytest.raises(SourceError, match=r"needs scan.vol beside it"):
        open_volume(path)


@pytest.mark.parametrize("wrong", [b"29 37", b"29 37 -5", b"a b c"])
def test_a_shape_that_cannot_be_is_named_by_its_key(tmp_path, wrong):
    metaimage(tmp_path, VOXELS)
    with pytest.raises(SourceError, match=r"DimSize = .* but 3 whole numbers above 0 are needed"):
        open_volume(edited(tmp_path / "scan.mhd", b"29 37 5", wrong))


def test_a_detached_nrrd_reads_the_file_beside_it_in_its_byte_order(tmp_path):
    (tmp_path / "scan.raw").write_bytes(b"line\n" + VOXELS.astype(">u2").tobytes())
    (tmp_path / "scan.nhdr").write_text(
        "NRRD0004\ntype: ushort\ndimension: 3\nsizes: 29 37 5\nencoding: raw\nendian: big\nline skip: 1\n"
        "spacings: 0.25 0.5 2.5\ndata file: scan.raw\n"
    )
    np.testing.assert_array_equal(everything(tmp_path / "scan.nhdr"), VOXELS, strict=True)
    assert open_volume(tmp_path / "scan.nhdr").voxel_size == (2.5, 0.5, 0.25)


# What is compressed as a whole


@pytest.mark.parametrize("write", [nrrd("gzip"), nifti("nii.gz"), lambda *a: metaimage(*a, compressed=True)])
def test_what_does_not_fit_into_memory_is_refused_before_it_is_unpacked(tmp_path, monkeypatch, write):
    path = write(tmp_path, VOXELS)
    monkeypatch.setattr(raw, "SHARE", 0.0)
    with pytest.raises(SourceError, match=r"compressed as a whole and becomes .* Save it uncompressed"):
        open_volume(path)


def test_what_unpacks_to_more_than_it_says_is_cut_and_to_less_is_refused(tmp_path):
    path = tmp_path / "scan.nrrd"
    header = b"NRRD0004\ntype: uint16\ndimension: 3\nsizes: 29 37 5\nencoding: gzip\nendian: little\n\n"
    path.write_bytes(header + gzip.compress(VOXELS.tobytes() + bytes(10**6)))
    np.testing.assert_array_equal(everything(path), VOXELS)
    short = tmp_path / "short.nrrd"
    short.write_bytes(header + gzip.compress(VOXELS.tobytes()[:-2]))
    with pytest.raises(SourceError, match="unpacks to 10,728 bytes and should hold 10,730"):
        everything(short)


def test_a_wrong_encoding_is_named_when_it_is_opened(tmp_path):
    path = tmp_path / "scan.nrrd"
    nrrd("gzip")(tmp_path, VOXELS)
    with pytest.raises(SourceError, match="in encoding 'bzip2', but they begin otherwise"):
        open_volume(edited(path, b"encoding: gzip", b"encoding: bzip2"))


# Amira


def test_amiras_run_lengths_are_undone(tmp_path):
    labels = np.repeat(np.arange(4, dtype=np.uint8), 25).reshape(4, 5, 5)
    amira(tmp_path, labels)
    text, mark, _ = (tmp_path / "scan.am").read_bytes().partition(b"\n@1\n")
    packed = b"\x19\x00" + b"\x19\x01" + b"\x99" + b"\x02" * 25 + b"\x19\x03"
    head = text.replace(b"Data } @1", b"Data } @1(HxByteRLE,%d)" % len(packed))
    (tmp_path / "scan.am").write_bytes(head + mark + packed)
    np.testing.assert_array_equal(everything(tmp_path / "scan.am"), labels)


@pytest.mark.parametrize("codec", ["", "HxZip"])
@pytest.mark.parametrize(
    ("old", "new"),
    [(b" Data }", b" Labels }"), (b'"uniform"', b'"uniform" ContentType "HxUniformLabelField"')],
)
def test_a_label_field_of_amira_is_labels(tmp_path, codec, old, new):
    path = Path(amira(tmp_path, VOXELS, codec=codec))
    assert not open_volume(path).is_labels
    assert open_volume(edited(path, old, new)).is_labels


def test_a_lattice_of_floats_is_no_labels(tmp_path):
    path = Path(amira(tmp_path, VOXELS.astype("float32")))
    assert not open_volume(edited(path, b" Data }", b" Labels }")).is_labels


def test_landmarks_are_no_image(tmp_path):
    path = tmp_path / "points.am"
    path.write_text('# HyperMesh 3D ASCII 1.0\ndefine Markers 10\nParameters { ContentType "LandmarkSet" }\n')
    with pytest.raises(SourceError, match=r"not an image: it holds no lattice of voxels \(LandmarkSet\)"):
        open_volume(path)


# Choices


def test_one_of_several_datasets_is_chosen_by_its_name(tmp_path):
    import h5py

    path = hdf5(tmp_path, VOXELS)
    with h5py.File(path, "r+") as file:
        file["labels"] = VOXELS > 100
    with pytest.raises(SourceError, match=r"2 datasets: group/raw .*labels .*for example .*::group/raw"):
        open_volume(path)
    np.testing.assert_array_equal(everything(f"{path}::labels"), (VOXELS > 100).astype(np.uint8), strict=True)


def test_text_under_the_name_of_an_hdf5_is_none(tmp_path):
    (tmp_path / "scan.h5").write_text("../elsewhere/scan.h5")
    with pytest.raises(SourceError, match="no HDF5 file"):
        open_volume(tmp_path / "scan.h5")


def test_one_time_of_a_nifti_is_chosen(tmp_path):
    series = np.stack([VOXELS, VOXELS + 1])
    path = nifti("nii")(tmp_path, series)
    with pytest.raises(SourceError, match="choose one index along t"):
        open_volume(path)
    np.testing.assert_array_equal(everything(f"{path}@t=1"), VOXELS + 1, strict=True)


def test_a_nifti_of_two_axes_is_a_volume_of_one_slice(tmp_path):
    path = nifti("nii")(tmp_path, VOXELS[0])
    np.testing.assert_array_equal(everything(path), VOXELS[:1], strict=True)


def test_complex_voxels_are_refused(tmp_path):
    with pytest.raises(SourceError, match="complex64 values"):
        open_volume(nifti("nii")(tmp_path, VOXELS.astype(np.complex64)))


@pytest.mark.parametrize("ending", ["txrm", "AIM", "isq"])
def test_files_of_scanners_that_are_not_read_name_the_way_out(tmp_path, ending):
    path = tmp_path / f"scan.{ending}"
    path.write_bytes(b"something")
    with pytest.raises(SourceError, match=rf"scan.{ending} is .*[Ee]xport"):
        open_volume(path)


@pytest.mark.parametrize(
    ("write", "module"), [(hdf5, "h5py"), (nrrd("raw"), "nrrd"), (nifti("nii"), "nibabel")]
)
def test_a_library_that_is_missing_is_named_with_the_line_that_installs_it(
    tmp_path, monkeypatch, write, module
):
    path = write(tmp_path, VOXELS)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SourceError, match=rf"package {module}, which is not installed.*napari-memseg\[io\]"):
        open_volume(path)


# Folders of slices


@pytest.mark.parametrize(("ending", "write"), [("bmp", bmp), ("png", png)])
def test_pictures_are_slices_and_a_skyscan_log_says_how_large_their_pixels_are(tmp_path, ending, write):
    voxels = VOXELS.astype(np.uint8)
    for number, plane in enumerate(voxels, 96):
        (tmp_path / f"fly_rec{number:08}.{ending}").write_bytes(write(plane))
    (tmp_path / f"fly_rec_spr.{ending}").write_bytes(write(voxels[0, :9]))
    np.testing.assert_array_equal(everything(tmp_path), voxels, strict=True)
    assert open_volume(tmp_path).voxel_size is None
    log = "[Acquisition]\nImage Pixel Size (um)=2\n[Reconstruction]\nPixel Size (um)=4.5\n"
    (tmp_path / "fly_rec.log").write_text(log)
    found = open_volume(tmp_path)
    assert (found.voxel_size, found.unit, found.format) == ((4.5,) * 3, "micrometer", f"{ending} slices")


def test_a_picture_that_claims_more_than_it_holds_is_refused(tmp_path):
    content = bytearray(png(VOXELS[0].astype(np.uint8)))
    content[16:24] = struct.pack(">II", 2**30, 2**30)
    (tmp_path / "slice_1.png").write_bytes(content)
    with pytest.raises(SourceError, match=r"claims 1073741824 x 1073741824 pixels"):
        open_volume(tmp_path)


@pytest.fixture
def dicom(tmp_path):
    """A series whose names do not count as its slices lie."""
    return Path(dicom_series(tmp_path, VOXELS))


def test_a_dicom_series_is_sorted_by_where_its_slices_lie(dicom):
    volume = open_volume(dicom)
    np.testing.assert_array_equal(everything(dicom), VOXELS, strict=True)
    assert (volume.voxel_size, volume.unit) == ((2.5, 0.5, 0.25), "millimeter")


def test_a_slice_that_is_missing_in_a_dicom_series_is_noticed(dicom):
    (dicom / "IM1.dcm").unlink()  # the third
    with pytest.raises(SourceError, match=r"5 mm apart, others 2.5: a slice is missing"):
        open_volume(dicom)


def test_one_dicom_file_is_a_slice_and_says_what_to_open(dicom):
    with pytest.raises(SourceError, match=r"one slice of a series.*Open the folder"):
        open_volume(dicom / "IM0.dcm")


# What a header says that changes the voxels


def detached(folder, *lines, voxels=VOXELS, before=b""):
    """Return the header of an NRRD with more lines, and write its voxels beside it."""
    (folder / "scan.raw").write_bytes(before + voxels.tobytes())
    said = ("NRRD0004", "type: ushort", "dimension: 3", "sizes: 29 37 5", "encoding: raw", "endian: little")
    path = folder / "scan.nhdr"
    path.write_text("\n".join([*said, *lines, "data file: scan.raw", ""]), encoding="utf-8")
    return path


@pytest.mark.parametrize("key", ["byte skip", "byteskip"])
def test_bytes_before_the_voxels_are_skipped_in_both_spellings(tmp_path, key):
    np.testing.assert_array_equal(everything(detached(tmp_path, f"{key}: 4", before=b"HEAD")), VOXELS)


def test_a_negative_skip_is_refused(tmp_path):
    with pytest.raises(SourceError, match="byte skip: -20, which cannot be"):
        open_volume(detached(tmp_path, "byte skip: -20"))


def test_a_colour_picture_is_no_volume(tmp_path):
    with pytest.raises(SourceError, match="kind 'rgb-color'"):
        open_volume(detached(tmp_path, "kinds: RGB-color domain domain"))


def test_micrometres_of_an_nrrd_stay_micrometres(tmp_path):
    units = 'space units: "µm" "µm" "µm"'
    path = detached(tmp_path, "space dimension: 3", "space directions: (5,0,0) (0,5,0) (0,0,5)", units)
    assert (open_volume(path).voxel_size, open_volume(path).unit) == ((5.0, 5.0, 5.0), "micrometer")


@pytest.mark.parametrize(("units", "known"), [('"mm" "mm" "um"', None), ('"" "" ""', (2.0, 1.0, 3.0))])
def test_units_of_space_say_nothing_of_an_axis_unless_they_are_all_one(tmp_path, units, known):
    turned = "space directions: (0,0,3) (1,0,0) (0,2,0)"
    volume = open_volume(detached(tmp_path, "space dimension: 3", turned, f"space units: {units}"))
    assert (volume.voxel_size, volume.unit) == (known, None)


def test_units_of_the_axes_of_an_nrrd_may_differ(tmp_path):
    volume = open_volume(detached(tmp_path, "spacings: 5 5 0.01", 'units: "um" "um" "mm"'))
    assert volume.voxel_size == pytest.approx((10, 5, 5))
    assert volume.unit == "micrometer"


def test_voxels_as_text_are_refused(tmp_path):
    metaimage(tmp_path, VOXELS)
    with pytest.raises(SourceError, match="voxels as text"):
        open_volume(edited(tmp_path / "scan.mhd", b"NDims = 3\n", b"NDims = 3\nBinaryData = False\n"))


def test_bits_that_fill_no_byte_are_refused(tmp_path):
    vgi(tmp_path, VOXELS)
    with pytest.raises(SourceError, match="voxels of 12 bits"):
        open_volume(edited(tmp_path / "scan.vgi", b"BitsPerElement = 16", b"BitsPerElement = 12"))


def test_rescaled_slices_do_not_wrap(dicom):
    import pydicom

    for file in dicom.iterdir():
        one = pydicom.dcmread(file)
        one.RescaleSlope, one.RescaleIntercept = 2, -1024
        one.PixelData = np.full((37, 29), 60_000, "<u2").tobytes()
        one.save_as(file)
    found = everything(dicom)
    assert (found == 118_976).all()
    assert found.dtype == np.int32


def test_slices_without_a_place_have_no_depth(dicom):
    import pydicom

    for number, file in enumerate(sorted(dicom.iterdir())):
        one = pydicom.dcmread(file)
        del one.ImagePositionPatient
        one.InstanceNumber = number
        one.save_as(file)
    volume = open_volume(dicom)
    assert (volume.voxel_size, volume.pixel_size) == (None, (0.5, 0.25, "millimeter"))


def test_sections_that_were_left_out_make_slices_thicker(tmp_path):
    for number, plane in enumerate(VOXELS.astype(np.uint8)):
        (tmp_path / f"fly_rec{number:08}.bmp").write_bytes(bmp(plane))
    log = "[Reconstruction]\nPixel Size (um)=4.5\nSection to Section Step=2\n"
    (tmp_path / "fly_rec.log").write_text(log)
    assert open_volume(tmp_path).voxel_size == (9.0, 4.5, 4.5)


def test_a_nifti_that_is_cut_off_is_refused(tmp_path):
    path = Path(nifti("nii")(tmp_path, VOXELS))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SourceError, match="cut off: it needs"):
        open_volume(path)


def nifti_saying(folder, voxels, ending="nii", offset=0, said=b""):
    """Return a NIfTI in whose header some bytes are replaced."""
    path = Path(nifti("nii")(folder, voxels))
    content = bytearray(path.read_bytes())
    content[offset : offset + len(said)] = said
    path = folder / f"scan.{ending}"
    path.write_bytes(gzip.compress(content) if ending.endswith("gz") else content)
    return path


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
@pytest.mark.parametrize("length", [0, -0.5, float("nan")])
def test_a_voxel_size_of_a_nifti_that_cannot_be_is_unknown_not_repaired(tmp_path, ending, length):
    volume = open_volume(nifti_saying(tmp_path, VOXELS, ending, 84, struct.pack("<f", length)))
    assert (volume.voxel_size, volume.unit) == (None, None)


@pytest.mark.parametrize(("unit", "known"), [(0, None), (2, (1.0, 1.0, 1.0))])
def test_ones_in_no_unit_are_no_voxel_size(tmp_path, unit, known):
    path = nifti_saying(tmp_path, VOXELS, "nii", 80, struct.pack("<3f", 1, 1, 1))
    content = path.read_bytes()
    path.write_bytes(content[:123] + bytes([unit]) + content[124:])
    assert open_volume(path).voxel_size == known


def test_decimals_of_a_nifti_are_those_that_were_meant(tmp_path):
    path = nifti_saying(tmp_path, VOXELS, "nii", 80, struct.pack("<3f", 0.65, 0.1, 2))
    assert open_volume(path).voxel_size == (2.0, 0.1, 0.65)


@pytest.mark.parametrize(("dtype", "labels"), [("uint16", True), ("float32", False)])
def test_a_nifti_that_means_labels_is_one_if_its_numbers_are_whole(tmp_path, dtype, labels):
    path = nifti_saying(tmp_path, VOXELS.astype(dtype), "nii", 68, struct.pack("<h", 1002))
    assert open_volume(path).is_labels is labels


@pytest.mark.parametrize("offset", [0, 348])
def test_voxels_of_a_nifti_do_not_begin_in_its_header(tmp_path, offset):
    path = nifti_saying(tmp_path, VOXELS, "nii", 108, struct.pack("<f", offset))
    with pytest.raises(SourceError, match=r"begin at byte 0, inside its header|offset 348 too low"):
        open_volume(path)


def test_scaled_numbers_of_32_bits_stay_as_exact_as_they_are(tmp_path):
    voxels = np.full((2, 3, 4), 2**24 + 1, np.int32)
    path = nifti_saying(tmp_path, voxels, "nii", 112, struct.pack("<2f", 1, 1))
    np.testing.assert_array_equal(everything(path), voxels + 1.0, strict=True)


def test_the_axes_of_ilastik_are_those_it_tags(tmp_path):
    import h5py

    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["exported_data"] = VOXELS[..., None]
        axes = ", ".join(f'{{"key": "{axis}"}}' for axis in "zyxc")
        file["exported_data"].attrs["axistags"] = f'{{"axes": [{axes}]}}'
    np.testing.assert_array_equal(everything(tmp_path / "scan.h5"), VOXELS, strict=True)


def test_a_picture_beside_tiff_slices_is_no_slice(tmp_path):
    import tifffile

    for number, plane in enumerate(VOXELS):
        tifffile.imwrite(tmp_path / f"slice_{number}.tif", plane, photometric="minisblack")
    (tmp_path / "screenshot.png").write_bytes(png(VOXELS[0].astype(np.uint8)))
    np.testing.assert_array_equal(everything(tmp_path), VOXELS, strict=True)


@pytest.mark.parametrize("more", ["::0", "@c=0"])
def test_nothing_is_chosen_inside_one_volume(tmp_path, more):
    path = metaimage(tmp_path, VOXELS)
    with pytest.raises(SourceError, match="nothing to choose inside"):
        open_volume(f"{path}{more}")
