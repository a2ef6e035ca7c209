"""Say in one way how long a voxel is, whatever way a file says it.

Units carry the UDUNITS-2 names that OME-Zarr uses. What cannot be a length, or is in
a unit that nobody knows, is unknown as a whole: a voxel size is never half invented.
"""

from __future__ import annotations

import re
from math import isfinite
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

VoxelSize: TypeAlias = tuple[float, float, float]

METRES = {
    "meter": 1.0,
    "decimeter": 1e-1,
    "centimeter": 1e-2,
    "millimeter": 1e-3,
    "micrometer": 1e-6,
    "nanometer": 1e-9,
    "picometer": 1e-12,
    "kilometer": 1e3,
    "angstrom": 1e-10,
    "inch": 0.0254,
}
"""Length of each unit that is understood."""

_SHORT = {
    "m": "meter",
    "dm": "decimeter",
    "cm": "centimeter",
    "mm": "millimeter",
    "um": "micrometer",
    "micron": "micrometer",
    "nm": "nanometer",
    "pm": "picometer",
    "km": "kilometer",
    "å": "angstrom",
    "ångström": "angstrom",
    "in": "inch",
    '"': "inch",
}


class PixelSize(NamedTuple):
    """How far apart rows and columns of a slice are, where nobody says it of the slices themselves."""

    y: float
    x: float
    unit: str
    """A UDUNITS-2 name."""

    def in_unit(self, unit: str) -> PixelSize:
        """Return the same lengths in another unit, of ``METRES``, without the noise of the division."""
        scale = METRES[self.unit] / METRES[unit]
        return PixelSize(float(f"{self.y * scale:.12g}"), float(f"{self.x * scale:.12g}"), unit)


def unit_name(text: object) -> str | None:
    r"""Return the UDUNITS-2 name of a unit of length, or None if it is none.

    Both micro signs are understood, also as the escape ``\u00b5`` that ImageJ writes.
    """
    name = str(text or "").strip().strip("\0").lower()
    name = re.sub(
        r"\\u00b5|\\u03bc|[\u00c2\u00e2]\u00b5|\u00b5|\u03bc", "u", name
    )  # also UTF-8 read as latin-1
    name = re.sub(r"met(er|re)s?$", "meter", name)
    for candidate in (name, name.removesuffix("s"), name.removesuffix("es")):
        found = _SHORT.get(candidate, candidate)
        if found in METRES:
            return found
    return None


def voxel_size(
    lengths: Sequence[float | None], units: Sequence[object]
) -> tuple[VoxelSize, str] | tuple[None, None]:
    """Return three lengths (z, y, x) in one unit, the one of x; or that they are unknown.

    Parameters
    ----------
    lengths : sequence of float or None
        Along z, y, x, as the file gives them.
    units : sequence
        Their units, in any spelling.
    """
    known = _in_one_unit(lengths, units)
    return ((known[0][0], known[0][1], known[0][2]), known[1]) if known else (None, None)


def pixel_size(lengths: Sequence[float | None], units: Sequence[object]) -> PixelSize | None:
    """Return the last two of three lengths (z, y, x) in one unit, the one of x; None where they are unknown.

    The parameters are those of ``voxel_size``.
    """
    known = _in_one_unit(lengths[1:], units[1:])
    return PixelSize(known[0][0], known[0][1], known[1]) if known else None


def _in_one_unit(
    lengths: Sequence[float | None], units: Sequence[object]
) -> tuple[tuple[float, ...], str] | None:
    """Return lengths in the unit of the last; None if one is no length, or in no unit."""
    names = [unit_name(unit) for unit in units]
    known = [float(n) for n in lengths if n is not None and isfinite(n) and n > 0]
    scales = [METRES[name] for name in names if name]
    last = names[-1]
    if last is None or not len(known) == len(scales) == len(lengths):
        return None
    pairs = zip(known, scales, strict=True)
    return tuple(n if scale == scales[-1] else n * scale / scales[-1] for n, scale in pairs), last
