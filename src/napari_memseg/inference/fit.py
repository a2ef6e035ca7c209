"""Choose for a run what only a measurement can tell: arithmetic, tile and batch.

Overlap is the largest cost, and larger tiles have less of it; so among the tiles for which
memory and a person's patience suffice, those are taken that run the fewest voxels, and of tiles that
are about as fast the leanest. What a voxel costs is measured on a small tile first::

    scout tile ──> seconds, bytes per voxel, in each arithmetic ──> the fastest that agrees
               └──> the tile that minimises R, within memory and seconds ──> batch, on a GPU

R is the number of voxels that are run, per voxel of the region.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from itertools import product
from math import prod
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from napari_memseg.errors import DeviceMemoryError, InputError
from napari_memseg.geometry import Zyx, zyx
from napari_memseg.inference.arithmetic import Arithmetic, candidates
from napari_memseg.inference.device_image import BRICK_BYTES
from napari_memseg.inference.heap import CACHE_HOLES, GIB, HOLES, PAGING, settled_bytes
from napari_memseg.inference.probe import Prober, machine_of, scout
from napari_memseg.io.volume import CACHE_BYTES
from napari_memseg.memory import free_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_memseg.inference.control import Control
    from napari_memseg.inference.draft import Draft
    from napari_memseg.inference.plan import Plan
    from napari_memseg.inference.probe import Probe

T = TypeVar("T")
COMPARED = {"cpu": 64, "cuda": 96}
"""Edge of the tile on which arithmetics are compared, in voxels; a smaller one leaves a GPU idle."""
SCOUT = 96
"""Edge of the tile that is measured in the chosen one; smaller ones run by other kernels."""
WORTH = 10
"""Other arithmetics are measured if the run has so many times the voxels of the first measurement."""
FASTER = 0.9
"""Share of the time that another arithmetic must not exceed."""
AGREES = 0.999
"""Share of a tile's labels that another arithmetic must leave as they are."""
PATIENCE = {"cpu": 8.0, "cuda": 1.0}
"""Seconds for one tile: the first is to be seen soon, and no more than one is lost to a crash."""
IMPATIENCE = 1.5
"""Times as long as it could that a run may take, so that its tiles are small."""
SHARE = {"cpu": 0.5, "cuda": 0.85}
"""Of the memory that is free."""
LEANER = 1.15
"""The leanest tile is taken of those that take no longer than the fastest, times this."""
FEWEST = 8
"""Tiles that a run has at least, where it can: its labels are to be seen coming in."""
PER_TILE = 0.004
"""Seconds that a tile takes beside its voxels, to be stored and noted (measured with a null network)."""
MODEST = 3 * GIB
"""Bytes of the host's memory that a tile takes, unless less costs much time: others need it too."""
MARGIN = 1.1
"""What is forecast for another tile than the measured one is taken so many times."""
FEW = 8
"""Cores of 1, 2, ... so many units are considered, and those that cut an axis in 1, 2, ... twice as many."""


def fit(draft: Draft, control: Control | None = None) -> Plan:
    """Return a plan with tile, batch and arithmetic that suit this network on this machine.

    Raises
    ------
    DeviceMemoryError
        If no tile fits, or not the one that is asked for.
    InputError
        If a limit of memory is asked for where memory cannot be measured.
    Cancelled
        If somebody asked for it.
    """
    prober, config, usual = Prober(draft.image, control=control), draft.config, draft.plan()
    if not usual.tiled:
        return usual
    edge, first = _scouted(prober, usual)
    if first.bytes is None and config.max_memory_gib is not None:
        raise InputError(
            f"What a tile takes on {usual.device} cannot be measured, so that --max-memory cannot be kept. "
            "Leave it out and choose a --tile, or take --device cpu."
        )
    arithmetic = _fastest(prober, usual, config.precision, edge, first)
    probe = _measured(prober, draft, usual.computing(arithmetic), edge)
    if probe is None:  # there was more memory when the arithmetic was chosen
        arithmetic, probe = usual.arithmetic, first
    core = _best_core(draft, arithmetic, probe) if config.tile is None else draft.core
    plan = draft.plan(core=core, arithmetic=arithmetic, batch=config.batch or 1)
    _check_room(draft, plan, probe)
    return plan if config.batch or plan.device == "cpu" else _batched(draft, prober, plan)


