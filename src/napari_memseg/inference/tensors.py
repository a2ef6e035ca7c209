"""What a stage is given: boxes of the image and of earlier stages' arrays, as tensors.

The image leaves the disk in its own dtype and becomes float32, in the run's window, on
the device. Where a coarser image is wanted than the pyramid holds, it is halved on
the fly, slab by slab, so that no more than a slab is in memory at full resolution.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
import zarr

from napari_memseg.errors import GeometryError, InputError
from napari_memseg.geometry import Box, Zyx, zyx
from napari_memseg.inference.stages import IMAGE
from napari_memseg.models.base import Where

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from napari_memseg.inference.plan import Block, Plan
    from napari_memseg.inference.stages import ReadPlan
    from napari_memseg.io.volume import Volume
    from napari_memseg.models.intensity import Window

SLAB_VOXELS = 2**25
"""About how many voxels are read at once to be halved."""


class Reader:
    """Read what blocks need; from any thread, on the CPU. What every block needs whole is read once."""

    def __init__(self, plan: Plan, image: Volume) -> None:
        self._plan, self._image = plan, image
        self._kept: dict[str, NDArray[Any]] = {}

    def where(self, block: Block) -> Where:
        """Return the boxes that a block reads."""
        plan = self._plan
        stage = plan.stage(block.stage)
        start = zyx(i * n for i, n in zip(block.index, plan.core, strict=True))
        vectors = {array.name for maker in plan.stages for array in maker.writes if array.vector}
        spatial = [read for read in stage.reads if read.name not in vectors]
        boxes = {read.name: stage.box(read, start, plan.core, plan.shape) for read in spatial}
        first = stage.reads[0]
        box = boxes[first.name].refine(first.factor).clip(plan.shape)
        return Where(box=box, shape=plan.shape, voxel_size=plan.voxel_size, boxes=boxes)

    def read(self, block: Block, where: Where) -> dict[str, NDArray[Any]]:
        """Return what a block's stage reads: the image (z, y, x), arrays (C, z, y, x), vectors (length,).

        Raises
        ------
        InputError
            If the image holds NaN or infinity there.
        """
        stage = self._plan.stage(block.stage)
        return {
            read.name: self._once(read, where) if read.whole and not stage.whole else self._read(read, where)
            for read in stage.reads
        }

    def _once(self, read: ReadPlan, where: Where) -> NDArray[Any]:
        if read.name not in self._kept:
            self._kept[read.name] = self._read(read, where)
        return self._kept[read.name]

    def _read(self, read: ReadPlan, where: Where) -> NDArray[Any]:
        box = where.boxes.get(read.name)
        if box is not None and read.level is not None:
            return self._halved(box, read.level, read.halvings)
        array = self._arrays[read.name]
        return np.asarray(array[...] if box is None else array[(slice(None), *box.slices)])

    @cached_property
    def _arrays(self) -> Mapping[str, zarr.Array[Any]]:
        names = [array.name for stage in self._plan.stages for array in stage.writes]
        return {name: zarr.open_array(self._plan.array_path(name), mode="r") for name in names}

    def _halved(self, box: Box, level: int, halvings: int) -> NDArray[Any]:
        """Return a box of the image, ``halvings`` times coarser than the level it is read from."""
        if halvings == 0:
            return self._finite(box, level)
        factor = zyx([2**halvings] * 3)
        fine = box.refine(factor)
        height = max(SLAB_VOXELS // (fine.shape[1] * fine.shape[2] * factor[0]), 1)
        slabs = []
        for z in range(box.start[0], box.stop[0], height):
            slab = Box((z, *box.start[1:]), (min(z + height, box.stop[0]), *box.stop[1:]))
            grey = self._finite(slab.refine(factor).clip(self._plan.shape), level)
            slabs.append(_halve(grey, halvings))
        return np.concatenate(slabs)

    def _finite(self, box: Box, level: int) -> NDArray[Any]:
        grey = self._image.read(box, level)
        if grey.dtype.kind == "f" and not np.isfinite(grey).all():
            bad = int(grey.size - np.isfinite(grey).sum())
            raise InputError(
                f"{self._plan.image} holds {bad} voxels that are NaN or infinite in the box {box} of level "
                f"{level}; one would spoil all around it. Replace them, or segment a --box without them."
            )
        return grey


def to_device(name: str, array: NDArray[Any], window: Window, device: torch.device) -> Tensor:
    """Return a batch of one: the image in the run's window, (1, 1, z, y, x), another array as it is."""
    tensor = torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)
    return window.normalise(tensor)[None, None] if name.startswith(IMAGE) else tensor[None]


def _halve(grey: NDArray[Any], times: int) -> NDArray[np.float32]:
    """Take the mean of 2 x 2 x 2 voxels, over and over; an odd last one is its own partner."""
    tensor = torch.from_numpy(np.ascontiguousarray(grey)).to(torch.float32)[None, None]
    for _ in range(times):
        odd = [end for n in reversed(tensor.shape[2:]) for end in (0, n % 2)]
        tensor = F.avg_pool3d(F.pad(tensor, odd, mode="replicate"), 2)
    halved: NDArray[np.float32] = tensor[0, 0].numpy()
    return halved


def crop(made: Tensor, have: Box, want: Box, factor: Zyx) -> Tensor:
    """Cut ``want`` out of (N, C, z, y, x) that covers ``have`` by ``factor``; both in working voxels.

    Raises
    ------
    GeometryError
        If ``made`` is not as large as what it covers: the stage breaks its contract.
    """
    covered = have.coarsen(factor)
    if made.shape[2:] != covered.shape:
        raise GeometryError(
            f"A stage made {tuple(made.shape[2:])} voxels where {covered.shape} were due: what it returns "
            f"must cover the box {have} on a grid of factor {factor}. Mend the model's stage."
        )
    inner = want.coarsen(factor).relative_to(covered.start)
    return made[(..., *inner.slices)]
