"""Write a labels layer as an OME-Zarr 0.5 label image, block by block, however large it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_memseg.errors import InputError
from napari_memseg.geometry import Box, Zyx, cell_box, cells, zyx
from napari_memseg.io.files import part_folder
from napari_memseg.io.pyramid import CHUNK, create_labels
from napari_memseg.io.units import unit_name

BLOCK: Zyx = zyx(2 * n for n in CHUNK)
"""Voxels that are in memory at a time."""


def write_labels(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write the labels of a layer to a new folder.

    Parameters
    ----------
    path : str
        Ends in ``.ome.zarr`` or ``.zarr``; nothing may be there.
    data : array or list of arrays
        (z, y, x) integers of any kind that can be sliced; of a multiscale layer the finest level is written.
    attributes : dict
        Of the layer: scale, units, name, colormap.

    Returns
    -------
    list of str
        What was written.

    Raises
    ------
    InputError
        If something is at ``path``, or the labels are no volume or hold negative numbers.
    """
    finest = data[0] if isinstance(data, Sequence) else data
    if finest.ndim != 3 or np.dtype(finest.dtype).kind not in "iub":
        raise InputError(
            f"Only volumes (z, y, x) of whole numbers are written, and this is {finest.ndim}-dimensional "
            f"{finest.dtype}. Choose one time and channel first."
        )
    shape = zyx(finest.shape)
    dtype = _dtype(finest, shape)
    with part_folder(path) as part:
        pyramid = create_labels(part, shape=shape, dtype=dtype, **_about(path, attributes))
        for _ in pyramid.fill(lambda box: _block(finest, box).astype(pyramid.dtype), BLOCK):
            pass
    return [path]


def _dtype(labels: Any, shape: Zyx) -> np.dtype[Any]:
    """Return the labels' own dtype, or the smallest unsigned one that holds them all."""
    own: np.dtype[Any] = np.dtype(np.dtype(labels.dtype).name)
    if own.kind == "u":
        return own
    low, high = 0, 0
    for index in cells(Box.whole(shape), BLOCK):
        block = _block(labels, cell_box(index, BLOCK, shape))
        low, high = min(low, int(block.min())), max(high, int(block.max()))
    if low < 0:
        raise InputError(
            f"The labels hold negative numbers ({low}), which label images have none of. Renumber them."
        )
    smallest: np.dtype[Any] = np.dtype(np.min_scalar_type(high).name)  # one of two C types that look alike
    return smallest


def _about(path: str, attributes: dict[str, Any]) -> dict[str, Any]:
    units = {unit_name(str(unit)) for unit in attributes.get("units") or ()}
    unit = units.pop() if len(units) == 1 else None
    z, y, x = (float(length) for length in attributes.get("scale", (1.0, 1.0, 1.0)))
    return {
        "chunk": CHUNK,
        "voxel_size": (z, y, x) if unit else None,
        "unit": unit,
        "name": Path(path).name.partition(".")[0],
        "colors": _colors(attributes.get("colormap")),
        "names": {},
        "fill_value": 0,
    }


def _colors(colormap: Any) -> dict[int, str]:
    """Return the colours of a direct colormap; others make theirs up as they go."""
    known = getattr(colormap, "color_dict", {})
    return {
        int(value): "#" + "".join(f"{round(float(part) * 255):02x}" for part in color[:3])
        for value, color in known.items()
        if value is not None and float(color[3]) > 0
    }


def _block(labels: Any, box: Box) -> NDArray[Any]:
    return np.asarray(labels[box.slices])
