"""Whoever loaded a layer: the volume behind it is found on disk if it is there, else in memory."""

import dask.array as da
import numpy as np
import pytest
import tifffile
from napari.components import ViewerModel
from napari.layers import Image
from napari.plugins import _initialize_plugins

from napari_memseg.errors import InputError
from napari_memseg.geometry import Box
from napari_memseg.io.pyramid import create_image
from napari_memseg.widgets.adopt import LayerFacts
from napari_memseg.widgets.adopt import adopt as adopt_by_facts
from volumes import SIZE, noise, ome_tiff, slices, write_ome_zarr
from widgets.arrays import vast

pytestmark = pytest.mark.qt

VOXELS = noise((5, 37, 29))
SCALE = (3.0, 0.5, 0.25)


@pytest.fixture(autouse=True)
def readers(mock_app_model):
    """What a viewer does first: know the readers, napari's own among them."""
    _initialize_plugins.cache_clear()
    _initialize_plugins()


def read(volume):
    return volume.read(Box.whole(volume.shape))


def opened(path, plugin):
    (layer,) = ViewerModel().open(str(path), plugin=plugin)
    return layer


@pytest.fixture
def tiff(tmp_path):
    return ome_tiff(tmp_path, VOXELS)


def adopt(layer):
    return adopt_by_facts(LayerFacts.of(layer))


def test_a_layer_of_our_reader_remembers_its_volume(tiff):
    found = adopt(opened(tiff, "napari-memseg"))
    assert not found.in_memory
    assert (found.volume.source, found.volume.voxel_size) == (tiff, SIZE)
    assert np.array_equal(read(found.volume), VOXELS)


def test_a_pyramid_of_our_reader_keeps_its_levels(tmp_path):
    path = write_ome_zarr(tmp_path / "scan.ome.zarr", [VOXELS, VOXELS[::2, ::2, ::2]])
    layer = opened(path, "napari-memseg")
    found = adopt(layer)
    assert layer.multiscale
    assert not found.in_memory
    assert len(found.volume.arrays) == 2


def test_a_tiff_that_napari_loaded_is_opened_lazily_by_its_path(tiff):
    layer = opened(tiff, "napari")
    assert isinstance(layer.data, np.ndarray)
    found = adopt(layer)
    assert not found.in_memory
    assert (found.volume.source, found.volume.format) == (tiff, "ome-tiff")
    assert (found.volume.voxel_size, found.volume.unit) == (SIZE, "micrometer")
    assert np.array_equal(read(found.volume), VOXELS)


def test_a_folder_of_slices_that_napari_stacked_is_opened_by_its_path(tmp_path):
    layer = opened(slices(tmp_path, VOXELS), "napari")
    found = adopt(layer)
    assert not found.in_memory
    assert np.array_equal(read(found.volume), VOXELS)


def test_what_was_made_of_a_file_counts_as_memory(tiff):
    layer = opened(tiff, "napari")
    layer.data = 199 - VOXELS
    found = adopt(layer)
    assert found.in_memory
    assert np.array_equal(read(found.volume), 199 - VOXELS)


@pytest.mark.parametrize(
    "change", [lambda v: v[1:], lambda v: v.astype("uint8")], ids=["cropped", "converted"]
)
@pytest.mark.parametrize("plugin", ["napari", "napari-memseg"])
def test_another_shape_or_dtype_than_the_file_counts_as_memory(tiff, plugin, change):
    layer = opened(tiff, plugin)
    layer.data = change(np.asarray(layer.data))
    found = adopt(layer)
    assert found.in_memory
    assert np.array_equal(read(found.volume), change(VOXELS))


def test_other_voxels_in_a_layer_of_our_reader_count_as_memory(tiff):
    layer = opened(tiff, "napari-memseg")
    layer.data = 199 - layer.data
    found = adopt(layer)
    assert found.in_memory
    assert np.array_equal(read(found.volume), 199 - VOXELS)


