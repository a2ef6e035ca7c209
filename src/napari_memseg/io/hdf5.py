"""Read one dataset of an HDF5 file, chunk by chunk, through h5py.

Nothing is said there about space, but for ``axistags`` of ilastik and ``element_size_um`` (z, y, x) of
PlantSeg.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from importlib import import_module
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_memseg.errors import SourceError
from napari_memseg.io.axes import MAX_CHUNK_BYTES, SPACE, VolumeView, check_array, pick
from napari_memseg.io.extras import need
from napari_memseg.io.header import lengths_zyx
from napari_memseg.io.inflation import DEFLATE_RATIO, inflated_size
from napari_memseg.io.volume import DECODING_ERRORS, Volume

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_memseg.io.source import Source
    from napari_memseg.io.units import VoxelSize

SIGNATURE = b"\x89HDF\r\n\x1a\n"
MOST_DATASETS = 1000
"""Of a file that are looked at."""
CHECKSUM = 3
"""The number of a filter that changes nothing."""
INFLATING = {1: "zlib", 307: "bz2", 32001: "blosc", 32015: "zstd"}
"""Filters that may make gigabytes of little, and how ``inflated_size`` calls them."""
FILTERS = {
    **{4: "szip", 307: "bzip2", 32000: "lzf", 32001: "blosc", 32004: "lz4", 32008: "bitshuffle"},
    **{32013: "zfp", 32015: "zstd", 32017: "sz", 32026: "blosc2"},
}
"""Names of filters that not every h5py has."""
HARMLESS = MAX_CHUNK_BYTES
"""Bytes that any chunk may become: what is packed into 2 MB is no more, and not inflated to be counted."""
MORE_AXES = ("t", "c", *SPACE)
"""Names of the last axes where a dataset has more than three."""


@dataclass(eq=False)
class Dataset:
    """A dataset that is opened where it is read, in any process, by one thread at a time."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    def __getitem__(self, index: tuple[slice, ...]) -> NDArray[Any]:
        """Read slices, each with a start and a stop."""
        h5py = import_module("h5py")
        with self._lock, h5py.File(self.file, "r") as opened:
            found = opened[self.name]
            _check_chunks(h5py, found, index, self.file)
            return np.asarray(found[index])

    def __getstate__(self) -> dict[str, Any]:
        """Leave the lock behind."""
        return {"file": self.file, "name": self.name, "shape": self.shape, "dtype": self.dtype}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc] # which makes the lock anew


def open_hdf5(source: Source) -> Volume:
    """Open the dataset that the source names, or the only one that can be a volume.

    Raises
    ------
    SourceError
        If it is no HDF5, there are several datasets and none was chosen (they are listed), or a filter that
        packed it is not installed.
    """
    _check_signature(source.path)
    h5py = need("h5py", source)
    try:
        with h5py.File(source.path, "r") as opened:
            name = _chosen(_datasets(h5py, opened), source)
            found = opened[name]
            _filters(h5py, found, source.path)
            dataset = Dataset(source.path, name, tuple(map(int, found.shape)), np.dtype(found.dtype))
            chunk = tuple(map(int, found.chunks)) if found.chunks else _piece(dataset.shape)
            size, tagged = (
                _voxel_size(found.attrs.get("element_size_um")),
                _tagged(found.attrs.get("axistags")),
            )
    except SourceError:
        raise
    except DECODING_ERRORS as error:
        raise SourceError(f"{source.path} is a damaged HDF5 file ({error}). Copy it again.") from error
    axes = tagged if len(tagged) == len(dataset.shape) else _guessed(len(dataset.shape))
    view = VolumeView(dataset, chunk, axes, pick(axes, dataset.shape, source))
    check_array(dataset.shape, dataset.dtype, chunk, source)
    return Volume((view,), size, "micrometer" if size else None, source.name, str(source), "hdf5")


def _check_signature(path: Path) -> None:
    """Refuse what is no HDF5; its signature may stand behind a block of a user's own."""
    with path.open("rb") as file:
        for place in (0, 512, 1024, 2048, 4096):
            file.seek(place)
            if file.read(len(SIGNATURE)) == SIGNATURE:
                return
    raise SourceError(
        f"{path} is no HDF5 file: it lacks the signature. If it is a few lines of text, it stands for a link "
        "to another file: copy that."
    )


