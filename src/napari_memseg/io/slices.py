"""Read a folder of slices, one TIFF, PNG or BMP each, as a volume.

Scanners write thousands of files whose names count. Reading them in that order is easy;
the care is for what goes wrong on the way from the scanner, and is refused by name::

    slice_0007.tif, slice_0008.tif, slice_0010.tif     0009 is missing
    slice_0007.tif, slice_007.tif                      two for one place
    slice_0007.tif (2000 x 2000), overview.tif (480 x 640)

Where a SkyScan log lies beside them, it says how long a voxel is.
"""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile

from napari_memseg.errors import SourceError
from napari_memseg.io import pictures
from napari_memseg.io.axes import check_array, voxel_dtype
from napari_memseg.io.content import check_content
from napari_memseg.io.skyscan import logged_lengths
from napari_memseg.io.tiff import page_lengths
from napari_memseg.io.tiff_pages import Page, scan_pages
from napari_memseg.io.units import pixel_size, voxel_size
from napari_memseg.io.volume import DECODING_ERRORS, Volume

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from napari_memseg.geometry import Zyx
    from napari_memseg.io.source import Source
    from napari_memseg.io.units import PixelSize

ENDINGS = (".tif", ".tiff", *pictures.ENDINGS)
"""Of files that are slices."""
MAX_SLICES = 2**20
"""A folder with more files than this is refused."""
AT_ONCE = 512
"""Headers that are looked at before a folder is shown; of more slices, later (``Volume.check``)."""
THREADS = 8
"""Headers that are looked at at a time: each waits for the disk, mostly."""
_PREVIEW = re.compile(r"_spr$", re.IGNORECASE)
"""How SkyScan names the preview that it puts beside the slices."""


@dataclass(frozen=True, eq=False)
class SliceArray:
    """A ``LazyArray`` over files of one plane each."""

    files: tuple[Path, ...]
    plane: tuple[int, int]
    stored: np.dtype[Any]
    header: Page
    """What every file says of itself."""

    @property
    def shape(self) -> Zyx:
        """Length of each axis, in voxels."""
        return len(self.files), *self.plane

    @property
    def chunks(self) -> Zyx:
        """One file."""
        return 1, *self.plane

    @property
    def dtype(self) -> np.dtype[Any]:
        """What the voxels become."""
        return voxel_dtype(self.stored)

    def __getitem__(self, index: tuple[slice, slice, slice]) -> NDArray[Any]:
        """Decode the slices of a span, and cut them to the other two."""
        planes = [self._plane(file)[index[1:]] for file in self.files[index[0]]]
        return np.stack(planes).astype(self.dtype, copy=False)

    def checks(self) -> Iterator[None]:
        """Read all headers, a step for each, and refuse the first file that differs from the first one.

        Raises
        ------
        SourceError
            Naming both.
        """
        pool = ThreadPoolExecutor(THREADS)
        try:
            yield from pool.map(self._check_alike, self.files)
        finally:
            pool.shutdown(cancel_futures=True)

    def _check_alike(self, file: Path) -> None:
        page = _only_page(file)
        if page != self.header:
            raise SourceError(
                f"{file.name} in {file.parent} is {page}, but {self.files[0].name} is {self.header}. All "
                "slices of a volume are alike: move away what does not belong to it or was changed, and open "
                "the folder again."
            )

    def _plane(self, file: Path) -> NDArray[Any]:
        self._check_alike(file)
        plane = _decode(file)
        if plane.shape != self.plane or plane.dtype != self.stored:
            raise SourceError(
                f"{file} has changed since the folder was opened: it is {plane.shape} {plane.dtype} now, "
                f"was {self.plane} {self.stored}. Open the folder again once it is complete."
            )
        return plane


def holds_slices(folder: Path) -> bool:
    """Whether there is a file in a folder that could be a slice."""
    with os.scandir(folder) as entries:
        return any(_is_slice(entry) for entry in entries)


def open_slices(source: Source) -> Volume:
    """Open a folder of TIFF, PNG or BMP slices, in the order that their names count.

    Raises
    ------
    SourceError
        If a slice is missing, is there twice, differs from the others or is damaged; or the
        names do not count. Of more than ``AT_ONCE`` slices only the first header is read: the others
        are when ``Volume.check`` is called, and each when its slice is read.
    """
    if source.inner or source.selection:
        raise SourceError(
            f"{source.path} is a folder of slices, and there is nothing to choose inside it. "
            f"Open it as {source.path}."
        )
    array, pixel = _array(_listed(source.path))
    check_array(array.shape, array.stored, array.chunks, source)
    if at_once := len(array.files) <= AT_ONCE:
        for _ in array.checks():
            pass
    _check_order(array.files)
    step, between, logged = logged_lengths(source.path) or (None, None, None)
    size, unit = voxel_size((step, between, between), (logged,) * 3)
    kind = array.files[0].suffix[1:].lower().replace("tiff", "tif").replace("tif", "tiff")
    return Volume(
        *((array,), size, unit, source.name, str(source), f"{kind} slices"),
        pixel_size=None if size else pixel,
        check_rest=None if at_once else array.checks,
    )


