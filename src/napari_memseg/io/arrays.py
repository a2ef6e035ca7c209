"""Make and fill zarr arrays whose chunks are checked when read and whole when written.

Every array of ours has one set of codecs (bytes, zstd, crc32c), so that a flipped bit is
an error and not another label, and no shards: a chunk is one file, with one writer::

    write ──> chunk.<random>.partial ──rename──> chunk ──flush──> chunk, its folders

A chunk that was written always exists as a file, also where all of it is fill
value: a missing file means "nobody has been here" and nothing else.

Reading follows links. Writing does not leave the folder: a link in place of a chunk is
replaced by the chunk, and one in place of a folder is refused.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec, ZstdCodec

from napari_memseg.errors import GeometryError, InputError
from napari_memseg.files import fsync_path
from napari_memseg.io.files import part_folder

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from numpy.typing import DTypeLike, NDArray


def create_array(
    path: str | os.PathLike[str],
    *,
    shape: Sequence[int],
    dtype: DTypeLike,
    chunks: Sequence[int],
    fill_value: Any = 0,
) -> zarr.Array[Any]:
    """Make one empty array, (C, z, y, x) or any other, with the codecs of every level.

    Parameters
    ----------
    path : path-like
        A folder that does not exist yet, or is empty.
    shape, chunks : sequence of int
        One length per axis; a chunk is cut to the shape where it is larger.

    Raises
    ------
    InputError
        If something is at ``path``.
    """
    cut = tuple(min(c, max(n, 1)) for c, n in zip(chunks, shape, strict=True))
    with part_folder(path) as part:
        new_array(part, tuple(shape), np.dtype(dtype), cut, fill_value, None)
    return open_array(Path(path))


def new_array(
    path: Path,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    chunks: tuple[int, ...],
    fill_value: Any,
    names: tuple[str, ...] | None,
) -> None:
    """Write the description of an empty array, not yet durably, into a folder that is being built."""
    zarr.create_array(
        path,
        shape=shape,
        chunks=chunks,
        dtype=dtype.newbyteorder("="),
        fill_value=fill_value,
        serializer=BytesCodec(),
        compressors=[ZstdCodec(level=3), Crc32cCodec()],
        dimension_names=names,
        zarr_format=3,
    )


def open_array(path: Path) -> zarr.Array[Any]:
    """Open an array to go on writing it.

    Raises
    ------
    OSError
        If there is none.
    """
    array = zarr.open_array(path, mode="r+", zarr_format=3)
    return array.with_config({"write_empty_chunks": True})


def write_durable(
    array: zarr.Array[Any], slices: tuple[slice, ...], data: NDArray[Any], *, durable: bool = True
) -> None:
    """Write whole chunks of an array on the local disk, and wait until they are there.

    Parameters
    ----------
    array : zarr.Array
        As ``create_array`` or a pyramid gives it.
    slices : tuple of slice
        One per axis, with a start and a stop that are multiples of the chunk or the array's end.
    data : array
        As large as the slices say, of a dtype that the array's holds without loss.

    Raises
    ------
    GeometryError
        If the slices cut a chunk, leave the array, or differ from ``data`` in shape.
    InputError
        If the dtype does not fit, or a folder on the way to a chunk is a link.
    """
    _check_whole_chunks(array, slices, data)
    files = _chunk_files(array, slices)
    folders = _folders_of(array, files)
    for folder in folders:
        refuse_link(folder)
    array[slices] = data.astype(array.dtype, copy=False)
    if durable:
        _fsync_chunks(files, folders)


def _check_whole_chunks(array: zarr.Array[Any], slices: tuple[slice, ...], data: NDArray[Any]) -> None:
    spans = list(zip(slices, array.chunks, array.shape, strict=True))
    whole = all(
        0 <= s.start < s.stop <= n and s.start % c == 0 and (s.stop % c == 0 or s.stop == n)
        for s, c, n in spans
    )
    wanted = tuple(s.stop - s.start for s in slices)
    if not whole or data.shape != wanted:
        text = ",".join(f"{s.start}:{s.stop}" for s in slices)
        raise GeometryError(
            f"Data of shape {data.shape} cannot be written to {text} of an array of shape {array.shape} in "
            f"chunks of {array.chunks}. Both must have one shape, and each span must begin and end at a "
            "chunk or at the array's end."
        )
    if not np.can_cast(data.dtype, array.dtype, "safe"):
        raise InputError(f"{data.dtype} values do not all fit an array of {array.dtype}. Convert them first.")


def refuse_link(folder: Path) -> None:
    """Refuse to write into a folder that is a link: what it leads to may be somebody else's.

    Raises
    ------
    InputError
        If it is one.
    """
    if folder.is_symlink():
        raise InputError(
            f"{folder} is a link to {folder.resolve()}, and nothing is written through a link. Name the "
            "place that it leads to, or put a folder there."
        )


def sweep_partial(folder: Path) -> None:
    """Delete what a kill has left half written of chunks; nobody else may be writing."""
    for left_by_a_kill in folder.rglob("*.partial"):
        left_by_a_kill.unlink()


def chunk_files_exist(array: zarr.Array[Any], slices: tuple[slice, ...]) -> bool:
    """Whether every chunk that the slices touch was written, and is still there."""
    return all(file.exists() for file in _chunk_files(array, slices))


def stored_bytes(array: zarr.Array[Any], slices: tuple[slice, ...]) -> int:
    """Return how many bytes the chunks that the slices touch take as files; all must have been written."""
    return sum(file.stat().st_size for file in _chunk_files(array, slices))


def _chunk_files(array: zarr.Array[Any], slices: tuple[slice, ...]) -> list[Path]:
    spans = (range(s.start // c, -(-s.stop // c)) for s, c in zip(slices, array.chunks, strict=True))
    return [_folder(array) / array.metadata.encode_chunk_key(index) for index in product(*spans)]


def _fsync_chunks(files: Sequence[Path], folders: set[Path]) -> None:
    """Flush chunk files, then the folders above them, whoever made these, up to the array's own."""
    for path in [*files, *sorted(folders, key=lambda folder: -len(folder.parts))]:
        fsync_path(path)


def _folders_of(array: zarr.Array[Any], files: Sequence[Path]) -> set[Path]:
    """Return the folders above chunk files, up to the array's own."""
    root = _folder(array)
    return {folder for file in files for folder in file.parents if folder.is_relative_to(root)}


def _folder(array: zarr.Array[Any]) -> Path:
    return Path(cast("Any", array.store).root) / array.path
