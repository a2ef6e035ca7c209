"""A volume as a microCT scanner makes it, whose every voxel has a known class.

A round specimen of two phases with bright inclusions stands in air; the detector adds
noise. It is made slice by slice from a seed, so that any size is the same everywhere::

    0 air   1 pore   2 matrix   3 inclusion
"""

from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

GREY = np.array([5200, 12000, 21000, 34000], np.float32)
"""Of each class, without noise."""
NOISE = np.array([350, 700, 700, 700], np.float32)
LOW, HIGH = 16000.0, 22000.0
"""Grey values that every engine gives to the network as 0 and 1."""
SEED = 0

Shape = tuple[int, int, int]


def classes_of_slice(z: int, shape: Shape) -> NDArray[np.uint8]:
    """Return the class of every voxel of slice ``z``."""
    _, height, width = shape
    y, x = (np.arange(n, dtype=np.float32) for n in (height, width))
    y = y[:, None]
    inside = ((y - height / 2) / (0.47 * height)) ** 2 + ((x - width / 2) / (0.47 * width)) ** 2 < 1
    wave = _gyroid(z, y, x, 61.0) + 0.5 * _gyroid(z, y, x, 23.0)
    found = 1 + (wave > 0.1).astype(np.uint8) + (wave > 1.35)
    return np.where(inside, found, 0).astype(np.uint8)


def _gyroid(z: int, y: NDArray[np.float32], x: NDArray[np.float32], period: float) -> NDArray[np.float32]:
    k = np.float32(2 * np.pi / period)
    depth = k * np.float32(z)
    return np.sin(k * x) * np.cos(k * y) + np.sin(k * y) * np.cos(depth) + np.sin(depth) * np.cos(k * x)


def grey_of_slice(z: int, classes: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Return what the detector sees of such a slice."""
    noise = np.random.default_rng([SEED, z]).standard_normal(classes.shape, dtype=np.float32)
    return (GREY[classes] + noise * NOISE[classes]).clip(0, 65535).astype(np.uint16)


def make(folder: Path, shape: Shape, chunk: int) -> tuple[Path, Path]:
    """Write the volume and its classes as zarr arrays, unless they are there; return their paths."""
    name = f"{'x'.join(map(str, shape))}-{chunk}"
    image, truth = folder / f"image-{name}.zarr", folder / f"truth-{name}.zarr"
    if not (folder / f"{name}.done").exists():
        grey = create(image, shape, chunk, "uint16", BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle"))
        known = create_labels(truth, shape, chunk)
        for z in range(0, shape[0], chunk):
            classes = [classes_of_slice(at, shape) for at in range(z, min(z + chunk, shape[0]))]
            known[z : z + chunk] = np.stack(classes)
            grey[z : z + chunk] = np.stack([grey_of_slice(z + n, c) for n, c in enumerate(classes)])
        (folder / f"{name}.done").touch()
    return image, truth


def create(path: Path, shape: Shape, chunk: int, dtype: str, codec: Any) -> zarr.Array[Any]:
    """Make an empty array, in place of one that is there."""
    return zarr.create_array(
        path, shape=shape, dtype=dtype, chunks=(chunk,) * 3, compressors=codec, fill_value=0, overwrite=True
    )


def create_labels(path: Path, shape: Shape, chunk: int) -> zarr.Array[Any]:
    """Make an empty array of one byte per voxel, as quick to write as zarr allows."""
    return create(path, shape, chunk, "uint8", BloscCodec(cname="zstd", clevel=1, shuffle="noshuffle"))


def normalise(grey: NDArray[Any]) -> NDArray[np.float32]:
    """Return grey values as the network wants them, with one temporary only."""
    out = grey.astype(np.float32)
    out -= LOW
    out *= 1 / (HIGH - LOW)
    return out
