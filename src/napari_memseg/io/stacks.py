"""Write a volume plane by plane, in the formats that scanners and their software use.

Nobody needs to hold the volume: each plane is asked for, written and forgotten before the
next one is asked for. So whoever makes the planes sees how far the writing is::

    planes ──one──> check ──> name.tif.<random>.part ──after the last──> name.tif

A file, or a folder of slices, has its name once it is whole, and replaces nothing.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
import tifffile

from napari_memseg.errors import InputError
from napari_memseg.io.files import part_files, part_folder
from napari_memseg.io.stack_headers import META_TYPES, WRITER, Stack, meta_image, ome_xml, skyscan_log

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Iterable, Iterator

    from numpy.typing import NDArray

__all__ = ["Compression", "Stack", "write_bigtiff", "write_raw", "write_slices"]

Compression: TypeAlias = Literal["none", "zlib", "lzw", "zstd"]
"""How the planes of a TIFF are stored. All are lossless; older readers do not know zstd."""

TIFF_DTYPES = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64")
"""What OME-TIFF, and what other software reads of a TIFF, can hold."""
TIFF_ENDINGS = (".tif", ".tiff", ".btf", ".tf8")
"""By which a TIFF is known."""
TILE_STEP = 16
"""The sides of a TIFF's tile are a multiple of this."""
MIN_DIGITS = 4
"""A slice's number has at least so many."""
_FILE_NAME = re.compile(r'[^<>:"/\\|?*.][^<>:"/\\|?*]*')
"""What may begin the name of a file on every system, and is not hidden."""


def write_bigtiff(
    path: str | os.PathLike[str],
    stack: Stack,
    planes: Iterable[NDArray[Any]],
    *,
    compression: Compression = "none",
    tile: int | None = None,
) -> None:
    """Write a stack as one BigTIFF, described as OME-TIFF does.

    Parameters
    ----------
    path : path-like
        The file; folders above it are made where they are missing.
    stack : Stack
        What the planes make up.
    planes : iterable of (y, x) array
        Asked for one by one, the lowest z first.
    compression : {"none", "zlib", "lzw", "zstd"}
        Of each plane, or tile.
    tile : int, optional
        Side of a square tile in pixels, a multiple of 16; whole planes where it is left out.

    Raises
    ------
    InputError
        If something is at ``path``, the options are impossible, or the planes are not those
        of the stack. As when ``planes`` raises, nothing is left on disk.
    """
    final = _ending(path, TIFF_ENDINGS)
    options = _tiff_options(stack, compression)
    if tile is not None and (tile < TILE_STEP or tile % TILE_STEP):
        raise InputError(f"tile must be a multiple of {TILE_STEP} pixels, as TIFF asks, got {tile}.")
    options |= {"contiguous": True} if compression == "none" and tile is None else {}
    options |= {"tile": (tile, tile)} if tile else {}
    about: bytes | None = ome_xml(stack)
    with part_files(final) as (part,), tifffile.TiffWriter(part, bigtiff=True) as file:
        for plane in _checked(planes, stack):
            file.write(plane, description=about, **options)
            about = None  # the first page speaks for all
            del plane


def write_slices(
    folder: str | os.PathLike[str],
    stack: Stack,
    planes: Iterable[NDArray[Any]],
    *,
    compression: Compression = "none",
) -> None:
    """Write a stack as a folder of TIFF slices, with a log beside them as SkyScan scanners do.

    The log is left out where the voxel size is unknown.

    Parameters
    ----------
    folder : path-like
        Which becomes ``<name>_0000.tif``, ``<name>_0001.tif``, ..., ``<name>_.log``.
    stack, planes, compression
        As for ``write_bigtiff``.

    Raises
    ------
    InputError
        As by ``write_bigtiff``; or if a voxel is no cube, or the name none for a file.
    """
    if not _FILE_NAME.fullmatch(stack.name):
        raise InputError(
            f"{stack.name!r} cannot begin the name of a file on every system. Take out a leading dot and "
            r'all of < > : " / \ | ? * from it.'
        )
    options = _tiff_options(stack, compression)
    about = stack.description.encode() or None
    digits = max(MIN_DIGITS, len(str(stack.shape[0] - 1)))
    log = skyscan_log(stack, digits)
    with part_folder(folder) as part:
        files = (part / f"{stack.name}_{number:0{digits}}.tif" for number in range(stack.shape[0]))
        for plane in _checked(planes, stack):
            tifffile.imwrite(next(files), plane, description=about, **options)
            del plane
        if log is not None:
            (part / f"{stack.name}_.log").write_bytes(log)


def write_raw(path: str | os.PathLike[str], stack: Stack, planes: Iterable[NDArray[Any]]) -> None:
    """Write a stack as a MetaImage: bare voxels, and a header that says what they are.

    Parameters
    ----------
    path : path-like
        The header, ``<stem>.mhd``; the voxels go into ``<stem>.raw`` beside it.
    stack, planes
        As for ``write_bigtiff``.

    Raises
    ------
    InputError
        As by ``write_bigtiff``; or if there is a "%" in the file's name.
    """
    header = _ending(path, (".mhd",))
    data = header.with_suffix(".raw")
    if "%" in data.name:
        raise InputError(f"ITK reads a % in {data.name} as a pattern of names. Choose a name without it.")
    _check_dtype(stack, META_TYPES, "MetaImage")
    lowest_first = stack.dtype.newbyteorder("<")
    with part_files(data, header) as (data_part, header_part):
        header_part.write_bytes(meta_image(stack, data.name))
        with data_part.open("xb") as file:
            for plane in _checked(planes, stack):
                file.write(np.ascontiguousarray(plane, lowest_first).data)
                del plane


def _ending(path: str | os.PathLike[str], endings: tuple[str, ...]) -> Path:
    final = Path(path)
    if final.suffix.lower() not in endings:
        raise InputError(f"{final} should end in {' or '.join(endings)}, by which readers know the format.")
    return final


def _tiff_options(stack: Stack, compression: str) -> dict[str, Any]:
    """Return how a page is written, in tifffile's words."""
    _check_dtype(stack, TIFF_DTYPES, "TIFF")
    if compression not in get_args(Compression):
        raise InputError(f"compression={compression!r} is not known: {', '.join(get_args(Compression))} are.")
    return {
        "compression": None if compression == "none" else compression,
        "photometric": "minisblack",
        "metadata": None,
        "software": WRITER,
    }


def _check_dtype(stack: Stack, possible: Collection[str], form: str) -> None:
    if stack.dtype.name not in possible:
        raise InputError(
            f"{form} cannot hold {stack.dtype} voxels here; possible are {', '.join(possible)}. "
            "Convert the planes first, a mask to uint8 for example."
        )


def _checked(planes: Iterable[NDArray[Any]], stack: Stack) -> Iterator[NDArray[Any]]:
    """Pass on the planes that the stack should have, and let go of each before the next is made."""
    depth, *plane_shape = stack.shape
    number = 0
    for plane in planes:
        if number == depth:
            raise InputError(
                f"More planes came than the {depth} of {stack.shape}. Give fewer, or another shape."
            )
        if plane.shape != tuple(plane_shape) or plane.dtype != stack.dtype:
            raise InputError(
                f"Plane {number} is {plane.shape} {plane.dtype}, but each plane of {stack.name} should be "
                f"{tuple(plane_shape)} {stack.dtype}. Convert it, or say what is true of the stack."
            )
        yield plane
        number += 1
        del plane
    if number < depth:
        raise InputError(
            f"Only {number} planes came, of the {depth} of {stack.shape}. Give the missing ones."
        )
