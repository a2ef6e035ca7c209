"""Write a labels layer from napari's save dialog, in the format that is chosen there.

The dialog hands over what was typed. A name that has no ending of a format gets that of the chosen one, and
what is there already stays, though the dialog may have offered to replace it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from napari_memseg.errors import InputError
from napari_memseg.io.units import VoxelSize, voxel_size
from napari_memseg.workflows.exports.label_files import ENDINGS, About
from napari_memseg.workflows.exports.label_files import write_labels as write_file


def write_labels(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write the labels of a layer as OME-Zarr 0.5, with its colours.

    Parameters
    ----------
    path : str
        Nothing may be there.
    data : array or list of arrays
        (z, y, x) integers of any kind that can be sliced; of a multiscale layer the finest level is written.
    attributes : dict
        Of the layer: scale, units, colormap.

    Returns
    -------
    list of str
        What was written.

    Raises
    ------
    InputError
        If something is at ``path``, or the labels are no volume, hold negative numbers, or ones that the
        format cannot hold.
    """
    return _write(path, ".ome.zarr", data, attributes)


def write_tiff(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write the labels of a layer as an OME-TIFF; parameters and errors as by ``write_labels``."""
    return _write(path, ".ome.tif", data, attributes)


def write_nrrd(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write the labels of a layer as an NRRD; parameters and errors as by ``write_labels``."""
    return _write(path, ".nrrd", data, attributes)


def write_nifti(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write the labels of a layer as a NIfTI; parameters and errors as by ``write_labels``."""
    return _write(path, ".nii.gz", data, attributes)


def _write(path: str, ending: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    final = path if path.lower().endswith(ENDINGS) else path + ending
    if Path(final).is_file():
        raise InputError(
            f"{final} exists already. The dialog may have asked whether to replace it, but labels are never "
            "overwritten. Choose another name, or delete the file first."
        )
    size, unit = _voxel_size(attributes)
    about = About(voxel_size=size, unit=unit, colors=_colors(attributes.get("colormap")))
    write_file(final, data[0] if isinstance(data, Sequence) else data, about)
    return [final]


def _voxel_size(attributes: dict[str, Any]) -> tuple[VoxelSize, str] | tuple[None, None]:
    """Return how long a voxel is, as far as the layer has units; a mirrored axis is as long as another."""
    scale, units = attributes.get("scale"), attributes.get("units")
    if scale is None or units is None or len(scale) != 3:
        return None, None
    return voxel_size([abs(float(length)) for length in scale], [str(unit) for unit in units])


def _colors(colormap: Any) -> dict[int, str]:
    """Return the colours of a direct colormap; others make theirs up as they go."""
    known = getattr(colormap, "color_dict", {})
    return {
        int(value): "#" + "".join(f"{round(float(part) * 255):02x}" for part in color[:3])
        for value, color in known.items()
        if value is not None and float(color[3]) > 0
    }
