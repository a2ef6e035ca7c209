"""Find how long a voxel is in what OME and ImageJ write into a TIFF, or a pixel in its resolution tags.

Each function returns three lengths (z, y, x), None where one is not said, and their units.
Text from a file is not trusted: OME's XML is read without entities.
"""

from __future__ import annotations

from math import isclose
from typing import TYPE_CHECKING, Any, TypeAlias
from xml.etree import ElementTree

from napari_memseg.errors import SourceError
from napari_memseg.io.units import METRES, PixelSize, unit_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

Lengths: TypeAlias = tuple[list[float | None], list[object]]
"""Along z, y and x, and their units."""
INCH, CENTIMETRE = 2, 3
"""Values of the tag ResolutionUnit."""
UNITS = {INCH: "inch", CENTIMETRE: "centimeter"}
"""What they are called."""
DOTS_PER_INCH = (
    1,
    2.54,
    72,
    75,
    90,
    96,
    100,
    120,
    144,
    150,
    180,
    200,
    240,
    300,
    360,
    400,
    600,
    720,
    1200,
    2400,
)
"""Of screens, scanners of paper and printers, and one a unit: they say nothing of what is in a picture."""
CLOSE = 1e-3
"""Relative difference of what software rounds."""


def parse_ome(description: str, path: Path) -> ElementTree.Element | None:
    """Return the OME description of a file, or None if its text is none.

    Raises
    ------
    SourceError
        If it defines entities, is broken, or lies in another file of the set.
    """
    if "<OME" not in description[:4096] and not description.rstrip().endswith("OME>"):
        return None
    if "<!DOCTYPE" in description or "<!ENTITY" in description:
        raise SourceError(
            f"The OME description of {path} defines entities, which a description has no need of. "
            "It is not read, since it may be an attack: write the file again with other software."
        )
    try:
        root = ElementTree.fromstring(description)
    except (ElementTree.ParseError, RecursionError) as error:
        raise SourceError(
            f"The OME description of {path} is damaged ({error}). Write the file again, or as a plain TIFF."
        ) from error
    for element in root.iter():
        if element.tag.endswith("BinaryOnly"):
            master = element.get("MetadataFile", "which is not named")
            raise SourceError(f"{path} is one of several files of a set. Open the master file, {master}.")
    return root


def ome_lengths(root: ElementTree.Element, series: int) -> Lengths:
    """Return what is said of an image of the description; in micrometres unless it says otherwise."""
    images = [
        element for element in root.iter() if element.tag.endswith("}Pixels") or element.tag == "Pixels"
    ]
    said = images[series].attrib if series < len(images) else {}
    lengths = [_number(said.get(f"PhysicalSize{axis}")) for axis in "ZYX"]
    return lengths, [said.get(f"PhysicalSize{axis}Unit", "um") for axis in "ZYX"]


def imagej_lengths(said: Mapping[str, Any], resolution: Mapping[str, object]) -> Lengths:
    """Return what is said of an ImageJ stack.

    Parameters
    ----------
    said : mapping
        ImageJ's own text: ``spacing`` along z, ``unit``, and ``yunit`` and ``zunit`` if they differ.
    resolution : mapping
        Pixels per unit along "x" and "y", as a fraction (numerator, denominator).
    """
    y, x = (_inverse(resolution.get(axis)) for axis in "yx")
    unit = said.get("unit")
    if (name := unit_name(unit)) and name in UNITS.values() and _is_printed([y, x], name):
        y = x = None
    return [_number(said.get("spacing")), y, x], [said.get("zunit", unit), said.get("yunit", unit), unit]


def resolution_lengths(resolution: Mapping[str, object], unit: object) -> Lengths:
    """Return what the resolution tags of any TIFF say, in micrometres; of z they know nothing.

    Parameters
    ----------
    resolution : mapping
        As for ``imagej_lengths``.
    unit : object
        Value of the tag ResolutionUnit, TIFF 6.0, page 38.
    """
    y, x = (_inverse(resolution.get(axis)) for axis in "yx")
    name = UNITS.get(unit) if isinstance(unit, int) else None
    if not (y and x and name) or _is_printed([y, x], name):
        return [None] * 3, [None] * 3
    pixel = PixelSize(y, x, name).in_unit("micrometer")
    return [None, pixel.y, pixel.x], [pixel.unit] * 3


def _is_printed(lengths: Sequence[float | None], unit: str) -> bool:
    """Whether pixels of such lengths are those of a screen or of paper."""
    dots = [METRES["inch"] / (length * METRES[unit]) for length in lengths if length]
    return any(isclose(one, known, rel_tol=CLOSE) for one in dots for known in DOTS_PER_INCH)


def _inverse(fraction: object) -> float | None:
    """Return units per pixel; None where a damaged tag holds no fraction."""
    match fraction:
        case (int(pixels), int(units)) if pixels:
            return units / pixels
    return None


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
