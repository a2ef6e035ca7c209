"""Read a NIfTI: where it lies if it is uncompressed, whole if it is not. Its header is parsed by nibabel.

Its axes are stored x fastest, whichever way the body lies; a volume keeps that order, and each axis its own
length of a voxel.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_memseg.errors import SourceError
from napari_memseg.geometry import Zyx, zyx
from napari_memseg.io.axes import check_array, pick
from napari_memseg.io.extras import need
from napari_memseg.io.header import lengths_zyx
from napari_memseg.io.raw import ByPieces, RawArray, WholeArray, check_whole
from napari_memseg.io.units import unit_name
from napari_memseg.io.volume import DECODING_ERRORS, Volume

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_memseg.io.source import Source
    from napari_memseg.io.units import VoxelSize

AXES = ("x", "y", "z", "t", "c", "d6", "d7")
"""As they are stored."""
LABELS = 1002
"""The intent of voxels that are numbers of names, not grey values."""
AT_ONCE = 2**17
"""Voxels of a .nii.gz that are unpacked and scaled at a time."""


@dataclass(frozen=True, eq=False)
class NiftiArray(ByPieces):
    """A ``LazyArray`` over the voxels of a NIfTI, scaled as its header says."""

    raw: RawArray
    """Of the file as it is, or as it would be unpacked."""
    slope: float
    inter: float
    """What a voxel of 0 becomes."""

    @property
    def shape(self) -> Zyx:  # type: ignore[override] # which others store
        """Length of each axis, in voxels."""
        return self.raw.shape

    @property
    def stored(self) -> np.dtype[Any]:  # type: ignore[override]
        """What the file holds, or the floats that it is scaled to."""
        kept = (self.slope, self.inter) == (1.0, 0.0) or self.raw.stored.kind not in "iub"
        exact = np.float32 if self.raw.stored.itemsize <= 2 else np.float64
        return self.raw.stored if kept else np.dtype(exact)

    def __getitem__(self, index: tuple[slice, slice, slice]) -> NDArray[Any]:
        """Read three slices."""
        return self._scaled(self.raw[index])

    def whole(self) -> NDArray[Any]:
        """Unpack all of a .nii.gz, and scale it piece by piece.

        Raises
        ------
        SourceError
            If it is cut off or damaged.
        """
        voxels = np.empty(prod(self.shape), self.dtype)
        try:
            with gzip.open(self.raw.file) as opened:
                opened.seek(self.raw.offset)
                for first in range(0, voxels.size, AT_ONCE):
                    part = voxels[first : first + AT_ONCE]
                    found = opened.read(part.size * self.raw.stored.itemsize)
                    if len(found) < part.size * self.raw.stored.itemsize:
                        raise EOFError(f"it ends at voxel {first + len(found) // self.raw.stored.itemsize:,}")
                    part[...] = self._scaled(np.frombuffer(found, self.raw.stored))
        except DECODING_ERRORS as error:
            raise SourceError(f"{self.raw.file} is cut off or damaged ({error}). Copy it again.") from error
        return voxels.reshape(self.shape)

    def _scaled(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """Scale in double precision, as nibabel does."""
        if (self.slope, self.inter) == (1.0, 0.0):
            return voxels
        return (voxels * np.float64(self.slope) + np.float64(self.inter)).astype(self.dtype)


def open_nifti(source: Source) -> Volume:
    """Open a NIfTI; of more than three axes one index along each other.

    Raises
    ------
    SourceError
        If it is damaged, complex, or compressed and too large for memory, or its voxels would begin in its
        header.
    """
    nibabel = need("nibabel", source)
    try:
        image = nibabel.load(source.path)
        lengths, stored = tuple(int(n) for n in image.shape), np.dtype(image.get_data_dtype())
        size, unit = _voxel_size(image)
        intent, lowest = int(image.header["intent_code"]), int(image.header.single_vox_offset)
        proxy = image.dataobj
        offset, slope, inter = int(proxy.offset), float(proxy.slope), float(proxy.inter)
    except _errors(nibabel) as error:
        raise SourceError(f"{source.path} is a damaged NIfTI ({error}). Copy it again.") from error
    if offset < lowest:
        raise SourceError(
            f"{source.path} says that its voxels begin at byte {offset}, inside its header, which ends at "
            f"{lowest}. It is damaged, or only the header of another file: write it again."
        )
    lengths = (*lengths, 1, 1)[: max(3, len(lengths))]  # a slice is a volume of one
    picked = tuple(pick(AXES[: len(lengths)], lengths, source).values())
    before = _place(picked, lengths[3:]) * prod(lengths[:3]) * stored.itemsize
    array: Any = NiftiArray(RawArray(source.path, offset + before, zyx(lengths[2::-1]), stored), slope, inter)
    check_array(array.shape, array.stored, (1, 1, 1), source)
    if source.path.suffix.lower() != ".gz":
        _check_length(source, offset + prod(lengths) * stored.itemsize)
    else:
        check_whole(source, array.shape, array.stored)
        array = WholeArray(array.whole, array.shape, array.stored, str(source))
    is_labels = intent == LABELS and array.stored.kind in "iu"
    return Volume((array,), size, unit, source.name, str(source), "nifti", is_labels=is_labels)


def _voxel_size(image: Any) -> tuple[VoxelSize | None, str | None]:
    """Return what the header says before nibabel repairs it, which makes 1 of a length of 0.

    Lengths of 1 in no unit say nothing. Numbers are the shortest that 32 bits mean: 0.65, not 0.64999998.
    """
    with image.file_map["image"].get_prepare_fileobj(mode="rb") as opened:
        header = image.header_class.from_fileobj(opened, check=False)
    size, unit = lengths_zyx(map(str, header.get_zooms()[:3])), unit_name(header.get_xyzt_units()[0])
    return (None, None) if size is None or (unit is None and set(size) == {1.0}) else (size, unit)


def _place(picked: Sequence[int], lengths: Sequence[int]) -> int:
    """Return how many volumes lie before the chosen one; the first axis counts fastest."""
    return sum(index * prod(lengths[:axis]) for axis, index in enumerate(picked))


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
