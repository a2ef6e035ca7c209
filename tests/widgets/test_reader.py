"""A volume that is dropped on napari shows at once, in physical units, without being loaded."""

import dask.array as da
import numpy as np
import pytest
import tifffile

from napari_memseg.data import bundled
from napari_memseg.io.pyramid import create_image, create_labels
from napari_memseg.io.volume import Volume
from napari_memseg.widgets.reader import get_reader, read

pytestmark = pytest.mark.qt

BONE = str(bundled("trabecular_bone.ome.tif"))


@pytest.fixture
def viewer(make_napari_viewer_proxy):
    return make_napari_viewer_proxy(show=True)


def microns(layer):
    return [
        float((size * unit).to("micrometer").magnitude)
        for size, unit in zip(layer.scale, layer.units, strict=True)
    ]


def test_a_dropped_volume_is_lazy_and_has_its_voxel_size(viewer):
    (image,) = viewer.open(BONE, plugin="napari-memseg")
    assert isinstance(image.data, da.Array)
    assert image.data.shape == (160, 160, 160)
    assert microns(image) == pytest.approx([19.5, 19.5, 19.5])
    assert tuple(image.axis_labels) == ("z", "y", "x")


def test_a_dropped_volume_can_be_seen(viewer):
    (image,) = viewer.open(BONE, plugin="napari-memseg")
    shown = viewer.screenshot(canvas_only=True, flash=False)[..., 0]
    rows, columns = (np.flatnonzero(shown.any(axis=axis)) for axis in (1, 0))
    plane = shown[np.ix_(sample(rows), sample(columns))]
    expected = np.clip(image.data[viewer.dims.current_step[0]].compute(), *image.contrast_limits)
    assert np.corrcoef(plane.ravel(), expected.ravel())[0, 1] > 0.9


def sample(pixels, count=160):
    """The pixels on which the voxels' centres fall."""
    return np.linspace(pixels[0], pixels[-1], 2 * count + 1).round().astype(int)[1::2]


def test_contrast_is_taken_from_a_coarse_level_and_never_from_a_speck(monkeypatch):
    decoded = []

    class Level:
        dtype = np.dtype(np.uint8)

        def __init__(self, size, value):
            self.shape = self.chunks = (size,) * 3
            self.value = value

        def __getitem__(self, index):
            decoded.append(self.shape)
            return np.full([s.stop - s.start for s in index], self.value, np.uint8)

    levels = [Level(256, 10), Level(128, 20), Level(1, 30)]
    volume = Volume(levels, None, None, "scan", "scan", "memory")
    monkeypatch.setattr("napari_memseg.widgets.reader.open_volume", lambda path: volume)
    [(_, arguments, kind)] = read("scan")
    assert (kind, arguments["contrast_limits"]) == ("image", (20.0, 21.0))
    assert decoded == [(128, 128, 128)]


@pytest.mark.parametrize("size", [20, 70])
def test_a_label_image_is_dropped_as_labels_on_the_grid_of_its_image(viewer, tmp_path, size):
    about = {"shape": (size,) * 3, "chunk": (16, 16, 16), "voxel_size": (3.0, 2.0, 1.0), "unit": "micrometer"}
    colors = {"colors": {1: "#ff0000"}, "names": {1: "bone"}, "fill_value": 7}
    create_labels(tmp_path / "run.ome.zarr", dtype="uint8", name="run", **about, **colors)
    create_image(tmp_path / "scan.ome.zarr", dtype="uint16", name="scan", **about)
    (image,) = viewer.open(str(tmp_path / "scan.ome.zarr"), plugin="napari-memseg")
    (labels,) = viewer.open(str(tmp_path / "run.ome.zarr"), plugin="napari-memseg")
    assert (type(image).__name__, type(labels).__name__) == ("Image", "Labels")
    assert labels.multiscale == image.multiscale == (size > 32)
    assert microns(labels) == microns(image) == pytest.approx([3.0, 2.0, 1.0])
    assert tuple(labels.axis_labels) == ("z", "y", "x")
    assert labels.get_value((3.0, 2.0, 1.0), world=True) is not None


def test_the_sample_opens_as_image_and_mask_on_one_grid(viewer):
    image, labels = viewer.open_sample("napari-memseg", "trabecular_bone")
    assert (type(image).__name__, type(labels).__name__) == ("Image", "Labels")
    assert microns(image) == microns(labels)
    assert set(np.unique(np.asarray(labels.data[80]))) == {0, 1}


def test_the_synthetic_fly_is_made_once_and_opens_as_image_and_truth(viewer, tmp_path, monkeypatch):
    monkeypatch.setattr("napari_memseg.widgets.sample_data.user_cache_path", lambda *_, **__: tmp_path)
    for _ in range(2):
        image, truth = viewer.open_sample("napari-memseg", "fly_tiny")
        assert image.data.shape == truth.data.shape == (64, 64, 64)
        assert microns(image) == microns(truth)
        assert len(np.unique(np.asarray(truth.data))) == 13
    assert [path.name for path in tmp_path.iterdir()] == ["synthetic_fly_tiny_2.ome.zarr"]


@pytest.mark.parametrize("name", ["notes.txt", "empty_folder", "missing.tif"])
def test_what_is_no_volume_is_declined(tmp_path, name):
    (tmp_path / "notes.txt").write_text("not a volume")
    (tmp_path / "empty_folder").mkdir()
    assert get_reader(str(tmp_path / name)) is None


def test_several_paths_at_once_are_declined():
    assert get_reader([BONE, BONE]) is None


def test_a_broken_volume_says_what_is_wrong(viewer, tmp_path):
    broken = tmp_path / "broken.tif"
    broken.write_bytes(b"no image at all")
    with pytest.raises(ValueError, match=r"broken\.tif"):
        viewer.open(str(broken), plugin="napari-memseg")


def test_a_slice_that_does_not_belong_is_told_once_the_folder_is_shown(viewer, tmp_path, monkeypatch, until):
    told = []
    monkeypatch.setattr("napari_memseg.io.slices.AT_ONCE", 2)
    monkeypatch.setattr("napari_memseg.widgets.reader.show_error", told.append)
    monkeypatch.setattr("napari_memseg.widgets.reader.sample_window", lambda _, __: (0.0, 1.0))  # reads many
    for number, width in enumerate((2048, 2048, 2047)):
        tifffile.imwrite(tmp_path / f"s{number}.tif", np.zeros((2048, width), np.uint8))
    (layer,) = viewer.open(str(tmp_path), plugin="napari-memseg")
    assert layer.data.shape == (3, 2048, 2048)
    until(lambda: bool(told))
    assert "s2.tif" in told[0]
