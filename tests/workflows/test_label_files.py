"""Labels go into a file of every format and come back equal, for us and for others, or nothing is written."""

from __future__ import annotations

import gzip
import os

import dask.array as da
import nibabel
import nrrd
import numpy as np
import pytest
import tifffile
import zarr

from napari_memseg.annotation.session import Session
from napari_memseg.errors import InputError
from napari_memseg.geometry import Box
from napari_memseg.io.formats import open_volume
from napari_memseg.io.pyramid import open_pyramid
from napari_memseg.models.classes import ClassTable
from napari_memseg.workflows.corrections_import import import_corrections
from napari_memseg.workflows.exports import layers
from napari_memseg.workflows.exports.label_files import ENDINGS, About, write_labels
from napari_memseg.workflows.exports.layers import PIECE_VOXELS
from volumes import noise, tiff
from widgets.arrays import Lazy, vast
from workflows.exported import export_to, make_session

SHAPE = (70, 21, 13)
"""More than a layer of planes."""
KNOWN = About(voxel_size=(2.0, 0.65, 0.5), unit="micrometer")
BARE = [".nrrd", ".nii", ".nii.gz"]
every_format = pytest.mark.parametrize("ending", [".ome.zarr", ".ome.tif", *BARE])
every_file = pytest.mark.parametrize("ending", [".tif", *BARE])
awkward = pytest.mark.parametrize("name", ["CON", "two\nlines", "bone 🦴", "scan 0.65 um", "'; drop", "a:b"])


def labels(dtype="uint8", highest=4, shape=SHAPE):
    return np.random.default_rng(0).integers(0, highest, shape, "uint64").astype(dtype)


def read(path):
    volume = open_volume(path)
    return volume.read(Box.whole(volume.shape))


@pytest.mark.parametrize("ending", [*ENDINGS, ".NRRD"])
def test_voxels_and_their_size_come_back(tmp_path, ending):
    path = tmp_path / f"bone{ending}"
    write_labels(path, labels(), KNOWN)
    volume = open_volume(path)
    np.testing.assert_array_equal(read(path), labels(), strict=True)
    assert volume.voxel_size == pytest.approx(KNOWN.voxel_size, rel=1e-7)  # NIfTI has 32 bits for them
    assert volume.unit == "micrometer"


@every_format
@pytest.mark.parametrize("unit", ["meter", "millimeter", "nanometer", "angstrom", "inch"])
def test_a_voxel_is_as_large_in_any_unit(tmp_path, ending, unit):
    path = tmp_path / f"bone{ending}"
    write_labels(path, labels(shape=(3, 4, 5)), About(voxel_size=(2.0, 0.65, 0.5), unit=unit))
    volume = open_volume(path)
    nifti = ending in (".nii", ".nii.gz") and unit not in ("meter", "millimeter")
    factor = {"nanometer": 1e-6, "angstrom": 1e-7, "inch": 25.4}[unit] if nifti else 1
    assert volume.unit == ("millimeter" if nifti else unit)
    assert volume.voxel_size == pytest.approx((2.0 * factor, 0.65 * factor, 0.5 * factor), rel=1e-7)


@every_format
def test_a_voxel_size_that_is_unknown_is_not_invented(tmp_path, ending):
    write_labels(tmp_path / f"bone{ending}", labels())
    assert open_volume(tmp_path / f"bone{ending}").unit is None


@every_format
@pytest.mark.parametrize("shape", [(1, 5, 7), (5, 1, 7), (5, 7, 1), (1, 1, 1)])
def test_labels_may_be_one_voxel_thick(tmp_path, ending, shape):
    write_labels(tmp_path / f"bone{ending}", labels(shape=shape), KNOWN)
    np.testing.assert_array_equal(read(tmp_path / f"bone{ending}"), labels(shape=shape))


# Numbers


