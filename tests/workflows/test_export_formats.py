"""Each format holds the same voxels, by its own rules, the same again, and nothing unknown as background."""

from __future__ import annotations

import json
import tracemalloc
import uuid
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from napari_memseg.annotation.session import Session
from napari_memseg.errors import Cancelled, GeometryError, InputError
from napari_memseg.geometry import Box, zyx
from napari_memseg.inference.control import Control
from napari_memseg.io.formats import open_volume
from napari_memseg.models.classes import ClassTable
from napari_memseg.workflows.export import FORMATS, export, forecast_bytes
from napari_memseg.workflows.exports import layers
from napari_memseg.workflows.exports.nifti import HEADER, header
from napari_memseg.workflows.exports.selection import Values
from volumes import SIZE, noise
from workflows.exported import CLASSES, SHAPE, export_to, files, make_session, shown

KINDS = list(FORMATS)
CORNER = Box((60, 3, 4), (70, 12, 17))
COUNTED = {0: 0, 1: 1, 2: 2, 15: 3, 255: 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A session that these tests only read."""
    return make_session(tmp_path_factory.mktemp("formats"))


def read_nifti(path: Path) -> np.ndarray:
    """Read by the standard's own words: dim[1] is the fastest axis."""
    head = np.fromfile(path, HEADER, 1)[0]
    dtypes = {2: "u1", 512: "<u2", 16: "<f4"}
    shape = tuple(head["dim"][3:0:-1])
    return np.fromfile(path, dtypes[int(head["datatype"])], offset=int(head["vox_offset"])).reshape(shape)


def read_both(exported: Path, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Return image and labels of an export, as whoever it was made for reads them."""
    if kind == "ome-zarr":
        places = ("image.ome.zarr", "image.ome.zarr::labels/corrected")
        image, labels = (open_volume(f"{exported}/{place}") for place in places)
        return np.asarray(image.levels[0]), np.asarray(labels.levels[0])
    if kind == "tiff":
        return tifffile.imread(exported / "image.ome.tif"), tifffile.imread(exported / "labels.ome.tif")
    if kind == "nnunet":
        (image,), (labels,) = (exported.glob(f"{n}/*.tif") for n in ("imagesTr", "labelsTr"))
        return tifffile.imread(image), tifffile.imread(labels)
    (item,) = json.loads((exported / "dataset.json").read_bytes())["training"]
    return read_nifti(exported / item["image"]), read_nifti(exported / item["label"])


def as_written(labels: np.ndarray, kind: str) -> np.ndarray:
    return labels if kind in ("ome-zarr", "tiff") else np.vectorize(COUNTED.get)(labels)


@pytest.mark.parametrize("which", ["shown", "confirmed"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_format_holds_the_image_and_the_labels_without_loss(folder, tmp_path, kind, which):
    image, labels = read_both(export_to(tmp_path / "out", folder, kind, labels=which), kind)
    np.testing.assert_array_equal(image, noise(SHAPE))
    np.testing.assert_array_equal(labels, as_written(shown(folder, which), kind))
    told = json.loads((tmp_path / "out" / "provenance.json").read_bytes())
    assert (labels == told["not_predicted"]).sum() == (shown(folder, which) == 255).sum() > 0
    assert told["not_predicted"] != 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_box_is_exported_as_a_volume_of_its_own(folder, tmp_path, kind):
    image, labels = read_both(export_to(tmp_path / "out", folder, kind, box=str(CORNER)), kind)
    np.testing.assert_array_equal(image, noise(SHAPE)[CORNER.slices])
    np.testing.assert_array_equal(labels, as_written(shown(folder)[CORNER.slices], kind))
    assert json.loads((tmp_path / "out" / "provenance.json").read_bytes())["region"] == str(CORNER)


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_export_is_equal_byte_for_byte(folder, tmp_path, kind, monkeypatch):
    first = files(export_to(tmp_path / "first", folder, kind))
    monkeypatch.setattr("time.time", lambda: 0.0)
    assert first == files(export_to(tmp_path / "second", folder, kind))
    other = files(export_to(tmp_path / "third", folder, kind, labels="confirmed"))
    assert other.keys() == first.keys() or kind == "ome-zarr"
    assert other != first


@pytest.mark.parametrize("kind", KINDS)
def test_provenance_says_what_the_values_in_the_files_mean(folder, tmp_path, kind):
    told = json.loads((export_to(tmp_path / "out", folder, kind) / "provenance.json").read_bytes())
    named = {int(i): value for i, value in told["values"].items()} | {255: told["not_predicted"]}
    assert named == (COUNTED if kind in ("nnunet", "monai") else {i: i for i in COUNTED})
    assert (told["format"], told["labels"], told["run"]) == (kind, "shown", "0001")
    assert [one["id"] for one in told["classes"]] == list(CLASSES.ids)


@pytest.mark.parametrize("kind", KINDS)
def test_cancelling_after_any_plane_leaves_nothing_behind(folder, tmp_path, kind):
    control = Control()
    steps = export(folder, tmp_path / "out", kind, control=control)
    next(steps)
    control.cancel()
    with pytest.raises(Cancelled):
        next(steps)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_for_a_box_beside_the_volume_or_labels_nobody_knows(folder, tmp_path):
    with pytest.raises(GeometryError, match="leaves the volume"):
        export_to(tmp_path / "out", folder, "tiff", box="0:99,:,:")
    with pytest.raises(InputError, match=r"no labels 'all'.*shown, confirmed"):
        export_to(tmp_path / "out", folder, "tiff", labels="all")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_forecast_is_what_is_written_at_most(folder, tmp_path, kind):
    exported = export_to(tmp_path / "out", folder, kind)
    written = sum(map(len, files(exported).values()))
    with Session.open(folder, read_only=True) as session:
        told = forecast_bytes(session, kind, Box.whole(SHAPE))
        part = forecast_bytes(session, kind, CORNER) * Box.whole(SHAPE).size / CORNER.size
    assert told == pytest.approx(part, rel=0.01)
    assert 3 * np.prod(SHAPE) <= told <= 3.5 * np.prod(SHAPE)
    assert written < told + 70_000  # descriptions: of 140 pages, or of a few levels


# TIFF


def test_tiffs_say_how_large_a_voxel_is_and_bear_no_time(folder, tmp_path):
    exported = export_to(tmp_path / "out", folder, "tiff")
    ids = set()
    for name in ("image", "labels"):
        volume = open_volume(exported / f"{name}.ome.tif")
        assert (volume.voxel_size, volume.unit) == (SIZE, "micrometer")
        with tifffile.TiffFile(exported / f"{name}.ome.tif") as tif:
            assert tif.is_bigtiff
            assert "DateTime" not in tif.pages[0].tags
            ids.add(uuid.UUID(tif.ome_metadata.split("urn:uuid:")[1][:36]))
    assert len(ids) == 2


@pytest.mark.parametrize(("dtype", "written"), [("float16", "float32"), ("int8", "int8")])
@pytest.mark.parametrize("kind", ["tiff", "monai"])
def test_a_dtype_that_readers_do_not_know_is_written_as_a_wider_one(tmp_path, dtype, written, kind):
    (tmp_path / "scan").mkdir()
    voxels = (np.random.default_rng(0).random((3, 9, 11)) * 99).astype(dtype)
    tifffile.imwrite(tmp_path / "scan.tif", voxels, photometric="minisblack")
    Session.create(tmp_path / "session", open_volume(tmp_path / "scan.tif"), CLASSES).close()
    exported = export_to(tmp_path / "out", tmp_path / "session", kind)
    if kind == "tiff":
        found = tifffile.imread(exported / "image.ome.tif")
        assert found.dtype == written
        np.testing.assert_array_equal(found, voxels)
    else:
        head = np.fromfile(next(exported.glob("imagesTr/*.nii")), HEADER, 1)[0]
        assert int(head["bitpix"]) == 8 * np.dtype(written).itemsize


# nnU-Net


def check_nnunet(folder: Path) -> None:
    """Hold a raw dataset against nnU-Net's own rules (verify_dataset_integrity, Tiff3DIO, LabelManager)."""
    told = json.loads((folder / "dataset.json").read_bytes())
    assert {"labels", "channel_names", "numTraining", "file_ending"} <= told.keys()
    assert (told["file_ending"], told["overwrite_image_reader_writer"]) == (".tif", "Tiff3DIO")
    values = list(told["labels"].values())
    assert all(type(value) is int for value in values)
    assert values == list(range(len(values)))
    assert told["labels"]["background"] == 0
    assert told["labels"]["ignore"] == max(values)
    cases = sorted(path.stem for path in (folder / "labelsTr").glob("*.tif"))
    channels = [f"{case}_{int(n):04d}" for case in cases for n in told["channel_names"]]
    assert sorted(path.stem for path in (folder / "imagesTr").glob("*.tif")) == channels
    assert len(cases) == told["numTraining"]
    for case in cases:
        image = tifffile.imread(folder / "imagesTr" / f"{case}_0000.tif")
        labels = tifffile.imread(folder / "labelsTr" / f"{case}.tif")
        assert image.ndim == labels.ndim == 3
        assert image.shape == labels.shape
        assert set(np.unique(labels)) <= set(values)
        spacings = [json.loads((folder / f"{p}Tr/{case}.json").read_bytes()) for p in ("images", "labels")]
        assert spacings[0] == spacings[1]
        assert len(spacings[0]["spacing"]) == 3
        assert min(spacings[0]["spacing"]) > 0


@pytest.mark.parametrize("which", ["shown", "confirmed"])
def test_a_raw_dataset_keeps_the_rules_of_nnunet(folder, tmp_path, which):
    exported = export_to(tmp_path / "out", folder, "nnunet", labels=which)
    check_nnunet(exported)
    told = json.loads((exported / "dataset.json").read_bytes())["labels"]
    assert told == {"background": 0, "bone": 1, "bone (2)": 2, "ignore (15)": 3, "ignore": 4}
    spacing = json.loads((exported / "imagesTr" / "scan.json").read_bytes())["spacing"]
    assert spacing == [0.0025, 0.0005, 0.00025]


def test_nnunet_takes_no_single_slice(folder, tmp_path):
    with pytest.raises(InputError, match=r"one voxel thick.*tiff"):
        export_to(tmp_path / "out", folder, "nnunet", box="5:6,:,:")
    assert list(tmp_path.iterdir()) == []


@given(ids=st.sets(st.integers(1, 70_000), max_size=6))
def test_classes_are_counted_without_a_gap_and_the_unknown_comes_last(ids):
    classes = ClassTable.from_ids(ids)
    values = Values.counted(classes)
    labels = np.array([[[*classes.ids, classes.not_predicted]]], classes.dtype)
    found = values.put(labels, classes)
    assert found.ravel().tolist() == list(range(len(classes) + 1))
    assert found.dtype == np.uint8


def test_labels_that_are_no_class_of_the_session_are_refused_by_name():
    with pytest.raises(InputError, match=r"\[7\].*no classes of this session"):
        Values.counted(CLASSES).put(np.array([[[0, 7, 255]]], np.uint8), CLASSES)


# MONAI


@pytest.mark.slow
def test_the_data_list_is_read_by_monai_with_paths_that_exist(folder, tmp_path):
    from monai.data import load_decathlon_datalist

    exported = export_to(tmp_path / "out", folder, "monai")
    moved = exported.rename(tmp_path / "elsewhere")
    (item,) = load_decathlon_datalist(str(moved / "dataset.json"), data_list_key="training")
    assert all(Path(item[key]).is_file() for key in ("image", "label"))
    labels = json.loads((moved / "dataset.json").read_bytes())["labels"]
    assert labels == {"0": "background", "1": "bone", "2": "bone (2)", "3": "ignore (15)", "4": "ignore"}


def test_nifti_says_its_voxel_size_in_millimetres(folder, tmp_path):
    exported = export_to(tmp_path / "out", folder, "monai", box=str(CORNER))
    head = np.fromfile(exported / "imagesTr" / "scan.nii", HEADER, 1)[0]
    np.testing.assert_allclose(head["pixdim"][1:4], [0.00025, 0.0005, 0.0025])
    np.testing.assert_allclose(head["srow"][:, :3], np.diag([0.00025, 0.0005, 0.0025]))
    assert (head["magic"], int(head["sizeof_hdr"]), int(head["xyzt_units"])) == (b"n+1", 348, 2)
    assert tuple(head["dim"][1:4]) == CORNER.shape[::-1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")  # MONAI tries it where pydicom is
def test_monai_reads_what_was_exported(folder, tmp_path):
    from monai.data import load_decathlon_datalist
    from monai.transforms import LoadImaged

    exported = export_to(tmp_path / "out", folder, "monai")
    (item,) = load_decathlon_datalist(str(exported / "dataset.json"), data_list_key="training")
    found = LoadImaged(keys=("image", "label"))(item)
    np.testing.assert_array_equal(found["image"].numpy().T, noise(SHAPE))
    np.testing.assert_array_equal(found["label"].numpy().T, as_written(shown(folder), "monai"))
    np.testing.assert_allclose(np.diag(found["image"].affine)[:3], [0.00025, 0.0005, 0.0025])


def test_an_axis_too_long_for_nifti_is_refused():
    with pytest.raises(InputError, match=r"32767 voxels at most.*ome-zarr"):
        header((40_000, 2, 2), np.dtype("uint8"), None)


# Layers


@given(data=st.data())
def test_planes_are_those_of_the_region_whatever_the_chunks_and_the_memory(tmp_path_factory, data):
    numbers = st.integers(1, 9)
    start, size = (zyx(data.draw(st.tuples(st.integers(0, 150), numbers, numbers))) for _ in range(2))
    region = Box.at(start, zyx((data.draw(st.integers(1, 150)), *size[1:])))
    chunks = data.draw(st.tuples(st.sampled_from([1, 5, 64, 100, 999]), numbers, numbers))
    whole = noise(region.stop)
    scratch = tmp_path_factory.mktemp("layers") / "layer"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "LAYER_BYTES", data.draw(st.sampled_from([0, 2**28])))
        patch.setattr(layers, "PIECE_VOXELS", data.draw(st.sampled_from([1, 100, 2**24])))
        found = layers.Layers(lambda box: whole[box.slices], region, whole.dtype, chunks, scratch)
        planes = [np.array(plane) for plane in found.planes()]
    np.testing.assert_array_equal(planes, whole[region.slices])
    assert not scratch.exists()


def test_memory_does_not_grow_with_the_number_of_planes(tmp_path):
    def peak(depth: int) -> int:
        region = Box((0, 0, 0), (depth, 96, 96))
        chunks = (64, 64, 64)
        found = layers.Layers(
            lambda box: np.ones(box.shape, np.uint8), region, np.dtype("u1"), chunks, tmp_path / "x"
        )
        tracemalloc.start()
        try:
            assert sum(int(plane[0, 0]) for plane in found.planes()) == depth
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(1280) < 1.1 * peak(128)
