"""How good labels are: against a pass that knows no tiles, and against the classes that are known.

The reference is computed in float32 in the fewest boxes that memory allows, each with all
the context that the network can see and cut at the faces of the volume alone, so that it
equals one pass over the whole volume. No engine is involved.
"""

import itertools
import shutil
from collections.abc import Iterator
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr

from napari_memseg.models.checkpoint import load_checkpoint
from peers.networks import labels_of
from peers.volume import create_labels, normalise

BOX_VOXELS = 25_000_000
"""The most voxels of a box of the reference, if some number of boxes can keep to that."""
MOST_BOXES = 16
"""Along one axis."""


def make_reference(image: Path, checkpoint: Path, folder: Path, chunk: int, device: str) -> Path:
    """Return the labels of a pass over the whole volume; computed unless they are there."""
    path = folder / f"reference-{checkpoint.stem}-{image.stem}.zarr"
    if not path.exists():
        partial = path.with_suffix(".partial")
        _predict(zarr.open_array(image, mode="r"), checkpoint, partial, chunk, device)
        partial.rename(path)
    return path


@torch.inference_mode()
def _predict(image: zarr.Array[Any], checkpoint: Path, path: Path, chunk: int, device: str) -> None:
    shutil.rmtree(path, ignore_errors=True)
    model, _ = load_checkpoint(checkpoint)
    model.to(device)
    labels = create_labels(path, image.shape, chunk)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for core, box in _boxes(image.shape, model):
            tile = torch.from_numpy(normalise(image[box]))[None, None].to(device)
            inner = [slice(c.start - b.start, c.stop - b.start) for c, b in zip(core, box, strict=True)]
            labels[core] = labels_of(model(tile)[0][(slice(None), *inner)]).cpu().numpy()


def _boxes(shape: tuple[int, ...], model: Any) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Yield cores and the boxes around them."""
    axes = [_spans(n, _number(shape, model), model, axis) for axis, n in enumerate(shape)]
    for spans in itertools.product(*axes):
        yield tuple(core for core, _ in spans), tuple(box for _, box in spans)


def _number(shape: tuple[int, ...], model: Any) -> int:
    """Return the fewest boxes per axis that are small enough, or those that are smallest."""
    sizes = []
    for number in range(1, MOST_BOXES + 1):
        axes = [_spans(n, number, model, axis) for axis, n in enumerate(shape)]
        sizes.append(prod(max(box.stop - box.start for _, box in spans) for spans in axes))
        if sizes[-1] <= BOX_VOXELS:
            return number
    return sizes.index(min(sizes)) + 1


def _spans(size: int, number: int, model: Any, axis: int) -> list[tuple[slice, slice]]:
    halo, multiple = model.stages[0].reads[0].halo_exact, model.stages[0].multiple[axis]
    core = ceil(size / number / multiple) * multiple
    low, high = (ceil(n / multiple) * multiple for n in (halo.low[axis], halo.high[axis]))
    return [
        (slice(a, min(a + core, size)), slice(max(a - low, 0), min(a + core + high, size)))
        for a in range(0, size, core)
    ]


def compare(labels: Path, classes: int, truth: str | None, reference: str | None) -> dict[str, Any]:
    """Return the share of voxels equal to the reference, and Dice per class against what is known.

    A network of fewer classes than there are calls the rest its last one.
    """
    found = zarr.open_array(labels, mode="r")
    row: dict[str, Any] = {}
    if reference is not None:
        row["equal"] = float(np.trace(_counts(found, reference)) / prod(found.shape))
    if truth is not None:
        counts = _counts(found, truth)
        counts = np.vstack([counts[: classes - 1], counts[classes - 1 :].sum(0)])
        dice = 2 * counts.diagonal() / (counts.sum(1) + counts.sum(0)[:classes])
        row["dice"] = dice.round(5).tolist()
    return row


def _counts(found: zarr.Array[Any], other: str) -> np.ndarray:
    """Count voxels by what they are (rows) and what they were found to be (columns)."""
    known, counts = zarr.open_array(other, mode="r"), np.zeros((256, 256), np.int64)
    for z in range(0, found.shape[0], found.chunks[0]):
        pairs = known[z : z + found.chunks[0]].astype(np.int32) * 256 + found[z : z + found.chunks[0]]
        counts += np.bincount(pairs.ravel(), minlength=65536).reshape(256, 256)
    return counts
