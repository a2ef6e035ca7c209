"""A volume larger than memory, read box by box.

Every format ends as the same thing: one lazily read array per resolution level,
with a voxel size that is either known or None. Decoded chunks pass through one
cache, bounded in bytes, since neighbouring tiles share most of what they read::

    read(box) ──> chunks the box touches ──> ChunkCache ──miss──> array[chunk]
"""

from __future__ import annotations

import struct
import zlib
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import product
from math import isfinite, log, prod
from threading import Lock
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar
from uuid import uuid4

import dask.array as da
import numpy as np
from xxhash import xxh3_128

from napari_memseg.errors import GeometryError, SourceError
from napari_memseg.geometry import Box, Zyx, cell_box, cells, zyx

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Sequence

    from numpy.typing import NDArray

    from napari_memseg.io.units import PixelSize

CACHE_BYTES = 256 * 2**20
"""Decoded chunks that are kept, unless ``set_cache_bytes`` says otherwise."""
SAMPLE: Zyx = (1, 64, 64)
"""A patch that the fingerprint looks at, in voxels: thin, for the sake of files made of pages."""
DASK_CHUNK_VOXELS = 2**22
"""Dask chunks are made of so many voxels at most, or of one stored chunk, unless a volume says otherwise."""
DECODING_ERRORS = (
    *(OSError, EOFError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, AssertionError),
    *(RuntimeError, struct.error, zlib.error),
)
"""What readers and decoders of other people raise where a file is damaged."""


class LazyArray(Protocol):
    """What a format gives per level: a (z, y, x) array that decodes only what is asked for."""

    @property
    def shape(self) -> Zyx:
        """Length of each axis, in voxels."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the voxels, in the byte order of this machine."""

    @property
    def chunks(self) -> Zyx:
        """The unit of decoding, in voxels: pages, tiles or zarr chunks."""

    def __getitem__(self, index: tuple[slice, slice, slice]) -> NDArray[Any]:
        """Return the voxels of three slices, each with a start and a stop and no step."""


class HasBytes(Protocol):
    """An array or a tensor."""

    @property
    def nbytes(self) -> int:
        """How much memory it takes."""


T = TypeVar("T", bound=HasBytes)


