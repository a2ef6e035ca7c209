"""Write an OME-Zarr 0.5 pyramid chunk by chunk, from many processes, through kills.

Level 0 is written by whoever computes it. A coarse chunk is built from its eight
children by whoever finds the last of them done, so that no pass over the volume
follows, and two writers meet in no chunk::

    level 1   ┌───────────────┐
              │       ?       │     built once all children are done
    level 0   ├───────┬───────┤
              │ done  │ done  │     written whole: chunk file, flush, its folders, flush
              └───────┴───────┘
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import zarr

from napari_memseg.errors import InputError, SourceError
from napari_memseg.geometry import Box, Zyx, cell_box, cells, zyx
from napari_memseg.io.arrays import create_array, new_array, open_array, refuse_link, write_durable
from napari_memseg.io.files import part_folder
from napari_memseg.io.halving import HALVE
from napari_memseg.io.ome_zarr_metadata import (
    Method,
    VoxelSize,
    attributes,
    check_scale,
    image_label,
    level_shapes,
    multiscale,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import DTypeLike, NDArray

__all__ = [
    "ALL_LEVELS",
    "CHUNK",
    "Pyramid",
    "create_array",
    "create_confidence",
    "create_image",
    "create_labels",
    "create_labels_group",
    "open_pyramid",
    "write_durable",
]

ALL_LEVELS = 8 / 7
"""Voxels of all levels of a pyramid, to those of the finest."""
CHUNK: Zyx = (64, 64, 64)
"""The unit of storage, in voxels."""

CONFIDENCE_UNKNOWN = 255
"""Fill value of a confidence pyramid: not predicted. Confidence itself ends at 254."""


@dataclass(frozen=True, eq=False)
class Pyramid:
    """A multiscale (z, y, x) array on disk that can be written, level 0 box by box.

    Any number of threads and processes may write at once, as long as no two write the same chunk.

    Attributes
    ----------
    path : Path
        The group that holds the levels.
    levels : tuple of zarr.Array
        Level 0, the finest, first; each is half the one before, odd lengths rounded up.
    method : "mean" or "nearest"
        How a coarse voxel is made of up to eight finer ones.
    highest : int or None
        Values above it are stored as it (confidence, where 255 means not predicted).
    """

    path: Path
    levels: tuple[zarr.Array[Any], ...]
    method: Method
    highest: int | None = None

    @property
    def shape(self) -> Zyx:
        """Of level 0, in voxels."""
        return zyx(self.levels[0].shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of every level."""
        return self.levels[0].dtype

    @property
    def chunk(self) -> Zyx:
        """The unit of storage at every level, in voxels of that level."""
        return zyx(self.levels[0].chunks)

    @property
    def fill_value(self) -> Any:
        """What a voxel reads as where nothing was written."""
        return self.levels[0].fill_value

    def write(self, box: Box, data: NDArray[Any], *, durable: bool = True) -> None:
        """Store the voxels of ``box`` at level 0.

        Parameters
        ----------
        box : Box
            Its faces lie on multiples of the chunk, or on the faces of the volume.
        data : (z, y, x) array
            As large as the box, of a dtype that the pyramid's holds without loss.
        durable : bool
            Return only when chunks and folders are on the disk, not merely on their way.

        Raises
        ------
        GeometryError
            If the box cuts a chunk, leaves the volume, or differs from ``data`` in shape.
        InputError
            If the dtype does not fit.
        """
        data = np.asarray(data)
        if self.highest is not None:
            data = np.minimum(data, np.asarray(self.highest, data.dtype))
        write_durable(self.levels[0], box.slices, data, durable=durable)

    def fill(self, read: Callable[[Box], NDArray[Any]], block: Zyx) -> Iterator[Box]:
        """Write all levels from whatever can be read box by box; one writer, and no flush.

        Parameters
        ----------
        read : callable of Box -> (z, y, x) array
            Voxels of level 0.
        block : (z, y, x)
            So many voxels are in memory at a time: whole chunks.

        Yields
        ------
        Box
            Each block once it and the coarse chunks that it completes are written.
        """
        done: set[tuple[int, Zyx]] = set()
        for index in cells(Box.whole(self.shape), block):
            box = cell_box(index, block, self.shape)
            self.write(box, read(box), durable=False)
            done.update((0, chunk) for chunk in cells(box, self.chunk))
            done.update(self.propagate(box, lambda level, chunk: (level, chunk) in done))
            yield box

    def propagate(self, box: Box, is_done: Callable[[int, Zyx], bool]) -> Iterator[tuple[int, Zyx]]:
        """Build the coarse chunks that ``box`` completes, upwards through the levels.

        Call it when ``box`` is written at level 0 and known as done to ``is_done``. With
        the whole volume as the box it repairs a pyramid after a kill.

        Parameters
        ----------
        box : Box
            Voxels of level 0.
        is_done : callable of (level, chunk index) -> bool
            Whether a chunk is final: recorded as done by anybody, or never to be written.

        Yields
        ------
        level, index
            Of a coarse chunk that was not done, has no child left to wait for, and is now on the disk.
        """
        built: set[tuple[int, Zyx]] = set()
        for level in range(1, len(self.levels)):
            factor = zyx(c * 2**level for c in self.chunk)
            for index in cells(box.clip(self.shape), factor):
                if is_done(level, index):
                    continue
                if all((level - 1, c) in built or is_done(level - 1, c) for c in self.children(level, index)):
                    self._build(level, index)
                    built.add((level, index))
                    yield level, index

    def children(self, level: int, index: Zyx) -> list[Zyx]:
        """Return the chunks one level finer, up to eight, that a coarse chunk is made of."""
        count = self.levels[level - 1].cdata_shape
        spans = (range(2 * i, min(2 * i + 2, n)) for i, n in zip(index, count, strict=True))
        return [zyx(child) for child in product(*spans)]

    def _build(self, level: int, index: Zyx) -> None:
        coarse, fine = self.levels[level], self.levels[level - 1]
        box = cell_box(index, self.chunk, zyx(coarse.shape))
        below = box.refine((2, 2, 2)).clip(zyx(fine.shape))
        write_durable(coarse, box.slices, HALVE[self.method](np.asarray(fine[below.slices])))


