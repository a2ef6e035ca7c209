"""Say what a stack is, and say it in the words of each format it is written in.

A voxel size is written with its unit, or not at all where it is unknown::

    OME-XML      PhysicalSizeX="4" PhysicalSizeXUnit="µm"     each axis in a unit of its own
    SkyScan log  Pixel Size (um)=4                            one length for all three
    MetaImage    ElementSpacing = 0.004 0.004 0.004           x y z, in the millimetres of ITK
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from tifffile import OmeXml

from napari_memseg.errors import InputError
from napari_memseg.io.ome_zarr_metadata import check_scale
from napari_memseg.io.units import METRES

if TYPE_CHECKING:
    import numpy as np

    from napari_memseg.geometry import Zyx

WRITER = "napari-memseg"
"""Who wrote a file, where its format asks."""
OME_SYMBOLS = {
    "meter": "m",
    "decimeter": "dm",
    "centimeter": "cm",
    "millimeter": "mm",
    "micrometer": "µm",
    "nanometer": "nm",
    "picometer": "pm",
    "kilometer": "km",
    "angstrom": "Å",
    "inch": "in",
}
"""How OME-XML spells each unit that is understood."""
META_TYPES = {
    "int8": "MET_CHAR",
    "uint8": "MET_UCHAR",
    "int16": "MET_SHORT",
    "uint16": "MET_USHORT",
    "int32": "MET_INT",
    "uint32": "MET_UINT",
    "int64": "MET_LONG_LONG",
    "uint64": "MET_ULONG_LONG",
    "float32": "MET_FLOAT",
    "float64": "MET_DOUBLE",
}
"""How MetaImage spells each dtype that it can hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """What a stack is, before there is one.

    Attributes
    ----------
    shape : (z, y, x)
        In voxels.
    dtype : numpy dtype
        Of every plane.
    voxel_size : (z, y, x) or None
        Lengths in ``unit``; None where they are unknown.
    unit : str or None
        A UDUNITS-2 name, as in "micrometer"; known if the voxel size is.
    name : str
        What a person calls it. Slices are named by it.
    description : str
        One line that goes into the file: where the voxels come from.

    Raises
    ------
    InputError
        If no file could say so.
    """

    shape: Zyx
    dtype: np.dtype[Any]
    voxel_size: tuple[float, float, float] | None
    unit: str | None
    name: str
    description: str = ""

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise InputError(f"shape must be three lengths (z, y, x) of 1 or more, got {self.shape}.")
        if not self.name or not f"{self.name}{self.description}".isprintable():
            raise InputError(
                "A name is one line of text and a description one line or none, "
                f"got {self.name!r} and {self.description!r}. Take out the line breaks."
            )
        check_scale(self.voxel_size, None)
        if (self.voxel_size is None) != (self.unit is None):
            raise InputError(
                f"A voxel size is nothing without its unit, got {self.voxel_size} and {self.unit}. "
                "Give both, or None for both where they are unknown."
            )
        if self.unit is not None and self.unit not in OME_SYMBOLS:
            raise InputError(f"{self.unit!r} is no unit of a voxel. Possible are {', '.join(OME_SYMBOLS)}.")


def ome_xml(stack: Stack) -> bytes:
    """Return the description of an OME-TIFF whose pages are the planes of a stack.

    https://docs.openmicroscopy.org/ome-model/latest/ome-tiff/specification.html
    """
    about = {"Name": stack.name} | ({"Description": stack.description} if stack.description else {})
    if stack.voxel_size is not None and stack.unit is not None:
        symbol = OME_SYMBOLS[stack.unit]
        for axis, length in zip("ZYX", stack.voxel_size, strict=True):
            about |= {f"PhysicalSize{axis}": repr(float(length)), f"PhysicalSize{axis}Unit": symbol}
    depth, height, width = stack.shape
    xml = OmeXml(Creator=WRITER, UUID=str(uuid4()))
    xml.addimage(stack.dtype, stack.shape, (depth, 1, 1, height, width, 1), axes="ZYX", **about)
    return xml.tostring(declaration=True).encode()


def skyscan_log(stack: Stack, digits: int) -> bytes | None:
    """Return the log that NRecon would put beside slices, or None where the voxel size is unknown.

    Parameters
    ----------
    stack : Stack
        Its description becomes the comment. The log names no scanner, since there was none.
    digits : int
        Of the number in the name of a slice.

    Raises
    ------
    InputError
        If a voxel is not a cube: the log knows one pixel size.
    """
    if stack.voxel_size is None:
        return None
    if len(set(stack.voxel_size)) > 1:
        raise InputError(
            f"A voxel of {stack.voxel_size} {stack.unit} (z, y, x) is no cube, but the log beside slices "
            "knows one pixel size. Write BigTIFF or raw + MHD, or leave voxel_size unset."
        )
    (size,) = set(_lengths(stack, "micrometer"))
    depth, height, width = stack.shape
    lines = [
        "[System]",
        f"Scanner=No scanner (written by {WRITER})",
        *([f"Comment={stack.description}"] if stack.description else []),
        "[Acquisition]",
        f"Image Pixel Size (um)={size}",
        "Image Rotation=0.0000",
        "[Reconstruction]",
        f"Reconstruction Program={WRITER}",
        "First Section=0",
        f"Last Section={depth - 1}",
        f"Sections Count={depth}",
        "Section to Section Step=1",
        "Result File Type=TIF",
        f"Result Image Width (pixels)={width}",
        f"Result Image Height (pixels)={height}",
        f"Pixel Size (um)={size}",
        "[File name convention]",
        f"Filename Index Length={digits}",
        f"Filename Prefix={stack.name}_",
    ]
    return "".join(f"{line}\r\n" for line in lines).encode()


def meta_image(stack: Stack, data: str) -> bytes:
    """Return the header of a MetaImage whose voxels lie in another file, the lowest byte first.

    https://itk.org/Wiki/ITK/MetaIO/Documentation

    Parameters
    ----------
    stack : Stack
        Of a dtype that is in ``META_TYPES``.
    data : str
        Name of the file of voxels, in the same folder.
    """
    about = {
        "ObjectType": "Image",
        "NDims": "3",
        **({"Comment": stack.description} if stack.description else {}),
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "DimSize": " ".join(str(n) for n in reversed(stack.shape)),
        **({"ElementSpacing": " ".join(reversed(_lengths(stack, "millimeter")))} if stack.voxel_size else {}),
        "ElementType": META_TYPES[stack.dtype.name],
        "ElementDataFile": data,
    }
    return "".join(f"{key} = {value}\n" for key, value in about.items()).encode()


def _lengths(stack: Stack, unit: str) -> list[str]:
    """Write the voxel size in another unit, without the noise of the division."""
    scale = METRES[stack.unit or unit] / METRES[unit]
    return [f"{length * scale:.12g}" for length in stack.voxel_size or ()]
