"""A volume larger than memory, read box by box.

Every format ends as the same thing: one lazily read array per resolution level,
with a voxel size that is either known or None. Decoded chunks pass through one
cache, bounded in bytes, since neighbouring tiles share most of what they read::

    read(box) ──> chunks the box touches ──> ChunkCache ──miss──> array[chunk]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from napari_memseg.geometry import Box, Zyx


class LazyArray(Protocol):
    """What a format gives per level: a (z, y, x) array that decodes only what is asked for."""

    @property
    def shape(self) -> Zyx: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def chunks(self) -> Zyx:
        """The unit of decoding, in voxels: pages, tiles or zarr chunks."""
    def __getitem__(self, index: tuple[slice, slice, slice]) -> NDArray[Any]: ...


@dataclass(frozen=True, eq=False)
class Volume:
    """A lazy scalar image (z, y, x), with its pyramid.

    Attributes
    ----------
    arrays : sequence of LazyArray
        Level 0, the finest, first. Each level is about half the one before.
    voxel_size : (z, y, x) or None
        Of level 0, in ``unit``; None means unknown. It is never invented.
    unit : str or None
        A UDUNITS-2 name as OME-Zarr uses it: "micrometer", "millimeter".
    name : str
        What a person calls it.
    source : str
        The text that opens it again, selection included: ``scan.ome.zarr@c=1``.
    format : str
        Short name of the format: "ome-zarr 0.5", "tiff".
    """

    arrays: Sequence[LazyArray]
    voxel_size: tuple[float, float, float] | None
    unit: str | None
    name: str
    source: str
    format: str

    @property
    def shape(self) -> Zyx: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @cached_property
    def levels(self) -> tuple[da.Array, ...]: ...
    @cached_property
    def fingerprint(self) -> str:
        """xxh3 of shape, dtype, voxel size and sampled chunks: is this still the same image?"""
    def read(self, box: Box, level: int = 0) -> NDArray[Any]: ...
    def scale(self, level: int) -> Zyx: ...
    def nearest_level(self, voxel_size: tuple[float, float, float]) -> int: ...
