"""Refuse a compressed chunk that would become far more than a chunk.

Each chunk that is asked for is looked at before Zarr decodes it. It is a file of its own,
or a piece of a shard, whose index says where::

    shard   ├ chunk ┼ chunk: "2 GiB" ┼ chunk ┼ index ┤      the array's chunk: 64 KiB   ──> refused
                └────────────────────────────────┘
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
from zarr.codecs.sharding import ShardingCodec, ShardingCodecIndexLocation

from napari_memseg.errors import SourceError
from napari_memseg.io.fast_arrays import open_fast
from napari_memseg.io.inflation import HEADER_BYTES, inflated_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import zarr
    from numpy.typing import NDArray

    from napari_memseg.io.fast_arrays import FastArray

SLACK = 8
"""Filters may make a chunk longer than its voxels, but never so many times."""
SLACK_BYTES = 2**20
NOT_STORED = 2**64 - 1
"""Place of a chunk that a shard does not hold."""


class Piece(NamedTuple):
    """Where the bytes of a chunk lie; all of the file if ``length`` is None."""

    file: Path
    start: int = 0
    length: int | None = None


@dataclass(frozen=True, eq=False)
class ModestArray:
    """A Zarr array on the local disk, each chunk of which is looked at before it is decoded.

    Attributes
    ----------
    array : zarr.Array
        If it has shards, their index is packed with nothing but "bytes" and "crc32c".
    folder : Path
        Where it lies.
    codec : str, optional
        What its chunks are compressed with, last of all; one of ``inflation.INFLATING``.
    """

    array: zarr.Array[Any]
    folder: Path
    codec: str | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        return tuple(self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """As stored."""
        return np.dtype(self.array.dtype)

    @property
    def chunks(self) -> tuple[int, ...]:
        """The unit of decoding; within a shard, its chunks."""
        return tuple(self.array.chunks)

    def __getitem__(self, index: tuple[slice, ...]) -> NDArray[Any]:
        """Decode slices, each with a start and a stop."""
        limit = self.dtype.itemsize * int(np.prod(self.chunks, dtype=np.int64)) * SLACK + SLACK_BYTES
        for piece in self._pieces(index):
            check_claim(piece, self.codec, limit)
        return np.asarray((self._fast or self.array)[index])

    @cached_property
    def _fast(self) -> FastArray | None:
        return open_fast(self.array, self.folder)

    def _pieces(self, index: tuple[slice, ...]) -> Iterator[Piece]:
        for key in product(*map(_touched, index, self.array.shards or self.chunks)):
            file = self.folder / self.array.metadata.encode_chunk_key(key)
            if self.array.shards is None:
                yield Piece(file)
            elif file.exists():
                yield from self._inside(file, key, index)

    def _inside(self, file: Path, shard: tuple[int, ...], index: tuple[slice, ...]) -> Iterator[Piece]:
        """Yield the chunks in one shard that slices touch."""
        codec = cast("ShardingCodec", cast("Any", self.array.metadata).codecs[0])
        counts = [s // c for s, c in zip(self.array.shards or (), self.chunks, strict=True)]
        places = _shard_index(file, codec, counts)
        for chunk in product(*map(_touched, index, self.chunks)):
            place = tuple(i - s * n for i, s, n in zip(chunk, shard, counts, strict=True))
            if all(0 <= i < n for i, n in zip(place, counts, strict=True)):
                start, length = map(int, places[place])
                if start != NOT_STORED:
                    yield Piece(file, start, length)


def check_claim(piece: Piece, codec: str | None, limit: int) -> None:
    """Refuse a chunk that would become more than ``limit`` bytes; one that is missing is fill value.

    Raises
    ------
    SourceError
        Naming the file and what it claims.
    """
    try:
        with piece.file.open("rb") as opened:
            there = max(opened.seek(0, 2) - piece.start, 0)
            claim = there if piece.length is None else min(piece.length, there)
            if codec and 0 < claim <= limit:
                opened.seek(piece.start)
                said = opened.read(min(claim, HEADER_BYTES.get(codec, claim)))
                claim = max(claim, inflated_size(codec, said, limit))
    except FileNotFoundError:
        return
    if claim > limit:
        raise SourceError(
            f"The chunk {piece.file} claims to hold {claim} bytes, but a chunk of this array has at most "
            f"{limit}. It is damaged or an attack, and was not decoded. "
            "Copy the Zarr again from where it came."
        )


def _touched(span: slice, chunk: int) -> range:
    return range(span.start // chunk, -(-span.stop // chunk))


def _shard_index(file: Path, codec: ShardingCodec, counts: Sequence[int]) -> NDArray[np.uint64]:
    """Return (*counts, 2) numbers: where each chunk of a shard begins, and how long it is."""
    size = 16 * int(np.prod(counts))
    with file.open("rb") as opened:
        if codec.index_location is ShardingCodecIndexLocation.end:
            opened.seek(max(opened.seek(0, 2) - size - 4 * (len(codec.index_codecs) - 1), 0))
        found = opened.read(size)
    return np.frombuffer(found, "<u8").reshape(*counts, 2)
