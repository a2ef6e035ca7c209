"""Write the header of an NRRD: lines of text and an empty one, behind which the voxels come plane by plane.

Its axes are x, y, z, the fastest first. They lie in no space that a patient would have, so each has a length
and a unit of its own, and no direction::

    NRRD0004
    sizes: 512 512 300                          x y z
    spacings: 0.65 0.65 2.0
    units: "um" "um" "um"                       https://teem.sourceforge.net/nrrd/format.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_memseg.errors import InputError
from napari_memseg.io.stack_headers import OME_SYMBOLS, WRITER

if TYPE_CHECKING:
    from napari_memseg.io.stack_headers import Stack

TYPES = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64")
"""dtypes that the format can hold."""
_FLOATS = {"float32": "float", "float64": "double"}


def header(stack: Stack) -> bytes:
    """Return the header of a stack whose voxels follow, bare and the lowest byte first.

    Raises
    ------
    InputError
        If the format has no such dtype.
    """
    name = stack.dtype.name
    if name not in TYPES:
        raise InputError(
            f"NRRD cannot hold {name} voxels; possible are {', '.join(TYPES)}. Convert them to one of these."
        )
    about = {
        "type": _FLOATS.get(name, name),
        "dimension": "3",
        "sizes": " ".join(str(n) for n in stack.shape[::-1]),
        "kinds": "domain domain domain",
        **_lengths(stack),
        "endian": "little",
        "encoding": "raw",
    }
    lines = ["NRRD0004", f"# written by {WRITER}", *(f"{key}: {value}" for key, value in about.items())]
    return "".join(f"{line}\n" for line in [*lines, ""]).encode("ascii")


def _lengths(stack: Stack) -> dict[str, str]:
    """Return the fields that say how large a voxel is; none where nobody knows."""
    if stack.voxel_size is None or stack.unit is None:
        return {}
    symbol = OME_SYMBOLS[stack.unit].replace("µ", "u")
    unit = symbol if symbol.isascii() else stack.unit
    return {
        "spacings": " ".join(repr(float(n)) for n in stack.voxel_size[::-1]),
        "units": " ".join([f'"{unit}"'] * 3),
    }
