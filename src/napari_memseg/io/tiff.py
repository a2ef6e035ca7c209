"""Read a TIFF as a volume, page by page or tile by tile.

The pages are walked through first (``tiff_pages.py``), so that a file that is cut off or
lies is refused, not shown with holes. Then tifffile decodes what is asked for. Strips are
decoded several at a time, since one is often only a few rows.
"""

from __future__ import annotations

import logging
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tifffile
import zarr

from napari_memseg.errors import SourceError
from napari_memseg.io.axes import SPACE, VolumeView, check_array, pick
from napari_memseg.io.tiff_metadata import imagej_lengths, ome_lengths, parse_ome, resolution_lengths
from napari_memseg.io.tiff_pages import Page, check_grey, scan_pages
from napari_memseg.io.units import pixel_size, voxel_size
from napari_memseg.io.volume import DECODING_ERRORS, Volume

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_memseg.io.source import Source
    from napari_memseg.io.tiff_metadata import Lengths

GROUP_BYTES = 2**20
"""Strips are decoded together up to this size."""

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # what is wrong is raised, not printed


def open_tiff(source: Source) -> Volume:
    """Open one series of a TIFF, BigTIFF, ImageJ or OME-TIFF file.

    Parameters
    ----------
    source : Source
        ``inner`` is the number of the series, needed where there is more than one.

    Raises
    ------
    SourceError
        If it is damaged, in colour, or not one volume without a choice.
    """
    scanned = scan_pages(source.path)
    ome = parse_ome(scanned.description, source.path)
    try:
        tif = tifffile.TiffFile(source.path)
        weakref.finalize(tif, tif.filehandle.close)
        number, series = _choose(tif.series, source)
        _check_series(series, scanned.pages, source)
        levels = [_stored(series, level) for level in range(len(series.levels))]
    except SourceError:
        raise
    except DECODING_ERRORS as error:
        raise SourceError(
            f"{source.path} is a damaged TIFF ({type(error).__name__}: {str(error)[:300]}). "
            "Copy it again from where it came, or write it again."
        ) from error
    axes = _axes(series, source)
    picked = pick(axes, levels[0].shape, source)
    arrays = [VolumeView(array, _group(array, axes), axes, picked) for array in levels]
    for array in arrays:
        check_array(array.stored.shape, array.stored.dtype, array.chunk, source)
    said = ome_lengths(ome, number) if ome is not None else page_lengths(tif)
    size, unit = voxel_size(*said)
    pixel = None if size else pixel_size(*said)
    return Volume(arrays, size, unit, source.name, str(source), _format(tif), pixel_size=pixel)


def _choose(found: Sequence[Any], source: Source) -> tuple[int, Any]:
    """Return the number and the series that the source means."""
    text = "; ".join(f"{n} has shape {series.shape} ({series.axes})" for n, series in enumerate(found[:8]))
    if source.inner is None and len(found) == 1:
        return 0, found[0]
    if source.inner is None or not source.inner.isdecimal() or int(source.inner) >= len(found):
        raise SourceError(
            f"{source} holds {len(found)} series of pages, which differ in size, dtype or meaning: {text}. "
            f"Choose one by its number, for example {source.path}::0"
        )
    return int(source.inner), found[int(source.inner)]


def _check_series(series: Any, pages: Sequence[Page], source: Source) -> None:
    samples = max(int(series.keyframe.samplesperpixel), series.sizes.get("S", 1))
    check_grey(source, samples)
    for file in {Path(page.parent.filehandle.path) for page in series if page is not None} - {source.path}:
        scan_pages(file)  # of the same set
    missing = sum(page is None for page in series)
    if missing:
        raise SourceError(
            f"{source} should have {len(series)} pages, but {missing} of them are missing, perhaps in files "
            "that belong to the set and are not beside it. Copy the whole set into one folder."
        )
    kinds = list(dict.fromkeys(pages))
    if len(kinds) > 1 and source.inner is None and series.kind != "ome" and not series.is_pyramidal:
        raise SourceError(
            f"{source} has pages of different size or type: page 0 is {kinds[0]}, page "
            f"{pages.index(kinds[1])} is {kinds[1]}. Save the pages of one volume as a file of their own."
        )


def _stored(series: Any, level: int) -> zarr.Array[Any]:
    store = series.aszarr(level=level)
    for handle in {page.parent.filehandle for page in series.levels[level]}:
        weakref.finalize(store, handle.close)
    return zarr.open_array(store, mode="r", zarr_format=2)


def _axes(series: Any, source: Source) -> list[str]:
    """Name the axes; where none is z, the innermost nameless one that is longer than 1 is it."""
    axes = [axis.lower() for axis in series.axes]
    if "z" not in axes:
        lengths = dict(enumerate(series.shape))
        others = [n for n, axis in enumerate(axes) if axis not in (*SPACE, "c", "t", *source.selection)]
        if slices := [n for n in others if lengths[n] > 1]:
            axes[slices[-1]] = "z"
    return [axis if axis not in axes[:n] else f"{axis}{n}" for n, axis in enumerate(axes)]


def _group(array: Any, axes: Sequence[str]) -> tuple[int, ...]:
    """Return the unit of decoding: a tile, or as many strips as make a good bite."""
    chunk = list(array.chunks)
    y, x = axes.index("y"), axes.index("x")
    if chunk[x] >= array.shape[x]:
        row_bytes = chunk[x] * array.dtype.itemsize
        strips = max(GROUP_BYTES // (row_bytes * chunk[y]), 1)
        chunk[y] = min(chunk[y] * strips, -(-array.shape[y] // chunk[y]) * chunk[y])
    return tuple(chunk)


def page_lengths(tif: Any) -> Lengths:
    """Return what the tags of the first page of a file that is no OME-TIFF say of a voxel."""
    tags = tif.pages[0].tags
    resolution = {"x": tags.valueof("XResolution"), "y": tags.valueof("YResolution")}
    if tif.is_imagej:
        return imagej_lengths(tif.imagej_metadata or {}, resolution)
    return resolution_lengths(resolution, tags.valueof("ResolutionUnit"))


def _format(tif: Any) -> str:
    kinds = [name for name, holds in (("ome", tif.is_ome), ("imagej", tif.is_imagej)) if holds]
    return "-".join([*kinds[:1], "bigtiff" if tif.is_bigtiff else "tiff"])