def _is_slice(entry: os.DirEntry[str]) -> bool:
    stem, ending = os.path.splitext(entry.name)
    hidden = entry.name.startswith((".", "Thumbs"))
    return ending.lower() in ENDINGS and not hidden and not _PREVIEW.search(stem) and entry.is_file()


def _listed(folder: Path) -> tuple[Path, ...]:
    """Return the slices of a folder, sorted by the numbers of their names."""
    with os.scandir(folder) as entries:
        files = [Path(entry.path) for entry in entries if _is_slice(entry)]
    if tiffs := [file for file in files if file.suffix.lower() not in pictures.ENDINGS]:
        files = tiffs  # a picture beside them is a screenshot
    if not 0 < len(files) <= MAX_SLICES:
        raise SourceError(
            f"{folder} holds {len(files)} slices ({', '.join(ENDINGS)}); possible are 1 to {MAX_SLICES}. "
            "Choose the folder that the slices lie in."
        )
    return tuple(sorted(files, key=_natural))


def _natural(file: Path) -> tuple[tuple[str, ...], tuple[int, ...], str]:
    """Sort by the words of a name, then by its numbers as numbers."""
    return _words(file), _numbers(file), file.name


def _words(file: Path) -> tuple[str, ...]:
    return tuple(re.split(r"\d+", file.stem.lower()))


def _numbers(file: Path) -> tuple[int, ...]:
    return tuple(int(digits) for digits in re.findall(r"\d+", file.stem))


def _only_page(file: Path) -> Page:
    check_content(file)
    if file.suffix.lower() in pictures.ENDINGS:
        return _check_samples(file, pictures.page_of(file))
    found = scan_pages(file, first=True)
    page = found.pages[0]
    if found.more:
        raise SourceError(
            f"{file} holds several pages, but each file of a folder of slices holds one. Open it by itself, "
            "or move it away."
        )
    return _check_samples(file, page)


def _check_samples(file: Path, page: Page) -> Page:
    if page.samples > 1:
        raise SourceError(
            f"{file} has {page.samples} samples per pixel: it is a colour image, not a slice of grey values. "
            "Save the slices in grey."
        )
    return page


def _check_order(files: Sequence[Path]) -> None:
    """Refuse names that do not count, each number once and none left out."""
    if len(files) == 1:
        return
    for file in files:
        if _words(file) != _words(files[0]):
            raise SourceError(
                f"{files[0].name} and {file.name} in {file.parent} are named in two ways, so their order is "
                "unknown. Keep one series of slices in a folder, with names that differ in one number."
            )
    columns = list(zip(*map(_numbers, files), strict=True))
    counting = [column for column in columns if len(set(column)) > 1]
    _check_once(files, columns)
    if len(counting) != 1:
        raise SourceError(
            f"{files[0].name} to {files[-1].name} in {files[0].parent} differ in {len(counting)} numbers, so "
            "their order is unknown. Keep slices in a folder whose names differ in one number."
        )
    _check_gaps(files, counting[0])


def _check_once(files: Sequence[Path], columns: Sequence[Sequence[int]]) -> None:
    rows = list(zip(*columns, strict=True))
    for (a, first), (b, second) in pairwise(zip(rows, files, strict=True)):
        if a == b:
            raise SourceError(
                f"{first.name} and {second.name} in {first.parent} are two slices for one place. "
                "Move away the one that does not belong to the volume."
            )


def _check_gaps(files: Sequence[Path], numbers: Sequence[int]) -> None:
    """Refuse a step that is longer than the shortest one."""
    step = min(b - a for a, b in pairwise(numbers))
    for (a, first), (b, second) in pairwise(zip(numbers, files, strict=True)):
        if b - a != step:
            raise SourceError(
                f"In {first.parent} a slice is missing: number {a + step} should come after {first.name}, "
                f"but {second.name} does. Copy the missing slices, or renumber the files if none is missing."
            )


def _decode(file: Path) -> NDArray[Any]:
    if file.suffix.lower() in pictures.ENDINGS:
        return pictures.decode(file)
    with tifffile.TiffFile(file) as tif:
        return np.asarray(tif.pages[0].asarray())


def _array(files: tuple[Path, ...]) -> tuple[SliceArray, PixelSize | None]:
    """Return the array that the first file promises, and what it says of its pixels."""
    header = _only_page(files[0])
    if files[0].suffix.lower() in pictures.ENDINGS:
        return SliceArray(files, (header.height, header.width), np.dtype(header.dtype), header), None
    try:
        with tifffile.TiffFile(files[0]) as tif:
            page = tif.pages[0]
            height, width = (int(n) for n in page.shape)
            stored = np.dtype(page.dtype).newbyteorder("=")
            return SliceArray(files, (height, width), stored, header), pixel_size(*page_lengths(tif))
    except DECODING_ERRORS as error:
        raise SourceError(
            f"{files[0]} is a damaged TIFF ({type(error).__name__}: {str(error)[:300]}). Copy it again."
        ) from error
