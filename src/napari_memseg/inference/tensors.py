"""What a stage is given: boxes of the image and of earlier stages' arrays, as tensors.

The image leaves the disk in its own dtype, and becomes float32 in the run's window only
where the network is (``network.py``). Where a coarser image is wanted than the pyramid holds, it is halved on
the fly, slab by slab, so that no more than a slab is in memory at full resolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from napari_memseg.errors import GeometryError, InputError
from napari_memseg.inference.same_image import same_image
from napari_memseg.io.coarser import read_halved
from napari_memseg.models.base import Where

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from napari_memseg.geometry import Box, Zyx
    from napari_memseg.inference.device_image import DeviceImage, Uploaded
    from napari_memseg.inference.plan import Plan
    from napari_memseg.inference.stages import ReadPlan, StagePlan
    from napari_memseg.io.volume import Volume


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """What one pass through a stage is about."""

    stage: StagePlan
    core: Box
    """What it is for, in working voxels: a block's core, or a piece of one; not cut at the region's faces."""
    where: Where
    arrays: Mapping[str, NDArray[Any] | Uploaded]
    """By name: the image (z, y, x) in its own dtype, arrays (C, z, y, x), vectors (length,)."""

    @property
    def written(self) -> Box:
        """The voxels that are kept of it."""
        return self.core & self.stage.region


class Reader:
    """Read what blocks need; from any thread. What every block needs whole is read once.

    Parameters
    ----------
    plan : Plan
        Says what a stage reads.
    image : Volume
        Of the plan.
    on_device : DeviceImage, optional
        Gives boxes of the image on the device, for a GPU; by default they stay on the host.
    """

    def __init__(self, plan: Plan, image: Volume, on_device: DeviceImage | None = None) -> None:
        self.plan, self.image, self._on_device = plan, image, on_device
        self._same = same_image(image, plan.fingerprint)
        self._kept: dict[str, NDArray[Any] | Uploaded] = {}
        self._keeping = Lock()

    def on_host(self) -> Reader:
        """Return a reader of the same that keeps to the host's memory."""
        return Reader(self.plan, self.image)

    def sample(self, stage: StagePlan, core: Box) -> Sample:
        """Read all that a stage needs for the core of a block, or for a piece of one.

        Raises
        ------
        InputError
            If the image holds NaN or infinity there.
        SourceError
            If it cannot be decoded there.
        RunMismatchError
            If it is no longer the plan's.
        """
        where = self.where(stage, core)
        arrays = {
            read.name: self._once(read, where) if read.whole and not stage.whole else self._read(read, where)
            for read in stage.reads
        }
        self._same.check()
        return Sample(stage, core, where, arrays)

    def where(self, stage: StagePlan, core: Box) -> Where:
        """Return the boxes that a stage reads for a core."""
        plan = self.plan
        vectors = {array.name for maker in plan.stages for array in maker.writes if array.vector}
        spatial = [read for read in stage.reads if read.name not in vectors]
        boxes = {read.name: stage.box(read, core.start, core.shape, plan.shape) for read in spatial}
        first = stage.reads[0]
        box = boxes[first.name].refine(first.factor).clip(plan.shape)
        return Where(box=box, shape=plan.shape, voxel_size=plan.voxel_size, boxes=boxes)

    def _once(self, read: ReadPlan, where: Where) -> NDArray[Any] | Uploaded:
        with self._keeping:
            if read.name not in self._kept:
                self._kept[read.name] = self._read(read, where)
            return self._kept[read.name]

    def _read(self, read: ReadPlan, where: Where) -> NDArray[Any] | Uploaded:
        box = where.boxes.get(read.name)
        if box is None or read.level is None:
            return self._stored(read.name, box)
        if self._on_device is not None and read.halvings == 0 and not read.whole:
            return self._on_device.read(box, read.level)
        return self._halved(box, read.level, read.halvings)

    def _stored(self, name: str, box: Box | None) -> NDArray[Any]:
        """Return what an earlier stage wrote: a box of it, or all of a vector."""
        array = self._arrays[name]
        return np.asarray(array[...] if box is None else array[(slice(None), *box.slices)])

    @cached_property
    def _arrays(self) -> Mapping[str, zarr.Array[Any]]:
        names = [array.name for stage in self.plan.stages for array in stage.writes]
        return {name: zarr.open_array(self.plan.array_path(name), mode="r") for name in names}

    def _halved(self, box: Box, level: int, halvings: int) -> NDArray[Any]:
        """Return a box of the image, ``halvings`` times coarser than the level it is read from."""
        if halvings == 0:
            return read_finite(self.image, box, level)
        return read_halved(lambda fine: read_finite(self.image, fine, level), box, self.plan.shape, halvings)


def read_finite(image: Volume, box: Box, level: int) -> NDArray[Any]:
    """Return a box of an image, and refuse one that holds NaN or infinity.

    Raises
    ------
    InputError
        If it does.
    SourceError
        If it cannot be decoded.
    """
    grey = image.read(box, level)
    if not is_finite(grey):
        bad = int(grey.size - np.isfinite(grey).sum())
        raise InputError(
            f"{image.source} holds {bad} voxels that are NaN or infinite in the box {box} of level "
            f"{level}; one would spoil all around it. Replace them, or segment a --box without them."
        )
    return grey


def is_finite(grey: NDArray[Any]) -> bool:
    """Whether no voxel is NaN or infinite."""
    return grey.dtype.kind != "f" or bool(np.isfinite(grey).all())


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