class ChunkCache(Generic[T]):
    """Decoded chunks, the latest used kept, bounded in bytes; safe to share among threads.

    A chunk that two threads want at once is decoded by one of them, for both. Nobody
    writes to what comes out of here.

    Attributes
    ----------
    hits, misses : int
        How often a chunk was there or on its way, and how often it was decoded.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._chunks: OrderedDict[Hashable, T] = OrderedDict()
        self._coming: dict[Hashable, Future[T]] = {}
        self._lock = Lock()
        self.held_bytes = 0
        self.hits = 0
        self.misses = 0

    def get(self, key: Hashable, decode: Callable[[], T]) -> T:
        """Return the chunk of ``key``, decoding it only if it is not here."""
        with self._lock:
            if key in self._chunks:
                self.hits += 1
                self._chunks.move_to_end(key)
                return self._chunks[key]
            coming = self._coming.get(key)
            if coming is None:
                self.misses += 1
                mine = self._coming[key] = Future()
            else:
                self.hits += 1
        return coming.result() if coming is not None else self._fill(key, mine, decode)

    def resize(self, limit: int) -> None:
        """Keep ``limit`` bytes from now on."""
        with self._lock:
            self._limit = limit
            self._trim()

    def clear(self) -> None:
        """Forget all chunks, and the counts."""
        with self._lock:
            self._chunks.clear()
            self.held_bytes = self.hits = self.misses = 0

    def _fill(self, key: Hashable, mine: Future[T], decode: Callable[[], T]) -> T:
        try:
            chunk = decode()
        except BaseException as error:
            with self._lock:
                del self._coming[key]
            mine.set_exception(error)
            raise
        with self._lock:
            del self._coming[key]
            self._chunks[key] = chunk
            self.held_bytes += chunk.nbytes
            self._trim()
        mine.set_result(chunk)
        return chunk

    def _trim(self) -> None:
        while self.held_bytes > self._limit:
            _, oldest = self._chunks.popitem(last=False)
            self.held_bytes -= oldest.nbytes


CACHE: ChunkCache[NDArray[Any]] = ChunkCache(CACHE_BYTES)
"""The one that all volumes of this process share."""


def set_cache_bytes(limit: int) -> None:
    """Keep at most ``limit`` bytes of decoded chunks in this process."""
    CACHE.resize(limit)


@dataclass(frozen=True, eq=False)
class Volume:
    """A lazy scalar image (z, y, x), with its pyramid. Threads may share it.

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
    factors : sequence of (z, y, x), optional
        How many voxels of level 0 make one of each level; by default the shapes tell.
    is_labels : bool
        Whether the format says that the voxels are labels, not grey values.
    dask_voxels : int
        Chunks of the dask arrays are made of so many voxels at most, or of one chunk: what is read at once
        by whoever slices one. Few where voxels are dear.
    pixel_size : PixelSize or None
        What is known of a voxel whose length along z is not: where the format says it of the planes alone.
    check_rest : callable returning an iterator, optional
        What ``check`` goes through: one step for each file that opening left for later.
    """

    arrays: Sequence[LazyArray]
    voxel_size: tuple[float, float, float] | None
    unit: str | None
    name: str
    source: str
    format: str
    factors: Sequence[Zyx] | None = None
    is_labels: bool = False
    dask_voxels: int = DASK_CHUNK_VOXELS
    pixel_size: PixelSize | None = None
    check_rest: Callable[[], Iterator[None]] | None = None
    _token: str = field(init=False, repr=False, default_factory=lambda: uuid4().hex)
    """Of this image's chunks in the cache; a copy in another process keeps it, and no other image has it."""
    _known: dict[str, object] = field(init=False, repr=False, default_factory=dict)
    """What was found out once."""

    @property
    def shape(self) -> Zyx:
        """Of level 0, in voxels."""
        return self.arrays[0].shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of every level."""
        return self.arrays[0].dtype

    @cached_property
    def levels(self) -> tuple[da.Array, ...]:
        """Every level as a dask array, which reads through the cache."""
        return tuple(self._dask(level) for level in range(len(self.arrays)))

    def check(self) -> None:
        """Look at what opening left for later: the headers of many slices. Whoever begins work calls it.

        Raises
        ------
        SourceError
            Naming the file that does not belong.
        """
        for _ in self.checks():
            pass

    def checks(self) -> Iterator[None]:
        """Do as ``check`` does, a file at a time, so that it can be left in between."""
        if self.check_rest is not None and not self._known.get("checked"):
            yield from self.check_rest()
        self._known["checked"] = True

    @property
    def fingerprint(self) -> str:
        """Tell whether this is still the same image: xxh3 of shape, dtype, voxel size, unit and 27 patches.

        Raises
        ------
        SourceError
            If a patch cannot be decoded.
        """
        if "fingerprint" not in self._known:  # no lock: ``cached_property`` has one for all volumes
            self._known["fingerprint"] = self._fingerprint()
        return str(self._known["fingerprint"])

    def _fingerprint(self) -> str:
        size = None if self.voxel_size is None else tuple(map(float, self.voxel_size))
        found = xxh3_128(repr((tuple(self.shape), self.dtype.name, size, self.unit)).encode())
        patch = zyx(map(min, SAMPLE, self.shape))
        rooms = [n - p for n, p in zip(self.shape, patch, strict=True)]
        for start in product(*(sorted({0, room // 2, room}) for room in rooms)):
            found.update(self.read(Box.at(zyx(start), patch)).tobytes())
        return str(found.hexdigest())

    def read(self, box: Box, level: int = 0) -> NDArray[Any]:
        """Return the voxels of ``box``, decoding just the chunks that it touches.

        Parameters
        ----------
        box : Box
            In voxels of ``level``.
        level : int
            Of the pyramid, 0 the finest.

        Returns
        -------
        (z, y, x) array
            A copy, as large as the box.

        Raises
        ------
        GeometryError
            If the box leaves the volume, or there is no such level.
        SourceError
            If a chunk is damaged or gone.
        """
        array = self._level(level)
        if not Box.whole(array.shape).contains(box):
            raise GeometryError(
                f"The box {box} leaves {self.name}, which has {array.shape} voxels (z, y, x) at level "
                f"{level}. Choose a box inside {Box.whole(array.shape)}."
            )
        voxels = np.empty(box.shape, array.dtype)
        for index in cells(box, array.chunks):
            where = cell_box(index, array.chunks, array.shape)
            chunk = CACHE.get((self._token, level, index), partial(self._decode, array, where))
            part = where & box
            voxels[part.relative_to(box.start).slices] = chunk[part.relative_to(where.start).slices]
        return voxels

    def scale(self, level: int) -> Zyx:
        """Return how many voxels of level 0 make one of ``level``, per axis."""
        array = self._level(level)
        if self.factors is not None:
            return self.factors[level]
        return zyx(max(round(n / m), 1) for n, m in zip(self.shape, array.shape, strict=True))

    def voxel_size_at(self, level: int) -> tuple[float, float, float] | None:
        """Return the voxel size of a level, in this volume's unit; None if unknown."""
        if self.voxel_size is None:
            return None
        (z, y, x), (fz, fy, fx) = self.voxel_size, self.scale(level)
        return z * fz, y * fy, x * fx

    def with_voxel_size(self, voxel_size: tuple[float, float, float], unit: str | None) -> Volume:
        """Return the same voxels with what a person knows of their size, where the source does not say it.

        Parameters
        ----------
        voxel_size : (z, y, x)
            Of level 0, in ``unit``.
        unit : str or None
            A UDUNITS-2 name.

        Raises
        ------
        GeometryError
            If a length is not a positive number, or the source says another.
        """
        _check_lengths(voxel_size)
        if self.voxel_size is not None and (self.voxel_size, self.unit) != (tuple(voxel_size), unit):
            raise GeometryError(
                f"{self.source} says that a voxel is {self.voxel_size} {self.unit or 'of no unit'}, not "
                f"{voxel_size} {unit or ''}. Leave the voxel size out, or convert the image with another one."
            )
        return replace(self, voxel_size=voxel_size, unit=unit, pixel_size=None)

    def completed(self, voxel_size: tuple[float, float, float] | None, unit: str | None) -> Volume:
        """Return the same voxels with the size that a person told, where one did and the source says none."""
        if voxel_size is None or self.voxel_size is not None:
            return self
        return self.with_voxel_size(voxel_size, unit)

    def nearest_level(self, voxel_size: tuple[float, float, float]) -> int:
        """Return the level whose voxels are closest to a size in this volume's unit, by ratio; 0 if unknown.

        Raises
        ------
        GeometryError
            If a length is not a positive number.
        """
        _check_lengths(voxel_size)
        if self.voxel_size is None:
            return 0
        own = self.voxel_size

        def distance(level: int) -> float:
            steps = zip(voxel_size, own, self.scale(level), strict=True)
            return sum(abs(log(wanted / (length * factor))) for wanted, length, factor in steps)

        return min(range(len(self.arrays)), key=distance)

    def _level(self, level: int) -> LazyArray:
        if not 0 <= level < len(self.arrays):
            raise GeometryError(
                f"{self.name} has no level {level}. Its levels are 0, the finest, to {len(self.arrays) - 1}."
            )
        return self.arrays[level]

    def _decode(self, array: LazyArray, where: Box) -> NDArray[Any]:
        try:
            chunk = np.ascontiguousarray(array[where.slices])
            if chunk.shape != where.shape:
                raise ValueError(f"decoded to {chunk.shape} instead of {where.shape}")
        except SourceError:
            raise
        except DECODING_ERRORS as error:
            raise SourceError(
                f"{self.source} cannot be decoded at {where} (z, y, x; page {where.start[0]} of a stack): "
                f"{type(error).__name__}: {str(error)[:300]}. The file is damaged there, or changed while "
                "it was open. Copy it again from where it came, or read a box beside the damage."
            ) from error
        chunk = chunk.view()
        chunk.setflags(write=False)
        return chunk

    def _dask(self, level: int) -> da.Array:
        array = self.arrays[level]
        name = f"volume-{self._token}-level-{level}"
        found: da.Array = da.from_array(  # type: ignore[no-untyped-call]
            _DaskSource(self, level),
            chunks=_dask_chunk(array.chunks, array.shape, self.dask_voxels),
            name=name,
            asarray=False,
            fancy=False,
            meta=np.empty((0, 0, 0), array.dtype),
        )
        return found


