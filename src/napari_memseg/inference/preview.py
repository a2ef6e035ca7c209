"""What a network says about a small box, at once: in memory, with no plan and nothing left behind.

All stages run one after the other, each over just what the later ones read of it, so
that a network can be looked at while it learns::

    box ──> reads of the last stage ──> region of the stage before ──> ... ──> image
    ids <── scores                  <── kept in memory              <── ...

A run does the same tile by tile (``run.py``); with the exact halo both agree.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_memseg.errors import GeometryError
from napari_memseg.geometry import Box, Zyx
from napari_memseg.inference.classify import classify, to_ids
from napari_memseg.inference.stages import IMAGE, ArrayPlan, ReadPlan, StagePlan, plan_stages
from napari_memseg.inference.tensors import crop, read_finite
from napari_memseg.inference.tiling import common_multiple
from napari_memseg.io.coarser import read_halved
from napari_memseg.models.base import SCORES, Where

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from napari_memseg.io.volume import Volume
    from napari_memseg.models.base import Model
    from napari_memseg.models.intensity import Window

MOST_VOXELS = 2**25
"""Of a box that is previewed, with what is read around it."""


class Preview:
    """A model that answers for small boxes of one image.

    Parameters
    ----------
    model : Model
        With the weights that it has when it is asked; it is put into eval mode then, and left there.
    image : Volume
        What is looked at.
    level : int
        The working level.
    window : Window
        Grey values that become 0 and 1.
    halo : str
        "recommended", or "exact".
    """

    def __init__(
        self, model: Model, image: Volume, level: int, window: Window, *, halo: str = "recommended"
    ) -> None:
        self._model, self._image, self._level, self._window = model, image, level, window
        self._shape: Zyx = image.arrays[level].shape
        self._halo = halo
        self._vectors = {w.array for stage in model.stages for w in stage.writes if w.vector}

    @torch.no_grad()
    def __call__(self, box: Box) -> NDArray[np.unsignedinteger]:
        """Return the class ids of a box (z, y, x), in voxels of the working level.

        Raises
        ------
        GeometryError
            If the box is empty, leaves the volume, or would take too much memory.
        InputError
            If the image holds NaN or infinity there.
        """
        self._model.eval()
        plans = self._plan(box)
        kept: dict[str, tuple[Box | None, Tensor]] = {}
        for stage, plan in zip(self._model.stages, plans, strict=True):
            where = self._where(plan)
            inputs = {read.name: self._input(read, where, kept) for read in plan.reads}
            outputs = stage(inputs, [where])
            for array in plan.writes:
                kept[array.name] = self._kept(array, outputs[array.name], where, plan)
        scores = crop(outputs[SCORES], where.box, box, (1, 1, 1))
        return to_ids(classify(scores, self._model.classes, confidence=False).ids[0], self._model.classes)

    def _plan(self, box: Box) -> list[StagePlan]:
        """Return the stages, each over as much as the later ones read of it for the box."""
        if box.is_empty or not Box.whole(self._shape).contains(box):
            raise GeometryError(f"A preview of {box} is none in a volume of {self._shape} voxels.")
        how: dict[str, Any] = {"core": (1, 1, 1), "halo": self._halo, "region": box}
        plans = list(plan_stages(self._model.stages, self._image, self._level, self._shape, **how))
        plans[-1] = self._covering(plans[-1], [box])
        for n in range(len(plans) - 2, -1, -1):
            made = {array.name for array in plans[n].writes}
            asked = [
                self._box(later, read).refine(read.factor).clip(self._shape)
                for later in plans[n + 1 :]
                for read in later.reads
                if read.name in made
            ]
            plans[n] = self._covering(plans[n], asked or [box])
        return plans

    def _covering(self, plan: StagePlan, boxes: Sequence[Box]) -> StagePlan:
        """Return a stage over all of the boxes, in steps that it can take."""
        step = common_multiple(plan.multiple, *(read.factor for read in plan.reads if not read.whole))
        region = boxes[0]
        for box in boxes[1:]:
            region |= box
        plan = replace(plan, region=Box.whole(self._shape) if plan.whole else region.snap(step))
        most = max(self._box(plan, read).size for read in plan.reads)
        if most > MOST_VOXELS:
            raise GeometryError(
                f"A preview of {boxes[0]} would look at {most:,} voxels, and at most {MOST_VOXELS:,} are "
                "looked at. Choose a smaller box, or segment."
            )
        return plan

    def _box(self, plan: StagePlan, read: ReadPlan) -> Box:
        return plan.box(read, plan.region.start, plan.region.shape, self._shape)

    def _where(self, plan: StagePlan) -> Where:
        spatial = [read for read in plan.reads if read.name not in self._vectors]
        boxes = {read.name: self._box(plan, read) for read in spatial}
        first = plan.reads[0]
        return Where(
            box=boxes[first.name].refine(first.factor).clip(self._shape),
            shape=self._shape,
            voxel_size=self._image.voxel_size_at(self._level),
            boxes=boxes,
        )

    def _input(self, read: ReadPlan, where: Where, kept: Mapping[str, tuple[Box | None, Tensor]]) -> Tensor:
        if read.name.startswith(IMAGE):
            return self._grey(read, where.boxes[read.name])
        covered, tensor = kept[read.name]
        if covered is None:  # a vector
            return tensor
        return tensor[(..., *where.boxes[read.name].relative_to(covered.start).slices)]

    def _grey(self, read: ReadPlan, box: Box) -> Tensor:
        level = self._level if read.level is None else read.level
        if read.halvings == 0:
            grey = self._read(box, level)
        else:
            grey = read_halved(partial(self._read, level=level), box, self._shape, read.halvings)
        tensor = torch.from_numpy(np.ascontiguousarray(grey)).to(self._model.device)
        return self._window.normalise(tensor)[None, None]

    def _read(self, box: Box, level: int) -> NDArray[Any]:
        return read_finite(self._image, box, level)

    def _kept(
        self, array: ArrayPlan, made: Tensor, where: Where, plan: StagePlan
    ) -> tuple[Box | None, Tensor]:
        """Return what later stages read, in the dtype in which a run would store it, and what it covers."""
        made = made.to(getattr(torch, array.dtype))
        if array.vector:
            return None, made
        inside = plan.region.clip(self._shape)
        return inside.coarsen(array.factor), crop(made, where.box, inside, array.factor)
