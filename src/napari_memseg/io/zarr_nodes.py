"""Read what a Zarr folder says of itself, and open its arrays, believing little.

Descriptions are text that anybody may have written, so their size, their numbers, types
and codecs are checked before Zarr sees them, and nothing outside the folder is reached.
One codec, pickle, runs whatever code a chunk holds: only those that cannot are let in.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import zarr

from napari_memseg.errors import SourceError
from napari_memseg.io.axes import check_array
from napari_memseg.io.chunk_claims import ModestArray
from napari_memseg.io.inflation import INFLATING
from napari_memseg.io.volume import DECODING_ERRORS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from napari_memseg.io.source import Source

MAX_TEXT_BYTES = 2**25
"""A description longer than this is refused."""
MAX_DIMENSIONS = 16

SHARDING = "sharding_indexed"
CODECS = {
    *(*INFLATING, "shuffle", "delta", "fixedscaleoffset", "quantize", "bitround", "astype", "packbits"),
    *("crc32", "crc32c", "adler32", "fletcher32", "jenkins_lookup3", "bytes", "endian", "transpose"),
    SHARDING,
}
"""What turns bytes into numbers and does nothing else; in Zarr 3 some begin with "numcodecs."."""
MAX_SHARD_CHUNKS = 2**22
"""A shard with more chunks is not believed: its index alone would take much memory."""

_DTYPES = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])|bool|u?int(8|16|32|64)|float(16|32|64)")


@dataclass(frozen=True)
class Node:
    """An array or a group on disk.

    Attributes
    ----------
    path : Path
        Its folder.
    format : int
        2 or 3.
    said : mapping
        The description of an array; of a group nothing that matters.
    attributes : mapping
        What its writer added.
    is_array : bool
        Or a group.
    """

    path: Path
    format: int
    said: Mapping[str, Any]
    attributes: Mapping[str, Any]
    is_array: bool


def read_node(path: Path) -> Node | None:
    """Read the description of a folder; None if it is no Zarr.

    Raises
    ------
    SourceError
        If the description is too long or damaged.
    """
    if (path / "zarr.json").is_file():
        said = _read_json(path / "zarr.json")
        return Node(path, 3, said, _mapping(said.get("attributes")), said.get("node_type") == "array")
    for name in (".zarray", ".zgroup"):
        if (path / name).is_file():
            said, extra = _read_json(path / name), path / ".zattrs"
            attributes = _read_json(extra) if extra.is_file() else {}
            return Node(path, 2, said, attributes, name == ".zarray")
    return None


def step_into(node: Node, inner: str, source: Source) -> Node:
    """Return the node at a path inside another.

    Raises
    ------
    SourceError
        If there is none, or the path leads out of it.
    """
    parts = [part for part in inner.split("/") if part]
    if ".." in parts or "\\" in inner or ":" in inner or "\0" in inner:
        raise SourceError(f"{source}: the path {inner!r} leads out of {node.path}. Name what is inside it.")
    found = read_node(node.path.joinpath(*parts))
    if found is None:
        raise SourceError(f"{source}: there is no array or group {inner!r} in {node.path}. {inside(node)}")
    return found


def inside(node: Node) -> str:
    """Say in a sentence what a group holds."""
    nodes = (path for path in sorted(node.path.glob("*")) if path.is_dir() and not path.name.startswith("."))
    names = [path.name for path in nodes if read_node(path) is not None]
    labels = node.path / "labels"
    if "labels" in names:
        names += [f"labels/{path.name}" for path in sorted(labels.glob("*")) if (read_node(path)) is not None]
    some = ", ".join(names[:20]) + (" and more" if len(names) > 20 else "")
    return (
        f"It holds {some}. Choose one of them, as in {node.path}::{names[0]}"
        if names
        else "It holds nothing."
    )


def open_array(node: Node, source: Source) -> ModestArray:
    """Open an array for reading.

    Raises
    ------
    SourceError
        If its description is impossible, or asks for what cannot be decoded safely.
    """
    if not node.is_array:
        raise SourceError(f"{source}: {node.path} is a group, not an array. {inside(node)}")
    _check_said(node, source)
    codec = _check_codecs(node, source)
    try:
        array = zarr.open_array(node.path, mode="r", zarr_format=node.format)  # type: ignore[arg-type]
    except (*DECODING_ERRORS, ArithmeticError) as error:
        raise SourceError(
            f"{source}: the description of the array {node.path} cannot be used ({type(error).__name__}: "
            f"{str(error)[:300]}). It is damaged, or stored with a codec that is not installed."
        ) from error
    check_array(array.shape, array.dtype, array.chunks, source)
    if prod(array.shards or (1,)) // prod(array.chunks) > MAX_SHARD_CHUNKS:
        raise SourceError(
            f"{source}: the array {node.path} claims shards of {array.shards} voxels in chunks of "
            f"{array.chunks}, but a shard may hold {MAX_SHARD_CHUNKS} chunks at most. Write it again with "
            "smaller shards."
        )
    return ModestArray(array, node.path, codec)


def _check_said(node: Node, source: Source) -> None:
    """Refuse lengths and types that are none, before Zarr makes anything of them."""
    dtype = node.said.get("dtype" if node.format == 2 else "data_type")
    if not (isinstance(dtype, str) and _DTYPES.fullmatch(dtype)):
        raise SourceError(
            f"{source}: the array {node.path} holds {str(dtype)[:100]!r} values, but a voxel is one integer "
            "or float of at most 64 bits. Convert it first."
        )
    grid = _mapping(_mapping(node.said.get("chunk_grid")).get("configuration"))
    shape, chunk = node.said.get("shape"), node.said.get("chunks", grid.get("chunk_shape"))
    lengths = [shape, chunk]
    if not all(isinstance(n, list) and all(type(i) is int and i > 0 for i in n) for n in lengths):
        raise SourceError(
            f"{source}: the array {node.path} says it has shape {str(shape)[:100]} in chunks of "
            f"{str(chunk)[:100]}. Every length must be a whole number of at least 1: it is damaged."
        )
    if not 2 <= len(shape) == len(chunk) <= MAX_DIMENSIONS:  # type: ignore[arg-type]
        raise SourceError(
            f"{source}: the array {node.path} has shape {str(shape)[:100]} in chunks of {str(chunk)[:100]}. "
            "A volume has 3 dimensions, an image 2, and with channels and times 4 or 5."
        )


def _check_codecs(node: Node, source: Source) -> str | None:
    """Refuse codecs that are unsafe, or hide how large a chunk becomes; return the compressing one."""
    outer = _names(node.said.get("codecs")) if node.format == 3 else []
    shard = _mapping(_mapping((_list(node.said.get("codecs")) or [None])[0]).get("configuration"))
    sharded = SHARDING in outer
    chain = _names(shard.get("codecs")) if sharded else outer or _filters(node.said)
    for name in (*chain, *outer, *_names(shard.get("index_codecs"))):
        if name.removeprefix("numcodecs.") not in CODECS:
            raise SourceError(
                f"{source}: the array {node.path} is packed with the codec {name[:100]!r}, which is not "
                "known to be safe to unpack. Write it again with zstd, gzip or blosc."
            )
    if sharded and (len(outer) > 1 or SHARDING in chain or not _is_plain(_list(shard.get("index_codecs")))):
        raise SourceError(
            f"{source}: the array {node.path} has shards that are packed once more, hold shards, or have an "
            "index that is not plain. Write it again with shards of chunks, as zarr-python makes them."
        )
    return _compressor(chain, node, source)


def _compressor(chain: Sequence[str], node: Node, source: Source) -> str | None:
    names = [name.removeprefix("numcodecs.") for name in chain]
    packed = [place for place, name in enumerate(names) if name in INFLATING]
    after = {name for place in packed for name in chain[place + 1 :]}
    if after - ({"crc32c"} if node.format == 3 else set()):
        raise SourceError(
            f"{source}: the chunks of the array {node.path} are packed with {', '.join(chain)[:200]}, so how "
            "large they become cannot be told before they are unpacked. Write it again with one compressor, "
            "the last codec."
        )
    return names[packed[0]] if packed else None


def _is_plain(index_codecs: Sequence[Any]) -> bool:
    """Whether the index of a shard is stored as little-endian numbers, perhaps with a checksum."""
    endians = {_mapping(_mapping(row).get("configuration")).get("endian", "little") for row in index_codecs}
    return _names(index_codecs) in (["bytes"], ["bytes", "crc32c"]) and endians == {"little"}


def _filters(said: Mapping[str, Any]) -> list[str]:
    """Return the names of the codecs of Zarr 2, in the order of writing."""
    rows = [*_list(said.get("filters")), said.get("compressor")]
    return [str(_mapping(row).get("id", row)) for row in rows if row is not None]


def _names(codecs: object) -> list[str]:
    return [str(_mapping(row).get("name", row)) for row in _list(codecs)]


def _read_json(path: Path) -> Mapping[str, Any]:
    size = path.stat().st_size
    if size > MAX_TEXT_BYTES:
        raise SourceError(
            f"{path} has {size} bytes, but a description of more than {MAX_TEXT_BYTES} is not believed. "
            "Write the Zarr again."
        )
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path} is damaged ({error}). Copy or write the Zarr again.") from error
    if not isinstance(found, dict):
        raise SourceError(f"{path} is damaged: it is not a JSON object. Copy or write the Zarr again.")
    return found


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
