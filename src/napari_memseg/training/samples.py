"""One patch: image, opinions, what earlier stages made of it, and where it lies.

Arrays of earlier stages are cut at the same place on their own grids. Where such a
box leaves its array, it holds zeros, so that all patches of a batch are alike::

    image   ├──────── box ────────┤
    array   ├── box.coarsen(2) ───┤     in voxels of the array
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import lcm
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from napari_memseg.errors import InputError
from napari_memseg.geometry import Box, Zyx, zyx
from napari_memseg.models.base import Batch, Overview, SampleSpec, Where
from napari_memseg.models.classes import IGNORE, ClassTable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from napari_memseg.models.intensity import Window
    from napari_memseg.training.sources import ArraySource, TrainingVolume


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One patch."""

    image: Tensor
    """(1, z, y, x) float32, normalised."""
    labels: Tensor
    """(z, y, x) int64 class indices, or ``IGNORE``."""
    arrays: Mapping[str, Tensor] = field(default_factory=dict)
    """(C, z, y, x) on their own grids, or (length,)."""
    where: Where
    margin: Zyx = (0, 0, 0)
    overview: Overview | None = None


def cut(
    volume: TrainingVolume, box: Box, arrays: Sequence[str], classes: ClassTable, window: Window
) -> Sample:
    """Read one patch, as it is: nothing changed, nothing held back.

    Where the box leaves the volume there are zeros, and nobody has an opinion.
    """
    inside = box.clip(volume.shape)
    image = np.ascontiguousarray(volume.image.read(inside, volume.level), np.float32)
    labels = classes.indices(volume.labels.read(inside), volume.labels.unlabelled)
    boxes = {name: array_box(volume.arrays[name], box) for name in arrays}
    grey = (volume.window or window).normalise(torch.from_numpy(image))
    return Sample(
        image=_around(grey, inside, box, 0)[None],
        labels=_around(torch.from_numpy(labels.astype(np.int64)), inside, box, IGNORE),
        arrays={name: _read_padded(volume.arrays[name], own) for name, own in boxes.items()},
        where=Where(
            box=box,
            shape=volume.shape,
            voxel_size=volume.voxel_size,
            boxes={"image@0": box} | {name: own for name, own in boxes.items() if own is not None},
        ),
    )


def expanded(box: Box, expansion: float) -> tuple[Box, Zyx]:
    """Return a box so many times as long about the same centre, and how much longer on either side."""
    margin = zyx(round((expansion - 1) * n / 2) for n in box.shape)
    return box.grow(margin), margin


def _around(data: Tensor, have: Box, want: Box, fill: int) -> Tensor:
    """Put (..., z, y, x) data of a box into a larger one."""
    if have == want:
        return data
    out = data.new_full((*data.shape[:-3], *want.shape), fill)
    out[(..., *have.relative_to(want.start).slices)] = data
    return out


def mirrored(where: Where, axes: tuple[int, ...]) -> Where:
    """Return where a patch lies once its volume was flipped along axes, counted from the last (-3 is z)."""
    start, stop = list(where.box.start), list(where.box.stop)
    for axis in axes:
        start[axis], stop[axis] = where.shape[axis] - stop[axis], where.shape[axis] - start[axis]
    box = Box(zyx(start), zyx(stop))
    return replace(where, box=box, boxes=dict.fromkeys(where.boxes, box))


def array_box(source: ArraySource, box: Box) -> Box | None:
    """Return the voxels of an array that a box touches, in the array's own voxels; None for a vector."""
    if len(source.shape) == 1:
        return None
    return box.relative_to(source.grid.offset).coarsen(source.grid.factor)


def mask_out(sample: Sample, boxes: Iterable[Box]) -> Sample:
    """Return the sample with no opinion inside some boxes."""
    labels, own = sample.labels.clone(), sample.where.box
    for box in boxes:
        labels[(box & own).relative_to(own.start).slices] = IGNORE
    return replace(sample, labels=labels)


def keep_only(sample: Sample, box: Box) -> Sample:
    """Return the sample with no opinion outside a box."""
    labels, own = torch.full_like(sample.labels, IGNORE), sample.where.box
    inside = (box & own).relative_to(own.start).slices
    labels[inside] = sample.labels[inside]
    return replace(sample, labels=labels)


def collate(samples: Sequence[Sample], frequencies: Tensor | None = None) -> Batch:
    """Stack patches of one size; ``frequencies`` are the classes' shares of all that is learned from."""
    return Batch(
        image=torch.stack([sample.image for sample in samples]),
        labels=torch.stack([sample.labels for sample in samples]),
        arrays={name: torch.stack([s.arrays[name] for s in samples]) for name in samples[0].arrays},
        where=[sample.where for sample in samples],
        margin=samples[0].margin,
        overviews=[sample.overview for sample in samples if sample.overview is not None],
        frequencies=frequencies,
    )


def alignment(volume: TrainingVolume, arrays: Sequence[str]) -> Zyx:
    """Return the step on which patches start, so that they begin with whole voxels of every array."""
    grids = [volume.arrays[name].grid for name in arrays if len(volume.arrays[name].shape) > 1]
    return zyx(lcm(1, *(grid.factor[axis] for grid in grids)) for axis in range(3))


def flippable(volume: TrainingVolume, arrays: Sequence[str], box: Box) -> frozenset[str]:
    """Return the axes along which a patch and its arrays can be flipped alike.

    A coarser array must cover just the patch, or flipping shifts one against the
    other; and a vector tells of a volume that is not flipped.
    """
    sources = [volume.arrays[name] for name in arrays]
    if any(len(source.shape) == 1 for source in sources):
        return frozenset()
    fits = [
        all(
            (face - source.grid.offset[axis]) % source.grid.factor[axis] == 0
            for source in sources
            for face in (box.start[axis], box.stop[axis])
        )
        for axis in range(3)
    ]
    return frozenset(name for name, fit in zip("zyx", fits, strict=True) if fit)


def check_arrays(volumes: Sequence[TrainingVolume], spec: SampleSpec) -> None:
    """Make sure that every volume has what the phase needs of earlier stages."""
    for volume in volumes:
        if missing := sorted(set(spec.arrays) - set(volume.arrays)):
            raise InputError(
                f"This phase learns from {missing}, which earlier stages write, but for "
                f"{volume.image.source} there is only {sorted(volume.arrays)}. Run those stages over it."
            )


def _read_padded(source: ArraySource, box: Box | None) -> Tensor:
    """Read an array, with zeros where the box leaves it."""
    if box is None:
        return torch.from_numpy(np.array(source.read()))
    inside = box.clip(zyx(source.shape[1:]))
    return _around(torch.from_numpy(np.array(source.read(inside))), inside, box, 0)