def _scouted(prober: Prober, usual: Plan) -> tuple[int, Probe]:
    """Return the edge of a small tile and what it costs; where memory does not suffice, of a smaller one."""
    edge = COMPARED[_kind(usual)]
    while (probe := prober.tried(scout(usual, edge))) is None:
        if scout(usual, edge // 2).core == scout(usual, edge).core:
            return edge, _of_one_tile(prober(scout(usual, edge)), usual)  # says why it cannot be
        edge //= 2
    return edge, _of_one_tile(probe, usual)


def _measured(prober: Prober, draft: Draft, plan: Plan, edge: int) -> Probe | None:
    """Return what a tile costs in the arithmetic of a plan, one that is larger than ``edge`` where it fits.

    None if memory does not suffice.
    """
    small = prober.tried(scout(plan, edge))
    if small is None:
        return None
    fits = (small.bytes or 0) * (SCOUT / edge) ** 3 <= _room(plan, draft.config.max_memory_gib, draft.sharers)
    large = prober.tried(scout(plan, SCOUT)) if fits and edge < SCOUT else None
    return _of_one_tile(large or small, plan)


def _of_one_tile(probe: Probe, plan: Plan) -> Probe:
    """Count the voxels of a tile once, though it passes through all stages."""
    return replace(probe, voxels=probe.voxels // len(plan.tiled))


def _kind(plan: Plan) -> str:
    return "cpu" if plan.device == "cpu" else "cuda"


def _fastest(prober: Prober, usual: Plan, wanted: str, edge: int, first: Probe) -> Arithmetic:
    """Return the arithmetic that takes the least time and leaves the labels, or the usual one."""
    tried, key = candidates(wanted, usual.device), f"arithmetic {machine_of(usual)} {wanted}"
    known = prober.cache.get(key)
    if remembered := [a for a in tried if asdict(a) == known]:
        return remembered[0]
    if len(tried) == 1 or not usual.segments or usual.region.size < WORTH * first.voxels:
        return usual.arithmetic
    reference = first if first.labels is not None else prober(scout(usual, edge), labels=True)
    others = {a: prober.tried(scout(usual.computing(a), edge), labels=True) for a in tried[1:]}
    fitting = {a: probe for a, probe in others.items() if probe is not None and _agree(probe, reference)}
    best = min(fitting, key=lambda a: fitting[a].seconds, default=tried[0])
    if best not in fitting or fitting[best].seconds >= FASTER * reference.seconds:
        best = tried[0]
    prober.cache.put(key, asdict(best))
    return best


def _agree(one: Probe, other: Probe) -> bool:
    if one.labels is None or other.labels is None:
        return False
    return float(np.mean(one.labels == other.labels)) >= AGREES


@dataclass(frozen=True, slots=True)
class _Axis:
    """One way to cut an axis."""

    core: int
    box: int
    """Longest box, in voxels."""
    run: int
    """Voxels that are run, all boxes together."""
    count: int
    """Cores."""


def _best_core(draft: Draft, arithmetic: Arithmetic, probe: Probe) -> Zyx:
    """Return the core with the least overlap that memory and patience allow."""
    usual = draft.plan(arithmetic=arithmetic)
    if not probe.bytes:
        return usual.core
    room = _room(usual, draft.config.max_memory_gib, draft.sharers) / MARGIN
    most = room * probe.voxels / probe.bytes
    ways = list(product(*(_ways(usual, axis, draft.unit) for axis in range(3))))
    sizes = {way: prod(axis.box for axis in way) * (draft.config.batch or 1) for way in ways}
    fitting = [way for way in ways if sizes[way] <= most]
    if not fitting:
        smallest = min(ways, key=lambda way: sizes[way])
        least = replace(usual, core=zyx(axis.core for axis in smallest))
        _refuse_if_too_large(least, sizes[smallest], room, probe)
        fitting = [smallest]
    fitting = [w for w in fitting if prod(axis.count for axis in w) >= FEWEST] or fitting
    need = {way: sizes[way] * probe.bytes / probe.voxels for way in fitting}
    rate = probe.seconds / probe.voxels
    seconds = {
        way: prod(axis.run for axis in way) * rate
        + prod(axis.count for axis in way) * PER_TILE
        + PAGING * need[way] / GIB
        for way in fitting
    }
    if usual.device == "cpu" and draft.config.max_memory_gib is None:
        fitting = _within(MODEST / MARGIN, fitting, need, seconds)
    patience = PATIENCE[_kind(usual)]
    patient = _within(patience, fitting, {way: sizes[way] * rate for way in fitting}, seconds)
    quick = [way for way in patient if seconds[way] <= LEANER * min(seconds[way] for way in patient)]
    return zyx(axis.core for axis in min(quick, key=lambda way: (sizes[way], seconds[way])))


def _within(limit: float, ways: list[T], of_a_tile: Mapping[T, float], of_all: Mapping[T, float]) -> list[T]:
    """Return the ways whose tiles take no more than a limit, which grows where that costs too much time.

    Until the run takes at most ``IMPATIENCE`` times as long as it could.
    """
    least = min(of_all[way] for way in ways)
    while True:
        patient = [way for way in ways if of_a_tile[way] <= limit]
        if patient and min(of_all[way] for way in patient) <= IMPATIENCE * least:
            return patient
        limit *= 2


def _ways(plan: Plan, axis: int, unit: Zyx) -> list[_Axis]:
    """Return the ways to cut one axis of a region into 1, 2, 3, ... cores of whole units."""
    step = unit[axis]
    units = -(-plan.region.stop[axis] // step)
    cores = {min(n, units) * step for n in range(1, FEW + 1)} | {
        -(-units // n) * step for n in range(1, 2 * FEW)
    }
    found = []
    for core in sorted(cores):
        boxes = plan.boxes_along(axis, core)
        found.append(_Axis(core, max(boxes), sum(boxes), len(boxes)))
    return found


def _room(plan: Plan, most_gib: float | None, sharers: int) -> float:
    """Return the bytes that the tiles of one of so many processes may take on the device."""
    if plan.device.startswith("cuda"):
        at_one = -(-sharers // max(torch.cuda.device_count(), 1))  # processes are dealt out among the GPUs
        free = SHARE["cuda"] * torch.cuda.mem_get_info(plan.device)[0] / at_one
        return max(min(free, most_gib * GIB if most_gib else free) - BRICK_BYTES, 0)
    free = SHARE["cpu"] * _free(sharers)
    if most_gib is None:
        return free
    return max(min(free, (most_gib * GIB - settled_bytes() - CACHE_HOLES * CACHE_BYTES) / HOLES), 0)


def _free(sharers: int) -> float:
    """Return the bytes of the host that the tiles of one of so many processes find free.

    Where there are several they are yet to start, and each will hold what this one does, and a cache.
    """
    return max(
        free_bytes() / sharers - (settled_bytes() + CACHE_HOLES * CACHE_BYTES if sharers > 1 else 0), 0
    )


def _check_room(draft: Draft, plan: Plan, probe: Probe) -> None:
    """Refuse a tile that was asked for and does not fit."""
    if draft.config.tile is None or probe.bytes is None:
        return
    most_gib = draft.config.max_memory_gib
    on_cpu = plan.device == "cpu"
    room = _free(draft.sharers) if on_cpu and not most_gib else _room(plan, most_gib, draft.sharers)
    _refuse_if_too_large(plan, plan.box_voxels * plan.batch, room, probe)


def _refuse_if_too_large(plan: Plan, voxels: int, room: float, probe: Probe) -> None:
    need = voxels * (probe.bytes or 0) / probe.voxels
    if need > room:
        raise DeviceMemoryError(
            f"A tile of {plan.core} voxels with its halo needs about {need / GIB:.1f} GiB, but "
            f"{room / GIB:.1f} GiB may be taken on {plan.device}. Leave --tile unset, take a smaller --halo, "
            "allow more with --max-memory, have fewer --workers, or work at a coarser --level."
        )


def _batched(draft: Draft, prober: Prober, plan: Plan) -> Plan:
    """Return a plan that computes two tiles at once, where this is faster and fits."""
    one = prober.tried(plan)
    room = _room(plan, draft.config.max_memory_gib, draft.sharers)
    if one is None or one.bytes is None or 2 * MARGIN * one.bytes > room:
        return plan
    twice = draft.plan(core=plan.core, arithmetic=plan.arithmetic, batch=2)
    two = prober.tried(twice)
    return twice if two is not None and two.seconds < 2 * FASTER * one.seconds else plan
