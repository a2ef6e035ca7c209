"""What is said of a run: beforehand what it will take, then each block, at last what it came to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_memseg.inference.resources import Peaks
from napari_memseg.workflows.words import LITTLE_GIB, duration, gib_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_memseg.inference.executors import RunStep
    from napari_memseg.inference.forecast import Forecast
    from napari_memseg.inference.plan import Plan
    from napari_memseg.workflows.progress import Progress


def said_of(step: RunStep, plan: Plan) -> str:
    """Say where a run lies when it begins, and why a block failed."""
    if step.block is None:
        return f"into {plan.destination}"
    return f"failed at {step.box}: {step.reason}" if step.reason else ""


def counts_of(step: RunStep) -> dict[str, float]:
    """Return how many blocks were empty and skipped, and how many failed; what did not occur is left out."""
    counts = {"skipped": step.skipped, "failed": step.failed}
    return {name: count for name, count in counts.items() if count}


def tells_failure(step: Progress) -> bool:
    """Whether a step of a run says that a block failed: it has counted one, and has no box to show."""
    return "failed" in step.values and step.box is None and step.result is None


def ending(result: Mapping[str, Any]) -> str:
    """Say that not all of a run succeeded."""
    failed = result["tiles_failed"]
    return f"done with {failed} failure{'s' * (failed > 1)}" if failed else ""


def table(plan: Plan, expected: Forecast) -> str:
    """Return a forecast as lines for people."""
    z, y, x = plan.core
    rows = {
        "tiles": f"{expected.tiles} of {z} x {y} x {x} voxels, {plan.batch} at a time, on {plan.device}",
        "arithmetic": str(plan.arithmetic),
        "overlap": f"{expected.redundancy:.2f} voxels computed per voxel",
        "memory": _about(expected.memory_gib),
        **({} if plan.device == "cpu" else {"of the host": _about(expected.host_gib)}),
        "disk": _about(expected.disk_gib),
        "time": f"about {duration(expected.seconds)}",
    }
    return "\n".join(["", *(f"  {name:<11} {text}" for name, text in rows.items())])


def _about(size: float | None) -> str:
    if size is None:
        return "unknown here"
    return gib_text(size) if size < LITTLE_GIB else f"about {gib_text(size)}"


def result_of(plan: Plan, expected: Forecast, seconds: float, last: RunStep) -> dict[str, Any]:
    """Return what a run came to, in the words that scripts rely on.

    Peaks are those of the process that computed; of the workers of a cluster, the largest's.
    """
    peaks = last.peaks or Peaks.here(plan.device)
    halo = plan.stages[-1].reads[0].halo
    share = (last.done - last.resumed) / last.total
    on_gpu = plan.device.startswith("cuda")
    return {
        "voxels": plan.region.size,
        "tiles": last.total,
        "tiles_done": last.done,
        "tiles_skipped": last.skipped,
        "tiles_failed": last.failed,
        "seconds": seconds,
        "voxels_per_second": plan.region.size * share / seconds,
        "tile": list(plan.core),
        "batch": plan.batch,
        "halo": [max(sides) for sides in zip(halo.low, halo.high, strict=True)],
        "halo_exact": plan.exact,
        "redundancy": expected.redundancy,
        "device": plan.device,
        "precision": plan.precision,
        "layout": plan.layout,
        "forecast_memory_gib": expected.memory_gib,
        "forecast_seconds": expected.seconds,
        "forecast_disk_gib": expected.disk_gib,
        "peak_memory_gib": peaks.device_gib if on_gpu else peaks.rss_gib,
        "peak_rss_gib": peaks.rss_gib,
        "out_of_memory_retries": last.memory.get("retries", 0),
        "resumed": last.resumed > 0,
        "labels": plan.destination,
    }
