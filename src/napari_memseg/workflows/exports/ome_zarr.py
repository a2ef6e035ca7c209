"""An export as OME-Zarr 0.5, with pyramids: what opens again in napari at any size.

::

    DST/image.ome.zarr                  the image
    DST/image.ome.zarr/labels/corrected labels with their classes' own ids, names and colours
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from napari_memseg.geometry import Zyx, ceil_div, zyx
from napari_memseg.io.pyramid import CHUNK, create_image, create_labels, create_labels_group
from napari_memseg.workflows.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from napari_memseg.io.pyramid import Pyramid
    from napari_memseg.workflows.exports.selection import Part, Selection

IMAGE, LABELS = "image.ome.zarr", "corrected"
BLOCK: Zyx = zyx(2 * n for n in CHUNK)
"""Voxels that are copied at a time."""


def write_ome_zarr(folder: Path, chosen: Selection) -> Iterator[Progress]:
    """Write image and labels into a folder, yielding each block."""
    yield from _copy("export image", _new_image(folder / IMAGE, chosen), chosen.image)
    yield from _copy("export labels", _new_labels(folder / IMAGE / "labels", chosen), chosen.labels)


def _new_image(path: Path, chosen: Selection) -> Pyramid:
    image = chosen.session.image
    return create_image(path, **_grid(chosen), dtype=image.dtype, name=image.name)


def _new_labels(group: Path, chosen: Selection) -> Pyramid:
    """Make the group that lists the labels, and the labels in it."""
    create_labels_group(group, [LABELS])
    classes = chosen.classes
    return create_labels(
        group / LABELS,
        **_grid(chosen),
        dtype=chosen.values.dtype,
        name=LABELS,
        colors={c.id: c.color for c in classes},
        names={c.id: c.name for c in classes},
        fill_value=chosen.values.unknown,
    )


def _grid(chosen: Selection) -> dict[str, Any]:
    unit = chosen.session.image.unit
    return {"shape": chosen.region.shape, "voxel_size": chosen.voxel_size, "unit": unit}


def _copy(stage: str, pyramid: Pyramid, part: Part) -> Iterator[Progress]:
    """Copy a whole region, telling each block."""
    total = prod(ceil_div(pyramid.shape, BLOCK))
    for number, box in enumerate(pyramid.fill(part.read_from_start, BLOCK), start=1):
        yield Progress(stage=stage, done=number, total=total, box=box)
