"""Say in the words of OME-Zarr 0.5 where the voxels of a pyramid lie and what they mean.

https://ngff.openmicroscopy.org/0.5/. A voxel of level ``l`` is ``2**l`` voxels long.
The centre of an averaged voxel lies between those it was made of, so it carries a
translation; a voxel that was picked lies where it was::

    level 0   0   1   2   3        mean, level 1    at 0.5 and 2.5
              ●   ○   ●   ○        nearest, level 1 at 0 and 2
"""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from yaozarrs import v05, validate_ome_object

from napari_memseg.errors import InputError
from napari_memseg.geometry import Zyx, ceil_div

if TYPE_CHECKING:
    from collections.abc import Mapping

Method: TypeAlias = Literal["mean", "nearest"]
VoxelSize: TypeAlias = tuple[float, float, float]

# fmt: off
UNITS = (
    "yoctometer", "zeptometer", "attometer", "femtometer", "picometer", "nanometer", "micrometer",
    "millimeter", "centimeter", "decimeter", "meter", "hectometer", "kilometer", "megameter", "gigameter",
    "terameter", "petameter", "exameter", "zettameter", "yottameter",
    "angstrom", "foot", "inch", "mile", "parsec", "yard",
)
# fmt: on
"""Units of length that OME-Zarr knows, by their UDUNITS-2 names."""


def level_shapes(shape: Zyx, chunk: Zyx) -> list[Zyx]:
    """Halve a shape, odd lengths up, until every axis is at most two chunks long."""
    shapes = [shape]
    while any(n > 2 * c for n, c in zip(shapes[-1], chunk, strict=True)):
        shapes.append(ceil_div(shapes[-1], (2, 2, 2)))
    return shapes


def check_scale(voxel_size: VoxelSize | None, unit: str | None) -> None:
    """Refuse a voxel size or a unit that no volume can have.

    Raises
    ------
    InputError
        If a length is not a positive finite number, or the unit none of ``UNITS``.
    """
    if voxel_size is not None and not (
        len(voxel_size) == 3 and all(isfinite(s) and s > 0 for s in voxel_size)
    ):
        raise InputError(
            f"The voxel size {voxel_size} is impossible. Give three positive lengths in the order z y x, "
            "or none at all where it is unknown."
        )
    if unit is not None and unit not in UNITS:
        raise InputError(
            f"{unit!r} is no unit of length that OME-Zarr knows. Write it in full, "
            f'for example "micrometer" or "millimeter". All of them: {", ".join(UNITS)}.'
        )


def multiscale(
    levels: int, voxel_size: VoxelSize | None, unit: str | None, name: str, method: Method, kind: str
) -> dict[str, Any]:
    """Describe a pyramid whose arrays are called "0", "1", ..., the finest first.

    An unknown voxel size is written as scale 1 without a unit, as the standard asks.
    """
    size = voxel_size or (1.0, 1.0, 1.0)
    space = {"type": "space"} | ({"unit": unit} if unit and voxel_size else {})
    return {
        "name": name,
        "axes": [{"name": axis, **space} for axis in "zyx"],
        "datasets": [_dataset(level, size, method) for level in range(levels)],
        "type": method,
        "metadata": {"kind": kind, "factor": 2},
    }


def _dataset(level: int, size: VoxelSize, method: Method) -> dict[str, Any]:
    scale = [s * 2**level for s in size]
    transformations: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
    if method == "mean" and level:
        centre = [s * 0.5 * (2**level - 1) for s in size]
        transformations.append({"type": "translation", "translation": centre})
    return {"path": str(level), "coordinateTransformations": transformations}


def image_label(colors: Mapping[int, str], names: Mapping[int, str]) -> dict[str, Any]:
    """Describe what label values look like and are called; background is transparent.

    Raises
    ------
    InputError
        If a colour is not written as ``#rrggbb``.
    """
    rows = {
        "colors": [{"label-value": i, "rgba": _rgba(i, color)} for i, color in sorted(colors.items())],
        "properties": [{"label-value": i, "name": name} for i, name in sorted(names.items())],
    }
    return {key: row for key, row in rows.items() if row}


def _rgba(label: int, color: str) -> list[int]:
    try:
        if not color.startswith("#") or len(color) != 7:
            raise ValueError(color)
        return [*bytes.fromhex(color[1:]), 255 if label else 0]
    except ValueError as error:
        raise InputError(
            f"{color!r} is no colour for label {label}. Write it as #rrggbb, for example #4477aa."
        ) from error


def attributes(scales: dict[str, Any], labels: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the attributes of the group that holds a pyramid, checked against the standard."""
    ome = {"version": "0.5", "multiscales": [scales]} | ({} if labels is None else {"image-label": labels})
    validate_ome_object(ome, v05.Image if labels is None else v05.LabelImage)
    return {"ome": ome}
