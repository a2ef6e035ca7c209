"""An export as two OME-TIFFs, image and labels, that any microscopist's software opens.

Planes are written one by one, and nothing in a file depends on when it was written: what
OME asks for as an identity of its own is made of what is exported::

    DST/image.ome.tif     BigTIFF, not compressed, with the voxel size
    DST/labels.ome.tif    the same of the labels, zlib
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, uuid5

import numpy as np
import tifffile

from napari_memseg.errors import InputError
from napari_memseg.io.stack_headers import OME_SYMBOLS, WRITER, Stack, ome_xml
from napari_memseg.io.stacks import TIFF_DTYPES
from napari_memseg.workflows.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from napari_memseg.workflows.exports.selection import Part, Selection

IMAGE, LABELS = "image.ome.tif", "labels.ome.tif"
_ANY_UUID = re.compile(rb"urn:uuid:[0-9a-f-]{36}")


def write_tiff(folder: Path, chosen: Selection) -> Iterator[Progress]:
    """Write image and labels into a folder, yielding each plane."""
    yield from write_image_tiff(folder / IMAGE, chosen)
    yield from write_labels_tiff(folder / LABELS, chosen)


def write_image_tiff(path: Path, chosen: Selection) -> Iterator[Progress]:
    """Write the image as a BigTIFF; float16, which TIFF's readers do not know, as float32.

    Raises
    ------
    InputError
        If TIFF cannot hold its voxels.
    """
    yield from _write("export image", path, chosen.image, chosen, "")


def write_labels_tiff(path: Path, chosen: Selection) -> Iterator[Progress]:
    """Write the labels as a BigTIFF, without loss."""
    about = f"{chosen.values.unknown} means that nobody knows: not predicted, or left out"
    yield from _write("export labels", path, chosen.labels, chosen, about)


def _write(stage: str, path: Path, part: Part, chosen: Selection, about: str) -> Iterator[Progress]:
    """Write one stack, a page for each plane."""
    dtype = np.dtype(np.float32) if part.dtype == np.float16 else part.dtype
    said: bytes | None = _description(_stack(path, dtype, chosen, about), f"{stage} {chosen.identity}")
    options: dict[str, Any] = {"photometric": "minisblack", "metadata": None, "software": WRITER}
    options |= {"compression": "zlib"} if about else {"contiguous": True}
    total = part.region.shape[0]
    layers = part.layers(path.with_name("layer"))
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for number, plane in enumerate(layers.planes(), start=1):
            file.write(plane.astype(dtype, copy=False), description=said, **options)
            said = None  # the first page speaks for all
            yield Progress(stage=stage, done=number, total=total)


def _stack(path: Path, dtype: np.dtype[Any], chosen: Selection, about: str) -> Stack:
    if dtype.name not in TIFF_DTYPES:
        raise InputError(
            f"TIFF cannot hold the {dtype} voxels of this image; possible are {', '.join(TIFF_DTYPES)}. "
            "Export it as ome-zarr."
        )
    unit = chosen.session.image.unit
    known = chosen.voxel_size is not None and unit in OME_SYMBOLS
    return Stack(
        shape=chosen.region.shape,
        dtype=dtype,
        voxel_size=chosen.voxel_size if known else None,
        unit=unit if known else None,
        name=path.name.split(".")[0],
        description=about,
    )


def _description(stack: Stack, identity: str) -> bytes:
    """Return OME's description, the same each time that the same is exported."""
    mine = f"urn:uuid:{uuid5(NAMESPACE_URL, identity)}"
    return _ANY_UUID.sub(mine.encode(), ome_xml(stack))
