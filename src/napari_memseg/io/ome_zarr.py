"""Read an OME-Zarr image or label image, version 0.4 or 0.5, with all its levels.

https://ngff.openmicroscopy.org/0.5/. The group says which of its arrays is which level,
what its axes are called, and how long a voxel of each level is.
"""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any

from napari_memseg.errors import SourceError
from napari_memseg.io.axes import SPACE, VolumeView, pick
from napari_memseg.io.plain_zarr import open_plain_zarr
from napari_memseg.io.units import VoxelSize, voxel_size
from napari_memseg.io.volume import Volume
from napari_memseg.io.zarr_nodes import Node, inside, open_array, read_node, step_into

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from napari_memseg.geometry import Zyx
    from napari_memseg.io.source import Source

VERSIONS = ("0.4", "0.5")
MAX_LEVELS = 64
"""A pyramid with more levels than this is not believed."""


def is_zarr(path: Path) -> bool:
    """Whether a folder is a Zarr array or group."""
    return any((path / name).is_file() for name in ("zarr.json", ".zarray", ".zgroup"))


def open_zarr(source: Source) -> Volume:
    """Open the OME-Zarr image or the plain array that a source means.

    Parameters
    ----------
    source : Source
        ``inner`` is a path inside it: ``labels/bone``, ``confidence``, or an array.

    Raises
    ------
    SourceError
        If it is neither, of a version that is not known, or damaged.
    """
    root = read_node(source.path)
    if root is None:
        raise SourceError(f"{source.path} is no Zarr: it has no zarr.json, .zarray or .zgroup.")
    node = step_into(root, source.inner, source) if source.inner else root
    if node.is_array:
        return open_plain_zarr(node, source)
    said, version, images = _multiscales(node, source)
    try:
        return _open_image(node, images[0], version, "image-label" in said, source)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(
            f"The OME-Zarr description in {node.path} cannot be followed ({type(error).__name__}: "
            f"{str(error)[:200]}). Write it again with current software, or open one of its arrays by name. "
            f"{inside(node)}"
        ) from error


def _multiscales(node: Node, source: Source) -> tuple[Mapping[str, Any], str, list[Any]]:
    """Return what a group says, the version of that, and the images that it describes."""
    ome = node.attributes.get("ome") if node.format == 3 else node.attributes
    said = ome if isinstance(ome, dict) else {}
    images = said.get("multiscales")
    if not isinstance(images, list) or not images or not isinstance(images[0], dict):
        raise SourceError(f"{source} is a Zarr group that describes no image of its own. {inside(node)}")
    version = str(
        said.get("version") or images[0].get("version") or ("0.4" if node.format == 2 else "unknown")
    )
    if version not in VERSIONS:
        raise SourceError(
            f"{source} is OME-Zarr {version[:40]}, but only {' and '.join(VERSIONS)} are understood: in "
            "other versions axes and scales mean something else. Convert it to 0.5, for example with "
            f"ome-zarr-py, or open one of its arrays without a voxel size. {inside(node)}"
        )
    return said, version, images


def _open_image(
    node: Node, image: Mapping[str, Any], version: str, is_labels: bool, source: Source
) -> Volume:
    datasets = image["datasets"]
    if not 0 < len(datasets) <= MAX_LEVELS:
        raise SourceError(f"{source} describes {len(datasets)} levels, but 1 to {MAX_LEVELS} are possible.")
    axes = [str(axis["name"]).lower() for axis in image["axes"]]
    arrays = [open_array(step_into(node, str(row["path"]), source), source) for row in datasets]
    _check_axes(axes, arrays, source)
    picked = pick(axes, arrays[0].shape, source)
    views = [VolumeView(array, array.chunks, axes, picked) for array in arrays]
    scales = [_scale(row, image, axes) for row in datasets]
    size, unit = _voxel_size(scales[0], image["axes"], axes)
    factors = _factors(views, scales)
    return Volume(views, size, unit, source.name, str(source), f"ome-zarr {version}", factors, is_labels)


def _check_axes(axes: Sequence[str], arrays: Sequence[Any], source: Source) -> None:
    right = {"y", "x"} <= set(axes) and len(set(axes)) == len(axes)
    if not right or any(len(array.shape) != len(axes) for array in arrays):
        shapes = ", ".join(str(array.shape) for array in arrays[:3])
        raise SourceError(
            f"{source} names its axes {axes}, with levels of shape {shapes}. There must be a name for each "
            "dimension, y and x among them. Write it again with current software."
        )
    if any(array.dtype != arrays[0].dtype for array in arrays):
        dtypes = ", ".join(str(array.dtype) for array in arrays[:3])
        raise SourceError(f"The levels of {source} differ in dtype ({dtypes}). Write it again.")


def _scale(row: Mapping[str, Any], image: Mapping[str, Any], axes: Sequence[str]) -> dict[str, float]:
    """Return how long a voxel of a level is along each axis; empty where nothing says so."""
    found: dict[str, float] = {}
    for transform in [*row.get("coordinateTransformations", []), *image.get("coordinateTransformations", [])]:
        if transform["type"] == "scale":
            lengths = map(float, transform["scale"])
            found = {axis: n * found.get(axis, 1.0) for axis, n in zip(axes, lengths, strict=True)}
        elif transform["type"] not in ("translation", "identity"):
            raise ValueError(f"a transformation of type {transform['type']!r} is none of version 0.4 or 0.5")
    return found


def _voxel_size(
    scale: Mapping[str, float], said: Sequence[Mapping[str, Any]], axes: Sequence[str]
) -> tuple[VoxelSize, str | None] | tuple[None, None]:
    """Return the voxel size; a single slice counts as deep as its voxels are high.

    All ones without a unit is what writers put where they know nothing.
    """
    units = dict(zip(axes, (axis.get("unit") for axis in said), strict=True))
    known = ["y" if axis == "z" and "z" not in axes else axis for axis in SPACE]
    lengths = [scale.get(axis) for axis in known]
    if not any(units.get(axis) for axis in known) and set(lengths) != {1.0}:
        size, _ = voxel_size(lengths, ["meter"] * 3)
        return (size, None) if size else (None, None)
    return voxel_size(lengths, [units.get(axis) for axis in known])


def _factors(views: Sequence[VolumeView], scales: Sequence[Mapping[str, float]]) -> list[Zyx] | None:
    """Return the factor of each level from the scales, if they agree with the shapes."""
    rows = [[_ratio(scale.get(axis), scales[0].get(axis)) for axis in SPACE] for scale in scales]
    for view, row in zip(views, rows, strict=True):
        fits = (abs(n / f - m) < 1 for n, f, m in zip(views[0].shape, row, view.shape, strict=True))
        if not all(fits):
            return None
    return [(z, y, x) for z, y, x in rows]


def _ratio(coarse: float | None, fine: float | None) -> int:
    return max(round(coarse / fine), 1) if coarse and fine and isfinite(coarse / fine) else 1
