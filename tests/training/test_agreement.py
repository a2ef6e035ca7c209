from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from learning import WINDOW, volume_of
from napari_memseg.errors import InputError
from napari_memseg.training.agreement import check_dtypes, check_voxel_sizes
from napari_memseg.training.sources import TrainingVolume, VolumeLabels

ZEROS = np.zeros((8, 8, 8), np.uint8)
HALVED = ZEROS[::2, ::2, ::2]


def sized(name, size, unit="micrometer", *levels):
    edges = None if size is None else (size,) * 3
    return replace(volume_of(*(levels or (ZEROS,)), name=name), voxel_size=edges, unit=unit)


def volume(image, labels=None, level=0):
    return TrainingVolume(image, level, VolumeLabels(labels or sized("labels", None, None)))


def test_images_of_two_voxel_sizes_are_refused_with_both_named():
    volumes = [volume(sized("fine.tif", 2.0)), volume(sized("coarse.tif", 2.5))]
    with pytest.raises(
        InputError, match=r"fine\.tif has voxels of 2 x 2 x 2 .*coarse\.tif has voxels of 2\.5"
    ):
        check_voxel_sizes(volumes)


def test_labels_of_another_voxel_size_than_their_image_are_refused_with_both_named():
    with pytest.raises(InputError, match=r"scan\.tif has voxels of 2 .*other\.tif has voxels of 4"):
        check_voxel_sizes([volume(sized("scan.tif", 2.0), sized("other.tif", 4.0))])


@pytest.mark.parametrize(
    ("size", "unit"), [(2.1, "micrometer"), (0.002, "millimeter"), (9.0, "parsec"), (9.0, None), (None, None)]
)
def test_sizes_that_agree_or_cannot_be_compared_are_trained_on(size, unit):
    check_voxel_sizes([volume(sized("a", 2.0), sized("b", size, unit)), volume(sized("c", size, unit))])


def test_other_units_are_converted_before_they_are_compared():
    with pytest.raises(InputError, match="millimeter"):
        check_voxel_sizes([volume(sized("a", 2.0)), volume(sized("b", 2.0, "millimeter"))])


def test_a_coarser_level_counts_with_its_own_voxel_size():
    image = sized("pyramid", 2.0, "micrometer", ZEROS, HALVED)
    check_voxel_sizes([volume(image, sized("labels", 4.0, "micrometer", HALVED), level=1)])
    with pytest.raises(InputError, match="4 x 4 x 4"):
        check_voxel_sizes([volume(image, sized("labels", 2.0, "micrometer", HALVED), level=1)])


def test_images_of_another_dtype_than_the_model_to_start_from_are_refused_with_both_named():
    other = volume_of(ZEROS.astype(np.uint16), name="scan.tif")
    with pytest.raises(InputError, match=r"old\.safetensors was trained on uint8.*scan\.tif holds uint16"):
        check_dtypes([volume(other)], WINDOW, "old.safetensors")


def test_images_of_two_dtypes_are_refused():
    with pytest.raises(InputError, match="uint16, uint8"):
        check_dtypes([volume(volume_of(ZEROS)), volume(volume_of(ZEROS.astype(np.uint16)))], None)
