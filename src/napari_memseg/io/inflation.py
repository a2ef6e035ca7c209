"""Tell how large a compressed chunk would become, without letting it.

A few kilobytes can inflate to gigabytes, and the decoders ask nobody. Some formats say
at their beginning how large they will be; the others are inflated a piece at a time,
and the pieces thrown away, until they are done or were too many::

    blosc, lz4    a number in the header
    zstd          a number in the header of each frame, or else its blocks, 128 KiB each at most
    gzip, zlib, bz2     inflated up to the limit

Of lzma, pcodec and zfpy nothing is known before they took the memory, so they are not in the list.
"""

from __future__ import annotations

import bz2
import zlib
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
ZSTD_BLOCK = 2**17
"""What a compressed block becomes, at most."""
DEFLATE_RATIO = 1032
"""Deflate never packs tighter."""
PIECE = 2**20
"""Bytes that are inflated at a time."""


def inflated_size(codec: str, data: bytes, limit: int) -> int:
    """Return how many bytes a chunk becomes, or claims to; once past ``limit``, at least so many.

    Parameters
    ----------
    codec : str
        One of ``INFLATING``.
    data : bytes
        The chunk. Where it is damaged the count ends: the decoder will say so.
    limit : int
        In bytes.
    """
    return INFLATING[codec](data, limit)


def deflated_size(data: bytes, limit: int) -> int:
    """Return the same as ``inflated_size`` of a bare deflate stream, without zlib's or gzip's header."""
    return _deflate(data, limit, bits=-15)


def _blosc(data: bytes, limit: int) -> int:
    return int.from_bytes(data[4:8], "little")


def _lz4(data: bytes, limit: int) -> int:
    return int.from_bytes(data[:4], "little")


def _zstd(data: bytes, limit: int) -> int:
    """Sum up the frames, RFC 8878; skippable ones lie between."""
    total = place = 0
    while total <= limit and place + 8 <= len(data):
        if data[place] >> 4 == 5 and data[place + 1 : place + 4] == b"\x2a\x4d\x18":
            place += 8 + int.from_bytes(data[place + 4 : place + 8], "little")
        elif data[place : place + 4] == ZSTD_MAGIC:
            size, place = _zstd_frame(data, place)
            total += size
        else:
            break
    return total


def _zstd_frame(data: bytes, place: int) -> tuple[int, int]:
    """Return what a frame becomes, as it says or else as its blocks do at most, and where it ends."""
    descriptor = data[place + 4]
    single = descriptor >> 5 & 1
    start = place + 6 - single + (0, 1, 2, 4)[descriptor & 3]
    width = (single, 2, 4, 8)[descriptor >> 6]
    said = int.from_bytes(data[start : start + width], "little") + (256 if width == 2 else 0)
    place, blocks, last = start + width, 0, False
    while not last and place + 3 <= len(data):
        header = int.from_bytes(data[place : place + 3], "little")
        last, kind, size = bool(header & 1), header >> 1 & 3, header >> 3
        blocks += ZSTD_BLOCK if kind == 2 else size
        place += 3 + (1 if kind == 1 else size)  # 1: one byte, repeated
    return said if width else blocks, place + (4 if descriptor & 4 else 0)


def _deflate(data: bytes, limit: int, *, bits: int) -> int:
    """Inflate one stream after another, with the zeros that may lie between."""
    total = 0
    if len(data) * DEFLATE_RATIO <= limit:
        return total
    try:
        while data and total <= limit:
            stream = zlib.decompressobj(bits)
            while data and not stream.eof and total <= limit:
                total += len(stream.decompress(data, PIECE))
                data = stream.unconsumed_tail
            data = stream.unused_data.lstrip(b"\0")
    except zlib.error:
        pass
    return total


def _bz2(data: bytes, limit: int) -> int:
    total = 0
    try:
        while data and total <= limit:
            stream, rest = bz2.BZ2Decompressor(), data
            while not stream.eof and total <= limit and (rest or not stream.needs_input):
                total += len(stream.decompress(rest, PIECE))
                rest = b""
            data = stream.unused_data if stream.eof else b""
    except OSError:
        pass
    return total


INFLATING: Mapping[str, Callable[[bytes, int], int]] = {
    "blosc": _blosc,
    "bz2": _bz2,
    "gzip": partial(_deflate, bits=31),
    "lz4": _lz4,
    "zlib": partial(_deflate, bits=15),
    "zstd": _zstd,
}
"""Codecs whose chunks grow when they are decoded, and may be decoded all the same."""

HEADER_BYTES = {"blosc": 16, "lz4": 16}
"""Codecs that say it in their first bytes, so that no more need be read."""