def _check_lengths(voxel_size: tuple[float, float, float]) -> None:
    if not all(isfinite(length) and length > 0 for length in voxel_size):
        raise GeometryError(f"The voxel size {voxel_size} is impossible. Give three positive lengths, z y x.")


class _DaskSource:
    """One level, indexed as dask does: by whole numbers and slices, perhaps with steps."""

    ndim = 3

    def __init__(self, volume: Volume, level: int) -> None:
        self._volume = volume
        self._level = level
        self.shape = volume.arrays[level].shape
        self.dtype = volume.arrays[level].dtype

    def __getitem__(self, index: tuple[int | slice, ...]) -> NDArray[Any]:
        index = (*index, *[slice(None)] * (3 - len(index)))
        spans = [
            range(n)[i] if isinstance(i, slice) else range(i, i + 1)
            for i, n in zip(index, self.shape, strict=True)
        ]
        start = zyx(min(span, default=0) for span in spans)
        stop = zyx(max(span, default=-1) + 1 for span in spans)
        voxels = self._volume.read(Box(start, stop), self._level)
        return voxels[tuple(slice(None, None, i.step) if isinstance(i, slice) else 0 for i in index)]


def _dask_chunk(chunk: Zyx, shape: Zyx, most: int) -> Zyx:
    """Return a multiple of a stored chunk that is large enough for dask not to count crumbs."""
    grown = list(chunk)
    for axis in (2, 1, 0):
        room = most // max(prod(grown), 1)
        grown[axis] *= max(min(room, -(-shape[axis] // grown[axis])), 1)
    return zyx(grown)
