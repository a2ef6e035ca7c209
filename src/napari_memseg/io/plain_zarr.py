"""Read an array of Zarr 2 or 3 as a volume, without anything being said about space.

Its axes are z y x in storage order, after t and c where there are more, unless it names
them itself. How long a voxel is, nobody knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_memseg.io.axes import SPACE, VolumeView, pick
from napari_memseg.io.volume import Volume
from napari_memseg.io.zarr_nodes import Node, open_array

if TYPE_CHECKING:
    from napari_memseg.io.source import Source


def open_plain_zarr(node: Node, source: Source) -> Volume:
    """Open one array.

    Raises
    ------
    SourceError
        If it cannot be a volume.
    """
    array = open_array(node, source)
    axes = _axes(node, len(array.shape))
    view = VolumeView(array, array.chunks, axes, pick(axes, array.shape, source))
    return Volume([view], None, None, source.name, str(source), f"zarr {node.format}")


def _axes(node: Node, dimensions: int) -> list[str]:
    names = node.said.get("dimension_names") or node.attributes.get("_ARRAY_DIMENSIONS")
    if isinstance(names, list) and len(names) == dimensions:
        lower = [str(name).lower() for name in names]
        if len(set(lower)) == dimensions and set(SPACE[-min(dimensions, 3) :]) <= set(lower):
            return lower
    more = ["t", "c", *SPACE] if dimensions < 6 else [f"d{n}" for n in range(dimensions - 3)] + [*SPACE]
    return more[-dimensions:]