@every_format
@pytest.mark.parametrize(
    ("dtype", "highest", "stored"),
    [
        ("bool", 2, "uint8"),
        ("uint8", 256, "uint8"),
        ("int8", 128, "uint8"),
        ("uint16", 4, "uint16"),
        (">u2", 65_536, "uint16"),
        ("int16", 32_768, "uint16"),
        ("int32", 70_000, "uint32"),
        ("uint32", 2**32, "uint32"),
        ("int64", 70_000, "uint32"),
        ("int64", 200, "uint8"),
    ],
)
def test_no_number_is_changed_whatever_the_dtype(tmp_path, ending, dtype, highest, stored):
    voxels = labels(dtype, highest)
    voxels.flat[-1] = highest - 1
    write_labels(tmp_path / f"bone{ending}", voxels)
    assert open_volume(tmp_path / f"bone{ending}").dtype == stored
    np.testing.assert_array_equal(read(tmp_path / f"bone{ending}"), voxels)


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
@pytest.mark.parametrize("ending", [".zarr", *BARE])
def test_numbers_of_64_bits_go_where_they_have_room(tmp_path, ending, dtype):
    voxels = labels(dtype, 2**60)
    write_labels(tmp_path / f"bone{ending}", voxels)
    assert open_volume(tmp_path / f"bone{ending}").dtype == "uint64"
    np.testing.assert_array_equal(read(tmp_path / f"bone{ending}"), voxels)


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_numbers_that_a_tiff_cannot_hold_are_refused_and_small_ones_of_that_dtype_are_not(tmp_path, dtype):
    voxels = labels(dtype, 2**40)
    with pytest.raises(InputError, match=r"TIFF holds labels up to 4,294,967,295.*OME-Zarr, NRRD or NIfTI"):
        write_labels(tmp_path / "bone.tif", voxels)
    write_labels(tmp_path / "small.tif", voxels % 7)
    np.testing.assert_array_equal(read(tmp_path / "small.tif"), voxels % 7)


def negative():
    voxels = labels("int16")
    voxels[-1, -1, -1] = -5
    return voxels


@every_format
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (negative(), r"negative numbers \(-5\).*Renumber"),
        (labels(shape=(3, 4)), "2-dimensional"),
        (labels(shape=(2, 3, 4, 5)), "4-dimensional.*Choose one time"),
        (np.zeros(SHAPE, "float32"), "float32"),
        (labels(shape=(0, 3, 4)), "1 or more"),
    ],
    ids=["negative", "2d", "4d", "float", "empty"],
)
def test_what_is_no_volume_of_labels_is_refused_and_leaves_nothing(tmp_path, ending, data, words):
    with pytest.raises(InputError, match=words):
        write_labels(tmp_path / f"bone{ending}", data)
    assert list(tmp_path.iterdir()) == []


def test_an_axis_that_is_too_long_for_nifti_is_refused(tmp_path):
    with pytest.raises(InputError, match="32767 voxels at most"):
        write_labels(tmp_path / "bone.nii", vast((40_000, 2, 2)))
    assert list(tmp_path.iterdir()) == []


# Peers


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
def test_tifffile_reads_a_tiff_with_its_ome_description(tmp_path, dtype):
    write_labels(tmp_path / "bone.ome.tif", labels(dtype), KNOWN)
    with tifffile.TiffFile(tmp_path / "bone.ome.tif") as file:
        np.testing.assert_array_equal(file.asarray(), labels(dtype), strict=True)
        said = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]
    assert said["Name"] == "bone"
    assert [said["Pixels"][f"PhysicalSize{axis}"] for axis in "ZYX"] == list(KNOWN.voxel_size)
    assert {said["Pixels"][f"PhysicalSize{axis}Unit"] for axis in "ZYX"} == {"µm"}


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "uint64"])
def test_pynrrd_reads_an_nrrd_with_its_spacing(tmp_path, dtype):
    write_labels(tmp_path / "bone.nrrd", labels(dtype), KNOWN)
    voxels, said = nrrd.read(str(tmp_path / "bone.nrrd"))
    np.testing.assert_array_equal(voxels.T, labels(dtype), strict=True)
    assert list(said["spacings"]) == [0.5, 0.65, 2.0]
    assert said["units"] == ["um", "um", "um"]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "uint64"])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_nibabel_reads_a_nifti_with_its_zooms_and_that_these_are_labels(tmp_path, ending, dtype):
    write_labels(tmp_path / f"bone{ending}", labels(dtype), KNOWN)
    image = nibabel.load(tmp_path / f"bone{ending}")
    np.testing.assert_array_equal(np.asarray(image.dataobj).T, labels(dtype), strict=True)
    np.testing.assert_allclose(image.header.get_zooms(), [0.5, 0.65, 2.0], rtol=1e-7)
    np.testing.assert_allclose(np.diag(image.affine)[:3], [0.5, 0.65, 2.0], rtol=1e-7)
    assert image.header.get_xyzt_units()[0] == "micron"
    assert image.header.get_intent()[0] == "label"


