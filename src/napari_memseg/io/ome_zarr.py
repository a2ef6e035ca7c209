"""Read a multiscale image as OME-Zarr 0.4 and 0.5 describe it.

https://ngff.openmicroscopy.org/0.5/. A group lists its levels, the finest first, and
how long a voxel of each is; labels lie beneath an image, and are images themselves::

    scan.ome.zarr            attributes: axes, datasets [0, 1, 2] with their scales
    ├── 0, 1, 2              arrays
    └── labels/bone          scan.ome.zarr::labels/bone
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

from napari_memseg.errors import SourceError
from napari_memseg.geometry import Zyx, zyx
from napari_memseg.io.axes import VolumeView, pick
from napari_memseg.io.ome_zarr_metadata import UNITS
from napari_memseg.io.units import VoxelSize, voxel_size
from napari_memseg.io.volume import Volume
from napari_memseg.io.zarr_nodes import below, choices, open_stored, read_node

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_memseg.io.source import Source
    from napari_memseg.io.zarr_nodes import Node

VERSIONS = ("0.4", "0.5")
"""Of the standard, that are understood."""
MAX_LEVELS = 32
"""A pyramid with more levels than this is refused."""


def open_ome_zarr(node: Node, source: Source) -> Volume:
    """Open a group as a volume with its pyramid.

    Raises
    ------
    SourceError
        If it is no image, or one of another version, or an axis that is not space was left open.
    """
    image = _Image.of(node, source)
    stored = [open_stored(read_node(below(node.folder, path, source)), source) for path in image.paths]
    picked = pick(image.axes, stored[0].shape if stored[0].ndim == len(image.axes) else (), source)
    for array in stored:
        if array.ndim != len(image.axes) or array.dtype != stored[0].dtype:
            raise _wrong(source, f"its levels or their {len(image.axes)} axes contradict each other")
    views = [VolumeView(array, array.chunks, image.axes, picked) for array in stored]
    size, unit = image.voxel_size()
    factors = [image.factor(level, views[0].shape, view.shape) for level, view in enumerate(views)]
    return Volume(views, size, unit, source.name, str(source), f"ome-zarr {image.version}", factors)


@dataclass(frozen=True, slots=True)
class _Image:
    """What the attributes say, checked."""

    version: str
    axes: tuple[str, ...]
    units: tuple[str | None, ...]
    paths: tuple[str, ...]
    scales: tuple[tuple[float, ...], ...]
    """Length of a voxel along each axis, for each level."""

    @classmethod
    def of(cls, node: Node, source: Source) -> _Image:
        """Read the first multiscale image of a group."""
        version, rows = _multiscales(node, source)
        try:
            scales, rows_of_levels = rows[0], rows[0]["datasets"]
            axes = scales["axes"]
            if not 1 <= len(rows_of_levels) <= MAX_LEVELS:
                raise ValueError(f"{len(rows_of_levels)} levels; possible are 1 to {MAX_LEVELS}")
            common = _scale(scales.get("coordinateTransformations", []), len(axes))
            own = [_scale(row["coordinateTransformations"], len(axes)) for row in rows_of_levels]
            return cls(
                version=version,
                axes=_axis_names(axes),
                units=tuple(axis.get("unit") for axis in axes),
                paths=tuple(str(row["path"]) for row in rows_of_levels),
                scales=tuple(tuple(a * b for a, b in zip(common, s, strict=True)) for s in own),
            )
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise _wrong(source, f"{type(error).__name__}: {str(error)[:300]}") from error

    def voxel_size(self) -> tuple[VoxelSize, str | None] | tuple[None, None]:
        """Return the length of a voxel of level 0, in one unit; scale 1 without a unit is unknown."""
        lengths, units = self._of_space(self.scales[0]), self._of_space(self.units)
        if len(lengths) != 3 or not all(isfinite(length) and length > 0 for length in lengths):
            return None, None
        z, y, x = (float(length) for length in lengths)
        if len(set(units)) == 1 and (units[0] in UNITS or (units[0] is None and {z, y, x} != {1.0})):
            return (z, y, x), units[0]
        return voxel_size((z, y, x), units)

    def factor(self, level: int, finest: Zyx, shape: Zyx) -> Zyx:
        """Return how many voxels of level 0 make one of a level, by its scale if the shapes agree."""
        fine, coarse = self._of_space(self.scales[0]), self._of_space(self.scales[level])
        stated = [c / f if f > 0 and isfinite(c / f) else 1.0 for c, f in zip(coarse, fine, strict=True)]
        steps = zip([1.0, *stated][-3:], finest, shape, strict=True)
        return zyx(_agreed(step, n, m) for step, n, m in steps)

    def _of_space(self, values: Sequence[Any]) -> list[Any]:
        of = dict(zip(self.axes, values, strict=True))
        return [of[axis] for axis in "zyx" if axis in of]


def _multiscales(node: Node, source: Source) -> tuple[str, list[Any]]:
    attributes = node.attributes
    ome = attributes.get("ome", attributes)
    rows = ome.get("multiscales") if isinstance(ome, dict) else None
    if not isinstance(rows, list) or not rows or not isinstance(rows[0], dict):
        raise SourceError(
            f"{source} is a Zarr group without an image of its own. Name what is meant inside it: "
            f"{choices(node.folder, source)}."
        )
    version = str(ome["version"] if "version" in ome else rows[0].get("version", "0.4"))
    if version not in VERSIONS:
        raise SourceError(
            f"{source} is OME-Zarr version {version[:40]}, which is not supported: {' and '.join(VERSIONS)} "
            "are. Write it again as one of these."
        )
    return version, rows


def _axis_names(axes: list[dict[str, Any]]) -> tuple[str, ...]:
    """Return a letter for each axis: z, y, x for those of space, c and t for channel and time."""
    space = [i for i, axis in enumerate(axes) if axis.get("type") == "space" or axis["name"] in tuple("zyx")]
    if not 2 <= len(space) <= 3:
        raise ValueError(f"{len(space)} axes of space, instead of z, y, x")
    names = [{"channel": "c", "time": "t"}.get(a.get("type", ""), str(a["name"]).lower()) for a in axes]
    if {names[i] for i in space} != set("zyx"[-len(space) :]):
        for i, letter in zip(space, "zyx"[-len(space) :], strict=True):
            names[i] = letter
    if len(set(names)) != len(names):
        raise ValueError(f"two axes of one name among {names}")
    return tuple(names)


def _scale(transformations: list[dict[str, Any]], ndim: int) -> tuple[float, ...]:
    """Return the product of all scales; where a voxel lies changes nothing, a rotation is refused."""
    product = (1.0,) * ndim
    for row in transformations:
        if row["type"] == "scale":
            product = tuple(a * float(b) for a, b in zip(product, row["scale"], strict=True))
        elif row["type"] not in ("translation", "identity"):
            raise ValueError(f"a transformation of type {row['type']!r}; possible are scale and translation")
    return product


def _agreed(stated: float, finest: int, length: int) -> int:
    """Return the stated factor if a level of ``length`` voxels can come of it, else what the lengths say."""
    factor = max(round(stated), 1)
    if finest // factor <= length <= -(-finest // factor):
        return factor
    return max(round(finest / length), 1)


def _wrong(source: Source, why: str) -> SourceError:
    return SourceError(
        f"{source} has OME-Zarr attributes that cannot be followed ({why}). "
        "Write it again with a current program, or name one of its arrays: path::0."
    )
