"""Read one Zarr array, version 2 or 3, that says nothing of voxels.

Its last three axes are z, y, x, unless it names them itself::

    shape (c, z, y, x)   dimension_names (version 3), _ARRAY_DIMENSIONS (version 2, as xarray writes it)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_memseg.errors import SourceError
from napari_memseg.io.axes import VolumeView, pick
from napari_memseg.io.volume import Volume
from napari_memseg.io.zarr_nodes import open_stored

if TYPE_CHECKING:
    from napari_memseg.io.source import Source
    from napari_memseg.io.zarr_nodes import Node

_BEFORE_Z = ("t", "c")
"""What the axes before z are called where nobody named them, the last one last."""


def open_plain_zarr(node: Node, source: Source) -> Volume:
    """Open an array as a volume of one level, whose voxel size is unknown.

    Raises
    ------
    SourceError
        If it is no scalar image, or an axis that is not space was left open.
    """
    array = open_stored(node, source)
    axes = _axes(node, array.ndim, source)
    picked = pick(axes, array.shape, source)
    view = VolumeView(array, array.chunks, axes, picked)
    return Volume((view,), None, None, source.name, str(source), f"zarr {node.version}")


def _axes(node: Node, ndim: int, source: Source) -> tuple[str, ...]:
    if not 2 <= ndim <= 5:
        raise SourceError(
            f"{source} has {ndim} axes, but a volume has three, z y x, beside channel and time. "
            "Choose another array, or write this one with 2 to 5 axes."
        )
    named = node.metadata.get("dimension_names") or node.attributes.get("_ARRAY_DIMENSIONS")
    names = tuple(str(name).lower() for name in named) if isinstance(named, list) else ()
    by_name = len(names) == ndim == len(set(names)) and {"y", "x"} <= set(names)
    if by_name and (ndim == 2 or "z" in names):
        return names
    return (*_BEFORE_Z, "z", "y", "x")[-ndim:]
