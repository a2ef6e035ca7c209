"""Find how long a voxel is in what OME and ImageJ write into a TIFF.

The resolution tags of a plain TIFF know x and y only, so they say nothing of a volume.
Text from a file is not trusted: OME's XML is read without entities.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from napari_memseg.errors import SourceError
from napari_memseg.io.units import VoxelSize, voxel_size

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


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


def ome_voxel_size(root: ElementTree.Element, series: int) -> tuple[VoxelSize, str] | tuple[None, None]:
    """Return the voxel size of an image of the description, and its unit; micrometres unless it says."""
    images = [
        element for element in root.iter() if element.tag.endswith("}Pixels") or element.tag == "Pixels"
    ]
    if series >= len(images):
        return None, None
    said = images[series].attrib
    lengths = [_number(said.get(f"PhysicalSize{axis}")) for axis in "ZYX"]
    return voxel_size(lengths, [said.get(f"PhysicalSize{axis}Unit", "um") for axis in "ZYX"])


def imagej_voxel_size(
    said: Mapping[str, Any], resolution: Mapping[str, object]
) -> tuple[VoxelSize, str] | tuple[None, None]:
    """Return the voxel size of an ImageJ stack, and its unit.

    Parameters
    ----------
    said : mapping
        ImageJ's own text: ``spacing`` along z, ``unit``, and ``yunit`` and ``zunit`` if they differ.
    resolution : mapping
        Pixels per unit along "x" and "y", as a fraction (numerator, denominator).
    """
    y, x = (_inverse(resolution.get(axis)) for axis in "yx")
    unit = said.get("unit")
    units = [said.get("zunit", unit), said.get("yunit", unit), unit]
    return voxel_size([_number(said.get("spacing")), y, x], units)


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
