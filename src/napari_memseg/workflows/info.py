"""Tell what a source is, in the words that scripts rely on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_memseg.inference.run_card import has_run_card, read_run_card

if TYPE_CHECKING:
    from pathlib import Path

    from napari_memseg.io.volume import Volume


def describe(volume: Volume) -> dict[str, Any]:
    """Return shape, dtype, axes, voxel size, unit, level shapes, chunks and format as JSON values.

    Also ``pixel_size`` (y, x, unit) where the voxel size is unknown, but that much is said.

    Raises
    ------
    SourceError
        If ``volume.check`` finds what does not belong.
    """
    volume.check()
    pixel = {"pixel_size": list(volume.pixel_size)} if volume.pixel_size else {}
    return {
        "shape": list(volume.shape),
        "dtype": volume.dtype.name,
        "axes": "zyx",
        "voxel_size": list(volume.voxel_size) if volume.voxel_size else None,
        "unit": volume.unit,
        **pixel,
        "levels": [list(array.shape) for array in volume.arrays],
        "chunks": list(volume.arrays[0].chunks),
        "format": volume.format,
    }


def describe_run(path: Path) -> dict[str, Any]:
    """Return the card of the run that made labels, under ``run``; nothing where no run of ours is."""
    return {"run": read_run_card(path)} if has_run_card(path) else {}