def create_image(
    path: str | os.PathLike[str],
    *,
    shape: Zyx,
    dtype: DTypeLike,
    chunk: Zyx = CHUNK,
    voxel_size: VoxelSize | None = None,
    unit: str | None = None,
    name: str = "",
) -> Pyramid:
    """Make an empty intensity image, whose coarse voxels are means; its fill value is 0.

    Parameters
    ----------
    path : path-like
        A folder that does not exist yet, or is empty.
    shape, chunk : (z, y, x)
        In voxels.
    dtype : dtype-like
        Integers, or floats, of at most 64 bits.
    voxel_size, unit
        Of level 0; None where unknown.
    name : str
        What a person calls it.

    Raises
    ------
    InputError
        If something is at ``path``, or shape, dtype, voxel size or unit are impossible.
    """
    scales = _Scales(shape, np.dtype(dtype), chunk, voxel_size, unit, name)
    return _create(path, scales, "mean", "image", 0, None)


def create_labels(
    path: str | os.PathLike[str],
    *,
    shape: Zyx,
    dtype: DTypeLike,
    chunk: Zyx = CHUNK,
    voxel_size: VoxelSize | None = None,
    unit: str | None = None,
    name: str = "",
    colors: Mapping[int, str],
    names: Mapping[int, str],
    fill_value: int,
) -> Pyramid:
    """Make an empty label image, whose coarse voxels are every second finer one.

    Parameters
    ----------
    path, shape, chunk, voxel_size, unit, name
        As for ``create_image``.
    dtype : dtype-like
        Unsigned or signed integers.
    colors, names : mapping
        From class id to ``#rrggbb`` and to what a person calls it.
    fill_value : int
        Means *not predicted*; no class has this id.

    Raises
    ------
    InputError
        As for ``create_image``; or if the fill value is a class, or the dtype holds no integers.
    """
    kind, classes = np.dtype(dtype), {*colors, *names}
    if kind.kind not in "iu" or fill_value in classes or not _holds(kind, {fill_value, *classes}):
        raise InputError(
            f"Labels of dtype {kind} cannot say {fill_value} for 'not predicted' beside the classes "
            f"{sorted(classes)}. Use an integer dtype that holds all of these, and a value that is no class."
        )
    scales = _Scales(shape, kind, chunk, voxel_size, unit, name)
    return _create(path, scales, "nearest", "labels", fill_value, (colors, names))


