"""Read what one DICOM file says of its slice, and its voxels, through pydicom; believe neither unseen.

A header is read up to the voxels and checked against them: their number, their kind, whether anything that
is installed decodes them. What is deflated is not inflated without a bound.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from io import BufferedReader, FileIO
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_memseg.errors import SourceError
from napari_memseg.io.inflation import deflated_size
from napari_memseg.io.volume import DECODING_ERRORS

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

MOST_INFLATED = 2**29
"""Bytes that a deflated file may become."""
FLOATS = {0x7FE00008: "f4", 0x7FE00009: "f8"}
"""Voxels that are floats, by the tag they have."""
VOXELS = {0x7FE00010, *FLOATS}
"""Tags of voxels."""


@dataclass(frozen=True, slots=True)
class Slice:
    """What a header says of one slice."""

    file: Path
    plane: tuple[int, int]
    stored: np.dtype[Any]
    along: float
    """Where it lies, perpendicular to itself."""
    measured: bool
    """Whether that is in millimetres; else it is the number of the slice."""
    spacing: tuple[float, float] | None
    """Between rows and columns, in millimetres."""
    turned: tuple[float, ...] | None
    """Which way its rows and its columns run, x y z each."""
    slope: float
    intercept: float
    series: str
    """The UID of the series."""
    about: str
    """What a person calls the series."""


def read_header(pydicom: Any, file: Path) -> Slice:
    """Return what a file says of its slice.

    Raises
    ------
    SourceError
        If it is damaged, cut off, in colour, of several frames, or packed in a way that nothing here unpacks.
    """
    try:
        said, tag = _before_voxels(pydicom, file)
        _check_grey(said, file)
        plane = int(said.Rows), int(said.Columns)
        bits, signed = int(said.BitsAllocated), int(said.get("PixelRepresentation", 0))
        slope, intercept = float(said.get("RescaleSlope", 1)), float(said.get("RescaleIntercept", 0))
        stored = np.dtype(FLOATS.get(tag) or f"{'i' if signed else 'u'}{bits // 8}")
        along, measured = _along(said)
        spacing, turned = _spacing(said), _turned(said)
        syntax = said.file_meta.TransferSyntaxUID
        raw = not (syntax.is_compressed or syntax.is_deflated)
        _check_decoder(pydicom, syntax, file)
        series = str(said.get("SeriesInstanceUID") or ""), str(said.get("SeriesDescription") or "")
    except SourceError:
        raise
    except (*DECODING_ERRORS, MemoryError, *_errors(pydicom)) as error:
        raise SourceError(f"{file} is a damaged DICOM file ({error}). Export it again.") from error
    needed, there = plane[0] * plane[1] * stored.itemsize, file.stat().st_size
    if raw and there < needed:
        raise SourceError(f"{file} is too short: its voxels need {needed:,} bytes, and it has {there:,}.")
    if not all(map(isfinite, (slope, intercept, along))):
        raise SourceError(
            f"{file} is scaled by {slope} and {intercept} at {along}: it is damaged. Export it again."
        )
    return Slice(file, plane, stored, along, measured, spacing, turned, slope, intercept, *series)


def read_voxels(pydicom: Any, one: Slice) -> NDArray[Any]:
    """Decode the voxels of a slice, not yet scaled.

    Raises
    ------
    SourceError
        If they are damaged, or not those that the header promised.
    """
    try:
        voxels = _read(pydicom, one.file).pixel_array
    except (MemoryError, *_errors(pydicom)) as error:  # an element that claims to be huge, or is none
        raise SourceError(f"{one.file} is a damaged DICOM file ({error}). Export it again.") from error
    if voxels.shape != one.plane or not np.can_cast(voxels.dtype, one.stored):
        raise SourceError(
            f"{one.file} holds {voxels.shape} voxels of {voxels.dtype}, but its header promised "
            f"{one.plane} of {one.stored} when it was opened. It is damaged or has changed: export it "
            "again."
        )
    return np.asarray(voxels)


class _Guarded(BufferedReader):
    """A file that is not read to its end where that would inflate to more than ``MOST_INFLATED``.

    pydicom reads all that is left of a file only to inflate it, at once, whatever it becomes.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        found = super().read(size)
        if (size is None or size < 0) and deflated_size(found, MOST_INFLATED) > MOST_INFLATED:
            raise SourceError(
                f"{self.name} is deflated and becomes more than {MOST_INFLATED:,} bytes, too many for one "
                "slice. It is damaged or an attack, and was not inflated. Export it again."
            )
        return found


