"""Walk through the pages of a TIFF, before anything in it is believed or decoded.

A TIFF is a chain of page directories, each with the places of its strips or tiles. One
that was cut off still opens in most readers, short of pages or with zeros in their
stead. So the whole chain is walked, and every place compared with the file's size::

    header ──> directory ──> directory ──> ... ──> 0
                   └──> strips: offset + count <= size of the file

https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from struct import Struct
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

from napari_memseg.errors import SourceError

if TYPE_CHECKING:
    from pathlib import Path

MAX_PAGES = 2**18
"""A file with more pages than this is refused."""
MAX_TEXT_BYTES = 2**24
"""A description longer than this is refused."""
MAX_ENTRIES = 4096
"""A directory with more entries than this is refused."""
MAX_RATIO = 2**20
"""Compressed bytes never stand for more than so many times as many voxels' bytes."""

WIDTH, HEIGHT, BITS, COMPRESSION, DESCRIPTION, SAMPLES, ROWS, KIND = 256, 257, 258, 259, 270, 277, 278, 339
OFFSETS, COUNTS, TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_COUNTS, PLANAR = (
    273,
    279,
    322,
    323,
    324,
    325,
    284,
)
_WANTED = {
    *(WIDTH, HEIGHT, BITS, COMPRESSION, DESCRIPTION, SAMPLES, ROWS, KIND, PLANAR),
    *(OFFSETS, COUNTS, TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_COUNTS),
}
_CODES = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_Tags: TypeAlias = Mapping[int, tuple[int, int, bytes]]
_KINDS = {1: "uint", 2: "int", 3: "float", 5: "complex int", 6: "complex"}


