"""Our own engine, by its public call, in a process set up as the terminal does it.

Variants differ in what a person would type; those of the peers' own tiles are there to
compare engines, the others to compare what people get.
"""

from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import napari_memseg
from napari_memseg.geometry import zyx
from napari_memseg.inference.config import SegmentConfig
from napari_memseg.inference.plan import Plan
from napari_memseg.inference.run_card import read_run_card
from peers.job import Job

SEGMENT = napari_memseg.segment
"""Resolved here, so that its imports do not count as work."""
VARIANTS: dict[str, Callable[[Job], dict[str, Any]]] = {
    "ours": lambda job: {},
    "ours-exact": lambda job: {"halo": "exact"},
    "ours-float32": lambda job: {"precision": "float32", **_their_tiles(job)},
    "ours-bfloat16": lambda job: {"precision": "bfloat16", **_their_tiles(job)},
    "ours-auto": lambda job: _their_tiles(job),
}
"""Settings by name: all defaults; the exact halo; the peers' tiles in three precisions."""


def _their_tiles(job: Job) -> dict[str, Any]:
    return {"tile": (job.core,) * 3, "halo": (job.halo,) * 3}


def segment(job: Job) -> dict[str, Any]:
    """Run the variant that a job names; return what the workflow says of it, and the voxels it ran."""
    settings = {
        "chunk": job.chunk,
        "device": job.device,
        "threads": job.threads or None,
        **VARIANTS[job.engine](job),
        **job.settings,
    }
    result = None
    for step in SEGMENT(job.image, job.out, Path(job.checkpoint), SegmentConfig(**settings)):
        result = step.result
    assert result is not None, "a finished run has a result"
    plan = Plan.from_json(read_run_card(job.out)["plan"])
    return {**_voxels(plan), "computed": _arithmetic(plan), "result": result}


def _voxels(plan: Plan) -> dict[str, Any]:
    """Count the voxels that the network ran over, from the plan's boxes."""
    stage = plan.stages[-1]
    starts = [zyx(i * n for i, n in zip(b.index, plan.core, strict=True)) for b in plan.blocks()]
    boxes = [stage.box(stage.reads[0], start, plan.core, plan.shape).shape for start in starts]
    return {"calls": len(boxes), "voxels_run": sum(map(prod, boxes)), "box": max(boxes)}


def _arithmetic(plan: Plan) -> dict[str, Any]:
    """Return what a plan says of precision, layout and folded batch norms."""
    return {name: getattr(plan.arithmetic, name) for name in ("precision", "layout", "folded")}