def test_a_packed_nifti_is_the_other_one_packed_and_the_same_each_time(tmp_path):
    for name in ("a.nii", "a.nii.gz", "b.nii.gz"):
        write_labels(tmp_path / name, labels(), KNOWN)
    packed = (tmp_path / "a.nii.gz").read_bytes()
    assert gzip.decompress(packed) == (tmp_path / "a.nii").read_bytes()
    assert packed == (tmp_path / "b.nii.gz").read_bytes()


# Names and colours


def test_names_and_colours_are_kept_as_they_are_where_labels_can_have_them(tmp_path):
    names = {1: "../../x", 2: "two\nlines", 3: 300 * "🦴"}
    about = About(colors={0: "#ffffff", 1: "#12ab34", 300: "#000000"}, names=names)
    write_labels(tmp_path / "bone.zarr", labels(), about)
    said = zarr.open_group(tmp_path / "bone.zarr", mode="r").attrs["ome"]["image-label"]
    assert {row["label-value"]: row["name"] for row in said["properties"]} == names
    assert [(row["label-value"], row["rgba"]) for row in said["colors"]] == [(1, [18, 171, 52, 255])]


@every_format
@awkward
@pytest.mark.skipif(os.name == "nt", reason="Windows takes none of them")
def test_a_file_may_have_any_name_that_its_system_takes(tmp_path, ending, name):
    write_labels(tmp_path / f"{name}{ending}", labels(), KNOWN)
    np.testing.assert_array_equal(read(tmp_path / f"{name}{ending}"), labels())
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}{ending}"]


@every_format
def test_a_name_that_is_too_long_is_refused_before_anything_is_read(tmp_path, ending):
    with pytest.raises(InputError, match=r"bytes long.*Shorten it"):
        write_labels(tmp_path / f"{300 * 'a'}{ending}", vast(SHAPE, most=0))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["bone", "bone.png", "bone.nii.bz2"])
def test_a_name_without_an_ending_of_a_format_is_refused(tmp_path, name):
    with pytest.raises(InputError, match=r"none of the endings.*\.ome\.zarr.*\.nrrd"):
        write_labels(tmp_path / name, labels())


# Piece by piece, whole or not at all


@every_format
def test_anything_that_can_be_sliced_is_written_alike(tmp_path, ending):
    sources = [labels("int32"), da.from_array(labels("int32"), chunks=(1, 21, 13)), Lazy(labels("int32"))]
    for number, source in enumerate(sources):
        write_labels(tmp_path / f"{number}{ending}", source)
        np.testing.assert_array_equal(read(tmp_path / f"{number}{ending}"), labels(), strict=True)


@every_file
def test_planes_that_wait_in_a_file_are_the_same_and_the_file_is_gone(tmp_path, monkeypatch, ending):
    monkeypatch.setattr(layers, "LAYER_BYTES", 0)
    write_labels(tmp_path / f"bone{ending}", labels())
    np.testing.assert_array_equal(read(tmp_path / f"bone{ending}"), labels())
    assert len(list(tmp_path.iterdir())) == 1


@every_file
@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_a_volume_is_never_read_as_a_whole(tmp_path, ending, dtype):
    data = vast((300, 600, 200), dtype)
    write_labels(tmp_path / f"bone{ending}", data)
    assert 0 < data.largest <= PIECE_VOXELS < data.size


@every_file
def test_stored_chunks_that_are_planes_are_each_read_once(tmp_path, ending):
    reads = []

    def page(block_info):
        reads.append(block_info[None]["chunk-location"][0])
        return np.zeros((1, 600, 600), "uint8")

    write_labels(tmp_path / f"bone{ending}", da.map_blocks(page, chunks=((1,) * 5, 600, 600), dtype="uint8"))
    assert sorted(reads) == [0, 1, 2, 3, 4]


class Broken(Lazy):
    """Fails when its last planes are asked for."""

    def __getitem__(self, index):
        if index[0].stop == self.shape[0]:
            raise OSError("the disk is gone")
        return super().__getitem__(index)


@every_format
@pytest.mark.parametrize("layer_bytes", [0, 2**28])
def test_labels_that_cannot_be_read_leave_nothing_behind(tmp_path, monkeypatch, ending, layer_bytes):
    monkeypatch.setattr(layers, "LAYER_BYTES", layer_bytes)
    with pytest.raises(OSError, match="the disk is gone"):
        write_labels(tmp_path / f"bone{ending}", Broken(labels(shape=(200, 20, 20))))
    assert list(tmp_path.iterdir()) == []


