"""Read a folder of DICOM slices as a volume, slice by slice, through pydicom.

Slices are sorted by where they lie along the axis that is perpendicular to them, not by their names. Headers
are read first, in several threads; voxels when they are asked for. Of several series in a folder one is
chosen by its UID: ``folder::1.2.840.113619.2``.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_memseg.errors import SourceError
from napari_memseg.io.axes import check_array, voxel_dtype
from napari_memseg.io.dicom_header import Slice, read_header, read_voxels
from napari_memseg.io.extras import need
from napari_memseg.io.raw import check_alone
from napari_memseg.io.slices import ENDINGS as PICTURES
from napari_memseg.io.slices import MAX_SLICES, THREADS
from napari_memseg.io.units import PixelSize
from napari_memseg.io.volume import Volume

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_memseg.geometry import Zyx
    from napari_memseg.io.source import Source
    from napari_memseg.io.units import VoxelSize

MARK = b"DICM"
"""At byte 128 of a DICOM file."""
ENDINGS = (".dcm", ".dicom")
TABLE = "DICOMDIR"
"""A file in DICOM that only lists others."""
MOST_LOOKS = 100
"""Files of a folder that are asked for the mark before it is none of DICOM."""
MOST_LISTED = 20
"""Series in a message."""
UNEVEN = 1.5
"""Times the usual step: a longer one means that a slice is missing; shorter ones are rounded positions."""
TURNED = 1e-3
"""A direction that differs less is rounded, not turned."""


@dataclass(frozen=True, eq=False)
class DicomArray:
    """A ``LazyArray`` over files of one slice each."""

    slices: tuple[Slice, ...]

    @property
    def shape(self) -> Zyx:
        """Length of each axis, in voxels."""
        return len(self.slices), *self.slices[0].plane

    @property
    def chunks(self) -> Zyx:
        """One file."""
        return 1, *self.slices[0].plane

    @property
    def stored(self) -> np.dtype[Any]:
        """What a slice holds, once it is scaled as its header says."""
        first = self.slices[0].stored
        scales = {(one.slope, one.intercept) for one in self.slices}
        if scales == {(1.0, 0.0)}:
            return first
        if any(n != int(n) for scale in scales for n in scale) or first.itemsize > 2:
            return np.dtype(np.float64 if first.itemsize > 2 else np.float32)
        ends = [v * a + b for a, b in scales for v in (np.iinfo(first).min, np.iinfo(first).max)]
        fits = np.iinfo(np.int32).min <= min(ends) and max(ends) <= np.iinfo(np.int32).max
        return np.dtype(np.int32 if fits else np.float64)

    @property
    def dtype(self) -> np.dtype[Any]:
        """What the voxels become."""
        return voxel_dtype(self.stored)

    def __getitem__(self, index: tuple[slice, slice, slice]) -> NDArray[Any]:
        """Decode the slices of a span, and cut them to the other two."""
        return np.stack([self._plane(one)[index[1:]] for one in self.slices[index[0]]])

    def _plane(self, one: Slice) -> NDArray[Any]:
        import pydicom

        voxels = read_voxels(pydicom, one)
        if (one.slope, one.intercept) == (1, 0):
            return np.asarray(voxels, self.dtype)
        return np.asarray(voxels.astype(np.float64) * one.slope + one.intercept, self.dtype)


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM does or has its ending; or one in a folder that is not of pictures."""
    if path.is_file():
        return _looks_like_one(path)
    files = _files(path)
    others = [file for file in files if file.suffix.lower() not in PICTURES]
    named = any(file.suffix.lower() in ENDINGS for file in others)
    return 2 * len(others) >= len(files) and (named or any(map(_has_mark, others[:MOST_LOOKS])))


def open_dicom(source: Source) -> Volume:
    """Open a folder of slices, or the series in it that the source names.

    Raises
    ------
    SourceError
        If a slice is missing, differs from the others, is damaged or in colour, nothing is installed that
        decodes it, or there are several series and none was chosen (they are listed); of a single file
        always, since it is one slice.
    """
    pydicom = need("pydicom", source)
    if source.selection or source.path.is_file():
        check_alone(source)
    if source.path.is_file():
        _refuse_single(pydicom, source)
    files = [file for file in _files(source.path) if _looks_like_one(file)]
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(lambda file: read_header(pydicom, file), files))
    slices = sorted(_one_series(found, source), key=lambda one: one.along)
    _check_alike(slices)
    array = DicomArray(tuple(slices))
    check_array(array.shape, array.stored, array.chunks, source)
    size, spacing = _voxel_size(slices), slices[0].spacing
    return Volume(
        *((array,), size, "millimeter" if size else None, source.name, str(source), "dicom"),
        pixel_size=PixelSize(*spacing, "millimeter") if spacing and not size else None,
    )


