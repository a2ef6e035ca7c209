"""Stand-ins that the tests of sessions share: an image in memory, and a run written block by block."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import zarr

from napari_memseg.geometry import Box, Zyx

SHAPE: Zyx = (70, 66, 130)
"""Two or three cells an axis, none of them a full one at the far face."""


@dataclass(eq=False)
class Picture:
    """An image in memory, with what a session asks of a volume."""

    shape: Zyx = SHAPE
    fingerprint: str = "picture"
    source: str = "/data/picture.tif"
    voxel_size: tuple[float, float, float] | None = (2.0, 1.0, 1.0)
    unit: str | None = "micrometer"
    name: str = "picture"
    arrays: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self):
        voxel = np.zeros((1, 1, 1), np.uint16)
        self.arrays = [np.broadcast_to(voxel, tuple(-(-n // 2**k) for n in self.shape)) for k in range(3)]

    @property
    def dtype(self):
        return self.arrays[0].dtype

    def completed(self, _voxel_size, _unit):
        """It knows its voxel size."""
        return self

    def check(self):
        """Nothing was left for later."""


def make_run(path: Path, shape: Zyx = SHAPE, dtype="uint8", level: int = 0) -> zarr.Array:
    """Make an empty run as ``segment`` lays it out: nothing predicted yet."""
    return zarr.create_array(
        path / str(level),
        shape=shape,
        chunks=(64, 64, 64),
        dtype=dtype,
        fill_value=np.iinfo(dtype).max,
        config={"write_empty_chunks": True},
    )


def publish(array: zarr.Array, box: Box, value) -> None:
    """Write one block of a run."""
    array[box.slices] = value


def after_a_kill(folder: Path, copy: Path) -> Path:
    """Return a copy of what is on disk this very moment: what a killed process leaves."""
    return Path(shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*-shm")))