@every_file
def test_a_disk_that_is_full_leaves_nothing_behind(tmp_path, monkeypatch, ending):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(layers, "LAYER_BYTES", 0)
    monkeypatch.setattr("napari_memseg.workflows.exports.label_files.write_planes", full)
    monkeypatch.setattr(tifffile.TiffWriter, "write", full)
    with pytest.raises(OSError, match="No space"):
        write_labels(tmp_path / f"bone{ending}", labels())
    assert list(tmp_path.iterdir()) == []


@every_format
def test_what_is_there_stays_and_nothing_is_read_in_vain(tmp_path, ending):
    (tmp_path / f"bone{ending}").write_bytes(b"theirs")
    with pytest.raises(InputError, match="exists already"):
        write_labels(tmp_path / f"bone{ending}", vast(SHAPE, "int32", most=0))
    assert (tmp_path / f"bone{ending}").read_bytes() == b"theirs"


@every_file
def test_what_somebody_else_finished_first_stays(tmp_path, ending):
    class Slow(Lazy):
        def __getitem__(self, index):
            (tmp_path / f"bone{ending}").write_bytes(b"theirs")
            return super().__getitem__(index)

    with pytest.raises(InputError, match="exists already"):
        write_labels(tmp_path / f"bone{ending}", Slow(labels()))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"theirs"]


@every_file
def test_an_empty_folder_is_in_the_way_of_a_file(tmp_path, ending):
    (tmp_path / f"bone{ending}").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        write_labels(tmp_path / f"bone{ending}", labels())
    assert len(list(tmp_path.iterdir())) == 1


# Back into a session, and out of one


@every_format
def test_labels_come_back_into_a_session_as_corrections(tmp_path, ending):
    classes = ClassTable.from_ids([1, 2, 300])
    image = open_volume(tiff()(tmp_path, noise(SHAPE)))
    Session.create(tmp_path / "session", image, classes).close()
    wanted = np.random.default_rng(1).choice([0, 1, 2, 300], SHAPE).astype("int32")
    write_labels(tmp_path / f"theirs{ending}", wanted, KNOWN)
    *_, last = import_corrections(tmp_path / "session", str(tmp_path / f"theirs{ending}"))
    assert last.result["imported"] == wanted.size
    with Session.open(tmp_path / "session", read_only=True) as session:
        found = np.asarray(session.overlay)
    np.testing.assert_array_equal(found, np.where(wanted == 0, classes.background_opinion, wanted))


@pytest.mark.parametrize(
    ("kind", "place"), [("tiff", "labels.ome.tif"), ("ome-zarr", "image.ome.zarr/labels/corrected")]
)
def test_a_class_with_a_number_beyond_16_bits_is_exported_as_that_number(tmp_path, kind, place):
    image = open_volume(tiff()(tmp_path, noise(SHAPE)))
    with Session.create(tmp_path / "session", image, ClassTable.from_ids([1, 70_000])) as session:
        session.overlay[5, 2:9, 3:8] = 70_000
    found = read(export_to(tmp_path / "out", tmp_path / "session", kind) / place)
    assert (found == 70_000).sum() == 35
    assert {*np.unique(found)} == {70_000, 2**32 - 1}


@pytest.mark.parametrize("kind", ["nnunet", "monai"])
@pytest.mark.parametrize(
    ("shown", "stem"),
    [("../../x", "x"), ("CON", "_CON"), ("two\nlines", "two_lines"), ("🦴", "scan"), (300 * "a", 50 * "a")],
)
def test_files_of_an_export_are_named_safely_whatever_the_image_is_called(
    tmp_path, monkeypatch, kind, shown, stem
):
    folder = make_session(tmp_path)
    opened = Session.open

    def renamed(*args, **options):
        session = opened(*args, **options)
        object.__setattr__(session.image, "name", shown)
        return session

    monkeypatch.setattr(Session, "open", renamed)
    exported = export_to(tmp_path / "out", folder, kind)
    ending = "tif" if kind == "nnunet" else "nii"
    assert [path.name for path in exported.glob(f"labelsTr/*.{ending}")] == [f"{stem}.{ending}"]
    assert {path.name for path in exported.iterdir()} == {
        "dataset.json", "imagesTr", "labelsTr", "provenance.json",
    }  # fmt: skip


def test_every_level_of_a_pyramid_is_there(tmp_path):
    write_labels(tmp_path / "bone.zarr", labels(shape=(150, 140, 70)))
    levels = open_pyramid(tmp_path / "bone.zarr").levels
    np.testing.assert_array_equal(levels[1][...], labels(shape=(150, 140, 70))[::2, ::2, ::2])
