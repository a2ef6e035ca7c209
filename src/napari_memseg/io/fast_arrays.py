"""Decode the chunks of a Zarr array with tensorstore, where that is installed.

zarr-python hands every read to an event loop in another thread and back, which costs
more than decoding a chunk of 64^3 voxels (measured in ``benchmarks/RESULTS.md``). What is read is the
same; what is kept decoded is decided by our own cache, so tensorstore keeps nothing.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    import zarr
    from numpy.typing import NDArray

try:
    import tensorstore
except ImportError:
    tensorstore = None  # type: ignore[assignment]


class FastArray:
    """The chunks of one array, each decoded by whoever asks for it."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getitem__(self, index: tuple[slice, ...]) -> NDArray[Any]:
        """Decode slices, each with a start and a stop."""
        return np.asarray(self._store[index].read(order="C").result())


def open_fast(array: zarr.Array[Any], folder: Path) -> FastArray | None:
    """Return a faster way to read an array on the local disk; None where there is none.

    There is none without tensorstore, or if it does not know a codec or a data type.
    """
    if tensorstore is None:
        return None
    spec = {
        "driver": f"zarr{array.metadata.zarr_format if array.metadata.zarr_format == 3 else ''}",
        "kvstore": {"driver": "file", "path": f"{folder.absolute()}/"},
        "recheck_cached_data": False,
        "recheck_cached_metadata": "open",
    }
    try:
        store = tensorstore.open(spec, open=True, read=True, context=_context()).result()
    except (ValueError, NotImplementedError, OSError):
        return None
    same = tuple(store.shape) == tuple(array.shape) and store.dtype.numpy_dtype == np.dtype(array.dtype)
    return FastArray(store) if same else None


@cache
def _context() -> Any:
    return tensorstore.Context(
        {"cache_pool": {"total_bytes_limit": 0}, "data_copy_concurrency": {"limit": 1}}
    )
