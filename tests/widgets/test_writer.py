"""What napari's save dialog writes of a labels layer comes back as it was, or nothing is written."""

import dask.array as da
import numpy as np
import pytest
import zarr
from napari.components import LayerList
from napari.layers import Labels
from napari.utils.colormaps import DirectLabelColormap
from npe2 import PluginManager

from annotation.helpers import Picture
from napari_memseg.annotation.session import Session
from napari_memseg.errors import InputError
from napari_memseg.geometry import Box
from napari_memseg.io.formats import open_volume
from napari_memseg.io.ome_zarr_metadata import level_shapes
from napari_memseg.io.pyramid import CHUNK
from napari_memseg.models.classes import ClassTable
from napari_memseg.widgets.writer import write_labels
from napari_memseg.workflows.exports.label_files import BLOCK, ENDINGS
from widgets.arrays import Lazy, vast

pytestmark = pytest.mark.qt

SHAPE = (70, 140, 66)
"""Blocks that are cut at the faces, and two levels."""
ABOUT = {"scale": (2.0, 1.0, 0.5), "units": ("um",) * 3}
COLORS = {None: "transparent", 0: "transparent", 1: "#ff0000", 3: "#12ab34"}


def labels(dtype="uint8", shape=SHAPE, highest=4):
    return np.random.default_rng(0).integers(0, highest, shape, "uint64").astype(dtype)


def read(path):
    volume = open_volume(path)
    return volume.read(Box.whole(volume.shape))


def overlay(folder, voxels):
    """What a session paints on; it cannot be read as a whole."""
    session = Session.create(folder / "s.memseg", Picture(voxels.shape), ClassTable.from_ids([1, 2, 3]))
    session.overlay[...] = voxels
    return session


@pytest.mark.parametrize(
    "wrap",
    [
        np.asarray,
        lambda v: da.from_array(v, chunks=(16, 100, 30)),
        Lazy,
        lambda v: [v, v[::2, ::2, ::2]],
        lambda v: [Lazy(v), Lazy(v[::2, ::2, ::2].copy())],
    ],
    ids=["numpy", "dask", "lazy", "multiscale", "lazy multiscale"],
)
def test_labels_saved_by_napari_come_back_by_our_reader(make_napari_viewer, tmp_path, wrap):
    viewer, path = make_napari_viewer(), str(tmp_path / "bone.ome.zarr")
    layer = viewer.add_labels(wrap(labels()), name="bone", **ABOUT)
    assert viewer.layers.save(path, selected=True) == [path]
    (back,) = viewer.open(path, plugin="napari-memseg")
    finest = back.data[0] if back.multiscale else back.data
    assert np.array_equal(np.asarray(finest), labels())
    assert finest.dtype == "uint8"
    assert tuple(back.scale) == tuple(layer.scale)
    assert list(map(str, back.units)) == list(map(str, layer.units))
    assert back.extent.world.tolist() == layer.extent.world.tolist()


def test_what_is_painted_in_a_session_is_saved_though_it_cannot_be_read_whole(tmp_path, monkeypatch):
    session = overlay(tmp_path, labels())
    monkeypatch.setattr("napari_memseg.annotation.indexing.MOST_VOXELS", 128**3)
    layer = Labels(session.overlay, name="corrections", **ABOUT)
    path = str(tmp_path / "corrections.ome.zarr")
    assert layer.save(path, plugin="napari-memseg") == [path]
    assert np.array_equal(read(path), labels())
    session.close()


def test_coarse_levels_are_every_second_voxel_and_all_there(tmp_path):
    path, voxels = str(tmp_path / "bone.zarr"), labels(shape=(150, 300, 140))
    write_labels(path, voxels, {})
    volume = open_volume(path)
    assert [array.shape for array in volume.arrays] == level_shapes((150, 300, 140), CHUNK)
    for level in range(1, len(volume.arrays)):
        every = voxels[:: 2**level, :: 2**level, :: 2**level]
        assert np.array_equal(volume.read(Box.whole(volume.arrays[level].shape), level), every)


def test_colours_are_kept_and_what_cannot_be_seen_gets_none(make_napari_viewer, tmp_path):
    viewer, path = make_napari_viewer(), str(tmp_path / "bone.ome.zarr")
    layer = viewer.add_labels(labels(), colormap=DirectLabelColormap(color_dict=COLORS))
    layer.save(path, plugin="napari-memseg")
    rows = zarr.open_group(path, mode="r").attrs["ome"]["image-label"]["colors"]
    assert {row["label-value"]: row["rgba"] for row in rows} == {1: [255, 0, 0, 255], 3: [18, 171, 52, 255]}


def test_a_layer_without_a_unit_has_no_voxel_size(tmp_path):
    path = str(tmp_path / "bone.ome.zarr")
    Labels(labels(), scale=(2, 1, 1)).save(path, plugin="napari-memseg")
    assert open_volume(path).voxel_size is None


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_memory_is_bounded_by_a_block(tmp_path, dtype):
    data = vast((1024, 300, 130), dtype)
    write_labels(str(tmp_path / "bone.zarr"), data, {})
    assert 0 < data.largest <= np.prod(BLOCK)


def negative():
    voxels = labels("int16")
    voxels[-1, -1, -1] = -5
    return voxels