def _errors(pydicom: Any) -> tuple[type[Exception], type[Exception]]:
    """Return what pydicom raises of its own."""
    return pydicom.errors.InvalidDicomError, pydicom.errors.BytesLengthException


def _read(pydicom: Any, file: Path) -> Any:
    with _Guarded(FileIO(str(file))) as opened:  # pydicom keeps that as its name
        return pydicom.dcmread(opened)


def _before_voxels(pydicom: Any, file: Path) -> tuple[Any, int]:
    """Return what a file says before its voxels, and the tag of these."""
    tags = [0]

    def at_voxels(tag: int, _representation: str | None, _length: int) -> bool:
        tags.append(int(tag))
        return int(tag) in VOXELS

    with _Guarded(FileIO(str(file))) as opened:
        return pydicom.filereader.read_partial(opened, at_voxels), tags[-1]


def _check_grey(said: Any, file: Path) -> None:
    samples, frames = int(said.get("SamplesPerPixel", 1)), int(said.get("NumberOfFrames", 1) or 1)
    if samples != 1 or frames != 1:
        raise SourceError(
            f"{file} holds {frames} frames of {samples} samples per pixel. Read are series with a file for "
            "each slice of grey values: export it so."
        )
    if str(said.get("PhotometricInterpretation")).strip() == "PALETTE COLOR":
        raise SourceError(
            f"{file} has a palette of colours, so its pixels are numbers of colours, not grey values. Export "
            "the series in grey."
        )


def _check_decoder(pydicom: Any, syntax: Any, file: Path) -> None:
    """Refuse what is compressed in a way that nothing installed decodes."""
    if not syntax.is_encapsulated:
        return
    try:
        decoder = pydicom.pixels.get_decoder(syntax)
        missing = None if decoder.is_available else decoder.missing_dependencies
    except NotImplementedError:
        missing = []
    if missing is None:
        return
    packages = " ".join(re.findall(r"\bpylibjpeg\b[-\w]*(?=>=)", " ".join(missing)))
    way = f"Install a decoder with: python -m pip install {packages}. Or export" if packages else "Export"
    raise SourceError(
        f"{file} is compressed as {syntax.name}, which nothing decodes that is installed. {way} the series "
        "uncompressed."
    )


def _along(said: Any) -> tuple[float, bool]:
    """Return where a slice lies, perpendicular to its rows and columns, or else the number it has."""
    place, lies = said.get("ImagePositionPatient"), said.get("ImageOrientationPatient")
    if place is not None and lies is not None:
        row, column = np.asarray(lies[:3], float), np.asarray(lies[3:], float)
        return float(np.asarray(place, float) @ np.cross(row, column)), True
    if (location := said.get("SliceLocation")) is not None:
        return float(location), True
    return float(said.get("InstanceNumber", 0)), False


def _spacing(said: Any) -> tuple[float, float] | None:
    found = [float(n) for n in said.get("PixelSpacing", [])]
    good = len(found) == 2 and all(isfinite(n) and n > 0 for n in found)
    return (found[0], found[1]) if good else None


def _turned(said: Any) -> tuple[float, ...] | None:
    lies = said.get("ImageOrientationPatient")
    return tuple(float(n) for n in lies) if lies else None