@pytest.mark.parametrize("loss", ["gone", "broken"])
def test_a_file_that_cannot_be_read_any_more_counts_as_memory(tmp_path, tiff, loss):
    layer = opened(tiff, "napari")
    (tmp_path / "scan.ome.tif").unlink()
    if loss == "broken":
        (tmp_path / "scan.ome.tif").write_bytes(b"no image at all")
    found = adopt(layer)
    assert found.in_memory
    assert np.array_equal(read(found.volume), VOXELS)


def test_a_file_in_a_format_that_we_do_not_know_counts_as_memory(tmp_path):
    np.save(tmp_path / "scan.npy", VOXELS)
    found = adopt(opened(tmp_path / "scan.npy", "napari"))
    assert found.in_memory
    assert np.array_equal(read(found.volume), VOXELS)


@pytest.mark.parametrize(
    "wrap", [np.asarray, lambda v: da.from_array(v, chunks=(2, 20, 8)), lambda v: np.asfortranarray(v)[::-1]]
)
def test_an_array_without_a_file_is_read_where_it_is(wrap):
    data = wrap(VOXELS)
    found = adopt(Image(data, name="scan", scale=SCALE, units=("um",) * 3))
    assert found.in_memory
    volume = found.volume
    assert (volume.voxel_size, volume.unit, volume.name, volume.dtype) == (
        SCALE,
        "micrometer",
        "scan",
        "uint16",
    )
    assert np.array_equal(read(volume), np.asarray(data))
    box = Box((1, 3, 5), (4, 30, 7))
    assert np.array_equal(volume.read(box), np.asarray(data)[box.slices])


def test_the_finest_level_of_a_pyramid_in_memory_is_taken():
    found = adopt(Image([VOXELS, VOXELS[::2, ::2, ::2]], multiscale=True))
    assert found.in_memory
    assert np.array_equal(read(found.volume), VOXELS)


@pytest.mark.parametrize("units", [None, ("um", "um", "mm")], ids=["no unit", "mixed units"])
def test_a_voxel_size_is_not_invented(units):
    found = adopt(Image(VOXELS, scale=SCALE, units=units))
    assert (found.volume.voxel_size, found.volume.unit) == (None, None)


def test_what_is_adopted_does_not_change_with_the_layer_once_it_is_read():
    voxels = VOXELS.copy()
    part = adopt(Image(voxels)).volume.read(Box((0, 0, 0), (1, 2, 2)))
    voxels[:] = 0
    assert np.array_equal(part, VOXELS[:1, :2, :2])


def test_a_large_array_is_looked_at_and_not_read():
    data = vast((2**24, 512, 512), most=2**22)
    found = adopt(Image(data, contrast_limits=(0, 1)))
    assert found.in_memory
    assert found.volume.fingerprint
    assert 0 < data.largest <= 2**22


def test_a_large_file_is_not_compared_as_a_whole(tmp_path, monkeypatch):
    create_image(tmp_path / "scan.ome.zarr", shape=(8192, 2048, 2048), dtype="uint8")
    data = vast((8192, 2048, 2048), most=2**22)
    layer = Image(data, contrast_limits=(0, 1), metadata={"source": str(tmp_path / "scan.ome.zarr")})
    assert not adopt(layer).in_memory


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (Image(np.zeros((5, 6, 7, 3), "uint8"), rgb=True, name="photo"), "'photo' is colour.*one channel"),
        (Image(np.zeros((6, 7, 3), "uint8"), rgb=True), "is colour"),
        (Image(np.zeros((2, 5, 6, 7), "uint8"), name="film"), "'film' is 4-dimensional.*Split Stack"),
        (Image(np.zeros((6, 7), "uint8")), "is 2-dimensional"),
    ],
    ids=["rgb volume", "rgb", "4d", "2d"],
)
def test_what_is_no_grey_volume_is_refused_with_a_way_out(layer, words):
    with pytest.raises(InputError, match=words):
        adopt(layer)


def test_a_4d_tiff_is_refused_although_its_file_is_known(tmp_path):
    tifffile.imwrite(tmp_path / "film.tif", np.zeros((2, 5, 6, 7), "uint8"), photometric="minisblack")
    with pytest.raises(InputError, match="4-dimensional"):
        adopt(opened(tmp_path / "film.tif", "napari"))
