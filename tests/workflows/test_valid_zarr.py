"""What we write as OME-Zarr is valid to two programs that know nothing of each other, or of us."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaozarrs
import zarr
from ome_zarr_models import v05
from pydantic import ValidationError

from napari_memseg.io.formats import open_volume
from napari_memseg.io.pyramid import create_confidence
from napari_memseg.workflows.convert import ConvertConfig, convert
from napari_memseg.workflows.exports.label_files import About, write_labels
from volumes import noise, ome_tiff, tiff
from workflows.exported import export_to, make_session

SHAPE = (70, 40, 130)
"""Two levels in chunks of 64."""


def check(path: Path, model: type) -> None:
    """Ask both, each of which looks at metadata and at the arrays that they speak of."""
    yaozarrs.validate_zarr_store(str(path))
    model.from_zarr(zarr.open_group(path, mode="r"))


@pytest.mark.parametrize("write", [ome_tiff, tiff()], ids=["known voxel size", "unknown"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_converted_image(tmp_path, write, dtype):
    image = open_volume(write(tmp_path, noise(SHAPE, dtype)))
    list(convert(image, tmp_path / "copy.ome.zarr", ConvertConfig(chunk=16)))
    check(tmp_path / "copy.ome.zarr", v05.Image)


@pytest.mark.parametrize(
    "about",
    [
        About(),
        About(voxel_size=(2.0, 0.5, 0.25), unit="micrometer", colors={1: "#ff0000"}, names={1: "bone"}),
        About(names={1: "../../x", 2: "two\nlines", 3: "🦴"}),
    ],
    ids=["nothing known", "all known", "awkward names"],
)
@pytest.mark.parametrize("dtype", ["uint8", "uint32"])
def test_labels(tmp_path, about, dtype):
    write_labels(tmp_path / "bone.ome.zarr", noise(SHAPE, dtype), about)
    check(tmp_path / "bone.ome.zarr", v05.ImageLabel)


def test_an_export_with_its_labels(tmp_path):
    exported = export_to(tmp_path / "out", make_session(tmp_path), "ome-zarr") / "image.ome.zarr"
    check(exported, v05.Image)
    check(exported / "labels", v05.Labels)
    check(exported / "labels" / "corrected", v05.ImageLabel)


def test_a_confidence(tmp_path):
    pyramid = create_confidence(tmp_path / "confidence", shape=SHAPE, voxel_size=(2, 1, 1), unit="micrometer")
    list(pyramid.fill(lambda box: np.ones(box.shape, "uint8"), (64, 64, 64)))
    check(tmp_path / "confidence", v05.Image)


def _lose_the_scale(ome: dict) -> None:
    ome["multiscales"][0]["datasets"][0]["coordinateTransformations"] = []


def _turn_the_axes(ome: dict) -> None:
    ome["multiscales"][0]["axes"][0]["name"] = "x"


@pytest.mark.parametrize("harm", [_lose_the_scale, _turn_the_axes])
def test_each_of_the_two_finds_what_is_wrong(tmp_path, harm):
    write_labels(tmp_path / "bone.ome.zarr", noise(SHAPE, "uint8"))
    group = zarr.open_group(tmp_path / "bone.ome.zarr", mode="r+")
    ome = dict(group.attrs["ome"])
    harm(ome)
    group.attrs["ome"] = ome
    with pytest.raises(ValueError, match=r"(?i)validation|axes|scale"):
        yaozarrs.validate_zarr_store(str(tmp_path / "bone.ome.zarr"))
    with pytest.raises(ValidationError):
        v05.ImageLabel.from_zarr(zarr.open_group(tmp_path / "bone.ome.zarr", mode="r"))
