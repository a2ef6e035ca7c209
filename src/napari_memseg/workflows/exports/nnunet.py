"""An export as a raw dataset of nnU-Net v2, with one case.

Its rules (https://github.com/MIC-DKFZ/nnUNet, documentation/dataset_format.md and ignore_label.md):
labels count from 0 without a gap, and *ignore* is the highest; TIFFs have a file beside them
that says how large a voxel is; image and labels are of one shape::

    DST/dataset.json
    ├── imagesTr/scan_0000.tif, scan.json     channel 0, {"spacing": [z, y, x]} in millimetres
    └── labelsTr/scan.tif,      scan.json
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from napari_memseg.errors import InputError
from napari_memseg.files import atomic_write
from napari_memseg.workflows.exports.tiff import write_image_tiff, write_labels_tiff

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from napari_memseg.workflows.exports.selection import Selection
    from napari_memseg.workflows.progress import Progress

CHANNEL = "microCT"
"""nnU-Net takes this for a modality it has no rule for: grey values are normalised case by case."""


def write_nnunet(folder: Path, chosen: Selection) -> Iterator[Progress]:
    """Write a raw dataset into a folder, yielding each plane.

    Raises
    ------
    InputError
        If the region is one voxel thick: nnU-Net reads volumes.
    """
    if min(chosen.region.shape) < 2:
        raise InputError(
            f"nnU-Net's reader takes volumes, and the region {chosen.region} is one voxel thick. "
            "Choose a region of two or more voxels along each axis, or export it as tiff."
        )
    images, labels = folder / "imagesTr", folder / "labelsTr"
    for place in (images, labels):
        place.mkdir()
        spacing = {"spacing": list(chosen.millimetres or (1.0, 1.0, 1.0))}
        atomic_write(place / f"{chosen.name}.json", json.dumps(spacing).encode())
    yield from write_image_tiff(images / f"{chosen.name}_0000.tif", chosen)
    yield from write_labels_tiff(labels / f"{chosen.name}.tif", chosen)
    about = {
        "channel_names": {"0": CHANNEL},
        "labels": chosen.names(),
        "numTraining": 1,
        "file_ending": ".tif",
        "overwrite_image_reader_writer": "Tiff3DIO",
    }
    atomic_write(folder / "dataset.json", json.dumps(about, indent=1).encode())
