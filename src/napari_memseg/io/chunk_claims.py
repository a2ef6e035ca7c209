"""Refuse a compressed chunk that claims to become far more than a chunk.

A few kilobytes can inflate to gigabytes, and the decoders ask nobody. But most compressed
formats say at their beginning how large they will be, so that can be compared first::

    chunk file   ├ header: "2 GiB" ┼─ ... ─┤        the array's chunk: 64 KiB   ──> refused
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_memseg.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import zarr
    from numpy.typing import NDArray

SLACK = 8
"""Filters may make a chunk longer than its voxels, but never so many times."""
SLACK_BYTES = 2**20


@dataclass(frozen=True, eq=False)
class ModestArray:
    """A Zarr array on the local disk, each chunk of which is looked at before it is decoded."""

    array: zarr.Array[Any]
    folder: Path

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
        if self.array.shards is None:
            limit = (
                self.array.dtype.itemsize * int(np.prod(self.chunks, dtype=np.int64)) * SLACK + SLACK_BYTES
            )
            for file in self._files(index):
                check_claim(file, limit)
        return np.asarray(self.array[index])

    def _files(self, index: tuple[slice, ...]) -> Iterator[Path]:
        spans = (range(s.start // c, -(-s.stop // c)) for s, c in zip(index, self.chunks, strict=True))
        for chunk in product(*spans):
            yield self.folder / self.array.metadata.encode_chunk_key(chunk)


def check_claim(file: Path, limit: int) -> None:
    """Refuse a chunk file that would become more than ``limit`` bytes; one that is missing is fill value.

    Raises
    ------
    SourceError
        Naming the file and what it claims.
    """
    try:
        with file.open("rb") as opened:
            head = opened.read(32)
            size = opened.seek(0, 2)
    except FileNotFoundError:
        return
    claim = max(size, zstd_claim(head), blosc_claim(head, size))
    if head[:2] == b"\x1f\x8b" and size * 1032 > limit:
        claim = _inflated(file, limit)
    if claim > limit:
        raise SourceError(
            f"The chunk {file} claims to hold {claim} bytes, but a chunk of this array has at most {limit}. "
            "It is damaged or an attack, and was not decoded. Copy the Zarr again from where it came."
        )


def zstd_claim(head: bytes) -> int:
    """Return the content size in the header of a Zstandard frame, RFC 8878; 0 if it says none."""
    if head[:4] != b"\x28\xb5\x2f\xfd" or len(head) < 18:
        return 0
    descriptor = head[4]
    single = descriptor >> 5 & 1
    start = 5 + (1 - single) + (0, 1, 2, 4)[descriptor & 3]
    width = (single, 2, 4, 8)[descriptor >> 6]
    return int.from_bytes(head[start : start + width], "little") + (256 if width == 2 else 0)


def blosc_claim(head: bytes, size: int) -> int:
    """Return the content size in the header of a Blosc 1 chunk of ``size`` bytes; 0 if it is none."""
    version, _, _, _, content, _, stored = np.frombuffer(head[:16].ljust(16, b"\0"), _BLOSC)[0]
    return int(content) if version == 2 and stored == size else 0


_BLOSC = np.dtype("u1,u1,u1,u1,<u4,<u4,<u4")


def _inflated(file: Path, limit: int) -> int:
    """Return how long a gzip file becomes, looking no further than the limit."""
    inflate, total = zlib.decompressobj(31), 0
    with file.open("rb") as opened:
        while total <= limit and (piece := inflate.unconsumed_tail or opened.read(2**16)):
            total += len(inflate.decompress(piece, 2**20))
    return total
