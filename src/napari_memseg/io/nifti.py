"""Read a NIfTI through nibabel: slice by slice where it is uncompressed, whole where it is not.

Its axes are stored x fastest, whichever way the body lies; a volume keeps that order, and each axis its own
length of a voxel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_memseg.errors import SourceError
from napari_memseg.geometry import Zyx, zyx
from napari_memseg.io.axes import check_array, pick
from napari_memseg.io.extras import need
from napari_memseg.io.raw import ByPieces, WholeArray, check_whole
from napari_memseg.io.units import unit_name
from napari_memseg.io.volume import DECODING_ERRORS, Volume

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_memseg.io.source import Source

AXES = ("x", "y", "z", "t", "c", "d6", "d7")
"""As they are stored."""


@dataclass(frozen=True, eq=False)
class NiftiArray(ByPieces):
    """A ``LazyArray`` over nibabel's proxy of an uncompressed file."""

    proxy: Any
    picked: tuple[int, ...]
    """Indices along the axes behind x, y and z."""
    shape: Zyx
    stored: np.dtype[Any]

    def __getitem__(self, index: tuple[slice, slice, slice]) -> NDArray[Any]:
        """Read three slices."""
        z, y, x = index
        asked = (x, y, z, *self.picked)[: len(self.proxy.shape)]
        voxels = np.asarray(self.proxy[asked], self.dtype)
        return voxels.reshape(*voxels.shape[:2], -1).transpose(2, 1, 0)


def open_nifti(source: Source) -> Volume:
    """Open a NIfTI; of more than three axes one index along each other.

    Raises
    ------
    SourceError
        If it is damaged, complex, or compressed and too large for memory.
    """
    nibabel = need("nibabel", source)
    try:
        image = nibabel.load(source.path)
        proxy, lengths = image.dataobj, tuple(int(n) for n in image.shape)
        zooms, (unit, _) = image.header.get_zooms(), image.header.get_xyzt_units()
        stored = _dtype(image, proxy)
    except _errors(nibabel) as error:
        raise SourceError(f"{source.path} is a damaged NIfTI ({error}). Copy it again.") from error
    lengths = (*lengths, 1, 1)[: max(3, len(lengths))]  # a slice is a volume of one
    picked = tuple(pick(AXES[: len(lengths)], lengths, source).values())
    shape = zyx(lengths[2::-1])
    check_array(shape, stored, (1, 1, 1), source)
    array: Any = NiftiArray(proxy, picked, shape, stored)
    if source.path.suffix.lower() != ".gz":
        _check_length(source, int(proxy.offset) + prod(lengths) * np.dtype(image.get_data_dtype()).itemsize)
    else:
        check_whole(source, shape, stored)
        array = WholeArray(partial(_whole, array, source.path), shape, stored)
    size, name = _voxel_size(zooms[:3], unit)
    return Volume((array,), size, name, source.name, str(source), "nifti")


def _check_length(source: Source, needed: int) -> None:
    there = source.path.stat().st_size
    if there < needed:
        raise SourceError(
            f"{source.path} is cut off: it needs {needed:,} bytes, and has {there:,}. Copy it again."
        )


def _errors(nibabel: Any) -> tuple[type[Exception], ...]:
    """Return what nibabel raises where a file is damaged."""
    return (
        *DECODING_ERRORS,
        nibabel.filebasedimages.ImageFileError,
        nibabel.spatialimages.HeaderDataError,
        nibabel.wrapstruct.WrapStructError,
    )


def _dtype(image: Any, proxy: Any) -> np.dtype[Any]:
    """Return what is stored, or the floats that it is scaled to."""
    stored = np.dtype(image.get_data_dtype())
    scaled = (float(proxy.slope), float(proxy.inter)) != (1.0, 0.0)
    return np.dtype(np.float32) if scaled and stored.kind in "iub" else stored


def _voxel_size(zooms: Sequence[float], unit: str) -> tuple[tuple[float, float, float] | None, str | None]:
    lengths = [float(n) for n in zooms]
    if len(lengths) != 3 or not all(np.isfinite(n) and n > 0 for n in lengths):
        return None, None
    x, y, z = lengths
    return (z, y, x), unit_name(unit)


def _whole(array: NiftiArray, path: Any) -> NDArray[Any]:
    try:
        return array[slice(None), slice(None), slice(None)]
    except DECODING_ERRORS as error:
        raise SourceError(f"{path} is cut off or damaged ({error}). Copy it again.") from error
