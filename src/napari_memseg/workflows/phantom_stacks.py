"""Phantoms as files of planes: blocks are put into raw voxels first, and planes are read from those."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_memseg.io.stacks import Stack, write_bigtiff, write_raw, write_slices

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_memseg.geometry import Box, Zyx
    from napari_memseg.io.stacks import Compression
    from napari_memseg.phantom.fly import Phantom, Rendered


class StackStores:
    """A folder of BigTIFFs, of folders of slices, or of raw voxels with a header: image, truth, instances."""

    def __init__(
        self,
        folder: Path,
        fly: Phantom,
        kind: str,
        compression: Compression,
        tile: int | None,
        *,
        instances: bool,
    ) -> None:
        self.folder = folder
        self._fly = fly
        self._kind = kind
        self._compression: Compression = compression
        self._tile = tile
        dtypes = {"image": fly.dtype, "truth": np.dtype(np.uint8), "instances": np.dtype(np.uint32)}
        names = ["image", "truth", "instances"] if instances else ["image", "truth"]
        folder.mkdir(exist_ok=True)
        self._raw = {
            name: _RawVoxels(folder.parent / f"{name}.voxels", fly.shape, dtypes[name]) for name in names
        }

    def resume(self, boxes: Sequence[Box]) -> None:
        """Raw voxels are where they were; files that a kill cut off are written anew."""

    def write(self, box: Box, found: Rendered) -> None:
        """Store one block."""
        for name, raw in self._raw.items():
            raw.write(box, getattr(found, name))

    def finish(self) -> Iterator[str]:
        """Write the files, yielding the name of each."""
        for name, raw in self._raw.items():
            title = self._fly.name if name == "image" else f"{self._fly.name} {name}"
            path = self.folder / title.replace(" ", "_")
            self._write(path, self._stack(title, raw), raw.planes())
            yield path.name

    def _stack(self, title: str, raw: _RawVoxels) -> Stack:
        size = float(self._fly.voxel_um)
        return Stack(
            shape=raw.shape,
            dtype=raw.dtype,
            voxel_size=(size, size, size),
            unit="micrometer",
            name=title.replace(" ", "_"),
            description="synthetic: a phantom of napari-memseg, no animal and no scanner",
        )

    def _write(self, path: Path, stack: Stack, planes: Iterator[NDArray[Any]]) -> None:
        """Write one stack, unless an earlier process has finished it."""
        tiff, header, raw = (path.with_name(path.name + ending) for ending in (".tif", ".mhd", ".raw"))
        if self._kind == "bigtiff" and not tiff.exists():
            write_bigtiff(tiff, stack, planes, compression=self._compression, tile=self._tile)
        elif self._kind == "slices" and not path.exists():
            write_slices(path, stack, planes, compression=self._compression)
        elif self._kind == "raw" and not header.exists():
            raw.unlink(missing_ok=True)  # a kill left it without its header
            write_raw(header, stack, planes)


class _RawVoxels:
    """A volume as one file of voxels that blocks are put into."""

    def __init__(self, path: Path, shape: Zyx, dtype: np.dtype[Any]) -> None:
        self.shape = shape
        self.dtype = dtype
        self._path = path
        if not path.exists():
            with path.open("wb") as file:
                file.truncate(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)

    def write(self, box: Box, data: NDArray[Any]) -> None:
        """Put a block into its place, line by line."""
        _, ny, nx = self.shape
        (z0, y0, x0), size = box.start, self.dtype.itemsize
        lines = np.ascontiguousarray(data, self.dtype)
        with self._path.open("r+b", buffering=0) as file:
            for z in range(lines.shape[0]):
                for y in range(lines.shape[1]):
                    file.seek((((z0 + z) * ny + y0 + y) * nx + x0) * size)
                    file.write(lines[z, y].data)
            os.fsync(file.fileno())

    def planes(self) -> Iterator[NDArray[Any]]:
        """Yield the planes, the lowest z first."""
        depth, ny, nx = self.shape
        with self._path.open("rb") as file:
            for _ in range(depth):
                yield np.fromfile(file, self.dtype, ny * nx).reshape(ny, nx)