@dataclass(frozen=True, slots=True)
class Page:
    """What a page directory says."""

    height: int
    width: int
    bits: int
    kind: str
    samples: int

    @property
    def dtype(self) -> str:
        """Of a sample, in words: "uint16"."""
        return f"{self.kind}{self.bits}"

    @property
    def nbytes(self) -> int:
        """Of the page, decoded."""
        return self.height * -(-self.width * self.samples * self.bits // 8)

    def __str__(self) -> str:
        return f"{self.height} x {self.width} (y, x) {self.dtype}" + (
            f" with {self.samples} samples per pixel" if self.samples > 1 else ""
        )


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the numbers of a directory stand, in a classic TIFF or a BigTIFF, in either byte order."""

    order: str
    big: bool

    @property
    def count(self) -> Struct:
        """Number of entries."""
        return Struct(self.order + ("Q" if self.big else "H"))

    @property
    def entry(self) -> Struct:
        """Tag, type, number of values; the values, or their offset, follow."""
        return Struct(self.order + ("HHQ8s" if self.big else "HHI4s"))

    @property
    def offset(self) -> Struct:
        """Place in the file."""
        return Struct(self.order + ("Q" if self.big else "I"))


@dataclass(frozen=True, slots=True)
class Pages:
    """All pages of a file, or only the first, and what is said there of the others."""

    pages: list[Page]
    description: str
    more: bool
    """Whether pages follow that were not looked at."""


def scan_pages(path: Path, *, first: bool = False) -> Pages:
    """Read every page directory of a TIFF; or only the first, and whether others follow.

    Returns
    -------
    Pages
        At least one.

    Raises
    ------
    SourceError
        If it is no TIFF, is cut off, or claims more than it holds.
    """
    with path.open("rb") as file:
        return _Walk(path, file, path.stat().st_size).run(first)


class _Walk:
    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self._path = path
        self._file = file
        self._size = size
        self._layout, self._start = self._header()
        self._found: list[Page] = []
        self._description = ""
        self._first_end = 0

    def run(self, first: bool) -> Pages:
        offset, seen = self._start, set[int]()
        while offset and not (first and seen):
            if offset in seen:
                found = len(seen)
                raise self._damage(f"has pages in a loop: behind the last of {found} follows an earlier one")
            if len(self._found) >= MAX_PAGES:
                raise self._damage(f"has more than {MAX_PAGES} pages")
            seen.add(offset)
            tags, offset = self._directory(offset)
            self._found.append(self._page(tags))
        if not self._found:
            raise self._damage("has no page")
        promised = _promised_pages(self._description, self._found[0])
        if not first:
            self._check_promise(promised)
        return Pages(self._found, self._description, first and (bool(offset) or promised > 1))

    def _header(self) -> tuple[Layout, int]:
        head = self._file.read(16)
        order = {b"II": "<", b"MM": ">"}.get(head[:2])
        version = int.from_bytes(head[2:4], "little" if order == "<" else "big")
        if order is None or version not in (42, 43) or len(head) < (16 if version == 43 else 8):
            raise SourceError(
                f"{self._path} is not a TIFF, although it is named like one: it begins with {head[:8]!r}. "
                "Export it again as TIFF, or give it the ending of what it is."
            )
        layout = Layout(order, version == 43)
        place = 8 if layout.big else 4
        return layout, layout.offset.unpack_from(head, place)[0]

    def _directory(self, offset: int) -> tuple[_Tags, int]:
        layout = self._layout
        number = layout.count.unpack(self._read(offset, layout.count.size))[0]
        if number > MAX_ENTRIES:
            raise self._damage(f"claims {number} entries in the directory of page {len(self._found)}")
        length = number * layout.entry.size
        block = self._read(offset + layout.count.size, length + layout.offset.size)
        entries = layout.entry.iter_unpack(block[:length])
        tags = {tag: (kind, count, value) for tag, kind, count, value in entries if tag in _WANTED}
        return tags, layout.offset.unpack(block[length:])[0]

    def _page(self, tags: _Tags) -> Page:
        """Read what a directory says of its page, and compare it with what lies in the file."""
        kind = _KINDS.get(self._value(tags, KIND, 1), "uint")
        height, width = self._value(tags, HEIGHT, 0), self._value(tags, WIDTH, 0)
        page = Page(height, width, self._value(tags, BITS, 1), kind, self._value(tags, SAMPLES, 1))
        if min(page.height, page.width, page.bits, page.samples) < 1:
            raise self._damage(f"gives page {len(self._found)} no height, width or value")
        if not self._found and DESCRIPTION in tags:
            self._description = self._text(tags)
        self._check_storage(page, tags)
        return page

    def _check_storage(self, page: Page, tags: _Tags) -> None:
        tiled, number = TILE_OFFSETS in tags, len(self._found)
        offsets = self._values(tags, TILE_OFFSETS if tiled else OFFSETS)
        counts = self._values(tags, TILE_COUNTS if tiled else COUNTS) or [self._size // 2] * len(offsets)
        needed, name = self._segments(page, tags, tiled), "tiles" if tiled else "strips"
        plain, stored = self._value(tags, COMPRESSION, 1) == 1, sum(counts)
        if page.nbytes > stored * (1 if plain else MAX_RATIO):
            raise self._damage(
                f"claims {page.nbytes} bytes of voxels on page {number} ({page}), but only {stored} bytes "
                "lie there"
            )
        if min(len(offsets), len(counts)) < needed:
            raise self._damage(f"lists {len(offsets)} of the {needed} {name} that page {number} needs")
        if not all(offsets) or not all(counts):
            raise self._damage(f"was never filled: page {number} has {name} without data")
        end = max(map(sum, zip(offsets, counts, strict=False)))
        if end > self._size and (COUNTS in tags or tiled):
            raise self._cut(f"page {number} needs bytes up to {end}; {self._so_far()}")
        if not number and plain:
            self._first_end = min(offsets) + page.nbytes

    def _segments(self, page: Page, tags: _Tags, tiled: bool) -> int:
        """Count the strips or tiles that hold a page."""
        down = self._value(tags, TILE_HEIGHT if tiled else ROWS, page.height)
        across = self._value(tags, TILE_WIDTH, page.width) if tiled else page.width
        planes = page.samples if self._value(tags, PLANAR, 1) == 2 else 1
        return -(-page.height // max(down, 1)) * -(-page.width // max(across, 1)) * planes

    def _value(self, tags: _Tags, tag: int, default: int) -> int:
        return next(iter(self._values(tags, tag)), default)

    def _values(self, tags: _Tags, tag: int) -> list[int]:
        """Return the whole numbers of a tag; none where it is missing."""
        kind, count, value = tags.get(tag, (1, 0, b""))
        if kind not in _CODES:
            raise self._damage(f"stores tag {tag} of page {len(self._found)} as type {kind}")
        layout = Struct(f"{self._layout.order}{_CODES[kind]}")
        return [number for (number,) in layout.iter_unpack(self._raw(value, count * layout.size))]

    def _text(self, tags: _Tags) -> str:
        _, count, value = tags[DESCRIPTION]
        if count > MAX_TEXT_BYTES:
            raise self._damage(f"has a description of {count} bytes, more than {MAX_TEXT_BYTES}")
        return self._raw(value, count).rstrip(b"\0").decode("utf-8", "replace")

    def _raw(self, value: bytes, length: int) -> bytes:
        inside = length <= len(value)
        return value[:length] if inside else self._read(self._layout.offset.unpack(value)[0], length)

    def _check_promise(self, promised: int) -> None:
        """Compare the number of pages with the promised one, unless the first page holds all voxels."""
        rest = (promised - 1) * self._found[0].nbytes
        in_one = len(self._found) == 1 and 0 < self._first_end + rest <= self._size
        if promised > len(self._found) and not in_one:
            raise self._cut(f"it holds {len(self._found)} of {promised} pages")

    def _read(self, offset: int, length: int) -> bytes:
        if offset + length > self._size:
            raise self._cut(f"page {len(self._found)} lies at byte {offset}; {self._so_far()}")
        self._file.seek(offset)
        return self._file.read(length)

    def _so_far(self) -> str:
        found = len(self._found)
        promised = _promised_pages(self._description, self._found[0]) if found else 0
        return f"{found}{f' of {promised}' if promised > found else ''} whole pages come before it"

    def _cut(self, what: str) -> SourceError:
        return SourceError(
            f"{self._path} is cut off or damaged: {what}, but the file ends at byte {self._size}. "
            "Copy it again from where it came, or write it again."
        )

    def _damage(self, what: str) -> SourceError:
        return SourceError(f"{self._path} {what}. It is a damaged TIFF: copy it again, or write it again.")


def _promised_pages(description: str, page: Page) -> int:
    """Return how many pages ImageJ or tifffile say that they wrote; 1 if they say nothing."""
    if description.startswith("ImageJ="):
        found = re.search(r"^images=(\d{1,9})\s*$", description, re.MULTILINE)
        return int(found[1]) if found else 1
    try:
        lengths = json.loads(description)["shape"] if description.startswith('{"shape"') else []
        voxels = prod(int(n) for n in lengths[:32])
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return 1
    return max(voxels // (page.height * page.width * page.samples), 1)


def check_grey(what: object, samples: int) -> None:
    """Refuse pages with several samples per pixel.

    Raises
    ------
    SourceError
        Naming ``what`` is in colour.
    """
    if samples > 1:
        raise SourceError(
            f"{what} has {samples} samples per pixel: it is a colour image, not a volume of grey values. "
            "Save one channel, or the luminance, as a grey TIFF (in Fiji: Image > Type > 8-bit)."
        )