def _files(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_file() and not entry.name.startswith(".")]
    return [folder / name for name in sorted(names)[:MAX_SLICES] if name.upper() != TABLE]


def _looks_like_one(file: Path) -> bool:
    return file.suffix.lower() in ENDINGS or _has_mark(file)


def _has_mark(file: Path) -> bool:
    with file.open("rb") as opened:
        opened.seek(128)
        return opened.read(4) == MARK


def _refuse_single(pydicom: Any, source: Source) -> None:
    """Say what is wrong with a file, and if nothing is, that it is one slice."""
    if not _has_mark(source.path):
        raise SourceError(
            f"{source.path} lacks the mark DICM of a DICOM file (no preamble and meta header). "
            "Export the series again."
        )
    read_header(pydicom, source.path)
    raise SourceError(
        f"{source.path} is one slice of a series, not a volume. Open the folder in which all its slices lie."
    )


def _one_series(slices: Sequence[Slice], source: Source) -> Sequence[Slice]:
    """Return the slices of the series that is named, or of the only one."""
    found: dict[str, list[Slice]] = {}
    for one in slices:
        found.setdefault(one.series, []).append(one)
    if source.inner in found:
        return found[str(source.inner)]
    for_each = 2 < len(slices) == len(found)  # a UID for each slice tells nothing, where they are alike
    alone = len(found) == 1 or (for_each and all(_fits(one, slices[0]) for one in slices))
    if alone and not source.inner:
        return slices
    if not found:
        raise SourceError(f"{source.path} holds no slice in DICOM. Open the folder in which the slices lie.")
    listed = "; ".join(_told(those) for those in list(found.values())[:MOST_LISTED])
    choice = f"{source.path}::{max(found)}" if len(found) > 1 else str(source.path)
    raise SourceError(
        f"{source} is not one series. {source.path} holds {len(found)}: {listed}. Open one by its UID, as "
        f"{choice}, or keep each series in a folder of its own."
    )


def _told(series: Sequence[Slice]) -> str:
    about = f" ({series[0].about[:60]})" if series[0].about else ""
    return f"{series[0].series or 'no UID'}{about}, {len(series)} slices"


def _fits(one: Slice, other: Slice) -> bool:
    """Whether two slices are pixels of one grid: as large, and turned the same way."""
    if one.spacing != other.spacing or (one.turned is None) != (other.turned is None):
        return False
    a, b = one.turned or (), other.turned or ()
    return len(a) == len(b) and all(abs(n - m) < TURNED for n, m in zip(a, b, strict=True))


def _check_alike(slices: Sequence[Slice]) -> None:
    first = slices[0]
    for one in slices:
        if (one.plane, one.stored, one.spacing) != (first.plane, first.stored, first.spacing):
            raise SourceError(
                f"{one.file.name} in {one.file.parent} is {one.plane} {one.stored} at {one.spacing} mm, but "
                f"{first.file.name} is {first.plane} {first.stored} at {first.spacing}. Keep one series in a "
                "folder."
            )
        if not _fits(one, first):
            raise SourceError(
                f"{one.file.name} in {one.file.parent} is turned to {one.turned} (x y z of rows, columns), "
                f"but {first.file.name} to {first.turned}, so they are no slices of one volume. Keep one "
                "series in a folder."
            )
    steps = [b.along - a.along for a, b in pairwise(slices)]
    usual = median(steps) if steps else 0.0
    for (a, b), step in zip(pairwise(slices), steps, strict=True):
        if step <= 0 or step > usual * UNEVEN:
            wrong = "lie at one place" if step <= 0 else f"lie {step:.4g} mm apart, others {usual:.4g}"
            raise SourceError(
                f"{a.file.name} and {b.file.name} in {a.file.parent} {wrong}: a slice is missing or is there "
                "twice. Copy the whole series again."
            )


def _voxel_size(slices: Sequence[Slice]) -> VoxelSize | None:
    spacing = slices[0].spacing
    if spacing is None or len(slices) < 2 or not all(one.measured for one in slices):
        return None
    step = (slices[-1].along - slices[0].along) / (len(slices) - 1)
    return step, *spacing
