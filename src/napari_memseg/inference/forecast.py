"""What a run will cost, said before it begins.

From what one tile costs (``probe.py``), where it can be at the run's own size::

    memory   of a tile, and of what stands ready beside it: decoded chunks, tiles read ahead
    disk     labels as they compress on that tile, and what earlier stages keep
    time     of a tile, times the tiles
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_memseg.errors import InputError
from napari_memseg.geometry import ceil_div
from napari_memseg.inference.device_image import BRICK_BYTES
from napari_memseg.inference.heap import CACHE_HOLES, GIB, HOLES, settled_bytes
from napari_memseg.inference.probe import Probe, Prober, scout
from napari_memseg.inference.run import WRITE_BEHIND, readers
from napari_memseg.inference.run_card import has_run_card
from napari_memseg.io.volume import CACHE, CACHE_BYTES

if TYPE_CHECKING:
    from napari_memseg.inference.control import Control
    from napari_memseg.inference.plan import Plan
    from napari_memseg.io.volume import Volume

OWN_TILE = 20
"""Tiles from which on one of the run's own size is measured; for fewer, a smaller one tells."""
SCOUT = 48
"""Edge of that smaller one, where nothing is known of this model yet."""
FILE_BYTES = 4096
"""The least that a stored chunk takes on disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a run will take."""

    tiles: int
    """Of the last stage."""
    redundancy: float
    """Voxels that are run, per voxel of the region."""
    seconds: float
    memory_gib: float | None
    """Of the device: a GPU's, or else the host's for this whole process; None where it cannot be told."""
    host_gib: float | None
    """Of the host, for this whole process."""
    disk_gib: float

    @classmethod
    def from_json(cls, row: Any) -> Forecast | None:
        """Read what a run card says; None if another version wrote it, or nobody did."""
        try:
            return cls(**row)
        except TypeError:
            return None


def forecast(plan: Plan, image: Volume, control: Control | None = None) -> Forecast:
    """Say what a run will take.

    Parameters
    ----------
    plan : Plan
        What is to be run.
    image : Volume
        Of the plan.
    control : Control, optional
        Whoever cancels need not wait for a measurement.

    Raises
    ------
    Cancelled
        If somebody asked for it.
    """
    stage = plan.stages[-1]
    tiles = prod(plan.region.coarsen(plan.core).shape)
    probe, voxels = _tile(plan, Prober(image, control=control), tiles), plan.box_voxels
    ahead = (readers(plan.device) + plan.batch - 1 + WRITE_BEHIND) * voxels * image.dtype.itemsize
    image_bytes = prod(image.arrays[plan.level].shape) * image.dtype.itemsize
    cached = int(CACHE_HOLES * max(min(CACHE_BYTES, image_bytes) - CACHE.held_bytes, 0))
    run_voxels = prod(sum(plan.boxes_along(axis, core)) for axis, core in enumerate(plan.core))
    own, known = plan.device == "cpu", probe.bytes is not None
    host = settled_bytes() + cached + ahead + (int(HOLES * (probe.bytes or 0)) if own else 0)
    device = host if own else (probe.bytes or 0) + min(BRICK_BYTES, image_bytes) + ahead
    return Forecast(
        tiles=tiles,
        redundancy=run_voxels / plan.region.size if not stage.whole else 1.0,
        seconds=tiles * (probe.seconds / plan.batch + probe.read_seconds * _fresh(plan, voxels)),
        memory_gib=device / GIB if known else None,
        host_gib=host / GIB if known or not own else None,
        disk_gib=_disk_bytes(plan, probe) / GIB,
    )


def check_disk(plan: Plan, expected: Forecast) -> None:
    """Refuse a run for which there is no room beside what is there of it, or is to be discarded for it.

    Raises
    ------
    InputError
        If less is free than is forecast.
    """
    folder = next(p for p in Path(plan.destination).absolute().parents if p.is_dir())
    disk = shutil.disk_usage(folder)
    if not disk.total:
        return  # a place that has no size is no disk: writing will tell
    free = disk.free / GIB
    if expected.disk_gib > free and has_run_card(Path(plan.destination)):
        free += _size_of(Path(plan.destination)) / GIB
    if expected.disk_gib > free:
        raise InputError(
            f"The labels need about {expected.disk_gib:.1f} GiB, and {free:.1f} GiB are free at {folder}. "
            "Free some room, choose another disk, or segment a --box or a coarser --level."
        )


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _tile(plan: Plan, prober: Prober, tiles: int) -> Probe:
    """Return what a tile of this plan costs: remembered, measured, or scaled from another tile."""
    if (known := prober.known(plan)) is not None:
        return known
    own = tiles >= OWN_TILE or plan.device.startswith("cuda")
    if own and (found := prober.tried(plan)) is not None:
        return found
    rate = prober.rate(plan) or prober(scout(plan, SCOUT))
    times = plan.box_voxels * plan.batch / rate.voxels * len(plan.tiled)
    return Probe(
        seconds=rate.seconds * times,
        read_seconds=rate.read_seconds * times,
        bytes=None if rate.bytes is None else int(rate.bytes * times),
        voxels=int(rate.voxels * times),
        stored=rate.stored,
    )


def _fresh(plan: Plan, voxels: int) -> float:
    """Return the share of a box that no neighbour has decoded before."""
    return min(prod(plan.core) / voxels, 1.0)


def _disk_bytes(plan: Plan, probe: Probe) -> float:
    chunks = prod(ceil_div(plan.region.shape, plan.chunk))
    labels = max(plan.region.size * probe.stored, chunks * FILE_BYTES * 8 / 7) * (2 if plan.confidence else 1)
    kept = sum(
        prod(array.shape(plan.shape)) * (2 if array.dtype.endswith("16") else 4)
        for stage in plan.stages
        for array in stage.writes
    )
    return labels * plan.segments + kept