class Broken(Lazy):
    """Fails when its last block is read."""

    def __getitem__(self, index):
        if index[0].stop == self.shape[0]:
            raise OSError("the disk is gone")
        return super().__getitem__(index)


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (negative(), InputError, r"negative numbers \(-5\).*Renumber"),
        (labels(shape=(30, 40)), InputError, "2-dimensional"),
        (labels(shape=(2, 8, 9, 10)), InputError, "4-dimensional.*Choose one time"),
        (np.zeros((8, 9, 10), "float32"), InputError, "float32"),
        (Broken(labels(shape=(300, 20, 20))), OSError, "the disk is gone"),
    ],
    ids=["negative", "2d", "4d", "float", "broken"],
)
def test_a_failure_says_why_and_leaves_nothing_behind(tmp_path, data, error, words):
    with pytest.raises(error, match=words):
        write_labels(str(tmp_path / "bone.ome.zarr"), data, {})
    assert list(tmp_path.iterdir()) == []


# Every format


def chosen(command):
    """Return the row of the dialog that a format has."""
    writers = PluginManager.instance().iter_compatible_writers(["labels"])
    (found,) = (writer for writer in writers if writer.command == f"napari-memseg.{command}")
    return found


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_layer_is_written_as_its_ending_says_and_opens_again(make_napari_viewer, tmp_path, ending):
    viewer, path = make_napari_viewer(), str(tmp_path / f"bone{ending}")
    voxels = labels("int32", highest=70_000)
    layer = viewer.add_labels(da.from_array(voxels, chunks=(16, 100, 30)), **ABOUT)
    assert viewer.layers.save(path, selected=True, plugin="napari-memseg") == [path]
    (back,) = viewer.open(path, plugin="napari-memseg")
    finest = back.data[0] if back.multiscale else back.data
    assert np.array_equal(np.asarray(finest), voxels)
    assert tuple(back.scale) == tuple(layer.scale)
    assert list(map(str, back.units)) == ["micrometer"] * 3


@pytest.mark.parametrize(
    ("command", "ending"),
    [
        ("write_labels", ".ome.zarr"),
        ("write_tiff", ".ome.tif"),
        ("write_nrrd", ".nrrd"),
        ("write_nifti", ".nii.gz"),
    ],
)
@pytest.mark.parametrize("name", ["bone", "bone 0.65 um"])
def test_a_name_without_an_ending_gets_that_of_the_format_chosen(tmp_path, command, ending, name):
    layers, path = LayerList([Labels(labels())]), str(tmp_path / name)
    assert layers.save(path, _writer=chosen(command)) == [path + ending]
    assert np.array_equal(read(path + ending), labels())


def test_an_ending_that_was_typed_counts_more_than_the_format_chosen(tmp_path):
    path = str(tmp_path / "bone.nrrd")
    assert LayerList([Labels(labels())]).save(path, _writer=chosen("write_tiff")) == [path]
    assert open_volume(path).format == "nrrd"


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_painted_goes_into_a_file_plane_by_plane(tmp_path, monkeypatch, ending):
    session = overlay(tmp_path, labels())
    monkeypatch.setattr("napari_memseg.annotation.indexing.MOST_VOXELS", SHAPE[0] * SHAPE[1] * SHAPE[2] - 1)
    layer, path = Labels(session.overlay, name="corrections", **ABOUT), str(tmp_path / f"bone{ending}")
    assert layer.save(path, plugin="napari-memseg") == [path]
    assert np.array_equal(read(path), labels())
    session.close()


def test_units_that_differ_become_one_and_a_mirrored_axis_keeps_its_length(tmp_path):
    path = str(tmp_path / "bone.nrrd")
    Labels(labels(), scale=(0.002, -1, 0.5), units=("mm", "um", "um")).save(path, plugin="napari-memseg")
    assert open_volume(path).voxel_size == pytest.approx((2.0, 1.0, 0.5))
    assert open_volume(path).unit == "micrometer"


def test_what_the_dialog_would_replace_is_not_replaced_and_the_error_says_so(tmp_path):
    path = tmp_path / "bone.nrrd"
    path.write_bytes(b"theirs")
    with pytest.raises(InputError, match=r"exists already.*dialog may have asked.*never"):
        LayerList([Labels(labels())]).save(str(path), _writer=chosen("write_nrrd"))
    assert path.read_bytes() == b"theirs"


def test_napari_finds_a_writer_of_ours_for_what_it_does_not_write_itself():
    for ending in (".ome.tif", ".nrrd", ".nii", ".nii.gz", ".zarr"):
        writer, _ = PluginManager.instance().get_writer(f"bone{ending}", ["labels"])
        assert writer.command.startswith("napari-memseg.")


def test_nothing_is_overwritten(tmp_path):
    path = tmp_path / "bone.ome.zarr"
    write_labels(str(path), labels(), {})
    with pytest.raises(InputError, match="exists already"):
        write_labels(str(path), np.zeros_like(labels()), {})
    assert np.array_equal(read(path), labels())


def test_the_save_dialog_of_napari_hears_why_a_layer_was_not_saved(make_napari_viewer, tmp_path):
    viewer, path = make_napari_viewer(), str(tmp_path / "bone.ome.zarr")
    viewer.add_labels(negative())
    writer, _ = PluginManager.instance().get_writer(path, ["labels"])
    with pytest.raises(InputError, match="negative"):
        viewer.layers.save(path, selected=True, _writer=writer)
    assert list(tmp_path.iterdir()) == []
