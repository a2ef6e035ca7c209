"""Look at what a folder of Zarr says about itself, before any of it is believed.

Zarr describes arrays and groups in small JSON files, and names the codecs that unpack
the chunks. Some of those run whatever code the chunk holds (pickle), so only known
ones pass, and nothing is unpacked that claims to be larger than memory::

    zarr.json                    version 3
    .zarray | .zgroup, .zattrs   version 2

https://zarr-specs.readthedocs.io
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import zarr

from napari_memseg.errors import SourceError
from napari_memseg.io.axes import check_array

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from napari_memseg.io.source import Source

MAX_METADATA_BYTES = 2**24
"""A description larger than this is refused."""
SHOWN = 12
"""Choices that are named at most."""

# fmt: off
_CODECS = {
    "blosc", "zstd", "zlib", "gzip", "bz2", "lz4", "lzma", "shuffle", "delta", "fixedscaleoffset", "quantize",
    "bitround", "astype", "packbits", "crc32", "crc32c", "adler32", "fletcher32", "jenkins_lookup3", "pcodec",
    "zfpy", "bytes", "endian", "transpose", "sharding_indexed",
}
# fmt: on
"""Codecs that turn bytes into numbers and do nothing else; in version 3 perhaps with "numcodecs." before."""


@dataclass(frozen=True, slots=True)
class Node:
    """An array or a group in a Zarr hierarchy.

    Attributes
    ----------
    folder : Path
        Where it lies.
    version : 2 or 3
        Of the Zarr format.
    kind : "array" or "group"
        What it is.
    attributes : mapping
        What its writer noted, in JSON values.
    metadata : mapping
        How an array is stored, in JSON values.
    """

    folder: Path
    version: Literal[2, 3]
    kind: Literal["array", "group"]
    attributes: Mapping[str, Any]
    metadata: Mapping[str, Any]


def is_zarr(folder: Path) -> bool:
    """Whether a folder describes itself as a Zarr array or group."""
    return any((folder / name).is_file() for name in ("zarr.json", ".zarray", ".zgroup"))


def find_node(source: Source) -> Node:
    """Return the node that a source means, at its path or inside it.

    Raises
    ------
    SourceError
        If there is none, or its description cannot be read.
    """
    folder = below(source.path, source.inner or "", source)
    if not is_zarr(folder):
        raise SourceError(
            f"{source.path} is a Zarr, but there is no array or group {source.inner} in it. "
            f"There are: {choices(source.path, source)}."
        )
    return read_node(folder)


def below(folder: Path, inner: str, source: Source) -> Path:
    """Return the folder of a path inside another, which it must not leave.

    Raises
    ------
    SourceError
        If it does.
    """
    parts = PurePosixPath(inner).parts
    if ".." in parts or inner.startswith("/") or any("\\" in part or ":" in part for part in parts):
        raise SourceError(
            f"{source} points to {inner!r}, outside of {folder}. Name an array or group inside it."
        )
    return folder.joinpath(*parts)


def read_node(folder: Path) -> Node:
    """Read the description of one array or group.

    Raises
    ------
    SourceError
        If there is none, or it is damaged or too large.
    """
    if (folder / "zarr.json").is_file():
        metadata = _read_json(folder / "zarr.json")
        kind, attributes = metadata.get("node_type"), metadata.get("attributes", {})
        if metadata.get("zarr_format") != 3 or kind not in ("array", "group") or not _is_object(attributes):
            raise _damaged(folder / "zarr.json", "it describes no array and no group of Zarr version 3")
        return Node(folder, 3, kind, attributes, metadata)
    attributes = _read_json(folder / ".zattrs") if (folder / ".zattrs").is_file() else {}
    is_array = (folder / ".zarray").is_file()
    metadata = _read_json(folder / (".zarray" if is_array else ".zgroup"))
    if metadata.get("zarr_format") != 2:
        raise _damaged(folder, "it is said to be Zarr, but neither of version 2 nor 3")
    return Node(folder, 2, "array" if is_array else "group", attributes, metadata)


def open_stored(node: Node, source: Source) -> zarr.Array[Any]:
    """Open the array of a node for reading, once it is known to be harmless.

    Raises
    ------
    SourceError
        If it holds no numbers, is packed in an unknown way, or its description is damaged.
    """
    if node.kind != "array":
        raise _damaged(node.folder, "it should be an array, but is a group")
    _check_codecs(node, source)
    _check_numbers(node, source)
    try:
        array = zarr.open_array(node.folder, mode="r", zarr_format=node.version)
    except (OSError, ValueError, TypeError, LookupError, RuntimeError, AttributeError) as error:
        raise _damaged(node.folder, f"{type(error).__name__}: {str(error)[:300]}") from error
    check_array(array.shape, array.dtype, array.chunks, source)
    return array


def children(folder: Path) -> Iterator[str]:
    """Yield the names of the arrays and groups that lie in a folder, in alphabetical order."""
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in islice(entries, 10_000) if entry.is_dir())
    yield from (name for name in names if is_zarr(folder / name))


def choices(folder: Path, source: Source) -> str:
    """Say how to write what lies in a folder of the source."""
    inner = folder.relative_to(source.path).as_posix()
    names = [name if inner == "." else f"{inner}/{name}" for name in islice(children(folder), SHOWN + 1)]
    more = ", ..." if len(names) > SHOWN else ""
    return ", ".join(f"{source.path}::{name}" for name in names[:SHOWN]) + more if names else "none"


def _check_codecs(node: Node, source: Source) -> None:
    for name in _codec_names(node.metadata):
        if name.removeprefix("numcodecs.") not in _CODECS:
            raise SourceError(
                f"{source} is packed with the codec {name!r}, which is not known to be safe to unpack. "
                "Write it again with zstd, gzip or blosc."
            )


def _codec_names(metadata: Any) -> Iterator[str]:
    """Yield the names of all codecs, of those inside a shard too."""
    if not _is_object(metadata):
        return
    packed = [metadata.get("compressor"), *_list(metadata.get("filters"))]
    yield from (str(codec.get("id")) for codec in packed if _is_object(codec))
    for key in ("codecs", "index_codecs"):
        for codec in _list(metadata.get(key)):
            yield str(codec.get("name") if _is_object(codec) else codec)
            yield from _codec_names(codec.get("configuration") if _is_object(codec) else None)


def _check_numbers(node: Node, source: Source) -> None:
    text = node.metadata.get("dtype" if node.version == 2 else "data_type")
    try:
        dtype = np.dtype(text) if isinstance(text, str) else None
    except TypeError:
        dtype = None
    if dtype is None or dtype.kind not in "biufc":
        raise SourceError(
            f"{source} holds values of type {str(text)[:100]}, but a voxel is one integer or float. "
            "Choose another array, or convert this one first."
        )


def _read_json(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    if size > MAX_METADATA_BYTES:
        raise _damaged(path, f"it has {size} bytes, and a description has {MAX_METADATA_BYTES} at most")
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"it is no JSON ({str(error)[:200]})") from error
    if not _is_object(found):
        raise _damaged(path, "it holds no JSON object")
    return cast("dict[str, Any]", found)


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _damaged(path: Path, why: str) -> SourceError:
    return SourceError(
        f"{path} cannot be read as Zarr: {why}. Copy it again from where it came, or write it again."
    )