def _datasets(h5py: Any, opened: Any) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of what could be an image and lies in the file itself."""
    found: dict[str, tuple[int, ...]] = {}

    def look(name: str, item: Any) -> bool | None:
        is_array = isinstance(item, h5py.Dataset) and item.ndim >= 2 and item.dtype.kind in "biufc"
        if is_array and not item.is_virtual and not item.external:
            found[name] = tuple(map(int, item.shape))
        return True if len(found) >= MOST_DATASETS else None

    opened.visititems(look)
    return found


def _chosen(found: dict[str, tuple[int, ...]], source: Source) -> str:
    name = (source.inner or "").strip("/")
    if name in found:
        return name
    if not source.inner and len(found) == 1:
        return next(iter(found))
    if not found:
        raise SourceError(f"{source.path} holds no dataset of numbers with two axes or more.")
    listed = "; ".join(f"{one} {shape}" for one, shape in list(found.items())[:20])
    raise SourceError(
        f"{source.path} holds {len(found)} datasets: {listed}. Choose one by its name, for example "
        f"{source.path}::{next(iter(found))}"
    )


def _filters(h5py: Any, dataset: Any, file: Path) -> list[int]:
    """Return the numbers of the filters that packed a dataset, in the order in which they did.

    Those of the package hdf5plugin are fetched where it is installed.
    """
    steps = dataset.id.get_create_plist()
    found = [steps.get_filter(number) for number in range(steps.get_nfilters())]
    for code, _, _, said in found:
        if not (h5py.h5z.filter_avail(code) or _is_plugin(h5py, code)):
            name = FILTERS.get(code) or said.decode("latin-1")[:40].strip("\0 ") or "of no name"
            raise SourceError(
                f"{file} holds {dataset.name} packed by the filter {name} (number {code}), which is not "
                "installed. Install it with: python -m pip install hdf5plugin. Or write the dataset again "
                "with gzip, which every HDF5 library reads."
            )
    codes = [code for code, *_ in found if code != CHECKSUM]
    if sum(code in INFLATING for code in codes) > 1:
        raise SourceError(
            f"{file} holds {dataset.name} packed several times over, so that a few bytes may become any "
            "number of them. It was not decoded: write it again with one filter, gzip for example."
        )
    return codes


def _is_plugin(h5py: Any, code: int) -> bool:
    try:
        import_module("hdf5plugin")
    except ImportError:
        return False
    return bool(h5py.h5z.filter_avail(code))


def _check_chunks(h5py: Any, dataset: Any, index: tuple[slice, ...], file: Path) -> None:
    """Refuse a chunk that would become far more than a chunk: HDF5 makes room for whatever comes."""
    codes = _filters(h5py, dataset, file)
    if dataset.chunks is None or not any(code in INFLATING for code in codes):
        return
    codec, limit = INFLATING.get(codes[-1]), max(prod(dataset.chunks) * dataset.dtype.itemsize, HARMLESS)
    spans = zip(index, dataset.chunks, strict=True)
    for place in product(*(range(span.start // n * n, span.stop, n) for span, n in spans)):
        stored = dataset.id.get_chunk_info_by_coord(place)
        claim = (stored.size or 0) * DEFLATE_RATIO
        if stored.byte_offset is not None and codec and (codec != "zlib" or claim > limit):
            claim = inflated_size(codec, dataset.id.read_direct_chunk(place)[1], limit)
        if claim > limit:
            raise SourceError(
                f"The chunk of {dataset.name} at {place} in {file} may become more than {limit:,} bytes, "
                f"but should become {dataset.chunks} voxels. It is damaged or an attack, and was not "
                "decoded. Copy the file again from where it came."
            )


def _piece(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return what is read at a time of a dataset that has no chunks."""
    return (*(1,) * (len(shape) - 2), min(shape[-2], 64), min(shape[-1], 1024))


def _guessed(dimensions: int) -> list[str]:
    return [*(f"d{n}" for n in range(dimensions - 5)), *MORE_AXES[-dimensions:]]


def _tagged(said: Any) -> list[str]:
    """Return the names of the axes as ilastik tags them; none where they say nothing of space."""
    try:
        names = [str(axis["key"]) for axis in json.loads(said)["axes"]] if said is not None else []
    except (ValueError, TypeError, LookupError):
        return []
    return names if {"y", "x"} <= set(names) and len(set(names)) == len(names) else []


def _voxel_size(said: Any) -> VoxelSize | None:
    try:
        return lengths_zyx(np.asarray(said if said is not None else [], dtype=float).ravel()[::-1])
    except (ValueError, TypeError):
        return None
