"""An export as MONAI's tutorials read data: NIfTI files, and a list of them as the Decathlon has it.

Labels count from 0 without a gap, and *ignore* is the highest, as for nnU-Net; the list
is read by ``monai.data.load_decathlon_datalist``, and paths are relative to it::

    DST/dataset.json            "training": [{"image": "./imagesTr/scan.nii", "label": ...}]
    ├── imagesTr/scan.nii       not compressed, so that a part can be read without the whole
    └── labelsTr/scan.nii
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from napari_memseg.files import atomic_write
from napari_memseg.workflows.exports.bare import write_planes
from napari_memseg.workflows.exports.nifti import header
from napari_memseg.workflows.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from napari_memseg.workflows.exports.selection import Part, Selection


def write_monai(folder: Path, chosen: Selection) -> Iterator[Progress]:
    """Write a data list and its files into a folder, yielding each plane; errors as by ``nifti.header``."""
    image, labels = (f"{place}/{chosen.name}.nii" for place in ("imagesTr", "labelsTr"))
    yield from _write("export image", folder / image, chosen.image, chosen, labels=False)
    yield from _write("export labels", folder / labels, chosen.labels, chosen, labels=True)
    about = {
        "name": chosen.name,
        "description": "exported by napari-memseg; provenance.json says from what",
        "tensorImageSize": "3D",
        "modality": {"0": "microCT"},
        "labels": {str(value): name for name, value in chosen.names().items()},
        "numTraining": 1,
        "numTest": 0,
        "training": [{"image": f"./{image}", "label": f"./{labels}"}],
        "test": [],
    }
    atomic_write(folder / "dataset.json", json.dumps(about, indent=1).encode())


def _write(stage: str, path: Path, part: Part, chosen: Selection, *, labels: bool) -> Iterator[Progress]:
    """Write one volume; float16, which NIfTI does not know, as float32."""
    dtype = np.dtype(np.float32) if part.dtype == np.float16 else part.dtype
    shape = part.region.shape
    head = header(shape, dtype, chosen.millimetres, labels=labels)
    path.parent.mkdir()
    planes = part.layers(path.with_name("layer")).planes()
    with path.open("xb") as file:
        for done in write_planes(file, head, dtype, planes):
            yield Progress(stage=stage, done=done, total=shape[0])
