"""Write a header, and bare voxels behind it plane by plane: what NIfTI and NRRD are.

::

    header │ plane z=0: (y, x), the lowest byte first │ plane z=1 │ ...
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray


class Writable(Protocol):
    """A file, plain or packed."""

    def write(self, data: bytes | memoryview, /) -> int:
        """Put bytes behind those that are there."""


def write_planes(
    file: Writable, header: bytes, dtype: np.dtype[Any], planes: Iterable[NDArray[Any]]
) -> Iterator[int]:
    """Write a volume into an empty file, yielding how many planes are there.

    Parameters
    ----------
    file : Writable
        Open for writing bytes.
    header : bytes
        What comes before the voxels.
    dtype : dtype
        That the header speaks of; planes become of it.
    planes : iterable of (y, x) array
        Asked for one by one, the lowest z first.
    """
    file.write(header)
    for number, plane in enumerate(planes, start=1):
        file.write(np.ascontiguousarray(plane, dtype.newbyteorder("<")).data)
        yield number
