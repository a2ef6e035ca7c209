"""Tell what a source is, in the words that scripts rely on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_memseg.io.volume import Volume


def describe(volume: Volume) -> dict[str, Any]:
    """Return shape, dtype, axes, voxel size, unit, level shapes, chunks and format as JSON values."""
    return {
        "shape": list(volume.shape),
        "dtype": volume.dtype.name,
        "axes": "zyx",
        "voxel_size": list(volume.voxel_size) if volume.voxel_size else None,
        "unit": volume.unit,
        "levels": [list(array.shape) for array in volume.arrays],
        "chunks": list(volume.arrays[0].chunks),
        "format": volume.format,
    }