def create_labels_group(path: str | os.PathLike[str], names: Sequence[str]) -> None:
    """Make the group ``labels`` of an image, which lists the label pyramids in it.

    Parameters
    ----------
    path : path-like
        The folder ``labels`` in the group of an image.
    names : sequence of str
        Of the pyramids that ``create_labels`` makes in it.
    """
    listed = {"ome": {"version": "0.5", "labels": list(names)}}
    zarr.create_group(Path(path), zarr_format=3, attributes=listed)


def create_confidence(
    path: str | os.PathLike[str],
    *,
    shape: Zyx,
    chunk: Zyx = CHUNK,
    voxel_size: VoxelSize | None = None,
    unit: str | None = None,
    name: str = "confidence",
) -> Pyramid:
    """Make an empty uint8 image of confidence: 0 to 254, and 255 for not predicted.

    Written values above 254 are stored as 254. Parameters and errors as for ``create_image``.
    """
    scales = _Scales(shape, np.dtype(np.uint8), chunk, voxel_size, unit, name)
    return _create(path, scales, "nearest", "confidence", CONFIDENCE_UNKNOWN, None)


def open_pyramid(path: str | os.PathLike[str]) -> Pyramid:
    """Open what one of the ``create_`` functions made, to go on writing.

    Raises
    ------
    SourceError
        If there is no such pyramid at ``path``.
    InputError
        If the path is a link.
    """
    refuse_link(Path(path))
    try:
        group = zarr.open_group(Path(path), mode="r", zarr_format=3)
        scales = cast("Any", group.attrs["ome"])["multiscales"][0]
        kind, method, datasets = scales["metadata"]["kind"], scales["type"], scales["datasets"]
        levels = tuple(open_array(Path(path) / row["path"]) for row in datasets)
    except (OSError, KeyError, TypeError, IndexError, ValueError) as error:
        raise SourceError(
            f"{path} is no pyramid that napari-memseg wrote ({type(error).__name__}: {error}). "
            "To go on writing it must be one; anything else can be read, or converted."
        ) from error
    return Pyramid(Path(path), levels, method, _highest(kind))


def check_dtype(dtype: np.dtype[Any]) -> None:
    """Refuse voxels that have no mean.

    Raises
    ------
    InputError
        If they are neither integers nor floats, of at most 64 bits.
    """
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise InputError(f"Voxels of {dtype} cannot be stored. Convert them to integers or floats first.")


@dataclass(frozen=True)
class _Scales:
    """What all levels of a new pyramid have in common, checked."""

    shape: Zyx
    dtype: np.dtype[Any]
    chunk: Zyx
    voxel_size: VoxelSize | None
    unit: str | None
    name: str

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or min(self.shape) < 1 or len(self.chunk) != 3 or min(self.chunk) < 1:
            raise InputError(
                f"An image of shape {self.shape} in chunks of {self.chunk} is impossible: "
                "give three lengths (z, y, x) of at least 1 for each."
            )
        check_dtype(self.dtype)
        check_scale(self.voxel_size, self.unit)


def _create(
    path: str | os.PathLike[str],
    scales: _Scales,
    method: Method,
    kind: str,
    fill_value: int,
    classes: tuple[Mapping[int, str], Mapping[int, str]] | None,
) -> Pyramid:
    shapes = level_shapes(scales.shape, scales.chunk)
    rows = multiscale(len(shapes), scales.voxel_size, scales.unit, scales.name, method, kind)
    ome = attributes(rows, image_label(*classes) if classes else None)
    with part_folder(path) as part:
        for level, shape in enumerate(shapes):
            new_array(part / str(level), shape, scales.dtype, scales.chunk, fill_value, ("z", "y", "x"))
        zarr.create_group(part, zarr_format=3, attributes=ome)
    return open_pyramid(path)


def _holds(dtype: np.dtype[Any], values: set[int]) -> bool:
    return np.iinfo(dtype).min <= min(values) and max(values) <= np.iinfo(dtype).max


def _highest(kind: str) -> int | None:
    return CONFIDENCE_UNKNOWN - 1 if kind == "confidence" else None
