"""A file of each family, dropped on the window by the mouse, is a layer with its voxels, lengths and axes."""

from __future__ import annotations

import numpy as np
import pytest

from napari_memseg.workflows.convert import convert
from volumes import FORMATS, KNOW_NOTHING, SIZE, SPECIAL, noise
from widgets.hands import close, drop

pytestmark = pytest.mark.qt

FAMILIES = [
    *("tiff", "imagej", "ome-tiff", "slices", "ome-zarr 0.4", "ome-zarr 0.5", "zarr 3", "metaimage", "vgi"),
    *("nrrd", "nifti", "nifti, gzip", "hdf5", "amira", "nikon", "dicom", "bmp slices", "png slices"),
    "converted",
]
TOLD = {
    "nikon": ((19.5,) * 3, "micrometer"),
    "dicom": ((2500.0, 500.0, 250.0), "micrometer"),
    "bmp slices": ((4.5,) * 3, "micrometer"),
    "png slices": ((4.5,) * 3, "micrometer"),
    **dict.fromkeys(KNOW_NOTHING, ((1.0,) * 3, "pixel")),
}
"""Scale and unit of those that are written with other lengths than ``SIZE``, or with none."""


def converted(folder, voxels):
    """Convert a file that says how large its voxels are."""
    list(convert(FORMATS["ome-tiff"](folder, voxels), folder / "copy.ome.zarr"))
    return folder / "copy.ome.zarr"


WRITERS = FORMATS | SPECIAL | {"converted": converted}


def lengths(layer, unit):
    """The scale of a layer in a unit that its own can be told in."""
    return [
        float((length * own).to(unit).magnitude) for length, own in zip(layer.scale, layer.units, strict=True)
    ]


@pytest.fixture(scope="module")
def dropped(tmp_path_factory):
    """Drop a file of each family on one window, and note what napari made of it."""
    from napari import Viewer

    voxels, found = noise((5, 37, 29)), {}
    viewer = Viewer(show=True)
    for kind in FAMILIES:
        folder = tmp_path_factory.mktemp("drop")
        source = WRITERS[kind](folder, voxels)
        drop(viewer, source)
        (layer,) = viewer.layers
        found[kind] = layer, np.asarray(layer.data[0] if layer.multiscale else layer.data)
        viewer.layers.clear()
    close(viewer)
    return found


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_dropped_file_has_its_scale_units_and_axes(dropped, kind):
    layer, voxels = dropped[kind]
    scale, unit = TOLD.get(kind, (SIZE, "micrometer"))
    assert lengths(layer, unit) == pytest.approx(scale)
    assert tuple(layer.axis_labels) == ("z", "y", "x")
    np.testing.assert_array_equal(voxels, noise((5, 37, 29)).astype(voxels.dtype))
